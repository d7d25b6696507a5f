"""Where clips come from: the contract of a source, how a mapping such as {source: worlds} finds one, and the cache.

A source is a module that exports

    Config(SourceConfig)                     its fields, checked when built
    digest(config) -> str                    hash of everything that determines the content
    labels(config) -> tuple[str, ...]        class names; () = no classes
    write(config, folder, progress) -> None  fills `folder` by open_frames, or open_ragged_frames, and save_clips of bench.data.clips
    survey(config, progress) -> Survey       optional: what `write` would make, without making it

and is named by its file in bench/data/sources/, or, as a plug-in, by any importable module: {source: my_data} or {source: my.data}.
Knows no source by name.
"""

import errno
import hashlib
import importlib.util
import json
import math
import pkgutil
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, cast

import numpy as np
import pydantic

import bench.data.sources
from bench.data.clips import LAYOUT_VERSION, Clips, Skipped, out_of_disk, read_clips
from bench.data.files import NoRoom
from bench.data.frozen import Frozen, explain
from bench.data.plugin import blaming, import_foreign, refusing
from bench.data.progress import Progress, silent
from bench.data.sealed import kept_or_made
from bench.shapes import Refusal, Shape, did_you_mean

MOST_CLIPS = 10**7  # in one split: what is said of each is held in memory
MOST_FRAMES, MOST_SIDE = 10**6, 2**15  # of a clip, in frames and in pixels
MOST_PIXELS = 2**31  # of all frames of a clip: a few clips are held in memory at once


class SourceConfig(Frozen):
    """What every source is told. Each source's `Config` adds its own fields."""

    source: str  # module of the source
    num_frames: Annotated[int, pydantic.Field(ge=1, le=MOST_FRAMES)]  # T of a clip
    height: Annotated[int, pydantic.Field(ge=8, le=MOST_SIDE)]  # pixels
    width: Annotated[int, pydantic.Field(ge=8, le=MOST_SIDE)]  # pixels
    num_val: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)]  # clips in the validation split
    num_test: Annotated[int, pydantic.Field(ge=1, le=MOST_CLIPS)]  # clips in the test split

    @pydantic.model_validator(mode="after")
    def _fits_memory(self) -> Self:
        check_clip_shape("num_frames, height and width have", (self.num_frames, self.height, self.width))
        return self

    @property
    def mixed(self) -> bool:
        """Whether clips come at several shapes; then num_frames, height and width are not those of every clip."""
        return False

    def at(self, shape: Shape, num_clips: int) -> Self:
        """The same content with every clip at one `shape` in pixels, and `num_clips` of val and of test.

        Refusal for a shape that no clip can have. What only the content can tell, such as files that are too short, is one
        when the clips are loaded.
        """
        num_frames, height, width = shape
        return self.changed(num_frames=num_frames, height=height, width=width, num_val=num_clips, num_test=num_clips)

    def changed(self, **fields: Any) -> Self:
        """A copy with other values of `fields`, checked like any other config. Refusal, one line, for what is wrong."""
        return cast(Self, load_config({**self.model_dump(), **fields}))

    def identity(self, *, added: tuple[str, ...] = (), place: tuple[str, ...] = ()) -> dict[str, Any]:
        """The config as plain data for a digest, without the fields that only say the `place` of the content.

        Those `added` after clips had been cached count only where they differ from their default: older clips keep their digest.
        """
        fields = type(self).model_fields
        unchanged = {name for name in added if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=unchanged | set(place))


def check_clip_shape(said: str, shape: Shape, least: Shape = (1, 1, 1)) -> None:
    """Refusal where no clip is (T, H, W) in pixels; `said`: what says it is."""
    most = (MOST_FRAMES, MOST_SIDE, MOST_SIDE)
    if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)) or math.prod(shape) > MOST_PIXELS:
        raise Refusal(
            f"{said} {shape}: (frames, height, width) of a clip are at least {least} and at most {most}, "
            f"and {MOST_PIXELS:,} pixels in all its frames"
        )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What clips a source has, told without making them."""

    shapes: dict[str, Sequence[Shape]]  # split -> (T, H, W) of each clip, in the order of the clips
    clip_ids: dict[str, tuple[str, ...]]  # split -> name of each clip
    boxes: dict[str, np.ndarray] | None = None  # split -> x0, y0, x1, y1 in pixels, (N, longest T, objects, 4); None where nothing says it
    skipped: tuple[Skipped, ...] = ()  # files that give nothing
    lost: dict[str, int] = field(default_factory=dict)  # reason -> count, of what is usable and would not be in any split
    fps: float  # as of `Clips`
    notes: tuple[str, ...] = ()  # how the clips would be made, and how far this can be off


def find_source(name: str) -> Any:
    """The source module `bench.data.sources.<name>`, or the plug-in module `name`. Refusal for anything else."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise _unknown(name)
    own = f"bench.data.sources.{name}"
    module_name = own if "." not in name and importlib.util.find_spec(own) else name
    try:
        module = import_foreign(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name != name and not name.startswith(f"{error.name}."):
            raise Refusal(f"source {name!r} needs the module {error.name!r}, which is not installed") from error
        raise _unknown(name) from error
    config = getattr(module, "Config", None)
    functions = all(callable(getattr(module, function, None)) for function in ("digest", "labels", "write"))
    if not functions or not isinstance(config, type) or not issubclass(config, SourceConfig):
        raise _unknown(name)
    return module


def _unknown(name: str) -> Refusal:
    known = sources()
    return Refusal(
        f"unknown source {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}, "
        "or name a module that exports Config, digest, labels and write"
    )


def sources() -> list[str]:
    """Names of the sources of this project. Any other importable source module works too."""
    return sorted(found.name for found in pkgutil.iter_modules(bench.data.sources.__path__))


def describe(name: str) -> str:
    """First line of the source's docstring, for `ls`."""
    return (getattr(find_source(name), "__doc__", None) or "").strip().partition("\n")[0]


def load_config(mapping: Mapping[str, Any] | SourceConfig) -> SourceConfig:
    """Mapping with `source` and that source's fields -> its checked `Config`. Refusal, one line, for what is wrong."""
    if isinstance(mapping, SourceConfig):  # checked when it was built
        return mapping
    if not isinstance(mapping, Mapping):
        raise Refusal(f"data is {mapping!r}, not a mapping; write {{source: {'worlds' if mapping is None else mapping}, ...}}")
    if not isinstance(name := mapping.get("source"), str):
        raise Refusal(f"data has source={name!r}; name one of {', '.join(sources())}")
    config = find_source(name).Config
    with blaming(f"source {name!r}"):
        try:
            return config.model_validate(dict(mapping))
        except pydantic.ValidationError as error:
            raise Refusal(f"source {name!r}: {explain(error, config)}") from error


def digest_of(*parts: Any) -> str:
    """32 hex digits that identify plain data (numbers, strings, lists, mappings), independent of key order."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def source_labels(config: SourceConfig) -> tuple[str, ...]:
    """Class names of the clips of `config`; () = no classes."""
    with blaming(f"source {config.source!r}"):
        return find_source(config.source).labels(config)


def clips_digest(config: SourceConfig) -> str:
    """Identity of the clips of `config`, and the name of their cache folder."""
    with blaming(f"source {config.source!r}"):
        return digest_of(LAYOUT_VERSION, config.source, find_source(config.source).digest(config))


def load_clips(config: SourceConfig, cache: Path, progress: Progress = silent) -> Clips:
    """Clips of `config`, memory-mapped from `cache/clips/<digest>/`, which is built when it is not there.

    Built in a temporary folder and renamed: a killed build leaves nothing that is ever read, and of two builds at once
    the first to rename wins. A damaged or edited folder is rebuilt, with a warning.
    """
    digest = clips_digest(config)
    folder = cache / "clips" / digest[:16]

    def write(temp: Path) -> None:
        try:
            with refusing():
                find_source(config.source).write(config, temp, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC or isinstance(error, NoRoom):
                raise
            needed_bytes = sum(path.stat().st_size for path in temp.iterdir())
            raise out_of_disk(folder.parent, needed_bytes, shutil.disk_usage(folder.parent).free) from error
        _check_written(config, read_clips(temp, digest))

    kept_or_made(folder, "clips", write)
    return read_clips(folder, digest)


def survey_clips(config: SourceConfig, cache: Path, progress: Progress = silent) -> Survey:
    """What clips `config` has: as its source tells it, or, from a source that cannot tell, by loading them."""
    source = find_source(config.source)
    with blaming(f"source {config.source!r}"):
        if hasattr(source, "survey"):
            return source.survey(config, progress)
        clips = load_clips(config, cache, progress)
    boxes = {split: clip_set.truth["box"] for split, clip_set in clips.splits.items() if clip_set.truth and "box" in clip_set.truth}
    return Survey(
        shapes={split: clip_set.shapes for split, clip_set in clips.splits.items()},
        clip_ids={split: clip_set.clip_ids for split, clip_set in clips.splits.items()},
        boxes=boxes or None,
        skipped=clips.skipped,
        lost=clips.lost,
        fps=clips.fps,
        notes=clips.notes,
    )


def _check_written(config: SourceConfig, clips: Clips) -> None:
    """Refusal unless a source wrote what its config promises: a plug-in is another person's code."""
    expected = {"val": config.num_val, "test": config.num_test}
    promised = (config.num_frames, config.height, config.width)
    for split, clip_set in clips.splits.items():
        if not config.mixed and (others := set(clip_set.shapes) - {promised}):
            raise Refusal(f"source {config.source!r} wrote {split} clips of {min(others)}, its config says {promised}")
        if empty := [shape for shape in clip_set.shapes if min(shape) < 1]:
            raise Refusal(f"source {config.source!r} wrote {split} clips of {empty[0]}; a clip has at least one frame of one pixel")
        if len(clip_set) != expected.get(split, len(clip_set)) or not len(clip_set):
            raise Refusal(f"source {config.source!r} wrote {len(clip_set)} {split} clips, expected {expected.get(split, 'at least 1')}")
    clip_ids = [clip_id for clip_set in clips.splits.values() for clip_id in clip_set.clip_ids]
    if len(set(clip_ids)) != len(clip_ids):
        raise Refusal(f"source {config.source!r} gave {len(clip_ids) - len(set(clip_ids))} clips the name of another; names are unique")
