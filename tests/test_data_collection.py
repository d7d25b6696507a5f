"""What a folder or an array holds, what is said of what cannot be read, and which frames become clips."""

import contextlib
import errno
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.commands.score.collection import Collection, CollectionItem, find_collection, natural
from bench.commands.score.windows import LateFrames, ReadSet, Rule, SeededCut, cached_set, cover, read_set
from bench.data.files import StoreError
from bench.data.media.images import ORIENTATION
from bench.data.media.video import read_frames
from bench.data.sealed import DamagedCache, _digest
from bench.shapes import Refusal
from tests.test_data_video import counting_frames, moving_bar, write_video


def nothing(done: int, total: int, what: str) -> None:
    """No progress."""


def read(path: Path, rule: Rule, limit: int | None = None, cache: Path | None = None) -> ReadSet:
    return read_set(find_collection(path), rule, limit, nothing, cache or path.parent / "scratch")


def save(path: Path, array: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **array, **more) if isinstance(array, dict) else np.save(path, array)
    return path


def write_images(folder: Path, frames: np.ndarray, pattern: str = "{:03}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / pattern.format(index))
    return folder


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reasons(collection: Collection | ReadSet) -> dict[str, str]:
    return {entry.name: entry.reason for entry in collection.skipped}


def test_every_form_gives_the_same_frames(tmp_path: Path) -> None:
    frames = noise(9, 16, 24, 3)
    write_video(tmp_path / "video" / "c.mkv", frames)
    write_images(tmp_path / "images" / "c", frames)
    save(tmp_path / "arrays" / "c.npy", frames)
    save(tmp_path / "batch" / "c.npy", frames[None])
    one = save(tmp_path / "one.npy", frames[None])
    named = save(tmp_path / "named.npz", {"frames": frames[None], "fps": np.float64(8)})
    for path in (tmp_path / "video", tmp_path / "images", tmp_path / "arrays", tmp_path / "batch", one, named):
        clips = read(path, SeededCut(num_frames=4, stride=2, start="first"))
        np.testing.assert_array_equal(clips.frames[0], frames[:8:2], err_msg=str(path))
        assert clips.shapes == ((9, 16, 24),)
    assert read(named, SeededCut(num_frames=4)).fps == (8.0,)


def test_subfolders_are_classes_and_names_sort_by_number(tmp_path: Path) -> None:
    for name in ("cat/v10", "cat/v9", "dog/v1"):
        write_images(tmp_path / "set" / name, moving_bar(3))
    collection = find_collection(tmp_path / "set")
    assert [item.name for item in collection.items] == ["cat/v9", "cat/v10", "dog/v1"]
    assert [item.label for item in collection.items] == ["cat", "cat", "dog"] and collection.labels == ("cat", "dog")
    assert natural("a2b") < natural("a10b")


def test_frames_of_a_folder_are_in_order_of_number(tmp_path: Path) -> None:
    write_images(tmp_path / "set" / "clip", counting_frames(12), pattern="frame_{}.png")
    clips = read(tmp_path / "set", SeededCut(num_frames=12))
    assert clips.frames[0, :, 0, 0, 0].tolist() == list(range(12))


def test_labels_of_an_npz_are_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "s.npz", {"frames": noise(3, 4, 8, 8, 3)}, labels=np.array([1, 0, 1]))
    assert [item.label for item in find_collection(path).items] == ["1", "0", "1"]
    with pytest.raises(ValueError, match=r"has 2 labels for 3 clips"):
        find_collection(save(tmp_path / "t.npz", {"frames": noise(3, 4, 8, 8, 3)}, labels=np.array([1, 0])))


def test_what_is_no_clip_is_named_with_its_reason(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_video(root / "good.mp4", moving_bar())
    write_video(root / "short.gif", moving_bar(3))
    (root / "broken.mp4").write_bytes(b"not a video")
    cut = write_video(root / "cut.mkv", noise(7, 32, 48, 3))
    cut.write_bytes(cut.read_bytes()[:3000])
    (root / "notes.txt").write_text("notes")
    (root / "empty").mkdir()
    (root / "deep" / "deeper").mkdir(parents=True)
    save(root / "float.npy", np.random.default_rng(0).random((7, 32, 48, 3)))
    save(root / "pickled.npy", np.array([{}], dtype=object))
    (root / "cut.npy").write_bytes(b"\x93NUMPY")
    (root / ".hidden").write_bytes(b"x")
    write_images(root / "two_sizes", moving_bar(6))
    Image.new("RGB", (8, 8)).save(root / "two_sizes" / "006.png")
    clips = read(root, SeededCut(num_frames=7))
    found = reasons(clips)
    assert clips.names == ("good.mp4#0",)
    assert found.pop("short.gif") == "has 3 frames, a clip of 7 needs 7"
    assert found.pop("broken.mp4") == "cannot be read: Invalid data found when processing input"
    assert "cut.mkv" in found and found.pop("cut.mkv")
    assert found.pop("notes.txt") == "is no clip by its extension"
    assert found.pop("empty") == "is an empty folder"
    assert found.pop("deep/deeper") == "lies below a class folder; classes are one level of folders"
    assert found.pop("float.npy").endswith("np.rint(frames * 255).astype(np.uint8), if they are in [0, 1]")
    assert "pickled objects" in found.pop("pickled.npy")
    assert found.pop("cut.npy") == "is not an array that numpy reads; it may be cut short"
    assert found.pop("two_sizes") == "has frames of two sizes: 006.png is 8x8, the first 32x48"
    assert not found


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 8, 8, 3)), r"float64 frames from 0 to 0.*np.rint\(frames \* 255\)"),
        (np.full((2, 4, 8, 8, 3), -1.0, np.float32), r"float32 frames from -1 to -1.*in \[-1, 1\]"),
        (np.full((2, 4, 8, 8, 3), 200.0), r"from 200 to 200.*np.clip"),
        (np.full((2, 4, 8, 8, 3), np.nan), r"float64 frames, expected uint8.*NaN or infinite"),
        (np.zeros((2, 4, 8, 8, 3), np.int64), r"int64 frames.*np.clip"),
        (np.zeros((2, 4, 8, 8), np.uint8), r"grey: np.repeat\(frames\[..., None\], 3"),
        (np.zeros((2, 4, 8, 8, 1), np.uint8), r"grey: repeat the channel"),
        (np.zeros((2, 4, 8, 8, 4), np.uint8), r"four channels"),
        (np.zeros((2, 4, 3, 8, 8), np.uint8), r"channels before height: np.moveaxis\(frames, -3, -1\)"),
        (np.zeros((2, 3, 4, 8, 8), np.uint8), r"channels before time: np.moveaxis\(frames, -4, -1\)"),
        (np.zeros((4, 8, 8, 3), np.uint8), r"one clip: put it into an array of many"),
        (np.zeros((0, 4, 8, 8, 3), np.uint8), r"is empty"),
        (np.array([{}], dtype=object), r"pickled objects, which could run code"),
        (np.array(["a"]), r"holds <U1"),
    ],
)
def test_a_wrong_array_is_told_what_would_be_right(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message) as caught:
        find_collection(path)
    assert str(path) in str(caught.value)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    for name in ("bomb.npy", "bomb.npz"):
        array = np.array([Bomb()], dtype=object)
        with pytest.raises(ValueError, match="pickled"):
            find_collection(save(tmp_path / name, {"frames": array} if name.endswith("z") else array))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("make", ["missing", "empty", "only_text", "loose_images", "video_file", "both_levels"])
def test_a_path_without_clips_is_an_error_that_says_what_would_be_right(tmp_path: Path, make: str) -> None:
    root = tmp_path / "set"
    expected = {
        "missing": "does not exist",
        "empty": "nothing to read",
        "only_text": r"1 looked at, the first: a\.txt is no clip",
        "loose_images": "frames of a clip belong into a folder of their own",
        "video_file": "is one file",
        "both_levels": "move all of them into subfolders, or none",
    }[make]
    if make != "missing":
        root.mkdir()
    if make == "only_text":
        (root / "a.txt").write_text("x")
    if make == "loose_images":
        write_images(root, moving_bar(2))
    if make == "video_file":
        root = write_video(root / "a.mkv", moving_bar(2))
    if make == "both_levels":
        write_video(root / "a.mkv", moving_bar(2))
        write_video(root / "k" / "b.mkv", moving_bar(2))
    with pytest.raises(ValueError, match=expected):
        find_collection(root)


def test_an_npz_of_several_arrays_must_say_which_are_the_clips(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", {"x": noise(2, 4, 8, 8, 3), "y": np.zeros(2)})
    with pytest.raises(ValueError, match="has the arrays x, y; call the clips `frames`"):
        find_collection(path)


def test_nothing_readable_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no clip could be read from .*: 1 tried, the first: a\.mp4 cannot be read"):
        read(tmp_path / "set", SeededCut(num_frames=4))


def grid(tmp_path: Path, num: int = 12, num_frames: int = 20) -> Path:
    """Clips whose frame t has level t."""
    for index in range(num):
        save(tmp_path / "grid" / f"c{index}.npy", counting_frames(num_frames, 8, 8))
    return tmp_path / "grid"


def levels(clips: ReadSet) -> dict[str, list[int]]:
    return {name: clips.frames[row, :, 0, 0, 0].tolist() for row, name in enumerate(clips.names)}


def test_random_starts_use_all_that_fit_and_depend_on_seed_and_name_alone(tmp_path: Path) -> None:
    root = grid(tmp_path, num=60, num_frames=9)
    rule = SeededCut(num_frames=4, stride=2)
    found = levels(read(root, rule))
    assert {frames[0] for frames in found.values()} == {0, 1, 2}  # 9 frames, a span of 7
    assert all(np.diff(frames).tolist() == [2, 2, 2] for frames in found.values())
    save(root / "a_new_one.npy", counting_frames(9, 8, 8))
    again = levels(read(root, rule))
    assert found.items() < again.items()
    assert levels(read(root, SeededCut(num_frames=4, stride=2, seed=1))) != again


def test_first_and_disjoint_starts(tmp_path: Path) -> None:
    root = grid(tmp_path, num=1)
    assert levels(read(root, SeededCut(num_frames=6, start="first"))) == {"c0.npy#0": [0, 1, 2, 3, 4, 5]}
    clips = read(root, SeededCut(num_frames=6, start="disjoint"))
    assert list(clips.names) == ["c0.npy#0", "c0.npy#6", "c0.npy#12"]
    assert sorted(level for clip in levels(clips).values() for level in clip) == list(range(18))


def test_a_limit_takes_a_seeded_part_and_opens_no_more(tmp_path: Path) -> None:
    root = grid(tmp_path)
    rule = SeededCut(num_frames=6)
    few, most = read(root, rule, 4), read(root, rule)
    assert few.names == most.names[:4] and few.num_untried == 8 and len(few.content) == 4
    assert list(most.names) != sorted(most.names)  # not the first in order of name
    assert set(read(root, SeededCut(num_frames=6, seed=5), 4).names) != set(few.names)


def test_exact_copies_are_counted(tmp_path: Path) -> None:
    frames = noise(3, 5, 8, 8, 3)
    path = save(tmp_path / "a.npy", frames[[0, 1, 0, 2, 0]])
    assert read(path, SeededCut(num_frames=5)).num_copies == 2


def test_sizes_must_be_one_or_be_chosen(tmp_path: Path) -> None:
    for index, size in enumerate(((32, 48), (32, 48), (16, 16))):
        write_video(tmp_path / "set" / f"{index}.mkv", noise(4, *size, 3))
    with pytest.raises(ValueError, match=r"clips of 2 sizes: 32x48 \(2\), 16x16 \(1\); choose one with --size"):
        read(tmp_path / "set", SeededCut(num_frames=4))
    clips = read(tmp_path / "set", SeededCut(num_frames=4, size=(16, 24)))
    assert clips.frames.shape == (3, 4, 16, 24, 3) and set(clips.shapes) == {(4, 32, 48), (4, 16, 16)}


def test_cover_is_what_video_files_are_read_with(tmp_path: Path) -> None:
    frames = noise(2, 20, 48, 3)
    path = write_video(tmp_path / "a.mkv", frames)
    for size in ((8, 8), (16, 24), (40, 10), (20, 48)):
        np.testing.assert_array_equal(np.stack([cover(frame, *size) for frame in frames]), read_frames(path, 0, 2, 1, *size))


def test_frames_that_are_stored_turned_are_upright_and_of_any_kind_of_image(tmp_path: Path) -> None:
    frames, folder = noise(3, 16, 24, 3), tmp_path / "set" / "clip"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # shown turned clockwise
    Image.fromarray(np.rot90(frames[0])).save(folder / "0.png", exif=turned)
    Image.fromarray(frames[1]).save(folder / "1.tif")
    Image.fromarray(frames[2]).save(folder / "2.ppm")
    clips = read(tmp_path / "set", SeededCut(num_frames=3))
    np.testing.assert_array_equal(clips.frames[0], frames)


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    save(tmp_path / "set" / "a.npy", noise(5, 8, 8, 3))
    os.mkfifo(tmp_path / "set" / "b.mp4")
    assert reasons(read(tmp_path / "set", SeededCut(num_frames=5))) == {"b.mp4": "is a pipe, no regular file"}


def npz(path: Path, header: bytes, body: bytes = b"", **more: Any) -> Path:
    """An archive whose array `frames` has this header; `more` arrays beside it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        archive.writestr("frames.npy", magic + header + body)
        for name, array in more.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array))
    return path


WHOLE = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 8, 8, 3)}"


@pytest.mark.parametrize(
    ("header", "more", "message"),
    [
        (WHOLE.replace(b"}", b"("), {}, "is not an array that numpy reads"),  # tokenize.TokenError
        (WHOLE.replace(b"(1,", b"(10**9,"), {}, "is not an array that numpy reads"),
        (WHOLE.replace(b"(1,", b"(1000000000,"), {}, r"says that it has \(1000000000, 2, 8, 8, 3\) values and holds fewer"),
        (WHOLE.replace(b"|u1", b"|O"), {}, "pickled objects"),
        (WHOLE, {"fps": [8, 9]}, r"has fps = \[8 9\], expected one number"),
        (WHOLE, {"fps": "fast"}, "has fps = fast, expected one number"),
        (WHOLE, {"fps": np.nan}, "has fps = nan"),
        (WHOLE, {"fps": 1e300}, r"has fps = 1e\+300"),
        (WHOLE, {"labels": 3}, r"has labels of shape \(\) and type int64, expected one number or word for each clip"),
        (WHOLE, {"labels": [[1], [2]]}, r"has labels of shape \(2, 1\)"),
        (WHOLE, {"labels": ["\ud800"]}, "which is not text"),
    ],
)
def test_an_archive_with_odd_members_is_a_reason(tmp_path: Path, header: bytes, more: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        find_collection(npz(tmp_path / "odd.npz", header, bytes(2 * 8 * 8 * 3), **more))


def test_an_archive_that_no_memory_holds_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "bomb.npz", WHOLE.replace(b"(1,", b"(1000,"), bytes(1000 * 2 * 8 * 8 * 3))
    assert path.stat().st_size < 2000
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=300_000))
    with pytest.raises(Refusal, match=r"unpacks to 384\d\d\d bytes, 300000 of memory are free; save the array as .npy"):
        find_collection(path)


def test_an_archive_by_another_name_and_members_that_cannot_be_unpacked(tmp_path: Path) -> None:
    whole = npz(tmp_path / "whole.npz", WHOLE, np.random.default_rng(0).bytes(2 * 8 * 8 * 3)).read_bytes()
    (tmp_path / "named.npy").write_bytes(whole)
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    at = whole.index(b"frames.npy") + len("frames.npy")
    (tmp_path / "mutated.npz").write_bytes(whole[:at] + b"\xff" * 9 + whole[at + 9 :])
    flags = whole.index(b"PK\x01\x02") + 8  # in the directory: it is encrypted
    (tmp_path / "locked.npz").write_bytes(whole[:flags] + b"\x01" + whole[flags + 1 :])
    for name in ("named.npy", "cut.npz", "mutated.npz", "locked.npz"):
        with pytest.raises(Refusal, match="is not an array that numpy reads"):
            find_collection(tmp_path / name)


def test_names_of_bytes_and_of_long_numbers_are_sorted_or_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("²", "9", "10", "1" * 200):
        save(root / f"{name}.npy", noise(3, 8, 8, 3))
    save(root / os.fsdecode(b"\xff.npy"), noise(3, 8, 8, 3))
    collection = find_collection(root)
    assert [item.name for item in collection.items] == ["9.npy", "10.npy", f"{'1' * 200}.npy", "².npy"]
    assert reasons(collection) == {"\\xff.npy": "has a name that is not UTF-8; rename it"}
    assert natural("1" * 5000) > natural("9") and natural("007b") < natural("7c")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(Refusal, match=r"pipe.npz is a pipe, no regular file; name a folder of clips"):
        find_collection(tmp_path / "pipe.npz")


def test_a_full_cache_disk_is_not_blamed_on_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    save(tmp_path / "set" / "a.npy", noise(3, 8, 8, 3))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(StoreError, match=r"the cache .* cannot hold the clips: No space left on device; free space or choose another"):
        read(tmp_path / "set", SeededCut(num_frames=3))


def test_a_clip_that_no_memory_holds_is_not_read(tmp_path: Path) -> None:
    save(tmp_path / "set" / "a.npy", noise(3, 8, 8, 3))
    with pytest.raises(Refusal, match=r"a.npy gives a clip of 3 frames of 99999999x99999999, \d+ bytes; \d+ of memory are free"):
        read(tmp_path / "set", SeededCut(num_frames=3, size=(99_999_999, 99_999_999)))


class Repeated:
    """A rule that takes each item, then all of them again."""

    size = None

    def describe(self) -> dict[str, Any]:
        return {"rule": "repeated"}

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        for turn in range(100):
            for item in items:
                yield item, turn

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        return [range(turn % 2, turn % 2 + 3)]

    def fit(self, item: CollectionItem, frames: np.ndarray) -> np.ndarray:
        return frames


def test_a_rule_may_count_a_clip_again_but_it_is_read_once(tmp_path: Path) -> None:
    clips = read(grid(tmp_path, num=2), Repeated(), 7)
    assert clips.names == ("c0.npy#0", "c1.npy#0", "c0.npy#1", "c1.npy#1") and clips.rows == (0, 1, 2, 3, 0, 1, 2)


def test_clips_of_two_lengths_do_not_mix(tmp_path: Path) -> None:
    for name, num_frames in (("a", 5), ("b", 6), ("c", 5)):
        save(tmp_path / "set" / f"{name}.npy", noise(num_frames, 8, 8, 3))
    clips = read(tmp_path / "set", Whole())
    assert clips.names == ("a.npy#0", "c.npy#0") and reasons(clips) == {"b.npy": "gives a clip of 6 frames, those before it have 5"}


class Whole(Repeated):
    """All frames of every item, once."""

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        return ((item, 0) for item in items)

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        return [range(num_frames)]


def test_the_cache_opens_nothing_until_frames_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache, rule = grid(tmp_path), tmp_path / "cache", SeededCut(num_frames=6)
    first = cached_set(find_collection(root), rule, 5, nothing, cache)
    calls: list[str] = []
    monkeypatch.setattr("bench.commands.score.windows.read_set", lambda *given: calls.append("read") or read_set(*given))
    second = cached_set(find_collection(root), rule, 5, nothing, cache)
    assert isinstance(second.frames, LateFrames) and not calls
    assert (second.names, second.rows, second.digest, second.frames.shape) == (first.names, first.rows, first.digest, first.frames.shape)
    np.testing.assert_array_equal(second.frames[1:3], first.frames[1:3])
    assert calls == ["read"] and second.frames[0:5].shape == first.frames.shape and len(calls) == 1


@pytest.mark.parametrize("change", ["content", "rule", "limit", "new_item", "new_file", "damage"])
def test_the_cache_is_not_believed_when_something_changed(tmp_path: Path, change: str) -> None:
    root, cache, rule, limit = grid(tmp_path), tmp_path / "cache", SeededCut(num_frames=6), 5
    first = cached_set(find_collection(root), rule, limit, nothing, cache)
    if change == "content":
        save(root / first.names[0].partition("#")[0], counting_frames(20, 8, 8, first=50))
    if change == "rule":
        rule = SeededCut(num_frames=6, seed=1)
    if change == "limit":
        limit = 6
    if change == "new_item":
        save(root / "another.npy", noise(20, 8, 8, 3))
    if change == "new_file":
        (root / "notes.txt").write_text("not a clip")
    if change == "damage":
        for file in cache.glob("set-*.json"):
            file.write_text("{")
    told = pytest.warns(DamagedCache, match="is not what was written") if change == "damage" else contextlib.nullcontext()
    with told:
        second = cached_set(find_collection(root), rule, limit, nothing, cache)
    assert not isinstance(second.frames, LateFrames)
    assert (second.digest == first.digest) == (change in ("damage", "new_item", "new_file"))
    assert [entry.name for entry in second.skipped] == (["notes.txt"] if change == "new_file" else [])


@pytest.mark.parametrize("edit", ["rows", "names", "labels", "content", "key", "last byte"])
def test_an_edited_list_is_noticed_and_read_again(tmp_path: Path, edit: str) -> None:
    root, cache, rule = grid(tmp_path), tmp_path / "cache", SeededCut(num_frames=6)
    first = cached_set(find_collection(root), rule, 5, nothing, cache)
    (file,) = cache.glob("set-*.json")
    stored = json.loads(file.read_text())
    if edit == "rows":
        stored["content"]["rows"] = [0, 0, 0, 0, 0]
    elif edit in ("names", "labels"):
        stored["content"][edit][0] = "another"
    elif edit == "content":
        stored["content"]["content"] = {}
    elif edit == "key":  # a file of other clips under this one's name
        stored["sha256"] = _digest("0" * 32, stored["content"])
    file.write_text(file.read_text()[:-3] if edit == "last byte" else json.dumps(stored))
    with pytest.warns(DamagedCache, match=f"cached set {file} is not what was written"):
        again = cached_set(find_collection(root), rule, 5, nothing, cache)
    assert (again.rows, again.names, again.labels) == (first.rows, first.names, first.labels)
    assert isinstance(cached_set(find_collection(root), rule, 5, nothing, cache).frames, LateFrames)


def test_files_that_change_under_the_cache_are_noticed(tmp_path: Path) -> None:
    root, cache, rule = grid(tmp_path), tmp_path / "cache", SeededCut(num_frames=6)
    cached_set(find_collection(root), rule, None, nothing, cache)
    second = cached_set(find_collection(root), rule, None, nothing, cache)
    save(root / "c0.npy", counting_frames(20, 8, 8, first=50))
    with pytest.raises(ValueError, match="changed while it was read"):
        second.frames[0:1]
