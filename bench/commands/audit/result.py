"""What an audit found, as it is stored: shares, counts, FLOPs and seconds. Knows no torch."""

from pydantic import Field

from bench.data.frozen import Frozen
from bench.data.policy.config import Batching
from bench.data.policy.ledger import Ledger
from bench.records.environment import Environment
from bench.shapes import LatentSpec, Shape

SCHEMA_VERSION = 2


class SizeRange(Frozen):
    """How far values spread."""

    least: float
    median: float
    most: float


class ShapeCount(Frozen):
    """How many have one shape."""

    shape: Shape  # (T, H, W) in pixels
    num: int


class NotUsed(Frozen):
    """A file, or a clip, that is lost whole."""

    name: str
    kind: str  # of a clip: short, small, large; of a file: skipped
    reason: str


class ClipsFound(Frozen):
    """The clips as their source gives them, before any policy."""

    num_clips: int
    num_pixels: int  # T x H x W of all
    fps: float
    shapes: list[ShapeCount]  # distinct ones, most frequent first
    aspect: SizeRange  # width / height
    area: SizeRange  # pixels of a frame
    num_frames: SizeRange  # of a clip
    skipped: list[NotUsed]  # files that give no clip
    lost: dict[str, int]  # reason -> count, of what is in no clip
    notes: list[str]  # of the source


class PolicyAudit(Frozen):
    """One way to make batches of the clips."""

    name: str  # the policy, and what tells it from others of that policy
    batching: Batching
    refused: str | None  # why it cannot be done with these clips
    ledger: Ledger | None = None
    items: list[ShapeCount] = Field(default_factory=list)  # shapes of the training examples, most frequent first
    lost_clips: list[NotUsed] = Field(default_factory=list)


class StepCost(Frozen):
    """What a training step costs a backbone under a policy; means over the batches of the epochs that the ledger counts."""

    backbone: str
    policy: str  # name of a PolicyAudit
    refused: str | None  # why the backbone cannot do it
    num_tokens: SizeRange | None = None  # of an item, in the backbone's own tokens
    forward_flops: float | None = None  # counted; of a step, padding included
    least_step_time_s: float | None = None  # a bound: 3 x forward at the machine's peak
    least_time_per_used_voxel_s: float | None = None  # that, over the share of the clips' own pixels that a step uses, in latent voxels


class AuditResult(Frozen):
    """Everything an audit found, and where."""

    schema_version: int = SCHEMA_VERSION
    subject: str  # "folder my/videos", "matrix shapes"
    audited: str  # which clips
    mixed: bool  # whether clips have several shapes, so that sides are cut to multiples
    spec: LatentSpec
    clips: ClipsFound
    policies: list[PolicyAudit]
    costs: list[StepCost]
    precision: str
    matmul_flops: float | None  # FLOP/s, measured: a large matrix product; None without backbones
    notes: list[str]
    environment: Environment
    commit: str
