"""What files of a folder are captioned by: a text beside each, or a column of a table. Knows names and texts, not video.

A table is as Hugging Face's datasets have it: `metadata.csv`, `.jsonl` or `.parquet`, whose column `file_name` is a path from the table's
own folder. White space in a caption is single spaces, and one without a letter is missing.
"""

import csv
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from bench.shapes import Refusal, did_you_mean, visible

BESIDE = "beside"  # `clip.txt` beside `clip.mp4`
FILE_COLUMN = "file_name"
MOST_BYTES = 2**16  # of a text beside a file
MOST_SHOWN = 3  # clips without a caption that are named
REMEDY = "give each one, or leave those clips out"

Row = Mapping[str, Any]


def captions_of(files: Mapping[str, Path], names: Iterable[str], given: str, column: str) -> dict[str, str]:
    """Caption of each of `names` that has one; `files`: name (with /) -> path of all files of the folder. Refusal for what cannot be read.

    `given`: "beside", or the name of a table in the folder, whose `column` has the captions.
    """
    if given == BESIDE:
        texts = {name: files[text] for name in names if (text := text_beside(name)) in files}
        found = {name: _read_text(path) for name, path in texts.items()}
    else:
        known = _of_table(files, given, column)
        found = {name: known[name] for name in names if name in known}
    return {name: caption for name, caption in found.items() if caption}


def text_beside(name: str) -> str:
    """'cats/a.mp4' -> 'cats/a.txt'."""
    return str(PurePosixPath(name).with_suffix(".txt"))


def caption_files(names: Iterable[str], given: str) -> set[str]:
    """Names of the files that captions come from, there or not."""
    return {text_beside(name) for name in names} if given == BESIDE else {given}


def check_captions(where: str, missing: Sequence[str], num_missing: int, num: int) -> None:
    """Refusal naming the first and counting all of what has no caption, of `num`."""
    if num_missing:
        shown = visible(", ".join(missing[:MOST_SHOWN]))
        others = f" and {num_missing - MOST_SHOWN:,} more" if num_missing > MOST_SHOWN else ""
        raise Refusal(f"{where}: no caption (data.captions) for {num_missing:,} of {num:,}: {shown}{others}; {REMEDY}")


def caption_text(value: Any) -> str:
    """A value of a table as a caption; "" for what is no text, and for text without a letter."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if any(letter.isalnum() for letter in text) else ""


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise Refusal(f"{path} has more than {MOST_BYTES:,} bytes, which is no caption; shorten it")
        return caption_text(content.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"caption {path} cannot be read as text in UTF-8 ({error}); write it anew") from error


def _of_table(files: Mapping[str, Path], given: str, column: str) -> dict[str, str]:
    """File -> caption, of all rows of a table."""
    suffix = PurePosixPath(given).suffix.lower()
    if suffix not in READERS:
        raise Refusal(f"captions = {given!r} is neither {BESIDE!r} nor a table, {', '.join(READERS)}; name such a file in the folder")
    if given not in files:
        raise Refusal(f"captions = {given!r}: no such file in the folder{did_you_mean(given, list(files))}")
    folder = posixpath.dirname(given)
    found: dict[str, str] = {}
    try:
        for row in READERS[suffix](files[given], column):
            if absent := [name for name in (FILE_COLUMN, column) if name not in row]:
                raise Refusal(
                    f"captions = {given!r} has no column {absent[0]!r}{did_you_mean(absent[0], [*map(str, row)])}; "
                    f"it needs {FILE_COLUMN} and the one that data.caption_column names"
                )
            name = posixpath.normpath(posixpath.join(folder, str(row[FILE_COLUMN])))
            caption = caption_text(row[column])
            if found.setdefault(name, caption) != caption:
                raise Refusal(f"captions = {given!r} has two captions for {name}; leave one")
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise Refusal(f"captions = {given!r} cannot be read ({error}); write it anew") from error
    return found


def _csv(path: Path, column: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _jsonl(path: Path, column: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise Refusal(f"captions = {path.name!r} has a line that is no object: {line.strip()[:50]!r}")
            yield row


def _parquet(path: Path, column: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        known = [name for name in (FILE_COLUMN, column) if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=known):
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise Refusal(
            f"captions = {path.name!r} cannot be read as Parquet ({' '.join(str(error).split())[:200]}); write it anew"
        ) from error


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
