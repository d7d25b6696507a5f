"""What each measurement is called in a report, where it stands, and in which unit a reader sees it.

Records hold SI units and bytes; this is the only place that renders GiB or ms. Distances and measures of pixels say their own titles;
any other measurement is one line of `_DIVERSITY`, `_COPIES`, `_LOSS` or `_COSTS`, or is shown under its own name in the group "other".
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from bench.data.physics.regions import REGIONS, Region
from bench.metrics.distances.table import DistanceKind, distances
from bench.metrics.extractors.manifest import FRAME, MOTION
from bench.metrics.following.values import VALUES as FOLLOWED
from bench.metrics.physics.scoring import TWINS, region_name
from bench.metrics.physics.table import scorecards
from bench.metrics.pixels.contract import SHARE, PixelValue
from bench.metrics.pixels.table import pixel_measures
from bench.metrics.protocol import EXCESS_RATIO, INFINITE
from bench.records.record import PREDICTED
from bench.report.render import words

# Written by name, because each looks like another character.
TIMES, DASH, MINUS = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}", "\N{MINUS SIGN}"

MeasureGroup = Literal["quality", "speed", "memory", "cost", "other"]
GROUPS: dict[MeasureGroup, str] = {
    "quality": "Quality",
    "speed": "Speed",
    "memory": "Memory",
    "cost": "Cost",
    "other": "Other measurements",
}

# kind -> (divisor, unit) from large to small: a row takes the first whose divisor its largest value reaches.
# "plain" keeps the record's own unit.
SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "plain": (),
    "fraction": ((0.01, "%"),),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "time": ((3600, "h"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "flops": ((1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1, "FLOP")),
    "count": ((1e9, "billion"), (1e6, "million"), (1, "")),
}


@dataclass(frozen=True)
class PlainWords:
    """A measurement in the words of people who read no tables."""

    axis: str = ""  # its line in the first picture; "" = it has none
    ratio: str = ""  # better over worse: {} is "2.6 times" of what should be high, "half the" of what should be low
    verb: str = ""  # before it in a sentence; of quality, what the better clips do
    counts: bool = False  # clips that do so: "1.4 times as many"

    def says(self, ratio: float, better: str) -> str:
        """What a ratio, either way round, says of the better one."""
        return self.ratio.format(words.times(max(ratio, 1 / ratio)) if better == "higher" else words.share(min(ratio, 1 / ratio)))


@dataclass(frozen=True)
class Metric:
    """How a report shows one kind of measurement."""

    pattern: str  # of the name before "@", a full match
    title: str  # {0}, {1}: the pattern's groups
    group: MeasureGroup
    scale: str = "plain"  # key of SCALES
    axis: bool = False  # gets a verdict
    exact: bool = False  # a count no seed changes
    machine: bool = False  # depends on the machine and versions: compared only where they are equal
    distance: bool = False  # between sets of clips: floors and n matter
    plain: PlainWords = PlainWords()


_EXTRACTOR = r"([\w.-]+)"
OF_REGION: dict[Region, str] = {"in": "inside", "out": "outside what was trained on", "combinatorial": "combinations never trained on"}
_LOSS = (Metric(r"val_loss", "Validation loss", "quality", axis=True),)
_DIVERSITY = tuple(
    Metric(rf"{name.lower()}_{_EXTRACTOR}", f"{name}, {{0}}", "quality") for name in ("Precision", "Recall", "Density", "Coverage")
)
_DRIFT = (Metric(r"frame_drift", "Growth of the error from frame to frame", "quality"),)
_COPIES = (
    Metric(r"copy_rate", "Clips that look like copies of training clips", "quality", "fraction"),
    Metric(r"train_nearness_ratio", "Nearness to training clips over that of real clips", "quality"),
)


def _memory(prefix: str, when: str) -> tuple[Metric, ...]:
    """What the allocator and the driver of a GPU tell of a phase, and what the system does of any process."""
    titles = {
        "peak_reserved_bytes": f"Peak reserved{when}, CUDA",
        "unallocated_share": f"Reserved beyond the allocated peak{when}, CUDA",
        "peak_inactive_split_bytes": f"Peak in gaps of split blocks{when}, CUDA",
        "peak_process_bytes": f"Device memory of the process{when}, as its driver has it",
        "num_alloc_retries": f"Allocations tried again on a full card{when}, CUDA",
        "num_ooms": f"Out-of-memory errors{when}, CUDA",
        "peak_rss_bytes": f"Peak resident memory of the process{when}",
    }
    scales = {name: "bytes" if name.endswith("_bytes") else "fraction" if name.endswith("_share") else "count" for name in titles}
    return tuple(Metric(prefix + name, title, "memory", scales[name], machine=True) for name, title in titles.items())


def _rates(phase: str, word: str) -> tuple[Metric, ...]:
    """What a phase does a second, in each unit of work."""
    plain = PlainWords(f"{word} speed", "{} as fast", f"{phase}s")
    return (
        Metric(rf"{phase}_clips_per_s", f"{word} rate", "speed", axis=True, machine=True, plain=plain),
        Metric(rf"{phase}_frames_per_s", f"{word} rate, frames", "speed", machine=True),
        Metric(rf"{phase}_voxels_per_s", f"{word} rate, latent voxels", "speed", machine=True),
        Metric(rf"{phase}_tflop_per_s", f"{word} arithmetic", "speed", machine=True),
        Metric(rf"{phase}_tokens_per_s", f"{word} rate, the backbone's own tokens", "speed", machine=True),
        Metric(rf"{phase}_mfu", f"{word} arithmetic over the measured matrix-product peak", "speed", "fraction", machine=True),
    )


_TRAINING_IN, _SAMPLING_IN = (
    PlainWords("Memory, training", "in {} memory", "trains"),
    PlainWords("Memory, sampling", "in {} memory", "samples"),
)
_FLOPS = PlainWords("Cost of a clip", "{} FLOPs", "needs")
_COSTS = (
    *_rates("train", "Training"),
    Metric(r"step_time_s", "Training step, median", "speed", "time", machine=True),
    Metric(r"first_step_extra_s", "First training step, beyond the median", "speed", "time", machine=True),
    Metric(r"other_cpu_share", "Processors taken by others in training", "speed", "fraction", machine=True),
    *_rates("sample", "Sampling"),
    Metric(r"latency_1_s", "Time of one clip alone", "speed", "time", machine=True),
    Metric(r"latency_64_s", "Time of 64 clips at once", "speed", "time", machine=True),
    Metric(r"first_frame_s", "Time to the first frame of one clip", "speed", "time", machine=True),
    Metric(r"encode_frames_per_s", "Encoding rate of the autoencoder", "speed", machine=True),
    Metric(r"decode_frames_per_s", "Decoding rate of the autoencoder", "speed", machine=True),
    Metric(
        r"peak_storage_bytes",
        "Peak tensor storage, training step",
        "memory",
        "bytes",
        axis=True,
        exact=True,
        machine=True,
        plain=_TRAINING_IN,
    ),
    Metric(PREDICTED, "Peak tensor storage, training step: as predicted", "memory", "bytes", exact=True, machine=True),
    Metric(r"peak_storage_(\w+)_bytes", "Peak tensor storage, training step: {0}", "memory", "bytes", exact=True, machine=True),
    Metric(
        r"sample_peak_storage_bytes",
        "Peak tensor storage, sampling",
        "memory",
        "bytes",
        axis=True,
        exact=True,
        machine=True,
        plain=_SAMPLING_IN,
    ),
    Metric(r"peak_allocated_bytes", "Peak allocated, CUDA", "memory", "bytes", axis=True, machine=True, plain=_TRAINING_IN),
    *_memory("", ""),
    Metric(r"sample_peak_allocated_bytes", "Peak allocated in sampling, CUDA", "memory", "bytes", machine=True),
    *_memory("sample_", " in sampling"),
    Metric(r"num_params", "Parameters", "cost", "count", axis=True, exact=True),
    Metric(r"flops_per_clip", "Forward FLOPs of a clip", "cost", "flops", axis=True, exact=True, plain=_FLOPS),
    Metric(r"generation_calls", "Network calls of generating a clip, one after another", "cost", "count", exact=True),
    Metric(r"generation_tokens", "Tokens through the network for a clip", "cost", "count", exact=True),
    Metric(r"generation_flops", "FLOPs of generating a clip", "cost", "flops", exact=True),
    Metric(r"cache_bytes", "Kept from call to call while generating a clip", "memory", "bytes", exact=True),
    Metric(r"train_energy_per_clip_j", "Energy of a training clip, whole device", "cost", axis=True, machine=True),
    Metric(r"train_flops", "Training FLOPs", "cost", "flops"),
    Metric(r"train_steps", "Training steps", "cost", "count"),
    Metric(r"train_samples", "Clips drawn in training", "cost", "count"),
    Metric(r"train_latent_voxels", "Latent voxels of the clips drawn in training", "cost", "count"),
    Metric(r"train_wall_time_s", "Training wall clock", "cost", "time", axis=True, machine=True),
)


@functools.cache
def known() -> tuple[Metric, ...]:
    """Every kind of measurement, in the order of the tables."""
    kinds, measures = distances().values(), pixel_measures()
    clips = [_pixels(value) for measure in measures if measure.versions_of is None for value in measure.values]
    versions = [_pixels(value) for measure in measures if measure.versions_of is not None for value in measure.values]
    names = "|".join(name for kind in kinds for name in (re.escape(kind.canonical), kind.prefix + _EXTRACTOR.strip("()")))
    improvement = Metric(rf"({names}){EXCESS_RATIO}", "Improvement over untrained, {0}", "quality")
    found = [*(metric for kind in kinds for metric in _distances(kind)), improvement]
    quality = (*_physics(), *map(_pixels, FOLLOWED), *clips, *_DIVERSITY, *_DRIFT, *_COPIES)
    return (*found, *_LOSS, *quality, *versions, *_COSTS)


def _physics() -> Iterator[Metric]:
    """Scores of physics worlds, in the regions where they may be measured, and the preference for valid twins."""
    for card in scorecards():
        for region in REGIONS:
            for value in card.values:
                title, metric = value.title if region == "in" else f"{value.title}, {OF_REGION[region]}", _pixels(value)
                plain = metric.plain if metric.plain.counts else replace(metric.plain, ratio="{} error")
                yield replace(metric, pattern=re.escape(region_name(value.name, region)), title=title, plain=plain)
    preference = Metric(TWINS, "Valid clips preferred to their twins", "quality", "fraction", axis=True, plain=_VALID)
    yield preference
    yield replace(preference, pattern=rf"{TWINS}_(\w+)", title="Valid clips preferred to twins: {0}", axis=False)


_VALID = PlainWords(ratio="{} as many", verb="are likelier to it where they are valid", counts=True)


# What clips do that a distance calls better.
_NEARER = PlainWords(ratio="{} distance", verb="are nearer to real ones")
_MOVING, _LOOKING = replace(_NEARER, verb="move more like real ones"), replace(_NEARER, verb="look more like real ones")


def _distances(kind: DistanceKind) -> Iterator[Metric]:
    """Of one kind: over what sees time first, which leads where it is measured; then the canonical one, single frames, any other."""
    plain = Metric("", f"{kind.title}, {{0}}", "quality", axis=True, distance=True, plain=_NEARER)
    canonical = replace(plain, pattern=kind.canonical, title=kind.canonical.upper(), plain=_LOOKING)
    yield replace(plain, pattern=f"{kind.prefix}({MOTION.name})", plain=_MOVING)
    yield canonical
    if kind.over_frames:
        yield replace(plain, pattern=kind.prefix + FRAME.name, title=f"{kind.title}, single frames")
    yield replace(plain, pattern=rf"{kind.prefix}(?!.*(?:{EXCESS_RATIO}|{INFINITE})$){_EXTRACTOR}")
    if kind.infinite_n is not None:
        yield Metric(kind.canonical + INFINITE, f"{canonical.title} at infinite n", "quality")
        yield Metric(kind.prefix + _EXTRACTOR + INFINITE, f"{kind.title} at infinite n, {{0}}", "quality")


def _pixels(value: PixelValue) -> Metric:
    """Not `distance`, even where it is one: no features of theirs are kept to pair, and no name tells their n."""
    counts = value.unit == SHARE
    plain = PlainWords(ratio="{} as many" if counts else "{} distance", verb=value.plain or "are better by it", counts=counts)
    scale = "fraction" if counts else "plain"
    return Metric(re.escape(value.name), value.title, "quality", scale, axis=value.axis, plain=plain)


def find(name: str) -> Metric:
    """The metric of a measurement's name, its title filled in; a generic one for an unknown name."""
    base, _, num_clips = name.partition("@")
    for metric in known():
        if match := re.fullmatch(metric.pattern, base):
            title = metric.title.format(*match.groups())
            return replace(metric, title=f"{title}, n = {num_clips}" if num_clips else title)
    return Metric(re.escape(base), name, "other")


def rank(name: str) -> int:
    """Place of a measurement in the tables."""
    base = name.partition("@")[0]
    return next((place for place, metric in enumerate(known()) if re.fullmatch(metric.pattern, base)), len(known()))


def num_clips(name: str) -> int | None:
    """The n of a name such as `fvd@64`, None for a headline value."""
    digits = name.partition("@")[2]
    return int(digits) if digits.isdigit() else None


def scale_of(metric: Metric, largest: float, unit: str) -> tuple[float, str]:
    """(divisor, unit) in which a row whose largest magnitude is `largest` is shown."""
    steps = SCALES[metric.scale] or ((1, "" if unit == "1" else unit),)
    return next((step for step in steps if abs(largest) >= step[0]), steps[-1])


def number(value: float, digits: int = 3) -> str:
    """A number to `digits` significant digits, never in a notation that hides its size.

    >>> number(1234.5), number(0.012345), number(12), number(3e-7)
    ('1,234', '0.0123', '12.0', '3.00e-7')
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 9:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def seconds_text(seconds: float) -> str:
    """In seconds, or below one in milliseconds."""
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def bytes_text(num_bytes: float) -> str:
    """In GiB, MiB or KiB.

    >>> bytes_text(3 * 2**29), bytes_text(1000)
    ('1.50 GiB', '0.977 KiB')
    """
    unit, name = next((step for step in SCALES["bytes"][:2] if num_bytes >= step[0]), SCALES["bytes"][2])
    return f"{number(num_bytes / unit)} {name}"


def flops_text(flops: float) -> str:
    """In TFLOP, or below one in GFLOP."""
    return f"{number(flops / 1e12)} TFLOP" if flops >= 1e12 else f"{number(flops / 1e9)} GFLOP"


def commit_text(commit: str) -> str:
    """Its first nine digits, and "+dirty" where it has that."""
    revision, plus, dirty = commit.partition("+")
    return f"{revision[:9]}{plus}{dirty}"


def count(value: float) -> str:
    """A whole number with thousands separated.

    >>> count(1312772.0)
    '1,312,772'
    """
    return f"{value:,.0f}"
