"""Which frames of which file go to which split. Knows names, hashes and integers, not video.

Two ways to keep splits apart:
    file  files are dealt to the splits in the order of a hash of their content; no file is in two splits
    time  every file's timeline is cut into train | gap | val | gap | test; for a few long files
Files of one group (versions of one scene) go to one split, or are cut at the same times. Clips of val and test are
disjoint; those of train start every `hop` frames. Files shorter than a clip are not dealt out: where they give a clip of
what they have, it is one to train on, and only if no version of the scene shows the same time in val or test.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from bench.shapes import Refusal

MIN_GROUPS = 10  # with fewer, one file more or less in val and test says too much: cut by time
MIN_SHARE = 0.1  # least part of the groups in val, and in test, when files are dealt out


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A readable file."""

    name: str
    group: str  # its content's hash, or the name of its scene
    num_frames: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How clips are cut out of footage."""

    span: int  # frames of a file that one clip covers: (num_frames - 1) * frame_stride + 1
    hop: int  # frames between the starts of training clips
    held_out: dict[str, int]  # val and test -> clips that they are to have
    gap_s: float  # seconds of a file that separate two splits

    @property
    def asked(self) -> str:
        """'num_val = 2 and num_test = 3'."""
        return " and ".join(f"num_{split} = {num}" for split, num in self.held_out.items())


Starts = list[tuple[str, int]]  # of clips: (file name, first frame)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where clips start, and what is in none."""

    starts: dict[str, Starts]  # of train, val and test, sorted
    split_by: str  # "file" or "time"
    lost: dict[str, int]


@dataclass
class _Scene:
    """A group whose timeline is being cut; counts of clips are those of its shortest file."""

    files: list[Footage]
    cutting: Cutting
    num: dict[str, int] = field(default_factory=lambda: {"val": 0, "test": 0})

    def __post_init__(self) -> None:
        self.shortest = min(self.files, key=lambda file: file.num_frames / file.fps)
        slowest_fps = min(file.fps for file in self.files)
        # In whole frames of the shortest file, so that versions of equal rate are cut at exactly the same frame.
        self.clip_frames = int(np.ceil(self.cutting.span * self.shortest.fps / slowest_fps - 1e-6))
        self.gap_length = int(np.ceil(self.cutting.gap_s * self.shortest.fps - 1e-6))

    def segments(self) -> dict[str, tuple[int, int]]:
        """Split -> first frame and one past the last, of the shortest file; a gap lies before each split that has clips.

        Below 0 where the file is too short for its clips.
        """
        segments, end = {}, self.shortest.num_frames
        for split in ("test", "val"):
            start = end - self.num[split] * self.clip_frames
            segments[split] = (start, end)
            end = start - self.gap_length if self.num[split] else start
        segments["train"] = (0, end)
        return segments

    def fits(self) -> bool:
        """Whether the file is long enough for its clips of val and test; nothing need be left for train."""
        segments = self.segments()
        return all(segments[split][0] >= 0 for split, num in self.num.items() if num)

    def share(self) -> float:
        """Part of the timeline that val and test would have with one more clip."""
        return (sum(self.num.values()) + 1) * self.clip_frames / self.shortest.num_frames

    def parts(self, split: str) -> "Parts":
        """File -> first frame of its part of `split` and one past the last, whole frames; the second below the first where it has none."""
        parts = {}
        for file in self.files:
            first, end = (bound * file.fps / self.shortest.fps for bound in self.segments()[split])
            parts[file.name] = (max(int(np.ceil(first - 1e-6)), 0), min(int(np.floor(end + 1e-6)), file.num_frames))
        return parts

    def num_clips(self) -> dict[str, int]:
        """Split -> its clips in all versions of the scene."""
        return {split: _num_clips(self.parts(split), self.cutting, split) for split in ("train", "val", "test")}

    def gap_frames(self) -> int:
        """Frames of all versions that only keep splits apart."""
        firsts = [self.segments()[split][0] for split, num in self.num.items() if num]
        return sum(int(min(self.gap_length, first) * file.fps / self.shortest.fps + 1e-6) for first in firsts for file in self.files)


Parts = dict[str, tuple[int, int]]  # file -> the first of its frames that a split may show, and one past the last


def make_plan(footage: list[Footage], cutting: Cutting, split_by: str, *, keep_short: bool = False, dealt: Cutting | None = None) -> Plan:
    """Clips of each split, `split_by` one of PLANNERS. Refusal that says how many clips there are when they are too few.

    With `keep_short` a file shorter than a clip gives one clip of what it has. With `dealt` the splits are those of that
    cutting, so that clips of another length show nothing that was in another split.
    """
    dealt = dealt or cutting
    long = [file for file in footage if file.num_frames >= dealt.span]
    groups: dict[str, list[Footage]] = defaultdict(list)
    for file in long:
        groups[file.group].append(file)
    if split_by == "auto":
        split_by = "file" if len(groups) >= MIN_GROUPS else "time"
    parts, gap_frames = PLANNERS[split_by](list(groups.values()), dealt)
    candidates = {split: _clips(parts[split], cutting, split) for split in ("train", "val", "test")}
    short = [file for file in footage if file.num_frames < dealt.span and (keep_short or file.num_frames >= cutting.span)]
    used = _free_to_train(short, groups, parts)
    candidates["train"] += _clips(_whole(used), cutting, "train")
    candidates["train"] += [(file.name, 0) for file in used if file.num_frames < cutting.span]
    lost = {"short files of scenes in val or test": len(short) - len(used)}
    for split, num in (cutting.held_out | {"train": 1}).items():
        if len(candidates[split]) < num:  # only where the splits were made for other clips
            raise Refusal(
                f"the part kept for {split} when the splits were made, for clips of {dealt.span} frames, holds {len(candidates[split])} "
                f"of {cutting.span} frames, {num} are needed; ask for fewer or shorter ones"
            )
    for split, num in cutting.held_out.items():
        lost[f"{split} clips beyond num_{split}"] = len(candidates[split]) - num
        candidates[split] = sorted(candidates[split], key=lambda start: _hash(f"{start[0]}#{start[1]}"))[:num]
    lost["frames in gaps between splits"] = gap_frames
    lost["frames in no clip for other reasons"] = _uncovered(long + used, cutting.span, candidates) - gap_frames
    return Plan(
        starts={split: sorted(clips) for split, clips in candidates.items()},
        split_by=split_by,
        lost={reason: count for reason, count in lost.items() if count},
    )


def _free_to_train(short: list[Footage], groups: dict[str, list[Footage]], parts: dict[str, Parts]) -> list[Footage]:
    """Short files that show nothing of val and test: versions of a scene start together, so those that end within its part for train."""
    free = []
    for file in short:
        versions = groups.get(file.group, [])
        is_held_out = any(first < end for split in ("val", "test") for first, end in (parts[split].get(v.name, (0, 0)) for v in versions))
        train_end_s = max((parts["train"].get(version.name, (0, 0))[1] / version.fps for version in versions), default=0.0)
        if not is_held_out or (file.num_frames - 1) / file.fps < train_end_s:
            free.append(file)
    return free


def _by_file(groups: list[list[Footage]], cutting: Cutting) -> tuple[dict[str, Parts], int]:
    """Test, then val, take groups in hash order until they have their clips and their share of groups; train has the rest."""
    groups = sorted(groups, key=lambda files: _hash(files[0].group))
    rest = iter(groups)
    parts: dict[str, Parts] = {"test": {}, "val": {}, "train": {}}
    for split, num in reversed(cutting.held_out.items()):
        num_groups = num_clips = 0
        while (num_clips < num or num_groups < MIN_SHARE * len(groups)) and (files := next(rest, None)):
            parts[split] |= _whole(files)
            num_clips += _num_clips(_whole(files), cutting, split)
            num_groups += 1
    parts["train"] = _whole(file for files in rest for file in files)
    have = {split: _num_clips(files, cutting, split) for split, files in parts.items()}
    if any(have[split] < num for split, num in (cutting.held_out | {"train": 1}).items()):
        total = _num_clips(_whole(file for files in groups for file in files), cutting, "test")
        raise Refusal(
            f"{cutting.asked} leave nothing to train on: {len(groups)} files or groups hold "
            f"{total} disjoint clips of {cutting.span} frames; ask for fewer, add videos or try split_by='time'"
        )
    return parts, 0


def _by_time(groups: list[list[Footage]], cutting: Cutting) -> tuple[dict[str, Parts], int]:
    """The ends of all scenes' timelines, in equal shares of their length, until val and test have their clips."""
    scenes = [_Scene(files=files, cutting=cutting) for files in sorted(groups, key=lambda files: _hash(files[0].group))]
    have = _allocate(scenes, cutting.held_out)
    if any(have[split] < num for split, num in cutting.held_out.items()):
        raise Refusal(
            f"{cutting.asked} are more than there is: cut by time, with gaps of "
            f"{cutting.gap_s} s and one clip left to train on, {sum(len(files) for files in groups)} files hold {have['val']} val and "
            f"{have['test']} test clips of {cutting.span} frames; ask for fewer, shorten the clips or add videos"
        )
    parts = {split: {name: part for scene in scenes for name, part in scene.parts(split).items()} for split in ("train", "val", "test")}
    return parts, sum(scene.gap_frames() for scene in scenes)


def _allocate(scenes: list[_Scene], need: dict[str, int]) -> dict[str, int]:
    """Gives scenes clips of val and test, one at a time, to the scene that has given least of its length; split -> clips had."""
    have = {split: sum(scene.num_clips()[split] for scene in scenes) for split in ("train", "val", "test")}
    full: set[str] = set()  # splits for which no scene has room
    while missing := [split for split in sorted(need) if have[split] < need[split] and split not in full]:
        split = min(missing, key=lambda name: have[name] / need[name])
        for scene in sorted(scenes, key=_Scene.share):
            before = scene.num_clips()
            scene.num[split] += 1
            after = {name: have[name] - before[name] + num for name, num in scene.num_clips().items()}
            if scene.fits() and after["train"] >= 1:
                have = after
                break
            scene.num[split] -= 1
        else:
            full.add(split)
    return have


PLANNERS: dict[str, Callable[[list[list[Footage]], Cutting], tuple[dict[str, Parts], int]]] = {"file": _by_file, "time": _by_time}


def _whole(files: Iterable[Footage]) -> Parts:
    return {file.name: (0, file.num_frames) for file in files}


def _ranges(parts: Parts, cutting: Cutting, split: str) -> dict[str, range]:
    """File -> first frames of its clips of `split`."""
    hop = cutting.hop if split == "train" else cutting.span
    return {name: range(first, end - cutting.span + 1, hop) for name, (first, end) in parts.items()}


def _num_clips(parts: Parts, cutting: Cutting, split: str) -> int:
    return sum(map(len, _ranges(parts, cutting, split).values()))


def _clips(parts: Parts, cutting: Cutting, split: str) -> Starts:
    return [(name, start) for name, starts in _ranges(parts, cutting, split).items() for start in starts]


def _uncovered(footage: list[Footage], span: int, candidates: dict[str, Starts]) -> int:
    """Frames that lie in no clip."""
    covered = {file.name: np.zeros(file.num_frames, dtype=bool) for file in footage}
    for starts in candidates.values():
        for name, start in starts:
            covered[name][start : start + span] = True
    return sum(int((~mask).sum()) for mask in covered.values())


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
