"""A cell: one fully resolved, frozen point of a matrix, everything that decides its numbers. Knows no torch.

The fingerprint is a hash of the whole cell and of `PROTOCOL_VERSION`: two records compare only where what they
measured was measured alike.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from bench.backbone import canonical_name
from bench.data.source import SourceConfig, load_config
from bench.shapes import Shape

# Raise it whenever a number starts to mean something else; older records are then never compared with newer ones.
PROTOCOL_VERSION = 3

MIN_FEATURES = 2  # a covariance needs two clips


class Frozen(BaseModel):
    """A model whose unknown keys are errors and whose fields never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # a diverged loss is NaN, and JSON has none


class TokenDropping(Frozen):
    """Training on a part of each clip's tokens, drawn anew each time, as in NaViT (2307.06304, section 2.1); of packing backbones only.

    `constant`: `rate` of every clip. `decreasing`: from `rate` down to none over `epochs`. `per_resolution`: `rate` of the largest clip
    and less, in proportion to their tokens, of smaller ones.
    """

    kind: Literal["constant", "decreasing", "per_resolution"]
    rate: float = Field(gt=0, lt=1)  # share of a clip's tokens that is left out
    epochs: int | None = Field(None, ge=1)  # of `decreasing`

    @model_validator(mode="after")
    def _epochs_where_used(self) -> Self:
        if (self.kind == "decreasing") != (self.epochs is not None):
            raise ValueError(f"token_dropping.epochs says over how many epochs `decreasing` falls, got {self.epochs} with {self.kind!r}")
        return self


class Batching(Frozen):
    """How clips become batches: what of a clip is used (fitting.py), and which clips share a step (batches.py).

    `crop`: one shape. `bucket`: several, one a batch. `pack`: every clip at its own shape, any mix in a batch, for backbones that take
    one. `pad`: own shapes too, filled up with zeros to the largest of the batch, which the loss leaves out.
    """

    policy: Literal["crop", "bucket", "pack", "pad"] = "crop"
    batch_size: int | None = Field(None, ge=1)  # clips in one optimiser step, where all have one shape
    voxel_budget: int | None = Field(None, ge=1)  # most latent voxels (T x H x W) in one, padding included; the unit all backbones share
    side_multiple: int = Field(8, ge=1)  # pixels: heights and widths of items are multiples of it
    buckets: tuple[Shape, ...] = ()  # of `bucket`, (T, H, W) in pixels; () = the most frequent shapes of the clips
    token_dropping: TokenDropping | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.batch_size is None) == (self.voxel_budget is None):
            raise ValueError("batching needs exactly one of batch_size, for data of one shape, and voxel_budget, in latent voxels")
        if self.policy != "crop" and self.voxel_budget is None:
            raise ValueError(f"batching.policy {self.policy!r} fills batches by latent voxels; give voxel_budget in place of batch_size")
        if self.buckets and self.policy != "bucket":
            raise ValueError(f"batching.buckets belong to policy 'bucket', got policy {self.policy!r}; remove them")
        if self.token_dropping is not None and self.policy != "pack":
            raise ValueError(f"token_dropping needs policy 'pack', got {self.policy!r}; remove it")
        return self


class TrainedAutoencoder(Frozen):
    """A small `AutoencoderTiny` trained on the data set's own training frames, once, for all contenders."""

    kind: Literal["trained"]
    latent_channels: int = Field(4, ge=1)
    spatial_stride: Literal[2, 4, 8] = 4  # pixels per latent voxel; the first factor of 2 is a pixel unshuffle
    width: int = Field(64, ge=8)  # channels of every convolution
    num_steps: int = Field(ge=1)
    batch_size: int = Field(64, ge=1)  # frames
    learning_rate: float = Field(2e-3, gt=0)
    seed: int = 0


class PretrainedAutoencoder(Frozen):
    """Any diffusers autoencoder of images, applied frame by frame, from a folder or a hub."""

    kind: Literal["pretrained"]
    name: str  # folder, or hub name such as "stabilityai/sd-vae-ft-mse"
    class_name: str = "AutoencoderKL"  # the diffusers class
    revision: str | None = None  # hub commit; a hub name without one follows its main branch


Autoencoder = Annotated[TrainedAutoencoder | PretrainedAutoencoder, Field(discriminator="kind")]


class Objective(Frozen):
    """What is learnt. `rectified_flow` predicts velocity on the line from data to noise; `v_prediction` is Salimans & Ho (2202.00512)."""

    name: Literal["rectified_flow", "v_prediction"] = "rectified_flow"
    label_dropout: float = Field(0.1, ge=0, le=1)  # probability that a training label becomes the null label


class Optimizer(Frozen):
    """AdamW with a linear warm-up, gradient clipping, and an average of the weights."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    warmup_steps: int = Field(50, ge=0)
    schedule: Literal["constant", "linear"] = "constant"  # after the warm-up; linear falls to 0 as the budget is used
    grad_clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    ema_decay: float = Field(0.999, ge=0, lt=1)


class Budget(Frozen):
    """When training ends: exactly one axis, equal for all rivals."""

    steps: int | None = Field(None, ge=1)  # optimiser steps
    samples: int | None = Field(None, ge=1)  # clips drawn
    latent_voxels: int | None = Field(None, ge=1)  # T x H x W of every drawn clip, padding not counted
    train_flops: float | None = Field(None, gt=0)  # 3 x forward FLOPs of every drawn clip, padding counted
    seconds: float | None = Field(None, gt=0)  # wall clock of the training loop, warm-up steps included

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"budget needs exactly one of {', '.join(type(self).model_fields)}, got {', '.join(given) or 'none'}")
        return self

    @property
    def axis(self) -> str:
        """Name of the one axis that is set."""
        return next(name for name, value in self if value is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        return getattr(self, self.axis)


# Which solvers walk which noise path: each is a diffusers scheduler (bench/training/sampling.py).
SOLVERS = {"rectified_flow": ("euler", "dpmsolver++"), "v_prediction": ("ddim", "dpmsolver++")}


class Sampler(Frozen):
    """How noise becomes clips."""

    solver: Literal["euler", "ddim", "dpmsolver++"] = "euler"
    num_steps: int = Field(25, ge=1)  # denoising steps a clip; guidance doubles the backbone calls
    guidance_scale: float = Field(1.0, ge=0)  # 1 = no guidance
    batch_size: int = Field(32, ge=1)  # clips denoised at once; their noise does not depend on it


class Evaluation(Frozen):
    """What is measured of the samples."""

    extractors: tuple[str, ...] = Field(("motion", "i3d"), min_length=1)  # their features are compared; only i3d's may be called FVD
    num_samples: int = Field(64, ge=MIN_FEATURES)  # generated clips; as many real ones are held out to compare with
    grid: tuple[Shape, ...] = ()  # shapes (T, H, W) in pixels at which samples are judged too, trained on or not
    grid_samples: int = Field(32, ge=MIN_FEATURES)  # generated clips at each
    untrained: bool = True  # also score the initial weights: same sampler, n and decoder

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if twice := sorted({name for name in self.extractors if self.extractors.count(name) > 1}):
            raise ValueError(f"extractors names {', '.join(twice)} more than once")
        return self


class Acceleration(Frozen):
    """Faster or smaller, the same mathematics: an option for both backbones, measured like everything else."""

    compile: Literal["none", "blocks"] = "none"  # torch.compile, block by block
    checkpointing: Literal["none", "blocks"] = "none"  # drop the activations inside a block and compute them again in backward


class Cell(Frozen):
    """Everything that decides the numbers of one run of one backbone at one seed."""

    backbone: Annotated[str, BeforeValidator(canonical_name)]  # "module:config", or "module:config{field: value}"
    data: Annotated[SerializeAsAny[SourceConfig], BeforeValidator(load_config)]
    batching: Batching
    autoencoder: Autoencoder
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    budget: Budget
    sampler: Sampler = Sampler()
    evaluation: Evaluation = Evaluation()
    precision: Literal["fp32", "bf16"] = "fp32"
    acceleration: Acceleration = Acceleration()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_s: float = Field(7 * 24 * 3600, gt=0)  # wall clock after which the cell is stopped, resumably
    checkpoint_interval_s: float = Field(30.0, ge=0)  # at least; writing them never takes over a twentieth of the time
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        allowed = SOLVERS[self.objective.name]
        if self.sampler.solver not in allowed:
            raise ValueError(f"sampler.solver {self.sampler.solver!r} cannot sample {self.objective.name}; use {' or '.join(allowed)}")
        if self.data.mixed and self.batching.batch_size is not None:
            raise ValueError(
                f"batching.batch_size {self.batching.batch_size} is for data of one shape, and this has several; give batching.voxel_budget"
            )
        if self.evaluation.num_samples > min(self.data.num_val, self.data.num_test):
            raise ValueError(
                f"evaluation.num_samples {self.evaluation.num_samples} needs as many held-out clips in each of two splits, got "
                f"data.num_val {self.data.num_val} and data.num_test {self.data.num_test}; lower num_samples or raise both"
            )
        return self

    def fingerprint(self) -> str:
        """Hash of all of the cell that decides its numbers, and of the protocol version; 64 hex digits."""
        content = self.model_dump(mode="json", exclude={"timeout_s", "checkpoint_interval_s"})  # they decide when it stops, not what it is
        return content_hash({"protocol_version": PROTOCOL_VERSION, "cell": content})


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(first: Cell, second: Cell) -> list[tuple[str, Any, Any]]:
    """(dotted field, value in first, value in second) of every field in which two cells differ."""
    a, b = flatten(first.model_dump(mode="json")), flatten(second.model_dump(mode="json"))
    return [(key, a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
