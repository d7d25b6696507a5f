"""A cell: one fully resolved, frozen point of a matrix, everything that decides its numbers. Knows no torch.

The fingerprint is a hash of the whole cell and of `PROTOCOL_VERSION`: two records compare only where what they
measured was measured alike.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from bench.backbone import canonical_name
from bench.data.frozen import Frozen, Grown, Seed, content_hash, flatten
from bench.data.latents.config import Autoencoder
from bench.data.physics.regions import Region
from bench.data.policy.config import Batching
from bench.data.source import MOST_CLIPS, MOST_FRAMES, SourceConfig, check_clip_shape, load_config
from bench.data.text.config import Captioning
from bench.shapes import Refusal, Shape
from bench.study.budget import BUDGETS, Budget

# Raise it whenever a number starts to mean something else; older records are then never compared with newer ones.
PROTOCOL_VERSION = 4

MIN_FEATURES = 2  # a covariance needs two clips
COOLDOWN = 0.15  # of a budget, its end, over which the schedule `cooldown` falls


class Objective(Grown, allow_inf_nan=False):
    """What is learnt. `rectified_flow` predicts velocity on the line from data to noise; `v_prediction` is Salimans & Ho (2202.00512)."""

    added = ("known_frames",)

    name: Literal["rectified_flow", "v_prediction"] = "rectified_flow"  # noise path and target
    label_dropout: float = Field(0.1, ge=0, le=1)  # probability that a training label becomes the null label; 1: labels are never told
    known_frames: int = Field(0, ge=0, le=MOST_FRAMES)  # first frames of a clip that are given; the others are predicted. 0: all are


class Optimizer(Frozen, allow_inf_nan=False):
    """AdamW with a linear warm-up, gradient clipping, and an average of the weights."""

    learning_rate: float = Field(1e-3, gt=0)  # its peak; the same for all rivals unless it is an axis
    weight_decay: float = Field(0.0, ge=0)  # decoupled, as AdamW has it
    betas: tuple[float, float] = (0.9, 0.99)  # decay of the means of gradient and of its square
    warmup_steps: int = Field(50, ge=0, le=10**9)  # over which the learning rate rises to its peak
    schedule: Literal["constant", "linear", "cooldown"] = "constant"  # or falls to 0: as the budget is used; over its last 15 %
    grad_clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema_decay: float = Field(0.999, ge=0, lt=1)  # a step, of the average of the weights, which is what is sampled and scored


# Which solvers walk which noise path: each is a diffusers scheduler (bench/training/sampling.py).
SOLVERS = {"rectified_flow": ("euler", "dpmsolver++"), "v_prediction": ("ddim", "dpmsolver++")}


class Sampler(Grown, allow_inf_nan=False):
    """How noise becomes clips."""

    added = ("shift",)

    solver: Literal["euler", "ddim", "dpmsolver++"] = "euler"  # ddim is for v_prediction, euler for rectified_flow
    num_steps: int = Field(25, ge=1, le=10**6)  # denoising steps a clip; guidance doubles the backbone calls
    guidance_scale: float = Field(1.0, ge=0)  # 1 = no guidance
    batch_size: int = Field(32, ge=1, le=10**6)  # clips denoised at once; their noise does not depend on it
    shift: float = Field(1.0, gt=0, le=100)  # rectified_flow: above 1, more of the steps where there is much noise; Wan's pipeline has 3


class Evaluation(Grown):
    """What is measured of the samples."""

    added = ("regions", "region_samples", "twins", "latency", "drift", "clip_score")

    extractors: tuple[str, ...] = Field(("motion", "i3d"), min_length=1)  # their features are compared; only i3d's may be called FVD
    num_samples: int = Field(64, ge=0, le=MOST_CLIPS)  # generated clips, and as many held-out ones; 0: training and its loss alone
    points: tuple[float, ...] = Field(
        (), max_length=20
    )  # parts of the budget after which samples are scored too, by the primary's extractor
    grid: tuple[Shape, ...] = Field((), max_length=1000)  # (T, H, W) in pixels, judged too; without a primary by the first extractor
    grid_samples: int = Field(32, ge=MIN_FEATURES, le=MOST_CLIPS)  # generated clips at each
    regions: tuple[Region, ...] = ()  # of a physics world, whose test clips are gone on with and scored; needs objective.known_frames
    region_samples: int = Field(32, ge=MIN_FEATURES, le=MOST_CLIPS)  # test clips of each
    twins: int = Field(0, ge=0, le=MOST_CLIPS)  # pairs of a valid clip and one that breaks a law, of each law: which has the lower loss?
    latency: bool = False  # also time one clip and 64 at once, count calls, tokens and FLOPs of generating one, and what is kept meanwhile
    drift: bool = False  # also measure the error of every frame, and how it grows from frame to frame; of data of one shape
    clip_score: str | None = Field(None, min_length=1)  # folder or hub name of a CLIP, which scores samples against what they were told
    untrained: bool = True  # also score the initial weights: same sampler, n and decoder; `once` in a matrix: of its first seed

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if twice := sorted({name for name in self.extractors if self.extractors.count(name) > 1}):
            raise Refusal(f"extractors names {', '.join(twice)} more than once")
        if list(self.points) != sorted(set(self.points)) or any(not 0 < point < 1 for point in self.points):
            raise Refusal(f"points are parts of the budget between 0 and 1, in their order, such as [0.25, 0.5], got {list(self.points)}")
        for shape in self.grid:
            check_clip_shape("grid has", shape)
        if twice := sorted({region for region in self.regions if self.regions.count(region) > 1}):
            raise Refusal(f"regions names {', '.join(twice)} more than once")
        if (self.regions or self.twins) and not self.num_samples:
            raise Refusal(f"num_samples 0 trains and samples nothing, so that {'regions' if self.regions else 'twins'} cannot be scored")
        if (self.latency or self.drift) and not self.num_samples:
            raise Refusal(f"num_samples 0 trains and samples nothing, so that {'latency' if self.latency else 'drift'} cannot be measured")
        if 0 < self.num_samples < MIN_FEATURES:
            raise Refusal(f"num_samples must be 0 or {MIN_FEATURES} and more, which a covariance needs, got {self.num_samples}")
        return self


class Acceleration(Frozen):
    """Faster or smaller, the same mathematics: an option for both backbones, measured like everything else."""

    compile: Literal["none", "blocks", "graphs", "auto"] = "none"  # torch.compile by block; CUDA graphs of a pass; by trial the fastest
    checkpointing: Literal["none", "blocks"] = "none"  # drop the activations inside a block and compute them again in backward


class Parallel(Frozen):
    """Several processes for one cell, each with a part of every batch: together they see what one alone would see."""

    kind: Literal["none", "ddp", "fsdp"] = "none"  # one process; all weights in each; weights sharded by block (FSDP2)
    processes: int = Field(1, ge=1, le=2**14)  # of the whole cell; on GPUs one each

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "none" and self.processes > 1:
            raise Refusal(f"parallel.processes {self.processes} needs a way to spread the weights; give parallel.kind=ddp or fsdp")
        return self


class Cell(Grown, allow_inf_nan=False):
    """Everything that decides the numbers of one run of one backbone at one seed."""

    added = ("initialise", "parallel", "branches", "text")

    backbone: Annotated[str, BeforeValidator(canonical_name)]  # "module:config", or "module:config{field: value}"
    initialise: Literal["random", "pretrained"] = "random"  # weights to begin with: of the seed; of a public checkpoint, where it has them
    data: Annotated[SerializeAsAny[SourceConfig], BeforeValidator(load_config)]
    batching: Batching
    autoencoder: Autoencoder
    text: Captioning | None = None  # what reads the captions of the data; null: backbones are given none
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    budget: Budget
    branches: tuple[float, ...] = Field((), max_length=20)  # parts of the budget: the loss of a run of each, by branches off this one
    sampler: Sampler = Sampler()
    evaluation: Evaluation = Evaluation()
    precision: Literal["fp32", "bf16"] = "fp32"  # of the backbone; bf16 by autocast, weights stay float32
    acceleration: Acceleration = Acceleration()
    parallel: Parallel = Parallel()
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: CUDA where it is there; a record says which it was
    timeout_s: float = Field(7 * 24 * 3600, gt=0, le=2 * 10**6)  # wall clock after which the cell is stopped, resumably
    checkpoint_interval_s: float = Field(30.0, ge=0)  # at least; writing them never takes over a twentieth of the time
    seed: Seed = 0  # of weights, order, noise and samples; a matrix sets it by `seeds`

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.budget.amount and self.initialise != "pretrained":
            raise Refusal(f"budget.{self.budget.axis} 0 samples weights as they are, and these are random; give initialise: pretrained")
        if not self.budget.amount and self.evaluation.points:
            raise Refusal(f"evaluation.points {list(self.evaluation.points)} are of a training, and budget.steps is 0; leave them out")
        if self.initialise == "pretrained" and self.parallel.kind == "fsdp":
            raise Refusal("initialise pretrained puts all weights into one process, and parallel.kind fsdp shards them; use ddp or none")
        allowed = SOLVERS[self.objective.name]
        if self.sampler.solver not in allowed:
            raise Refusal(f"sampler.solver {self.sampler.solver!r} cannot sample {self.objective.name}; use {' or '.join(allowed)}")
        if self.sampler.shift != 1.0 and self.objective.name != "rectified_flow":
            raise Refusal(f"sampler.shift {self.sampler.shift:g} is for rectified_flow, got {self.objective.name}; use 1.0")
        if self.evaluation.regions or self.evaluation.twins:
            asked = "regions" if self.evaluation.regions else "twins"
            if not hasattr(self.data, "tested"):
                raise Refusal(
                    f"evaluation.{asked} needs clips whose laws are known, and source {self.data.source!r} knows none; use physics"
                )
            if not self.objective.known_frames:
                raise Refusal(f"evaluation.{asked} is of clips that go on from known frames; give objective.known_frames, such as 3")
        if self.text is not None:
            if getattr(self.data, "captions", "unknown") is None:
                raise Refusal(f"text.encoder {self.text.encoder} needs clips with captions; give data.captions, or leave out text")
            if self.sampler.guidance_scale != 1.0 and not self.text.dropout:
                raise Refusal(
                    f"sampler.guidance_scale {self.sampler.guidance_scale:g} is against the empty caption, never shown by text.dropout 0; "
                    "give text.dropout, such as 0.1, or use 1.0"
                )
            if self.evaluation.regions or self.evaluation.twins:
                asked = "regions" if self.evaluation.regions else "twins"
                raise Refusal(f"evaluation.{asked} is of clips without captions; leave out text or evaluation.{asked}")
        if known := self.objective.known_frames:
            unfit = {
                "data of several shapes": self.data.mixed,
                "batching.token_dropping": self.batching.token_dropping is not None,
                "evaluation.grid": bool(self.evaluation.grid),
            }
            if what := next((name for name, there in unfit.items() if there), None):
                raise Refusal(f"objective.known_frames {known} is for whole clips of one shape, and this cell has {what}; use 0")
            if known >= self.data.num_frames:
                raise Refusal(
                    f"objective.known_frames {known} leaves nothing to predict of data.num_frames {self.data.num_frames}; use fewer"
                )
        if self.evaluation.drift and self.data.mixed:
            raise Refusal("evaluation.drift compares the k-th frames of clips of one shape, and this data has several; leave it out")
        if stills := self.batching.stills:
            self._check_stills(stills)
        if self.data.mixed and self.batching.batch_size is not None:
            raise Refusal(
                f"batching.batch_size {self.batching.batch_size} is for data of one shape, and this has several; give batching.voxel_budget"
            )
        if self.batching.batch_size is not None and self.parallel.processes > self.batching.batch_size:
            raise Refusal(
                f"parallel.processes {self.parallel.processes} is more than the {self.batching.batch_size} clips of a batch, and some "
                "would have none; lower it or raise batching.batch_size"
            )
        if self.parallel.kind != "none" and self.acceleration.compile in ("auto", "graphs"):
            raise Refusal(f"acceleration.compile {self.acceleration.compile!r} is for one process; with parallel.kind give none or blocks")
        if self.evaluation.num_samples > min(self.data.num_val, self.data.num_test):
            raise Refusal(
                f"evaluation.num_samples {self.evaluation.num_samples} needs as many held-out clips in each of two splits, got "
                f"data.num_val {self.data.num_val} and data.num_test {self.data.num_test}; lower num_samples or raise both"
            )
        if self.branches:
            self._check_branches()
        return self

    def _check_stills(self, stills: float) -> None:
        """Refusal for stills that are cut from none, go on from known frames, or would be counted as clips are."""
        if self.data.num_frames == 1:
            raise Refusal(f"batching.stills {stills} is of the frames of clips, and data.num_frames is 1: all are stills; use 0")
        if known := self.objective.known_frames:
            raise Refusal(f"batching.stills {stills} leaves nothing to predict after objective.known_frames {known}; use 0 for one of them")
        if BUDGETS.find(self.budget.axis).per_item:
            known_axes = ", ".join(name for name in BUDGETS.names() if not BUDGETS.find(name).per_item)
            raise Refusal(
                f"batching.stills {stills}: budget.{self.budget.axis} counts a still as much as a clip of {self.data.num_frames} frames; "
                f"use one of {known_axes}"
            )

    def _check_branches(self) -> None:
        """Refusal for branches that would not be what a run of such a part of the budget is."""
        if list(self.branches) != sorted(set(self.branches)) or any(not 0 < part < 1 for part in self.branches):
            raise Refusal(
                f"branches are parts of the budget between 0 and 1, in their order, such as [0.25, 0.5], got {list(self.branches)}"
            )
        if not BUDGETS.find(self.budget.axis).drawn:
            known = ", ".join(name for name in BUDGETS.names() if BUDGETS.find(name).drawn)
            raise Refusal(f"branches need a budget that does not pass with the clock, got budget.{self.budget.axis}; use one of {known}")
        if self.optimizer.schedule != "cooldown":
            raise Refusal(
                f"branches need optimizer.schedule cooldown, which is constant up to where they leave, got {self.optimizer.schedule!r}"
            )
        if self.parallel.kind != "none":
            raise Refusal(f"branches keep the state of one process, got parallel.kind {self.parallel.kind!r}; leave out one of the two")

    def fingerprint(self) -> str:
        """Hash of all of the cell that decides its numbers, and of the protocol version; 64 hex digits."""
        content = self.model_dump(mode="json", exclude={"timeout_s", "checkpoint_interval_s"})  # they decide when it stops, not what it is
        return content_hash({"protocol_version": PROTOCOL_VERSION, "cell": content})


def differences(first: Cell, second: Cell) -> list[tuple[str, Any, Any]]:
    """(dotted field, value in first, value in second) of every field in which two cells differ."""
    a, b = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    return [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
