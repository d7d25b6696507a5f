"""Clips of one colour each, and captions that say which: what a model can only know by reading. A plug-in source for tests."""

from pathlib import Path
from typing import Literal

import numpy as np

from bench.data.clips import SPLITS, ClipSet, open_frames, save_clips
from bench.data.progress import Progress
from bench.data.source import SourceConfig, digest_of

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}


class Config(SourceConfig):
    """Words are those of the captions; `captions` null: there are none."""

    source: Literal["tests.told_source"] = "tests.told_source"
    num_train: int = 12
    captions: Literal["colours"] | None = "colours"
    classes: bool = False


def digest(config: Config) -> str:
    return digest_of(1, config.identity())


def labels(config: Config) -> tuple[str, ...]:
    return ("odd", "even") if config.classes else ()


def write(config: Config, folder: Path, progress: Progress) -> None:
    num = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    frames = open_frames(folder, num, (config.num_frames, config.height, config.width))
    splits = {}
    for split in SPLITS:
        names = [list(COLOURS)[index % 3] for index in range(num[split])]
        for clip, name in zip(frames[split], names, strict=True):
            clip[:] = COLOURS[name]
        texts = tuple("" if index == 5 else f"All {name}" for index, name in enumerate(names))  # one clip says nothing
        ids = tuple(f"{split}{index}" for index in range(num[split]))
        classes = np.arange(num[split]) % 2 if config.classes else np.zeros(num[split], np.int64)
        splits[split] = ClipSet(frames[split], classes, ids, captions=texts if config.captions else None)
    save_clips(folder, splits, label_names=labels(config), fps=8.0)
