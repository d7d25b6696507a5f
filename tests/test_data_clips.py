"""Clips on disk, of one shape and of many: what is written is read, what is cut off is gone, what does not fit is an error."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bench.data.clips
from bench.data.clips import META, SPLITS, ClipSet, open_frames, open_ragged_frames, read_clips, save_clips
from bench.data.ragged import Ragged
from bench.shapes import Shape

SHAPES: list[Shape] = [(2, 9, 8), (1, 8, 12), (5, 8, 9), (1, 8, 12)]


def ids(split: str, num: int) -> tuple[str, ...]:
    return tuple(f"{split}{i}" for i in range(num))


def write_ragged(folder: Path, shapes: list[Shape] = SHAPES, num: int | None = None) -> None:
    """Clip i of each split shows level 10 + i; its truth says i in each of its frames. Only `num` clips are named."""
    frames = open_ragged_frames(folder, dict.fromkeys(SPLITS, shapes))
    splits = {}
    for split in SPLITS:
        longest = max(shape[0] for shape in shapes)
        truth = {"x": np.full((len(shapes), longest, 1), np.nan), "box": np.full((len(shapes), longest, 1, 4), np.nan)}
        for i, shape in enumerate(shapes):
            frames[split][i][...] = 10 + i
            truth["x"][i, : shape[0]] = truth["box"][i, : shape[0]] = i
        splits[split] = ClipSet(frames[split], np.arange(len(shapes)), ids(split, len(shapes) if num is None else num), truth)
    save_clips(folder, splits, label_names=("a", "b", "c", "d"), fps=8.0)


def test_clips_of_many_shapes_come_back(tmp_path: Path) -> None:
    write_ragged(tmp_path)
    for clips in read_clips(tmp_path, "").splits.values():
        assert isinstance(clips.frames, Ragged) and isinstance(clips.frames.flat, np.memmap) and not clips.frames.flat.flags.writeable
        assert clips.shapes == tuple(SHAPES) and len(clips) == 4 and clips.frames.dtype == np.uint8
        assert [clip.shape for clip in clips.frames] == [(*shape, 3) for shape in SHAPES]
        assert all((clip == 10 + i).all() for i, clip in enumerate(clips.frames))
        assert clips.truth is not None and clips.truth["box"].shape == (4, 5, 1, 4)
        assert (~np.isnan(clips.truth["x"][..., 0])).sum(axis=1).tolist() == [shape[0] for shape in SHAPES]
        assert clips.labels.tolist() == [0, 1, 2, 3]
    values = sum(t * h * w for t, h, w in SHAPES) * 3
    assert (tmp_path / "val.npy").stat().st_size == values + 128  # flat: nothing is filled up to the largest clip


def test_clips_beyond_the_names_are_cut_off_with_their_truth(tmp_path: Path) -> None:
    write_ragged(tmp_path, num=2)  # the longest clip goes, so the truth gets shorter too
    clips = read_clips(tmp_path, "").splits["test"]
    assert clips.shapes == tuple(SHAPES[:2]) and [int(clip.max()) for clip in clips.frames] == [10, 11]
    assert clips.truth is not None and clips.truth["x"].shape == (2, 2, 1) and clips.labels.tolist() == [0, 1]
    assert sorted(path.name for path in tmp_path.glob("test*")) == ["test.labels.npy", "test.npy", "test.shapes.npy", "test.truth.npz"]
    assert np.load(tmp_path / "test.npy").shape == ((2 * 9 * 8 + 8 * 12) * 3,)


def test_no_clip_left_is_read_as_none(tmp_path: Path) -> None:
    write_ragged(tmp_path, num=0)
    clips = read_clips(tmp_path, "").splits["val"]
    assert len(clips) == len(clips.frames) == 0 and clips.shapes == ()


def test_clips_that_turn_out_equal_are_one_array(tmp_path: Path) -> None:
    write_ragged(tmp_path, shapes=[(3, 8, 9)] * 2)
    clips = read_clips(tmp_path, "").splits["train"]
    assert isinstance(clips.frames, np.ndarray) and clips.frames.shape == (2, 3, 8, 9, 3)
    assert clips.frames[:, 0, 0, 0, 0].tolist() == [10, 11] and clips.shapes == ((3, 8, 9), (3, 8, 9))


def test_clips_of_one_shape_are_stored_as_ever(tmp_path: Path) -> None:
    """A cache that an older version wrote, file by file, is what this one writes and reads."""
    frames = open_frames(tmp_path, dict.fromkeys(SPLITS, 2), (3, 8, 9))
    save_clips(
        tmp_path,
        {split: ClipSet(frames[split], np.zeros(2), ids(split, 2), {"x": np.zeros((2, 3, 1))}) for split in SPLITS},
        label_names=(),
        fps=1.0,
    )
    kinds = ("labels.npy", "npy", "truth.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([META, *(f"{split}.{kind}" for split in SPLITS for kind in kinds)])
    meta = json.loads((tmp_path / META).read_text())
    assert meta["layout"] == 1 and sorted(meta["splits"]["val"]["bytes"]) == ["val.labels.npy", "val.npy", "val.truth.npz"]
    clips = read_clips(tmp_path, "").splits["val"]
    assert isinstance(clips.frames, np.memmap) and clips.frames.shape == (2, 3, 8, 9, 3) and clips.shapes == ((3, 8, 9),) * 2


def edit_array(path: Path, change: str) -> None:
    """Another array of as many bytes, so that only its meaning is wrong."""
    array = np.load(path)
    if change == "swap":
        array[0, 0], array[1, 0] = 9, 9
    else:
        array = array.view(np.int8)
    np.save(path, array)


def test_shapes_that_do_not_fit_the_frames_are_an_error(tmp_path: Path) -> None:
    write_ragged(tmp_path)
    edit_array(tmp_path / "val.shapes.npy", "swap")
    with pytest.raises(ValueError, match=r"val frames in .* do not have the shapes beside them: 4 items hold \d+ values"):
        read_clips(tmp_path, "")


def test_frames_of_another_type_are_an_error(tmp_path: Path) -> None:
    write_ragged(tmp_path)
    edit_array(tmp_path / "val.npy", "type")
    with pytest.raises(ValueError, match=r"val frames in .* are int8, expected uint8"):
        read_clips(tmp_path, "")


@pytest.mark.parametrize("damage", ["cut train.npy", "cut val.shapes.npy", "no test.shapes.npy"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    write_ragged(tmp_path)
    how, name = damage.split()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if how == "cut":
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_clips(tmp_path, "")


def test_truth_must_be_as_long_as_the_longest_clip(tmp_path: Path) -> None:
    frames = open_ragged_frames(tmp_path, dict.fromkeys(SPLITS, SHAPES))
    truth = {"x": np.zeros((4, 2, 1))}
    splits = {split: ClipSet(frames[split], np.zeros(4), ids(split, 4), truth) for split in SPLITS}
    save_clips(tmp_path, splits, label_names=(), fps=1.0)
    with pytest.raises(ValueError, match=r"train truth 'x' in .* has shape \(4, 2, 1\), expected \(4, 5\) \+ \(objects, ...\)"):
        read_clips(tmp_path, "")


def test_a_full_disk_is_the_same_error_for_many_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(t * h * w for t, h, w in SHAPES) * 3
    monkeypatch.setattr(bench.data.clips.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=rf"no room for clips in {tmp_path}.*{needed} bytes needed, 1 free") as caught:
        open_ragged_frames(tmp_path, {"train": SHAPES})
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_frames_of_many_shapes_are_reserved_on_disk(tmp_path: Path) -> None:
    open_ragged_frames(tmp_path, {"train": [(10, 24, 24)] * 50})
    stat = (tmp_path / "train.npy").stat()
    assert stat.st_blocks * 512 >= 50 * 10 * 24 * 24 * 3


def test_captions_come_back_and_those_of_clips_that_are_cut_off_go(tmp_path: Path) -> None:
    frames = open_frames(tmp_path, dict.fromkeys(SPLITS, 3), (2, 8, 8))
    texts = ("a red disc", "", "two rings")
    splits = {split: ClipSet(frames[split], np.zeros(3, int), ids(split, 2), captions=texts) for split in SPLITS}
    save_clips(tmp_path, splits, label_names=(), fps=8.0)
    assert all(clips.captions == ("a red disc", "") for clips in read_clips(tmp_path, "").splits.values())
    meta = json.loads((tmp_path / META).read_text())
    meta["splits"]["val"]["captions"] = ["a red disc"]
    (tmp_path / META).write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"val captions in .* are 1, expected 2 texts"):
        read_clips(tmp_path, "")


def test_clips_without_captions_have_none(tmp_path: Path) -> None:
    write_ragged(tmp_path)
    assert all(clips.captions is None for clips in read_clips(tmp_path, "").splits.values())
