"""What a profile found, as it is stored: bytes, seconds, FLOPs, each under a name that says how it was found. Knows no torch."""

from typing import Literal

from bench.data.frozen import Frozen
from bench.records.environment import Environment
from bench.records.record import Memory
from bench.shapes import Shape

PHASES = ("training", "sampling")
AXES = ("batch", "frames", "size")

LimitedBy = Literal["memory", "backbone", "search"]  # backbone: it has no positions for more; search: nothing larger was looked at


class Timing(Frozen):
    """Raw times of steps; rates leave the first `num_warmup_steps` out."""

    step_time_s: list[float]
    parts_s: dict[str, list[float]]  # forward, backward, optimiser
    num_warmup_steps: int

    @property
    def steady_s(self) -> float:
        """Seconds of the steps that count, in all."""
        return sum(self.step_time_s[self.num_warmup_steps :])

    @property
    def num_steps(self) -> int:
        """Steps that count."""
        return len(self.step_time_s) - self.num_warmup_steps

    @property
    def mean_s(self) -> float:
        """Seconds of a step."""
        return self.steady_s / self.num_steps

    def part_s(self, part: str) -> float:
        """Seconds of a part of a step."""
        return sum(self.parts_s[part][self.num_warmup_steps :]) / self.num_steps


class Phase(Frozen):
    """A training step or a sampling step at the given batch and shape."""

    step_flops: int  # counted; of a training step 3 times forward
    predicted: Memory
    measured: Memory | None = None
    allocated_bytes: int | None = None  # measured, as all of these; of CUDA's allocator the peaks
    reserved_bytes: int | None = None
    inactive_split_bytes: int | None = None
    process_bytes: int | None = None  # of the device, as its driver has it
    num_alloc_retries: int | None = None
    num_ooms: int | None = None
    timing: Timing | None = None  # measured
    least_step_time_s: float | None = None  # a bound: the step's FLOPs at the card's published peak
    not_measured: str | None = None  # why


class TriedFit(Frozen):
    """The largest of which real steps fitted the device that is here."""

    value: int  # 0: not even the smallest
    limited_by: LimitedBy
    predicted_bytes: int  # of the step at `value`, or at the smallest where nothing fitted
    reserved_bytes: int | None = None  # peak of CUDA's allocator in it
    num_alloc_retries: int | None = None  # over 0: it fitted only once the allocator's cache was emptied


class LargestFit(Frozen):
    """The largest batch, number of frames or square size of which a step fits: predicted, and on the card itself tried."""

    phase: str
    axis: str
    value: int  # 0: not even the smallest fits
    num_bytes: int  # of the step at `value`, or at the smallest where nothing fits
    limited_by: LimitedBy
    tried: TriedFit | None = None
    not_tried: str | None = None  # why, on a card that is here


class Contender(Frozen):
    """One backbone."""

    name: str
    num_params: int
    tokens_per_clip: int
    flops_per_clip: int  # counted, forward
    phases: dict[str, Phase]
    fits: list[LargestFit]
    frontier: list[tuple[int, int]]  # (height = width, most frames) of a training step at batch 1


class Target(Frozen):
    """The device that a profile is about."""

    name: str
    is_here: bool  # measured on it; else predicted
    memory_bytes: int | None
    usable_bytes: int | None  # less the reserve
    published_flops: float | None  # FLOP/s, dense, of the precision
    matmul_flops: float | None  # FLOP/s, measured: a large matrix product
    predicted_as: str  # the device whose code the predictions ran


class CrossPoint(Frozen):
    """Both backbones at one shape, batch 1; costs of a training step."""

    shape: Shape
    flops: tuple[int, int]  # counted
    peak_bytes: tuple[int, int]  # predicted
    pairs_s: list[tuple[float, float]]  # measured, steps in turn; empty where too long or too large


class Crossing(Frozen):
    """Where the ratio of the first backbone's cost to the second's passes 1, along one axis with the other held."""

    quantity: str
    along: Literal["size", "frames"]
    held: int  # the other axis
    at: list[float]  # empty: nowhere in the range
    first: float  # ratio at the low end
    last: float  # ratio at the high end
    span: tuple[int, int]  # the range of the axis


class Cross(Frozen):
    """The first two backbones over resolution and duration."""

    names: tuple[str, str]
    measured_on: str
    points: list[CrossPoint]
    crossings: list[Crossing]


class ProfileResult(Frozen):
    """Everything a profile found, and where."""

    shape: Shape
    batch_size: int
    precision: str
    channels: int
    num_labels: int
    target: Target
    contenders: list[Contender]
    cross: Cross | None
    environment: Environment
    commit: str
