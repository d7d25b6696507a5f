"""UCF-101 as it is published: UCF-101/<Class>/v_<Class>_gXX_cYY.avi and ucfTrainTestlist/*.txt under one root.

One clip a video, from its middle. Train and test are the published fold; val is carved out of train by whole groups gXX
(videos of one group show one person or scene), so no group is in two splits.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np

from bench.data.clips import SPLITS, ClipSet, Skipped, open_frames, save_clips
from bench.data.files import at_home
from bench.data.frozen import Count, Grown
from bench.data.media.inventory import unusable
from bench.data.media.video import middle_clip
from bench.data.progress import Progress
from bench.data.source import SourceConfig, digest_of
from bench.shapes import Refusal, did_you_mean

READER_VERSION = 1  # bump when the same files give other clips
FILE_NAME = re.compile(r"(?P<label>[^/]+)/v_[^/]+_(?P<group>g\d+)_c\d+\.avi")


class Config(Grown, SourceConfig):
    """A fold of UCF-101."""

    added = ("captions",)

    source: Literal["ucf101"] = "ucf101"
    root: Path  # holds UCF-101 and ucfTrainTestlist; not part of the content's identity
    fold: Literal[1, 2, 3] = 1  # of the published splits into train and test
    classes: tuple[str, ...] = ()  # () = all 101
    frame_stride: Count = 1  # frames of a file from one frame of a clip to the next
    captions: Literal["classes"] | None = None  # classes: the class in words, "apply eye makeup"


@dataclass(frozen=True)
class Listed:
    """A line of a fold's list."""

    name: str  # Class/v_Class_gXX_cYY.avi
    label: int  # among the chosen classes, in the order of classInd.txt
    group: str  # gXX


def digest(config: Config) -> str:
    """The lists, and the names and sizes of the files: hashing 6.5 GB that everybody has alike would take minutes."""
    sizes = {}
    for listed in read_list(config, "train") + read_list(config, "test"):
        path = at_home(config.root) / "UCF-101" / listed.name
        sizes[listed.name] = (listed.label, path.stat().st_size if path.is_file() else None)
    return digest_of(READER_VERSION, av.__version__, config.identity(added=("captions",), place=("root",)), sizes)


def labels(config: Config) -> tuple[str, ...]:
    """Classes in the order of classInd.txt, or the chosen ones of them."""
    known: list[str] = []
    for line in _lines(config, "classInd.txt"):
        number, _, name = line.partition(" ")
        if number != str(len(known) + 1):
            raise Refusal(f"classInd.txt has {line!r} where class {len(known) + 1} is due; it counts from 1 without holes")
        known.append(name)
    for name in config.classes:
        if name not in known:
            raise Refusal(f"classes: UCF-101 has no class {name!r}{did_you_mean(name, known)}")
    return tuple(name for name in known if not config.classes or name in config.classes)


def in_words(name: str) -> str:
    """A class as a caption.

    >>> in_words("ApplyEyeMakeup"), in_words("TaiChi"), in_words("YoYo")
    ('apply eye makeup', 'tai chi', 'yo yo')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def read_list(config: Config, half: Literal["train", "test"]) -> list[Listed]:
    """The videos of the fold's train or test list, of the chosen classes. Refusal for a line that cannot be right."""
    names = labels(config)
    known = labels(config.model_copy(update={"classes": ()}))
    file = f"{half}list{config.fold:02d}.txt"
    listed = []
    for line in _lines(config, file):
        name, _, number = line.partition(" ")
        match = FILE_NAME.fullmatch(name)
        if match is None or match["label"] not in known:
            raise Refusal(f"{file} has {line!r}, expected <class of classInd.txt>/v_<class>_gXX_cYY.avi")
        if number and number != str(known.index(match["label"]) + 1):  # labels in the files count from 1
            raise Refusal(f"{file} has {line!r}, but {match['label']} is class {known.index(match['label']) + 1} in classInd.txt")
        if match["label"] in names:
            listed.append(Listed(name, names.index(match["label"]), match["group"]))
    return listed


def _lines(config: Config, name: str) -> list[str]:
    path = at_home(config.root) / "ucfTrainTestlist" / name
    if not path.is_file():
        raise Refusal(f"root = {config.root} has no ucfTrainTestlist/{name}; unpack UCF101TrainTestSplits-RecognitionTask.zip there")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} cannot be read ({error}); unpack UCF101TrainTestSplits-RecognitionTask.zip again") from error
    return [line.strip() for line in lines if line.strip()]


def write(config: Config, folder: Path, progress: Progress) -> None:
    """Reads one clip of each video; val and test take videos in the order of a hash until they are full."""
    videos = at_home(config.root) / "UCF-101"
    if not videos.is_dir():
        raise Refusal(f"root = {config.root} has no folder UCF-101; unpack UCF101.rar there")
    skipped: list[Skipped] = []
    present: dict[str, list[Listed]] = {}
    for half in ("train", "test"):
        listed = read_list(config, half)
        present[half] = [video for video in listed if (videos / video.name).is_file()]
        for name in sorted({video.name for video in listed} - {video.name for video in present[half]}):
            absent = f"is in {half}list{config.fold:02d}.txt and not in UCF-101"
            why = "is a folder" if (videos / name).is_dir() else unusable(videos / name)
            skipped.append(Skipped(name, why if why and os.path.lexists(videos / name) else absent))
    queues, held_back = _with_val(present, config)
    wanted = {"train": len(queues["train"]), "val": config.num_val, "test": config.num_test}
    for split, num in wanted.items():
        if len(queues[split]) < max(num, 1):
            raise Refusal(
                f"{config.root}: fold {config.fold} has {len(queues[split])} {split} videos, {max(num, 1)} are needed; ask for fewer"
            )
    frames = open_frames(folder, wanted, (config.num_frames, config.height, config.width))
    splits, rates, unread = {}, [], {}
    for split in SPLITS:
        taken: list[Listed] = []
        for tried, video in enumerate(queues[split]):
            if len(taken) == wanted[split]:
                unread[split] = len(queues[split]) - tried
                break
            progress(len(taken), wanted[split], f"reading {split} videos")
            try:
                path, shape = videos / video.name, (config.num_frames, config.height, config.width)
                frames[split][len(taken)], fps = middle_clip(path, shape, config.frame_stride)
            except Refusal as error:
                skipped.append(Skipped(video.name, str(error)))
                continue
            taken.append(video)
            rates.append(fps)
        if len(taken) < wanted[split] and split != "train":
            raise Refusal(f"{config.root}: {len(taken)} {split} videos could be read, num_{split} = {wanted[split]}; ask for fewer")
        label_ids = np.array([video.label for video in taken], dtype=np.int64)
        told = tuple(in_words(video.name.partition("/")[0]) for video in taken) if config.captions else None
        splits[split] = ClipSet(frames[split], label_ids, tuple(video.name for video in taken), captions=told)
    lost = {f"{split} videos beyond num_{split}": num for split, num in unread.items()}
    save_clips(
        folder,
        splits,
        label_names=labels(config),
        fps=float(np.median(rates)),
        skipped=tuple(skipped),
        lost=lost,
        notes=(f"fold {config.fold}, one clip from the middle of each video, val = groups {', '.join(held_back)} of train",),
    )


def _with_val(present: dict[str, list[Listed]], config: Config) -> tuple[dict[str, list[Listed]], list[str]]:
    """Videos of each split in hash order, and the groups of val: whole groups gXX of all classes until num_val is reached."""
    by_hash = {half: sorted(listed, key=lambda video: digest_of(video.name)) for half, listed in present.items()}
    held_back: list[str] = []
    num_val = 0
    for group in sorted({video.group for video in by_hash["train"]}, key=lambda name: digest_of(config.fold, name)):
        if num_val >= config.num_val:
            break
        held_back.append(group)
        num_val += sum(video.group == group for video in by_hash["train"])
    return {
        "train": [video for video in by_hash["train"] if video.group not in held_back],
        "val": [video for video in by_hash["train"] if video.group in held_back],
        "test": by_hash["test"],
    }, sorted(held_back)
