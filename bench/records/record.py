"""What was found of a cell: typed, in bytes and seconds, with a version. Knows no torch and no file."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, computed_field, model_validator

from bench.data.clips import Skipped
from bench.data.frozen import Frozen, Grown, content_hash
from bench.data.policy.ledger import Ledger
from bench.records.environment import Environment
from bench.records.products import ProductTrial
from bench.shapes import Refusal, Shape, visible
from bench.study.cell import PROTOCOL_VERSION, Cell
from bench.study.contrasts import Contrasts
from bench.study.forecast import Forecast
from bench.study.looks import Looks
from bench.study.matrix import Match, MatchProof
from bench.study.scale import Scaling
from bench.study.tune import Tune, Tuning

SCHEMA_VERSION = 3
LARGEST = 1e100  # a measured number: squares of the largest float32 stay below
MOST_LEVELS = 16  # of protocols and axes

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Status = Literal["ok", "oom", "diverged", "failed", "timeout"]
FINAL: tuple[Status, ...] = ("ok", "oom", "diverged")  # results: a resumed matrix does not try these cells again
FLOORS = ("twin", "nearest", "continued", "frozen")  # subjects that predict without learning physics, of a world's scores
REAL = "real"  # the subject whose clips are real too: its distance to the real clips is the floor of all others


def plain(value: Any, level: int = 0) -> Any:
    """JSON that a hash and a page can take. Refusal for numbers that are not finite and for what is nested too deep to be walked."""
    if level > MOST_LEVELS:
        raise Refusal(f"is nested deeper than {MOST_LEVELS} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise Refusal(f"holds {value}, which is no finite number")
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        plain(inside, level + 1)
    return value


def bearable(value: float) -> float:
    """A number that sums and axes of doubles can take; NaN and infinity are told as they are. Refusal for a larger one."""
    if math.isfinite(value) and abs(value) > LARGEST:
        raise Refusal(f"is {value}, more than {LARGEST:g} in size: nothing measures that")
    return value


def of_a_cell(axes: dict[str, Any]) -> dict[str, Any]:
    """Axes, which are dotted fields of a cell: a table has a column for each. Refusal for another."""
    if odd := [axis for axis in axes if axis.partition(".")[0] not in Cell.model_fields]:
        raise Refusal(f"has the axis {odd[0]!r}, which is no field of a cell")
    return axes


Plain = Annotated[dict[str, Any], AfterValidator(plain)]
Number = Annotated[float, AfterValidator(bearable)]


class Measurement(Frozen):
    """One number with its unit, its direction and, for a quality metric, its floor and the protocol that made it."""

    name: str  # "fvd@64", "train_clips_per_s", "peak_storage_bytes"
    subject: str = "trained"  # whose number: trained, untrained, reconstruction, real; generated, of a score
    value: Number
    unit: str
    better: Literal["lower", "higher", "none"]
    low: Number | None = None  # 95 % interval over the clips of this run, where one is known
    high: Number | None = None
    interval: str | None = None  # how low and high were found, or why there are none
    floor: Number | None = None  # the same distance of real clips to real clips
    floor_source: str | None = None  # how it was found, or why there is none
    protocol: Plain | None = None  # of a quality metric: everything that moves the value beside what is measured
    invalid: str | None = None  # why the value must not be compared, such as another process on the GPU while it was measured

    @computed_field  # type: ignore[prop-decorator]
    @property
    def protocol_fingerprint(self) -> str | None:
        """Hash of the whole protocol: values with different fingerprints never compare."""
        return None if self.protocol is None else content_hash(self.protocol)[:16]

    @model_validator(mode="before")
    @classmethod
    def _made_anew(cls, fields: Any) -> Any:
        """A stored fingerprint is for other readers: it is never taken on trust."""
        return {key: value for key, value in fields.items() if key != "protocol_fingerprint"} if isinstance(fields, dict) else fields


GIVEN_PAST = "of a unit given its clean past"  # so a protocol's `loss` begins, behind it the unit; of whole clips there is none
OF_CLIPS = "of whole clips"
PREDICTED = "predicted_storage_bytes"  # a measurement: the peak that is told of a step without taking it


# Counts of a step or of a batch of samples: latent voxels are those trained on, neither padding nor dropped tokens; FLOPs are forward
# ones and count padding.
WORK = ("clips", "frames", "latent_voxels", "tokens", "flops")
Work = tuple[int, int, int, int, int]  # the fields of WORK


class ValidationPoint(Frozen):
    """The validation loss of the averaged weights at a point of the run."""

    step: int
    wall_time_s: float
    loss: float
    num_clips: int  # validation clips it is the mean of


class Branch(Frozen):
    """What a run of a part of the budget is worth: a branch of this one, whose rate fell to 0 as that run's would have."""

    part: float  # of the budget, as it was asked
    step: int  # at its end, as is all that follows
    num_samples: int  # clips drawn
    latent_voxels: int
    forward_flops: int  # of every clip drawn, padding counted
    loss_by_timestep: dict[str, float]  # timestep -> validation loss of the averaged weights, on all validation clips

    @property
    def loss(self) -> float:
        """Mean over the timesteps."""
        return sum(self.loss_by_timestep.values()) / len(self.loss_by_timestep)


DISTURBED = 0.1  # of the processors, taken by others: beyond it their part shows in what was trained and timed


class AccelerationTrial(Frozen):
    """What `acceleration.compile: auto` found: ways to run the same step, on the cell's own batches."""

    chosen: Literal["none", "blocks", "graphs"]
    pass_time_s: dict[str, list[float]] = Field(default_factory=dict)  # way -> of each forward and backward; empty where one is on offer
    left_out: dict[str, str] = Field(default_factory=dict)  # way -> why it could not be chosen
    wall_time_s: float = 0.0  # of the whole trial, which no budget counts


class Course(BaseModel, extra="forbid", ser_json_inf_nan="strings"):
    """What a training run has seen. Lists have one entry a step."""

    num_samples: int = 0  # clips drawn
    wall_time_s: float = 0.0  # of the training loop, checkpoints and validation excluded
    loss: list[float] = Field(default_factory=list)
    step_time_s: list[float] = Field(default_factory=list)  # measured around each step; on CUDA between events
    step_end_s: list[float] = Field(default_factory=list)  # seconds of the loop at the end of each step, on the device's own clock
    data_time_s: list[float] = Field(default_factory=list)  # of that, fetching clips and drawing noise
    step_work: list[Work] = Field(default_factory=list)  # what each step did
    validation: list[ValidationPoint] = Field(default_factory=list)
    grad_norm: list[float] = Field(default_factory=list)
    storage_by_kind: dict[str, int] = Field(default_factory=dict)  # bytes at the peak of a step: weights, gradients, activations, ...
    storage_by_module: dict[str, int] = Field(default_factory=dict)
    imbalance: list[float] = Field(default_factory=list)  # of several processes: how much more than the mean the busiest had to do
    peaks_by_process: dict[str, list[int]] = Field(default_factory=dict)  # memory of each of several that trained together, as measured
    energy_j: float | None = None  # of the whole device, over the loop
    other_processes: int = 0  # most on the GPU at once, beside this one: the timings are then worth nothing
    other_cpu_share: float = 0.0  # part of the processors that others took; the largest of the processes that trained
    acceleration: AccelerationTrial | None = None  # where the cell asked for the fastest way
    branches: list[Branch] = Field(default_factory=list)  # in the order of their parts


class Training(Course, frozen=True):
    """Raw course of a training run that ended."""

    num_steps: int
    num_warmup_steps: int  # leading steps left out of the rates
    validation_by_timestep: dict[str, float]  # timestep -> loss, at the end


class Sampling(Frozen):
    """Raw course of sampling, one entry a batch, the first (warm-up) one apart."""

    num_clips: int
    num_evals: int  # backbone calls a clip, one after another but for guidance's
    batch_time_s: list[float]
    batch_clips: list[int]
    work: Work | None = None  # of one pass over all clips, without guidance
    flops: int | None = None  # of all calls for all clips, where they are not alike: of a backbone that generates units
    warmup_time_s: float = 0.0  # of a call before, that no rate counts


class GridPoint(Frozen):
    """What samples are worth at one shape, trained on or not."""

    shape: Shape  # in pixels
    place: Literal["trained", "in range", "out of range"]  # among the shapes of the training items
    reason: str | None = None  # why there are no measurements
    measurements: list[Measurement] = Field(default_factory=list)  # subjects: trained, and real for the floor


class QualityPoint(Frozen):
    """What samples are worth at a point of the training, of the averaged weights there; the schedule has not ended."""

    part: float  # of the budget, as it was asked
    step: int
    wall_time_s: float
    forward_flops: int  # of every clip drawn until then, padding counted
    reason: str | None = None  # why there are no measurements
    measurements: list[Measurement] = Field(default_factory=list)  # subject: trained


class FrameError(Frozen):
    """How far one frame of the generated clips is from that frame of real ones, as a set (bench/metrics/drift.py)."""

    frame: int
    distance: Number
    floor: Number  # the same of other real clips


class Canary(Frozen):
    """A self-check that ran with the cell. A failed one means its numbers cannot be trusted."""

    name: str
    passed: bool
    detail: str


class DataFacts(Frozen):
    """The clips of a cell."""

    digest: str  # identity of their content
    num_clips: dict[str, int]  # split -> clips
    label_names: tuple[str, ...]
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    skipped: tuple[Skipped, ...] = ()  # files that gave nothing
    lost: dict[str, int] = Field(default_factory=dict)  # reason -> clips that are in no split
    notes: tuple[str, ...] = ()  # how the clips were made


class AutoencoderFacts(Frozen):
    """The autoencoder of a cell, and what its making cost whoever made it."""

    key: str  # identity, its weights included
    class_name: str  # of diffusers
    unshuffle: int  # pixels of a side that are made channels
    shift: tuple[float, ...]  # of each latent channel
    scale: tuple[float, ...]
    num_params: int
    seconds: float
    train_loss: float | None  # None of a pretrained one


class TextFacts(Frozen):
    """What reads the captions of a cell."""

    key: str  # identity: of an encoder of words its vocabulary, of a frozen one its files
    num_captions: int  # different ones, the empty one among them
    num_words: int  # that an encoder of words knows; 0 of a frozen one
    num_params: int  # of what is trained along


class BackboneFacts(Grown):
    """The backbone of a cell, at the data's one shape."""

    added = ("weights",)

    num_params: int
    flops_per_clip: int  # forward
    tokens_per_clip: int
    peak_flop_per_s: float  # of a large matrix product on the device, in the cell's precision, which MFU divides by
    peak_key: str = ""  # which measurement: one for all of a study's cells on a device, in a precision, with as many threads
    products: ProductTrial | None = None  # the libraries that multiplied on a CPU, and their times; None: none was tried
    latent_shape: tuple[int, int, int, int]  # (C, T, H, W)
    match: MatchProof | None = None  # where it was sized to match another
    weights: str | None = None  # hash of the files of a public checkpoint: of its weights too, where it began with them


class Asked(Grown):
    """What the run that made a record asked: named before it, so that no headline is chosen after the fact."""

    added: ClassVar[tuple[str, ...]] = ("further",)

    claim: str | None = None
    primary: str | None = None  # the distance that decides
    contrasts: Contrasts = Field(default_factory=dict)  # title -> axes of the two contenders that it compares
    cells: tuple[str, ...] = ()  # folders of all cells of the run
    further: tuple[str, ...] | None = None  # those of them on which no headline rests; None in records from before it was told
    until_decided: Looks | None = None  # None: seeds were fixed
    prediction: str | None = None  # hash of what was predicted of the cell before it trained, where anything was

    def moved(self, further: Mapping[str, bool]) -> list[str]:
        """Folders that have changed sides, or joined the contenders or left them, in a run that has these: folder -> whether further."""
        then = set(self.further or ())
        return [name for name in self.cells if self.further is not None and name in further and further[name] != (name in then)]


class Record(Frozen):
    """Outcome of one attempt at a cell. What an attempt did not get to is empty or None."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    matrix: str
    name: str  # of the cell inside its matrix
    fingerprint: str
    cell: Cell
    asked: Asked = Asked()
    tuning: Tuning | None = None  # how the cell's tuned fields were chosen, where they were
    attempt: int
    status: Status
    reason: str | None = None
    started_at: str
    ended_at: str
    environment: Environment
    commits: list[str] = Field(default_factory=list)  # every commit that worked on the cell, "+dirty" where edited
    machines: list[str] = Field(default_factory=list)  # device, threads and torch of every process that trained it
    data: DataFacts | None = None
    autoencoder: AutoencoderFacts | None = None
    text: TextFacts | None = None
    backbone: BackboneFacts | None = None
    ledger: Ledger | None = None  # what the batching policy makes of the training clips
    training: Training | None = None
    sampling: Sampling | None = None
    time_split_s: dict[str, Seconds] = Field(default_factory=dict)  # phase -> seconds of the cell's process, in order
    measurements: list[Measurement] = Field(default_factory=list)
    points: list[QualityPoint] = Field(default_factory=list)  # on the way there
    grid: list[GridPoint] = Field(default_factory=list)  # of the shape grid
    frames: list[FrameError] = Field(default_factory=list)  # error by frame, in their order
    canaries: list[Canary] = Field(default_factory=list)
    artefacts: dict[str, str] = Field(default_factory=dict)  # what -> file name inside the cell's folder

    def measurement(self, name: str, subject: str = "trained") -> Measurement | None:
        """The measurement of that name and subject, or None where this attempt did not get so far."""
        return next((m for m in self.measurements if m.name == name and m.subject == subject), None)

    @property
    def loss_of(self) -> str:
        """What its losses are of: whole clips, or a unit given its clean past, which are different quantities."""
        loss = self.measurement("val_loss")
        return str((loss.protocol or {}).get("loss", OF_CLIPS)) if loss else OF_CLIPS

    @property
    def disturbed(self) -> bool:
        """Whether others took so much of the processors that a budget of seconds taught less than it says."""
        return self.cell.budget.axis == "seconds" and self.training is not None and self.training.other_cpu_share > DISTURBED

    def failures(self) -> list[str]:
        """What went wrong, a line each: how the cell ended, or the canaries that make its numbers worthless."""
        if self.status != "ok":
            return [visible(f"{self.name}: {self.status}: {self.reason}")]
        return [visible(f"{self.name}: canary failed: {canary.name}: {canary.detail}") for canary in self.canaries if not canary.passed]


class Memory(Frozen):
    """Most bytes of tensor storage alive at once in a step, and what they were."""

    num_bytes: int
    split: dict[str, int]  # weights, gradients, optimiser, average, activations, inputs, buffers
    by_module: dict[str, int]  # part of the backbone, largest first


class RunCell(Frozen):
    """A cell as the snapshot of a run lists it."""

    name: str
    axes: Annotated[Plain, AfterValidator(of_a_cell)] = Field(default_factory=dict)  # dotted field -> value
    seed: int
    fingerprint: str
    folder: str  # inside the run's
    further: bool = False  # compared pair by pair; no headline rests on it


class RunSnapshot(Frozen):
    """What the newest `run` of a matrix asked for, and the folders of its cells, in order."""

    schema_version: Literal[1] = 1
    matrix: str
    description: str = ""
    claim: str | None = None
    primary: str | None = None  # the distance that the headline rests on; None: none does
    contrasts: Contrasts = Field(default_factory=dict)  # title -> axes of two contenders; where there are any, the headline rests on them
    primary_card: str = ""  # what the report cards said of its extractor on this data, when it was run
    match: Match | None = None
    tunes: Tune | None = None  # what its cells are the trials of, in a run that tunes
    scaling: Scaling | None = None  # how `--budget-minutes` made it smaller than its matrix, where it did
    asks_tuning: bool = False  # whether its matrix has `tune` or `tuned`; without, it declares its fields untuned
    until_decided: Looks | None = None  # seeds were added until the headline was carried; None: they were fixed
    forecast: Forecast | None = None  # which cells were predicted before they trained, where any were
    track: tuple[str, ...] = ()  # trackers that were told how its cells went
    started_at: str = "unknown"
    ended_at: str = "unknown"
    command: str = ""
    cells: tuple[RunCell, ...]
