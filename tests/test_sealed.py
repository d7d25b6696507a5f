"""Cache folders that vouch for themselves: whatever is done to one is noticed, named in a line, and made again."""

import errno
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from bench.data import sealed
from bench.data.files import StoreError
from bench.data.sealed import CHECKED, SEAL, DamagedCache, kept_or_made, read_sealed, show_in_one_line, warn_damaged, write_sealed


def make(folder: Path) -> None:
    (folder / "network").mkdir()
    (folder / "network" / "weights").write_bytes(b"abcdefgh" * 100)
    (folder / "facts.json").write_text("{}")


def made_again(folder: Path) -> None:
    """Fails where `folder` is taken for whole."""
    with pytest.warns(DamagedCache, match=f"^cached things are damaged and are made again: {folder}/.*") as told:
        kept_or_made(folder, "things", make)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert (folder / "network" / "weights").read_bytes() == b"abcdefgh" * 100
    kept_or_made(folder, "things", lambda temp: pytest.fail("it is whole"))
    assert not list(folder.parent.glob(".*"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "equal size": lambda folder: (folder / "network" / "weights").write_bytes(b"abcdefgX" * 100),
    "cut": lambda folder: os.truncate(folder / "network" / "weights", 17),
    "gone": lambda folder: (folder / "network" / "weights").unlink(),
    "one more": lambda folder: (folder / "network" / "more").write_text("x"),
    "no seal": lambda folder: (folder / SEAL).unlink(),
    "half a seal": lambda folder: (folder / SEAL).write_text((folder / SEAL).read_text()[:40]),
    "a seal of bytes": lambda folder: (folder / SEAL).write_bytes(b"\xff\xfe"),
    "a seal of numbers": lambda folder: (folder / SEAL).write_text('{"facts.json": 1, "network/weights": 2}'),
    "a deep seal": lambda folder: (folder / SEAL).write_text("[" * 100_000),
    "a folder": lambda folder: [(folder / "facts.json").unlink(), (folder / "facts.json").mkdir()],
    "a pipe": lambda folder: [(folder / "facts.json").unlink(), os.mkfifo(folder / "facts.json")],
}


@pytest.mark.parametrize("looked_at_before", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_made_good(tmp_path: Path, damage: str, looked_at_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "key"
    kept_or_made(folder, "things", make)
    if looked_at_before:
        monkeypatch.setattr(sealed, "SETTLED_S", 0.0)
        time.sleep(0.02)
        kept_or_made(folder, "things", make)
        assert (folder / CHECKED).is_file()
    DAMAGES[damage](folder)
    made_again(folder)


def test_an_edit_that_hides_its_time_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "key"
    kept_or_made(folder, "things", make)
    monkeypatch.setattr(sealed, "SETTLED_S", 0.0)
    time.sleep(0.02)
    kept_or_made(folder, "things", make)
    path = folder / "network" / "weights"
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    made_again(folder)


def test_files_that_nobody_wrote_to_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, hashed = tmp_path / "key", []
    kept_or_made(folder, "things", make)
    sha256 = sealed._sha256
    monkeypatch.setattr(sealed, "_sha256", lambda path: [hashed.append(path), sha256(path)][1])
    kept_or_made(folder, "things", make)
    assert len(hashed) == 2 and not (folder / CHECKED).exists()  # too fresh to tell a write from the one before it
    monkeypatch.setattr(sealed, "SETTLED_S", 0.0)
    time.sleep(0.02)
    kept_or_made(folder, "things", make)
    assert len(hashed) == 4
    kept_or_made(folder, "things", make)
    assert len(hashed) == 4
    (folder / CHECKED).write_text("{")
    kept_or_made(folder, "things", make)
    assert len(hashed) == 6


@pytest.mark.parametrize("what", ["file", "link to nothing", "link to a file"])
def test_what_is_no_folder_is_taken_away(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "cache" / "key"
    folder.parent.mkdir()
    (tmp_path / "mine").write_text("x")
    if what == "file":
        folder.write_text("x")
    else:
        folder.symlink_to(tmp_path / ("mine" if "file" in what else "nothing"))
    made_again(folder)
    assert (tmp_path / "mine").read_text() == "x"


def test_a_full_disk_is_a_line_with_the_folder(tmp_path: Path) -> None:
    def full(temp: Path) -> None:
        (temp / "half").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=f"cannot write {tmp_path / 'key'}: No space left on device; free space"):
        kept_or_made(tmp_path / "key", "things", full)
    assert not list(tmp_path.iterdir())


def test_a_warning_is_shown_as_its_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    show_in_one_line()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda *shown, **more: print(warnings.formatwarning(*shown[:4]), end=""))
        warn_damaged("it is broken")
        warnings.warn("another", UserWarning, stacklevel=1)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "warning: it is broken" and "test_sealed.py" in shown[1]


class Other(BaseModel):
    number: int


class Fact(BaseModel, ser_json_inf_nan="strings"):
    value: float
    words: tuple[str, ...] = ("a",)


@pytest.mark.parametrize("value", [0.1 + 0.2, float("nan"), float("inf")])
def test_a_sealed_file_comes_back_bit_for_bit(tmp_path: Path, value: float) -> None:
    file = tmp_path / "fact.json"
    assert read_sealed(file, "k", Fact, "fact") is None
    write_sealed(file, "k", Fact(value=value))
    found = read_sealed(file, "k", Fact, "fact")
    assert found is not None and (found.value == value or (math.isnan(value) and math.isnan(found.value))) and found.words == ("a",)


TEXTS = ("edited", "NaN", "half", "bytes", "deep", "empty", "list", "huge", "infinite")
OTHERS = ("of another key", "of another version", "a link to nothing", "pipe")


@pytest.mark.parametrize("damage", [*TEXTS, *OTHERS])
def test_a_sealed_file_that_is_not_what_was_written_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "fact.json"
    write_sealed(file, "k", Fact(value=2.5))
    text = file.read_text()
    contents = {"edited": text.replace("2.5", "2.25"), "NaN": text.replace("2.5", "NaN"), "half": text[:30], "deep": "[" * 100_000}
    contents |= {"huge": "1" * 5000, "infinite": text.replace("2.5", "1e999")}
    if damage == "of another key":
        write_sealed(file, "other", Fact(value=2.5))
    elif damage in ("a link to nothing", "pipe"):
        file.unlink()
        file.symlink_to("nothing") if damage != "pipe" else os.mkfifo(file)
    elif damage == "of another version":
        write_sealed(file, "k", Other(number=1))
    else:
        file.write_bytes(b"\xff\xfe" if damage == "bytes" else (contents | {"empty": "", "list": "[]"})[damage].encode())
    with pytest.warns(DamagedCache, match=f"^cached fact {file} is not what was written and is made again$"):
        assert read_sealed(file, "k", Fact, "fact") is None
    if damage == "a link to nothing":  # nothing is written through it
        with pytest.raises(StoreError, match="it is a symbolic link to nothing; remove it"):
            write_sealed(file, "k", Fact(value=2.5))
        return
    write_sealed(file, "k", Fact(value=2.5))
    assert file.read_text() == text
