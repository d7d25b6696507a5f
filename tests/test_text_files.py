"""Captions of files: a text beside each, a table, a part of a tar sample; what has none; and that they are part of what clips are."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_data_tar import member, write_tar
from test_data_video import counting_frames, write_video
from test_data_webdataset import grey

from bench.data.source import clips_digest, load_clips, load_config
from bench.shapes import Refusal

FOLDER: dict[str, Any] = {"source": "folder", "num_frames": 4, "height": 8, "width": 12, "num_val": 2, "num_test": 2}
SHARDS: dict[str, Any] = {"source": "webdataset", "num_frames": 2, "height": 8, "width": 8, "num_val": 2, "num_test": 2, "held_out": 0.2}


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Twelve files in two classes, of a clip each."""
    root = tmp_path / "videos"
    for index in range(12):
        write_video(root / ("cat", "dog")[index % 2] / f"{index}.mkv", counting_frames(4 + index % 4, first=index))
    return root


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mkv"))


def told(root: Path, cache: Path, **changes: Any) -> dict[str, str]:
    """File -> caption of its clips."""
    clips = load_clips(load_config({**FOLDER, "path": root, **changes}), cache)
    assert clips.label_names == ("cat", "dog")  # labels stay
    assert clips.lost == {name: num for name, num in clips.lost.items() if "extension" not in name}  # captions are not lost videos
    found: dict[str, str] = {}
    for split in clips.splits.values():
        assert split.captions is not None and len(split.captions) == len(split)
        for clip_id, caption in zip(split.clip_ids, split.captions, strict=True):
            assert found.setdefault(clip_id.partition("#")[0], caption) == caption
    return found


def test_a_text_beside_each_file(videos: Path, tmp_path: Path) -> None:
    for name in names(videos):
        (videos / name).with_suffix(".txt").write_text(f"  the {name}\n moves ")
    assert told(videos, tmp_path, captions="beside") == {name: f"the {name} moves" for name in names(videos)}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_as_hugging_face_has_it(videos: Path, tmp_path: Path, suffix: str) -> None:
    import pandas

    rows = [{"file_name": name, "text": f"no, {name}", "caption": f"it's {name}, 'so'"} for name in [*names(videos), "gone.mkv"]]
    file, frame = videos / f"metadata{suffix}", pandas.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        frame.to_parquet(file)
    found = told(videos, tmp_path, captions=file.name, caption_column="caption")
    assert found == {name: f"it's {name}, 'so'" for name in names(videos)}


def test_a_table_in_a_subfolder_names_files_from_there(videos: Path, tmp_path: Path) -> None:
    rows = ["file_name,text", *(f"../{name},{name}" for name in names(videos))]
    (videos / "cat" / "metadata.csv").write_text("\n".join(rows))
    assert told(videos, tmp_path, captions="cat/metadata.csv") == {name: name for name in names(videos)}


def test_clips_without_a_caption_are_named_and_counted(videos: Path, tmp_path: Path) -> None:
    for name in names(videos)[5:]:
        (videos / name).with_suffix(".txt").write_text("a cat")
    (videos / names(videos)[5]).with_suffix(".txt").write_text(" ... \n")  # says nothing
    line = r"no caption \(data.captions\) for 6 of 12: cat/0.mkv, cat/10.mkv, cat/2.mkv and 3 more; give each one, or leave those"
    with pytest.raises(Refusal, match=line):
        told(videos, tmp_path, captions="beside")


def test_captions_are_a_part_of_what_clips_are(videos: Path) -> None:
    plain = load_config({**FOLDER, "path": videos})
    before = clips_digest(plain)
    for name in names(videos):
        (videos / name).with_suffix(".txt").write_text("a cat")
    assert clips_digest(plain) == before
    config = load_config({**FOLDER, "path": videos, "captions": "beside"})
    first = clips_digest(config)
    (videos / names(videos)[3]).with_suffix(".txt").write_text("a dog")
    assert len({before, first, clips_digest(config)}) == 3


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("file,text\na,b\n", "has no column 'file_name' .did you mean 'file'"),
        ("file_name,caption\na,b\n", "has no column 'text'.*data.caption_column"),
        ("file_name,text\na,b\na,c\n", "has two captions for a; leave one"),
    ],
)
def test_tables_that_cannot_be_right(videos: Path, tmp_path: Path, text: str, line: str) -> None:
    (videos / "metadata.csv").write_text(text)
    with pytest.raises(Refusal, match=line):
        told(videos, tmp_path, captions="metadata.csv")


def test_what_is_no_table_or_no_text(videos: Path, tmp_path: Path) -> None:
    for captions, line in (("metadata.csv", "no such file"), ("captions.xml", "neither 'beside' nor a table")):
        with pytest.raises(Refusal, match=line):
            told(videos, tmp_path, captions=captions)
    (videos / "broken.jsonl").write_text('{"file_name": \n')
    (videos / "broken.parquet").write_bytes(b"PAR1 nothing")
    (videos / "broken.csv").write_bytes(b"file_name,text\n\xff\xfe,x\n")
    for suffix in (".jsonl", ".parquet", ".csv"):
        with pytest.raises(Refusal, match=f"broken{suffix}' cannot be read"):
            told(videos, tmp_path, captions=f"broken{suffix}")
    (videos / names(videos)[0]).with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refusal, match=r"cat/0.txt cannot be read as text in UTF-8"):
        told(videos, tmp_path, captions="beside")


def shards(folder: Path, without: tuple[int, ...] = ()) -> Path:
    members = []
    for level in range(40):
        members += [member(f"{level:03d}.npy", grey(level)), member(f"{level:03d}.json", json.dumps({"caption": f"json {level}"}).encode())]
        members += [] if level in without else [member(f"{level:03d}.txt", f"level {level}\n".encode())]
    write_tar(folder / "s-00.tar", members)
    return folder


@pytest.mark.parametrize(("changes", "word"), [({"captions": "txt"}, "level"), ({"captions": "json", "caption_column": "caption"}, "json")])
def test_a_part_of_a_sample(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    clips = load_clips(load_config({**SHARDS, "path": str(shards(tmp_path / "s")), **changes}), tmp_path)
    for split in clips.splits.values():
        assert split.captions == tuple(f"{word} {int(clip[0, 0, 0, 0])}" for clip in split.frames)


def test_samples_without_a_caption_are_named_and_counted(tmp_path: Path) -> None:
    config = load_config({**SHARDS, "path": str(shards(tmp_path / "s", (3, 4, 9, 30))), "captions": "txt"})
    with pytest.raises(Refusal, match=r"no caption \(data.captions\) for 4 of 40: s-00.tar/003, s-00.tar/004, s-00.tar/009 and 1 more"):
        load_clips(config, tmp_path)
    plain = load_clips(load_config({**SHARDS, "path": str(tmp_path / "s")}), tmp_path)
    assert all(split.captions is None for split in plain.splits.values())
