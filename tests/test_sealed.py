"""Cache folders that vouch for themselves: whatever is done to one is noticed, named in a line, and made again."""

import contextlib
import errno
import math
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from bench.data import sealed
from bench.data.files import StoreError
from bench.data.sealed import (
    CHECKED,
    SEAL,
    DamagedCache,
    kept_or_made,
    kept_or_made_in_parts,
    read_sealed,
    show_in_one_line,
    warn_damaged,
    write_sealed,
)


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


PARTS = ("a", "b", "c")


def make_part(index: int, path: Path) -> None:
    path.write_bytes(PARTS[index].encode() * 100)


def parts_of(folder: Path, made: list[int] | None = None, stop_at: int | None = None) -> None:
    """Makes the parts, says which, and dies at one of them."""

    def make_one(index: int, path: Path) -> None:
        if index == stop_at:
            raise KeyboardInterrupt
        (made if made is not None else []).append(index)
        make_part(index, path)

    kept_or_made_in_parts(folder, "things", PARTS, make_one)


def test_what_was_finished_before_a_stop_is_not_made_again(tmp_path: Path) -> None:
    folder, made = tmp_path / "key", []
    for stop_at, expected, is_whole in ((0, [], False), (1, [0], False), (1, [], False), (2, [1], False), (None, [2], True), (0, [], True)):
        with contextlib.suppress(KeyboardInterrupt):
            parts_of(folder, made, stop_at)
        assert made == expected and folder.exists() == is_whole
        assert not list(tmp_path.rglob("*.tmp"))
        made.clear()
    assert {path.name for path in folder.iterdir()} == {*PARTS, SEAL} and not list(tmp_path.glob(".*"))


def test_a_killed_writer_leaves_whole_parts(tmp_path: Path) -> None:
    """A process killed while it writes: what it had finished stays, what it had begun does not."""
    code = f"""
import os, pathlib
from bench.data.sealed import kept_or_made_in_parts
def make(index, path):
    path.write_bytes("abc"[index].encode() * (100 if index < 2 else 50))
    if index == 2:
        os.kill(os.getpid(), 9)
kept_or_made_in_parts(pathlib.Path({str(tmp_path / "key")!r}), "things", ("a", "b", "c"), make)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(list(tmp_path.rglob("*.tmp"))) == 1 and not (tmp_path / "key").exists()
    made: list[int] = []
    parts_of(tmp_path / "key", made)
    assert made == [2] and (tmp_path / "key" / "c").read_bytes() == b"c" * 100 and not list(tmp_path.rglob(".*"))


PART_DAMAGES: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    "equal size": (lambda folder: (folder / "b").write_bytes(b"x" * 100), [1], "/b is not what was written: sha256"),
    "gone": (lambda folder: (folder / "b").unlink(), [1], "/b is missing"),
    "one more": (lambda folder: (folder / "d").write_text("x"), [], "/d was not there when it was made"),
    "a folder": (lambda folder: [(folder / "b").unlink(), (folder / "b").mkdir()], [1], "/b is missing"),
    "no seal": (lambda folder: (folder / SEAL).unlink(), [0, 1, 2], "/seal.json is missing"),
    "a file": (lambda folder: [shutil.rmtree(folder), folder.write_text("x")], [0, 1, 2], "/seal.json is missing"),
}


@pytest.mark.parametrize("damage", PART_DAMAGES)
def test_a_damaged_part_is_named_and_made_alone(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "key"
    do, again, message = PART_DAMAGES[damage]
    parts_of(folder)
    do(folder)
    made: list[int] = []
    with pytest.warns(DamagedCache, match=f"^cached things are damaged and are made again: {folder}{message}"):
        parts_of(folder, made)
    assert made == again and [(folder / name).read_bytes() for name in PARTS] == [name.encode() * 100 for name in PARTS]
    parts_of(folder, stop_at=0)
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_kept_of_a_damaged_folder_that_is_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    parts_of(folder)
    (folder / "b").write_text("x")
    with pytest.warns(DamagedCache):
        kept_or_made_in_parts(folder, "things", ("a", "z"), lambda index, path: path.write_text("z"))
    assert {path.name for path in folder.iterdir()} == {"a", "z", SEAL}


def test_of_two_that_make_the_same_parts_the_second_waits(tmp_path: Path) -> None:
    made: list[int] = []

    def slow(index: int, path: Path) -> None:
        made.append(index)
        time.sleep(0.05)
        make_part(index, path)

    threads = [threading.Thread(target=kept_or_made_in_parts, args=(tmp_path / "key", "things", PARTS, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [0, 1, 2] and not list(tmp_path.glob(".*"))


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
