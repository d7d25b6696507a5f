"""A user's own videos: a folder of files, whose subfolders, if there are any, are the classes.

Every file gives as many clips as it holds; bench.data.media.timeline says which go to which split. A file that cannot be read
is named with its reason, never left out in silence.

Clips have one shape, scaled to cover it and cropped; or, with `native`, every file keeps its own aspect, short files give what
they have, and images are clips of one frame.
"""

import fnmatch
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

import av
import numpy as np
import pydantic

from bench.data.clips import ClipSet, Skipped, open_ragged_frames, save_clips
from bench.data.frozen import Count, Frozen, Grown
from bench.data.media import images
from bench.data.media.captions import caption_files, captions_of, check_captions
from bench.data.media.inventory import MIN_SIDE, STILL_FPS, Media, content_of, decoded, file_hash, look_through, probed
from bench.data.media.timeline import Cutting, Footage, Plan, Starts, make_plan
from bench.data.media.video import EXTENSIONS, FitMode, iter_frames, within_area
from bench.data.progress import Progress
from bench.data.source import SourceConfig, Survey, digest_of
from bench.shapes import Refusal, Shape, told_of

READER_VERSION = 1  # bump when the same files give other clips
ADDED = ("native", "splits_of", "captions", "caption_column")  # fields that the first cached clips did not have
ONE_A_FILE = 2**31  # a hop that leads beyond any file
PACKETS = "frames are counted in packets, without decoding: not exact for a few codecs (VP8, packed MPEG-4)"


class SplitsOf(Frozen):
    """Other clips of the same files, whose splits are to be kept."""

    span: Count  # frames of a file that one of them covers
    num_val: Count  # of them, in the validation split
    num_test: Count  # of them, in the test split
    images: bool  # whether image files were dealt out too


class Config(Grown, SourceConfig):
    """A folder of videos and how clips are cut out of it."""

    added = ("captions", "caption_column")

    source: Literal["folder"] = "folder"
    path: Path  # the folder; not part of the content's identity
    frame_stride: Count = 1  # frames of a file from one frame of a clip to the next
    clip_hop: Count | None = None  # frames of a file between starts of training clips; None = no overlap
    split_by: Literal["auto", "file", "time"] = "auto"  # auto: by time with fewer than 10 files or groups
    gap_s: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 0.4  # seconds between two splits of a file cut by time
    groups: dict[str, str] = pydantic.Field(default_factory=dict)  # file pattern, as "*phone*" -> scene, whose files stay together
    native: bool = False  # True: own aspect, at most height x width pixels in all, never enlarged; short files and images too
    splits_of: SplitsOf | None = None  # None: the splits are made for these clips
    captions: str | None = None  # beside: clip.txt beside clip.mp4; or a table in the folder, as metadata.csv, .jsonl or .parquet
    caption_column: str = "text"  # of that table; its column file_name says of which file

    @property
    def span(self) -> int:
        """Frames of a file that one clip covers."""
        return (self.num_frames - 1) * self.frame_stride + 1

    @property
    def mixed(self) -> bool:
        """Whether clips have several shapes."""
        return self.native

    @property
    def reads_images(self) -> bool:
        """Whether image files count."""
        return self.splits_of.images if self.splits_of else self.native

    def at(self, shape: Shape, num_clips: int) -> Self:
        """Clips of one shape, cropped, that do not show in val or test what was trained on. One a file to train on: nobody does."""
        own = SplitsOf(span=self.span, num_val=self.num_val, num_test=self.num_test, images=self.reads_images)
        return super().at(shape, num_clips).changed(native=False, clip_hop=ONE_A_FILE, splits_of=self.splits_of or own)


def digest(config: Config) -> str:
    """Names and contents of the files, what is done with them, and the decoder."""
    contents = {name: content_of(path) for name, path in find_media(config).items()}
    told = [] if config.captions is None else [_captions(config, contents)]
    return digest_of(READER_VERSION, av.__version__, config.identity(added=ADDED, place=("path",)), contents, *told)


def labels(config: Config) -> tuple[str, ...]:
    """Names of the subfolders with videos; () when the videos lie in the folder itself."""
    return label_names(config, list(find_media(config)))


def write(config: Config, folder: Path, progress: Progress) -> None:
    """Counts every file's frames, plans the splits, then reads each file once."""
    files = find_media(config)
    plan, media, found = _planned(config, files, decoded, progress)
    captions = None
    if config.captions is not None:
        used = sorted({name for starts in plan.starts.values() for name, _ in starts})
        captions = _captions(config, used)
        missing = [name for name in used if name not in captions]
        check_captions(str(config.path), missing, len(missing), len(used))
    frames = open_ragged_frames(folder, found.shapes)
    places = _places(config, plan.starts, found.shapes)
    fit: FitMode = "whole" if config.native else "cover"
    for done, (name, wanted) in enumerate(sorted(places.items())):
        progress(done, len(places), "reading videos")
        split, row, _ = wanted[min(wanted)][0]
        height, width = frames[split][row].shape[1:3]
        with told_of(f"{config.path}: {name} was read once and fails now"):
            if media[name].is_image:
                frames[split][row][0] = images.read_image(files[name], height, width, fit)
                continue
            for index, pixels in iter_frames(files[name], sorted(wanted), height, width, fit):
                for split, row, t in wanted[index]:
                    frames[split][row][t] = pixels
    progress(len(places), len(places), "reading videos")
    names = label_names(config, list(files))
    splits = {}
    for split, starts in plan.starts.items():
        label_ids = np.array([names.index(_top(name)) if names else 0 for name, _ in starts], dtype=np.int64)
        told = None if captions is None else tuple(captions[name] for name, _ in starts)
        splits[split] = ClipSet(frames[split], label_ids, found.clip_ids[split], captions=told)
    save_clips(folder, splits, label_names=names, fps=found.fps, skipped=found.skipped, lost=found.lost, notes=found.notes)


def survey(config: Config, progress: Progress) -> Survey:
    """What `write` would make, by counting packets instead of decoding."""
    _, _, found = _planned(config, find_media(config), probed, progress)
    return replace(found, notes=(*found.notes, PACKETS))


def find_media(config: Config) -> dict[str, Path]:
    """Relative name (with /) -> path of every file with the extension of a video, or of an image if they count. Refusal for none."""
    extensions = (*EXTENSIONS, *images.EXTENSIONS) if config.reads_images else EXTENSIONS
    media = {name: path for name, path in look_through(config.path)[0].items() if path.suffix.lower() in extensions}
    if not media:
        raise Refusal(f"no video in {config.path}: looked in it and its subfolders for {', '.join(extensions)}")
    return media


def label_names(config: Config, names: list[str]) -> tuple[str, ...]:
    """Classes of the videos `names`. Refusal when some lie in subfolders and some do not."""
    loose = [name for name in names if "/" not in name]
    if loose and len(loose) < len(names):
        raise Refusal(
            f"{config.path} has videos in it ({loose[0]}) and in subfolders, which are classes; move all of them into subfolders, or none"
        )
    return () if loose else tuple(sorted({_top(name) for name in names}))


def _captions(config: Config, names: Iterable[str]) -> dict[str, str]:
    """File -> its caption, of those that have one."""
    assert config.captions is not None
    return captions_of(look_through(config.path)[0], names, config.captions, config.caption_column)


def _top(name: str) -> str:
    return name.partition("/")[0]


def _planned(
    config: Config, files: dict[str, Path], measure: Callable[[Path], Media], progress: Progress
) -> tuple[Plan, dict[str, Media], Survey]:
    """Measures every file and plans the splits: where clips start, the readable files, what there is. Refusal for too few clips."""
    media, footage, skipped = _measured(config, files, measure, progress)
    what = f"clips of {config.num_frames}x{config.height}x{config.width} (frames x height x width)"
    if not media:
        raise Refusal(f"no readable video in {config.path}: {len(skipped)} tried, the first: {skipped[0].name} {skipped[0].reason}")
    if (longest := max(file.num_frames for file in footage)) < config.span:
        raise Refusal(f"{config.path}: no file is long enough for {what}: the longest has {longest} frames, {config.span} are needed")
    held_out = {"val": config.num_val, "test": config.num_test}
    cutting = dealt = Cutting(span=config.span, hop=config.clip_hop or config.span, held_out=held_out, gap_s=config.gap_s)
    if (other := config.splits_of) is not None:
        dealt = replace(cutting, span=other.span, hop=other.span, held_out={"val": other.num_val, "test": other.num_test})
    try:
        plan = make_plan(footage, cutting, config.split_by, keep_short=config.native, dealt=dealt)
    except Refusal as error:
        raise Refusal(f"{config.path}: {error}; {what}") from error
    usable = [file for file in footage if config.native or file.num_frames >= config.span]
    fps = {file.name: file.fps / config.frame_stride for file in usable if not media[file.name].is_image}
    rates = [fps[name] for clips in plan.starts.values() for name, _ in clips if name in fps] or [STILL_FPS]
    all_files, left_out = look_through(config.path)
    told = caption_files(files, config.captions) if config.captions is not None else set()
    others = len(all_files.keys() - files.keys() - told)
    untried = f"files that are not {'videos or images' if config.reads_images else 'videos'} by their extension"
    found = Survey(
        shapes={split: tuple(_clip_shape(config, media[name], start) for name, start in at) for split, at in plan.starts.items()},
        clip_ids={split: tuple(f"{name}#{start}" for name, start in at) for split, at in plan.starts.items()},
        fps=float(np.median(rates)),
        skipped=(*skipped, *left_out),
        lost=plan.lost | ({untried: others} if others else {}),
        notes=_notes(config, usable, media, plan.split_by),
    )
    return plan, media, found


def _measured(
    config: Config, files: dict[str, Path], measure: Callable[[Path], Media], progress: Progress
) -> tuple[dict[str, Media], list[Footage], list[Skipped]]:
    """Every file's length, rate, size and group; those that give no clip, with the reason."""
    media: dict[str, Media] = {}
    footage, skipped = [], []
    names: dict[str, str] = {}  # content -> the file that has it
    unused = set(config.groups)
    for done, (name, path) in enumerate(files.items()):
        progress(done, len(files), "counting frames")
        patterns = [pattern for pattern in config.groups if fnmatch.fnmatchcase(name, pattern)]
        unused.difference_update(patterns)
        if len({config.groups[pattern] for pattern in patterns}) > 1:
            raise Refusal(f"groups: {name} matches {' and '.join(map(repr, patterns))}, which are different groups; narrow one")
        try:
            file = measure(path)
            _clip_shape(config, file, 0)
        except Refusal as error:
            skipped.append(Skipped(name, str(error)))
            continue
        content = file_hash(path)
        if file.num_frames < config.span and not config.native:  # still dealt out where the splits are those of shorter clips
            skipped.append(Skipped(name, f"has {file.num_frames} frames, a clip needs {config.span}"))
        elif content in names:
            skipped.append(Skipped(name, f"has the same content as {names[content]}"))
        if content in names:
            continue
        names[content] = name
        media[name] = file
        group = f"group {config.groups[patterns[0]]}" if patterns else content
        footage.append(Footage(name=name, group=group, num_frames=file.num_frames, fps=file.fps))
    if unused:
        raise Refusal(f"groups: no file in {config.path} matches {sorted(unused)[0]!r}; files are named as {next(iter(files))!r}")
    return media, footage, skipped


def _clip_shape(config: Config, file: Media, start: int) -> Shape:
    """Shape (T, H, W) of the clip that starts at frame `start` of a file. Refusal(reason) where a side is too small."""
    if not config.native:
        return (config.num_frames, config.height, config.width)
    height, width = within_area(file.height, file.width, config.height * config.width)
    if min(height, width) < MIN_SIDE:
        scaled = "" if (height, width) == (file.height, file.width) else f", {height}x{width} when scaled to the area of a clip"
        raise Refusal(f"is {file.height}x{file.width} pixels{scaled}; a side has at least {MIN_SIDE}")
    return (min(config.num_frames, 1 + (file.num_frames - 1 - start) // config.frame_stride), height, width)


Places = dict[int, list[tuple[str, int, int]]]  # frame of a file -> the (split, clip, frame of the clip) that show it


def _places(config: Config, starts: Mapping[str, Starts], shapes: Mapping[str, Sequence[Shape]]) -> dict[str, Places]:
    """File -> where each of its frames goes, so that one pass over the file fills all its clips."""
    places: dict[str, Places] = defaultdict(lambda: defaultdict(list))
    for split, clips in starts.items():
        for row, ((name, start), shape) in enumerate(zip(clips, shapes[split], strict=True)):
            for t in range(shape[0]):
                places[name][start + t * config.frame_stride].append((split, row, t))
    return places


def _notes(config: Config, footage: list[Footage], media: dict[str, Media], split_by: str) -> tuple[str, ...]:
    gap = f", {config.gap_s} s apart" if split_by == "time" else ""
    how = f"resized to cover {config.height}x{config.width}, centre crop"
    if config.native:
        how = f"each at its own aspect, at most {config.height * config.width} pixels, none enlarged"
    notes = [f"{len(footage)} files split by {split_by}{gap}; {how}"]
    if config.splits_of:
        notes.append(f"splits as they were made for clips that cover {config.splits_of.span} frames of a file")
    if short := [file for file in footage if file.num_frames < config.span]:
        num_images = sum(media[file.name].is_image for file in short)
        notes.append(f"{len(short)} files ({num_images} images) are shorter than a clip and give one of what they have, only to train on")
    rates = sorted({file.fps for file in footage if not media[file.name].is_image})
    if rates and rates[-1] > rates[0] * 1.001:
        notes.append(f"files run at {rates[0]:g} to {rates[-1]:g} frames per second and are not resampled")
    return tuple(notes)
