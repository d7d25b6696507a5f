"""A user's own videos: a folder of files, whose subfolders, if there are any, are the classes.

Every file gives as many clips as it holds; bench.data.timeline says which go to which split. A file that cannot be read
is named with its reason, never left out in silence.
"""

import fnmatch
import functools
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

import av
import numpy as np
import pydantic

from bench.data.clips import SPLITS, ClipSet, Skipped, open_frames, save_clips
from bench.data.source import Count, Progress, SourceConfig, digest_of
from bench.data.timeline import Cutting, Footage, make_plan
from bench.data.video import EXTENSIONS, count_frames, iter_frames, probe

READER_VERSION = 1  # bump when the same files give other clips


class Config(SourceConfig):
    """A folder of videos and how clips are cut out of it."""

    source: Literal["folder"] = "folder"
    path: Path  # the folder; not part of the content's identity
    frame_stride: Count = 1  # frames of a file from one frame of a clip to the next
    clip_hop: Count | None = None  # frames of a file between starts of training clips; None = no overlap
    split_by: Literal["auto", "file", "time"] = "auto"  # auto: by time with fewer than 10 files or groups
    gap_s: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.4  # seconds between two splits of a file cut by time
    groups: dict[str, str] = pydantic.Field(default_factory=dict)  # file pattern, as "*phone*" -> scene, whose files stay together

    @property
    def span(self) -> int:
        """Frames of a file that one clip covers."""
        return (self.num_frames - 1) * self.frame_stride + 1


def digest(config: Config) -> str:
    """Names and contents of the files, what is done with them, and the decoder."""
    contents = {name: file_hash(path) for name, path in find_videos(config).items()}
    return digest_of(READER_VERSION, av.__version__, config.model_dump(mode="json", exclude={"path"}), contents)


def labels(config: Config) -> tuple[str, ...]:
    """Names of the subfolders with videos; () when the videos lie in the folder itself."""
    return label_names(config, list(find_videos(config)))


def write(config: Config, folder: Path, progress: Progress) -> None:
    """Counts every file's frames, plans the splits, then reads each file once."""
    videos = find_videos(config)
    footage, skipped = _survey(config, videos, progress)
    if not footage:
        raise ValueError(f"no readable video in {config.path}: {len(skipped)} tried, the first: {skipped[0].name} {skipped[0].reason}")
    hop = config.clip_hop or config.span
    cutting = Cutting(span=config.span, hop=hop, num_val=config.num_val, num_test=config.num_test, gap_s=config.gap_s)
    try:
        plan = make_plan(footage, cutting, config.split_by)
    except ValueError as error:
        raise ValueError(f"{config.path}: {error}") from error
    starts = {"train": plan.train, "val": plan.val, "test": plan.test}
    num_clips = {split: len(starts[split]) for split in SPLITS}
    frames = open_frames(folder, num_clips, (config.num_frames, config.height, config.width))
    places = _places(config, starts)
    for done, file in enumerate(footage):
        progress(done, len(footage), "reading videos")
        try:
            for index, pixels in iter_frames(videos[file.name], sorted(places[file.name]), config.height, config.width):
                for split, row, t in places[file.name][index]:
                    frames[split][row, t] = pixels
        except ValueError as error:
            raise ValueError(f"{config.path}: {file.name} was read once and fails now: {error}") from error
    progress(len(footage), len(footage), "reading videos")
    names = label_names(config, list(videos))
    others = len(find_files(config)) - len(videos)
    fps = {file.name: file.fps / config.frame_stride for file in footage}
    save_clips(
        folder,
        {
            split: ClipSet(
                frames[split],
                np.array([names.index(_top(name)) if names else 0 for name, _ in starts[split]], dtype=np.int64),
                tuple(f"{name}#{start}" for name, start in starts[split]),
            )
            for split in SPLITS
        },
        label_names=names,
        fps=float(np.median([fps[name] for split in SPLITS for name, _ in starts[split]])),
        fps_range=(min(fps.values()), max(fps.values())),
        skipped=tuple(skipped),
        lost=plan.lost | ({"files that are not videos by their extension": others} if others else {}),
        notes=_notes(config, footage, plan.split_by),
    )


def find_videos(config: Config) -> dict[str, Path]:
    """Relative name (with /) -> path of every file with a video's extension, sorted. ValueError when there is none."""
    videos = {name: path for name, path in find_files(config).items() if path.suffix.lower() in EXTENSIONS}
    if not videos:
        raise ValueError(f"no video in {config.path}: looked in it and its subfolders for {', '.join(EXTENSIONS)}")
    return videos


def find_files(config: Config) -> dict[str, Path]:
    """As `find_videos`, with files of any kind; hidden ones do not count."""
    root = config.path.expanduser()
    if not root.is_dir():
        raise ValueError(f"path = {config.path} is not a folder; name one that holds videos")
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("[!.]*") if path.is_file()}
    return {name: files[name] for name in sorted(files) if "/." not in f"/{name}"}


def label_names(config: Config, names: list[str]) -> tuple[str, ...]:
    """Classes of the videos `names`. ValueError when some lie in subfolders and some do not."""
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise ValueError(
            f"{config.path} has videos in it ({loose[0]}) and in subfolders, which are classes; move all of them into subfolders, or none"
        )
    return () if loose else tuple(sorted({_top(name) for name in names}))


def _top(name: str) -> str:
    return name.partition("/")[0]


def _survey(config: Config, videos: dict[str, Path], progress: Progress) -> tuple[list[Footage], list[Skipped]]:
    """Every file's length, rate and group; those that give no clip, with the reason."""
    footage, skipped = [], []
    names: dict[str, str] = {}  # content -> the file that has it
    unused = set(config.groups)
    for done, (name, path) in enumerate(videos.items()):
        progress(done, len(videos), "counting frames")
        patterns = [pattern for pattern in config.groups if fnmatch.fnmatchcase(name, pattern)]
        unused.difference_update(patterns)
        if len({config.groups[pattern] for pattern in patterns}) > 1:
            raise ValueError(f"groups: {name} matches {' and '.join(map(repr, patterns))}, which are different groups; narrow one")
        try:
            fps, num_frames = probe(path).fps, count_frames(path)
        except ValueError as error:
            skipped.append(Skipped(name, str(error)))
            continue
        if num_frames < config.span:
            skipped.append(Skipped(name, f"has {num_frames} frames, a clip needs {config.span}"))
            continue
        content = file_hash(path)
        if content in names:
            skipped.append(Skipped(name, f"has the same content as {names[content]}"))
            continue
        names[content] = name
        group = f"group {config.groups[patterns[0]]}" if patterns else content
        footage.append(Footage(name=name, group=group, num_frames=num_frames, fps=fps))
    if unused:
        raise ValueError(f"groups: no file in {config.path} matches {sorted(unused)[0]!r}; files are named as {next(iter(videos))!r}")
    return footage, skipped


Places = dict[int, list[tuple[str, int, int]]]  # frame of a file -> the (split, clip, frame of the clip) that show it


def _places(config: Config, starts: dict[str, list[tuple[str, int]]]) -> dict[str, Places]:
    """File -> where each of its frames goes, so that one pass over the file fills all its clips."""
    places: dict[str, Places] = defaultdict(lambda: defaultdict(list))
    for split, clips in starts.items():
        for row, (name, start) in enumerate(clips):
            for t in range(config.num_frames):
                places[name][start + t * config.frame_stride].append((split, row, t))
    return places


def _notes(config: Config, footage: list[Footage], split_by: str) -> tuple[str, ...]:
    gap = f", {config.gap_s} s apart" if split_by == "time" else ""
    notes = [f"{len(footage)} files split by {split_by}{gap}; resized to cover {config.height}x{config.width}, centre crop"]
    rates = sorted({file.fps for file in footage})
    if rates[-1] > rates[0] * 1.001:
        notes.append(f"files run at {rates[0]:g} to {rates[-1]:g} frames per second and are not resampled")
    return tuple(notes)


def file_hash(path: Path) -> str:
    """sha256 of the file's content; read once per process while path, size and time of change stay."""
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
