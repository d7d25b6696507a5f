"""UCF-101's real layout, with tiny videos."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_data_video import counting_frames, write_video

from bench.data.source import clips_digest, load_clips
from bench.data.sources.ucf101 import Config, labels, read_list
from bench.shapes import Refusal

CLASSES = ("Archery", "Biking", "Diving")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, groups g01-g02 to test and g08-g11 to train, two videos each, of 12 frames."""
    root = tmp_path / "ucf"
    lists: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    for label, name in enumerate(CLASSES):
        for group in ("g01", "g02", "g08", "g09", "g10", "g11"):
            for take in ("c01", "c02"):
                file = f"{name}/v_{name}_{group}_{take}.avi"
                write_video(root / "UCF-101" / file, counting_frames(12, height=24, width=32) * 5 + np.uint8(60 * label + 20), fps=25)
                test = group in ("g01", "g02")
                lists["testlist01.txt" if test else "trainlist01.txt"].append(file if test else f"{file} {label + 1}")
    folder = root / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("".join(f"{i + 1} {name}\r\n" for i, name in enumerate(CLASSES)))
    for file, lines in lists.items():
        (folder / file).write_text("\n".join(lines) + "\n")
    return root


def config(root: Path, **changes: Any) -> Config:
    return Config.model_validate({"root": root, "num_frames": 4, "height": 12, "width": 16, "num_val": 5, "num_test": 9} | changes)


def group_of(clip_id: str) -> str:
    return clip_id.split("_")[-2]


def test_splits_follow_the_lists_and_keep_groups_apart(root: Path, tmp_path: Path) -> None:
    clips = load_clips(config(root), tmp_path)
    assert {split: len(clip_set) for split, clip_set in clips.splits.items()} == {"train": 18, "val": 5, "test": 9}
    groups = {split: {group_of(clip_id) for clip_id in clip_set.clip_ids} for split, clip_set in clips.splits.items()}
    assert groups["test"] <= {"g01", "g02"}
    assert not groups["train"] & groups["val"] and groups["train"] | groups["val"] == {"g08", "g09", "g10", "g11"}
    assert clips.lost == {"val videos beyond num_val": 1, "test videos beyond num_test": 3}
    assert clips.fps == pytest.approx(25) and not clips.skipped


def test_labels_start_at_0_and_clips_are_from_the_middle(root: Path, tmp_path: Path) -> None:
    clips = load_clips(config(root, frame_stride=2), tmp_path)
    assert clips.label_names == CLASSES
    for clip_set in clips.splits.values():
        for clip_id, label, clip in zip(clip_set.clip_ids, clip_set.labels, clip_set.frames, strict=True):
            assert CLASSES[label] == clip_id.partition("/")[0]
            levels = clip.astype(int).mean(axis=(1, 2, 3)) - 60 * label - 20
            assert np.abs(levels - [10, 20, 30, 40]).max() < 4  # 7 of 12 frames, from the third on; compressed with loss


def test_a_subset_of_classes_is_numbered_anew(root: Path, tmp_path: Path) -> None:
    made = config(root, classes=("Diving", "Archery"), num_val=2, num_test=4)
    assert labels(made) == ("Archery", "Diving")
    clips = load_clips(made, tmp_path)
    assert set(clips.splits["train"].labels.tolist()) == {0, 1}
    assert all("Biking" not in clip_id for clip_set in clips.splits.values() for clip_id in clip_set.clip_ids)
    with pytest.raises(ValueError, match=r"no class 'Bikin' \(did you mean 'Biking'"):
        labels(config(root, classes=("Bikin",)))


def test_missing_and_broken_files_are_named(root: Path, tmp_path: Path) -> None:
    videos = root / "UCF-101" / "Diving"
    (videos / "v_Diving_g01_c01.avi").unlink()
    (videos / "v_Diving_g02_c01.avi").write_bytes(b"broken")
    for group in ("g08", "g09", "g10", "g11"):  # one is in val, three are in train
        write_video(videos / f"v_Diving_{group}_c02.avi", counting_frames(3))
    clips = load_clips(config(root, num_val=3, num_test=10), tmp_path)
    reasons = {entry.name: entry.reason for entry in clips.skipped}
    assert reasons["Diving/v_Diving_g01_c01.avi"] == "is in testlist01.txt and not in UCF-101"
    assert "Invalid data" in reasons["Diving/v_Diving_g02_c01.avi"]
    assert sum(reason == "has 3 frames, a clip needs 4" for reason in reasons.values()) >= 3
    assert len(clips.splits["train"]) == 15


def test_digest_follows_the_files_not_the_place(root: Path, tmp_path: Path) -> None:
    before = clips_digest(config(root))
    root.rename(tmp_path / "moved")
    assert clips_digest(config(tmp_path / "moved")) == before
    (tmp_path / "moved" / "UCF-101" / "Archery" / "v_Archery_g08_c01.avi").unlink()
    assert clips_digest(config(tmp_path / "moved")) != before


def test_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no ucfTrainTestlist/trainlist02.txt; unpack"):
        load_clips(config(root, fold=2), tmp_path)
    with pytest.raises(ValueError, match="fold 1 has 12 test videos, 13 are needed"):
        load_clips(config(root, num_test=13), tmp_path)
    with pytest.raises(ValueError, match="fold 1 has 0 train videos"):
        load_clips(config(root, num_val=24), tmp_path)
    with pytest.raises(ValueError, match="fold"):
        config(root, fold=4)
    (root / "UCF-101").rename(root / "elsewhere")
    with pytest.raises(ValueError, match="no folder UCF-101; unpack"):
        load_clips(config(root), tmp_path)
    lines = root / "ucfTrainTestlist" / "trainlist01.txt"
    lines.write_text("Archery/v_Archery_g08_c01.avi 2\n")
    with pytest.raises(ValueError, match=r"Archery is class 1 in classInd.txt"):
        read_list(config(root), "train")
    lines.write_text("Archery/nonsense.avi 1\n")
    with pytest.raises(ValueError, match=r"expected <class of classInd.txt>"):
        read_list(config(root), "train")


def test_a_pipe_in_place_of_a_video_is_named_and_a_list_that_is_no_text_refused(root: Path, tmp_path: Path) -> None:
    videos = root / "UCF-101" / "Biking"
    for name in ("g08_c01", "g08_c02"):
        (videos / f"v_Biking_{name}.avi").unlink()
    os.mkfifo(videos / "v_Biking_g08_c01.avi")
    (videos / "v_Biking_g08_c02.avi").mkdir()
    clips = load_clips(config(root), tmp_path)
    assert [entry.reason for entry in clips.skipped] == ["is a pipe, no regular file", "is a folder"]
    (root / "ucfTrainTestlist" / "classInd.txt").write_bytes(b"1 Caf\xe9\n")
    with pytest.raises(Refusal, match=r"classInd.txt cannot be read .*; unpack UCF101TrainTestSplits"):
        labels(config(root))
