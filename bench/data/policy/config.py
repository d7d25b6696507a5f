"""What a matrix says of batching: the policy, how much is in a batch, and which tokens are dropped."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from bench.data.frozen import Count, Frozen, Grown
from bench.data.policy.table import POLICIES
from bench.shapes import Refusal, Shape


class TokenDropping(Frozen):
    """Training on a part of each clip's tokens, drawn anew each time, as in NaViT (2307.06304, section 2.1); of packing backbones only.

    `constant`: `rate` of every clip. `decreasing`: from `rate` down to none over `epochs`. `per_resolution`: `rate` of the largest clip
    and less, in proportion to their tokens, of smaller ones.
    """

    kind: Literal["constant", "decreasing", "per_resolution"]  # which clips lose how much, as above
    rate: float = Field(gt=0, lt=1)  # share of a clip's tokens that is left out
    epochs: Count | None = None  # of `decreasing`

    @model_validator(mode="after")
    def _epochs_where_used(self) -> Self:
        if (self.kind == "decreasing") != (self.epochs is not None):
            raise Refusal(f"token_dropping.epochs says over how many epochs `decreasing` falls, got {self.epochs} with {self.kind!r}")
        return self


class Batching(Grown):
    """How clips become batches: what of a clip is used (fitting.py), and which clips share a step (batches.py).

    `crop`: one shape. `bucket`: several, one a batch. `pack`: every clip at its own shape, any mix in a batch, for backbones that take
    one. `pad`: own shapes too, filled up with zeros to the largest of the batch, which the loss leaves out.
    """

    added: ClassVar[tuple[str, ...]] = ("shuffle_window", "stills")

    policy: str = "crop"  # a name of POLICIES (table.py), or one that another distribution registers
    batch_size: int | None = Field(None, ge=1, le=10**6)  # clips in one optimiser step, where all have one shape
    voxel_budget: int | None = Field(None, ge=1, le=10**12)  # most latent voxels (T x H x W) in one, padding included
    side_multiple: int = Field(8, ge=1, le=2**15)  # pixels: heights and widths of items are multiples of it
    buckets: tuple[Shape, ...] = ()  # of `bucket`, (T, H, W) in pixels; () = the most frequent shapes of the clips
    token_dropping: TokenDropping | None = None  # of `pack`; None: all tokens are trained on
    shuffle_window: int | None = Field(None, ge=2, le=10**9)  # draws that are mixed at once, of a set read in runs; None: a whole epoch
    stills: float = Field(0.0, ge=0, lt=1)  # share of steps, and so of latent voxels, that show single frames of clips (stills.py)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        policy = POLICIES.find(self.policy)
        if (self.batch_size is None) == (self.voxel_budget is None):
            raise Refusal("batching needs exactly one of batch_size, for data of one shape, and voxel_budget, in latent voxels")
        if not policy.one_shape and self.voxel_budget is None:
            raise Refusal(f"batching.policy {self.policy!r} fills batches by latent voxels; give voxel_budget in place of batch_size")
        if self.buckets and not policy.takes_buckets:
            raise Refusal(f"batching.policy {self.policy!r} takes no buckets; remove them")
        if self.token_dropping is not None and not policy.drops_tokens:
            raise Refusal(f"batching.policy {self.policy!r} takes no token_dropping; remove it")
        if self.stills and self.batch_size is None:
            raise Refusal(
                f"batching.stills {self.stills} is for batches of so many clips of one shape; give batch_size, or 0: clips of several "
                "shapes have still images among them"
            )
        return self
