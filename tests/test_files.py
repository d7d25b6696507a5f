import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from bench.data.files import StoreError, fresh_folder, remove_leftovers, replacing, rust_errors, write_files, write_text
from bench.records.artefacts import save_arrays, save_tensors


def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.bin"
    with replacing(path) as temp:
        temp.write_bytes(b"first")
    with pytest.raises(ZeroDivisionError), replacing(path) as temp:
        temp.write_bytes(b"half")
        assert path.read_bytes() == b"first" and temp.parent == path.parent and temp.name.startswith(".") and temp.suffix == ".tmp"
        _ = 1 / 0
    assert [file.name for file in path.parent.iterdir()] == ["weights.bin"] and path.read_bytes() == b"first"


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with replacing(path) as one, replacing(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"  # the last to be done


def test_the_temporary_file_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), sync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, target: (order.append("rename"), replace(path, target))[1])
    write_text(tmp_path / "record.json", "{}")
    assert order == ["sync", "rename"]
    order.clear()
    write_files(tmp_path, {"a.html": "a", "b.csv": "b"})
    assert order[:2] == ["sync", "sync"] and order.count("rename") == 2  # none has its name before all are on disk


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    full = pytest.raises(StoreError, match=f"cannot write {tmp_path / 'a'}: No space left on device; buy a disk")
    with full, replacing(tmp_path / "a", "buy a disk") as temp:
        temp.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError, match="says itself"), replacing(tmp_path / "a"):
        raise FileNotFoundError("an error of the block that says itself what is wrong")
    assert not list(tmp_path.iterdir())


def test_of_several_files_none_is_new_where_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"page.html": "old", "tables/a.csv": "old"})
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "a.csv" in path.name:
            write(path, content[:1])
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write .*a.csv: No space left on device; free space or choose another folder with --out"):
        write_files(tmp_path, {"page.html": "new", "tables/a.csv": "new", "tables/b.csv": "new"})
    assert {file.name: file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == {"page.html": "old", "a.csv": "old"}


def test_a_full_disk_under_safetensors_is_the_same_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which says it in an error of its own, that knows no number."""

    def full(*given: object, **named: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StoreError, match=f"cannot write {tmp_path / 'a'}: No space left on device; free space"):
        save_tensors(tmp_path / "a", {"x": torch.zeros(3)})
    with pytest.raises(SafetensorError, match="another"), rust_errors():
        raise SafetensorError("another")


def test_arrays_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_arrays(tmp_path / "clips.npz", frames=np.zeros(3))
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: [file.write(b"half"), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        save_arrays(tmp_path / "clips.npz", frames=np.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["clips.npz"]
    assert np.load(tmp_path / "clips.npz")["frames"].tolist() == [0, 0, 0]


def test_of_two_processes_that_make_one_folder_the_first_wins(tmp_path: Path) -> None:
    with fresh_folder(tmp_path / "key") as slow:
        (slow / "made").write_text("slow")
        with fresh_folder(tmp_path / "key") as quick:
            (quick / "made").write_text("quick")
    assert [path.name for path in tmp_path.iterdir()] == ["key"] and (tmp_path / "key" / "made").read_text() == "quick"


def leave(path: Path) -> Path:
    """What a process that is killed inside `replacing` leaves."""
    with pytest.raises(OSError), replacing(path) as temp:
        temp.write_text("half")
        temp.rename(temp.with_suffix(".kept"))
        raise OSError("killed")
    return temp.with_suffix(".kept").rename(temp)


def test_what_killed_processes_leave_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    dead = [leave(tmp_path / "run.json"), tmp_path / ".key.0123456789abcdef.tmp"]
    (dead[1] / "inside").mkdir(parents=True)
    (tmp_path / "run.json").write_text("whole")
    with replacing(tmp_path / "new") as file, fresh_folder(tmp_path / "folder") as folder:
        file.write_text("new")  # as its writers do: by its name
        (folder / "part").write_text("part")
        remove_leftovers(tmp_path)
        assert file.exists() and (folder / "part").exists()
        assert not any(path.exists() for path in dead)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "new", "run.json"]


def test_what_a_killed_report_leaves_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    left = [leave(tmp_path / "page.html"), leave(tmp_path / "tables" / "a.csv")]
    write_files(tmp_path, {"page.html": "page", "tables/a.csv": "a"})
    assert not any(path.exists() for path in left) and (tmp_path / "tables" / "a.csv").read_text() == "a"


def test_a_folder_of_a_report_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "tables").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        write_files(tmp_path / "report", {"page.html": "page", "tables/a.csv": "a"})
    assert not list(outside.iterdir()) and not (tmp_path / "report" / "page.html").exists()


def test_a_temporary_file_that_is_taken_away_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = fcntl.flock, []

    def late(opened: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            remove_leftovers(tmp_path)
        lock(opened, how)

    monkeypatch.setattr(fcntl, "flock", late)
    write_text(tmp_path / "record.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"] and len(calls) == 3


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_text("precious")
    inside.mkdir()
    (inside / "run.json").symlink_to(outside)
    with pytest.raises(StoreError, match=rf"cannot write {inside / 'run.json'}: it is a symbolic link to {outside}; remove it"):
        write_text(inside / "run.json", "{}")
    with pytest.raises(StoreError, match="symbolic link"), fresh_folder(inside / "run.json"):
        pass
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")  # even where the temporary name were known
    (inside / ".record.json.guessed.tmp").symlink_to(outside)
    with pytest.raises(StoreError, match="File exists"):
        write_text(inside / "record.json", "{}")
    remove_leftovers(inside)
    assert outside.read_text() == "precious"
