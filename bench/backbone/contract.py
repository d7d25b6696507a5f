"""The contract every backbone keeps, and what some can do beyond it, each a small protocol. Knows no backbone by name, and no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.shapes import LatentSpec, Refusal, Shape, check_shape

if TYPE_CHECKING:
    from torch import Tensor, nn


class Backbone(Protocol):
    """Latents in, prediction out, same shapes. Knows neither schedule, loss, guidance nor sampler. Is an `nn.Module`."""

    ragged: bool  # True: any mix of shapes in one batch; False: one shape per batch

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Latents, B tensors (C, T_i, H_i, W_i); timesteps (B,) in [0, 1], 1 = noise; labels (B,) int64, or None without classes.

        C is `LatentSpec.input_channels`, of the predictions `latent_channels`: the same unless frames are known (`TakesKnownFrames`).
        """
        ...

    def num_tokens(self, shape: Shape) -> int:
        """Cost of one clip of latent shape (T, H, W) to this backbone, in its own tokens."""
        ...

    def check(self, shape: Shape) -> None:
        """Refusal naming the axis, the size and the divisor, where a latent (T, H, W) cannot be taken."""
        ...


class DropsTokens(Backbone, Protocol):
    """A ragged backbone that can be trained on a part of each clip's tokens (`batching.token_dropping`)."""

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, kept: list[Tensor] | None = None) -> list[Tensor]:
        """As above; `kept`, for each clip the increasing indices (n_i,) int64 of its tokens that stay, w fastest, then h, then t."""
        ...

    def kept_voxels(self, shape: Shape, kept: Tensor) -> Tensor:
        """(T, H, W) bool: the latent voxels of a clip of latents (T, H, W) that are predicted when these tokens stay."""
        ...


class TakesKnownFrames(Backbone, Protocol):
    """A backbone that takes what `LatentSpec.given_channels` adds to a clip's latents, and predicts the latents alone.

    That is how it is told the known frames of a clip whose others it is to predict (`objective.known_frames`).
    """

    takes_known_frames: bool  # True; its factory says the same


@dataclass(frozen=True, kw_only=True)
class Text:
    """What the clips of a batch are described by, as a text encoder has it. A clip without a caption has that of the empty one."""

    tokens: Tensor  # (B, L, W), W being `LatentSpec.text_width`
    mask: Tensor  # (B, L) bool: which of them are of the caption; at least one of each clip


class TakesText(Backbone, Protocol):
    """A backbone that is told what is to be seen, where `LatentSpec.text_width` is not 0."""

    takes_text: bool  # True; its factory says the same

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, text: Text | None = None) -> list[Tensor]:
        """As above; `text` is there just where the backbone was built with a `text_width`. What the mask leaves out has no effect."""
        ...


UnitBox = tuple[slice, slice, slice]  # of latent voxels (T, H, W)


class Generation(Protocol):
    """Clips of one shape in the making, unit after unit."""

    @property
    def cache_bytes(self) -> int:
        """Bytes that are kept from one call to the next."""
        ...

    def predict(self, latents: Tensor, timestep: float) -> Tensor:
        """The prediction of the unit whose turn it is: its noised latents (B, C, t, h, w), one time in [0, 1] for all -> same shape."""
        ...

    def keep(self, latents: Tensor) -> None:
        """The unit is done: its clean latents (B, C, t, h, w) are the past of those after it, and the next one's turn comes."""
        ...


class GeneratesUnits(Backbone, Protocol):
    """A backbone that generates a clip unit after unit, each given the clean ones before it: a frame, a patch.

    Its loss is that of a unit given its past, which is none that a backbone has that denoises whole clips: the two are not compared.
    """

    generates_units: bool  # True; its factory says the same, and has `unit` too. False: a clip is one unit, and it is any other backbone
    unit: str  # what it calls them: losses of one kind of unit compare

    def units(self, shape: Shape) -> list[UnitBox]:
        """Where the units of a clip of latents (T, H, W) lie, in the order in which they are generated: boxes that fill it."""
        ...

    def __call__(
        self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, clean: list[Tensor] | None = None
    ) -> list[Tensor]:
        """As above; timesteps (B, units), or (B,) for all of a clip's; `clean`, the clips without noise, which are the past of their units.

        Without `clean`, as who only measures calls it, `latents` are their own past: a pass costs what it does in training.
        """
        ...

    def generate(self, shape: Shape, labels: Tensor | None, num_clips: int) -> Generation:
        """A start for `num_clips` clips of latents (T, H, W) with labels (B,)."""
        ...


class HasPretrainedWeights(Backbone, Protocol):
    """A backbone that can begin with weights that others trained, on another noise schedule (`initialise: pretrained`).

    Its factory has, too, `weights_digest(pretrained)`, a hash of the files that decide what it is, which a record keeps; `text_filled`,
    what `text.filled` must be; and `check_pretrained(spec, trained)`: Refusal where the weights do not fit that latent space, or cannot be
    sampled untrained.
    """

    def load_pretrained(self, path: Any) -> None:
        """Take these weights, and predict from now on what `path` asks: `coefficients` and `target` of bench/training/objective.py."""
        ...


class Shardable(Backbone, Protocol):
    """A backbone whose weights can lie in parts in several processes (`parallel.kind: fsdp`)."""

    def shard_units(self) -> list[list[nn.Module]]:
        """Groups of modules whose weights are gathered and let go together, inner ones before those that they are in.

        The weights of a module are read in its own call alone, but for those of groups before it; what is in no group may be read anywhere.
        """
        ...


def is_sharded(layer: nn.Module) -> bool:
    """Whether this process has a part of a layer's weights now: they are then there in its call alone."""
    return any(hasattr(weight, "to_local") for weight in layer._parameters.values())


# Builds a backbone for a latent space. May also have `check(shape)` and `ragged`, so that both are known before torch is imported,
# `configured(**changes)`, the factory of the same backbone with other fields: what is in braces behind a name, and
# `scaled(width, deeper, skew)`, the changes that give it another size: what `match` searches (bench/run/match/search.py).
Factory = Callable[[LatentSpec], Backbone]


def check_inputs(
    name: str,
    backbone: Backbone,
    spec: LatentSpec,
    latents: list[Tensor],
    timesteps: Tensor,
    labels: Tensor | None,
    text: Text | None = None,
) -> list[Shape]:
    """The boundary of a backbone: Refusal for what a caller can get wrong, else the latents' shapes (T, H, W)."""
    if not latents:
        raise Refusal(f"{name} got an empty list of latents; pass at least one clip")
    for index, clip in enumerate(latents):
        check_shape(f"latents[{index}]", clip, (spec.input_channels, None, None, None))
    shapes = [(frames, height, width) for _, frames, height, width in (clip.shape for clip in latents)]
    different = list(dict.fromkeys(shapes))
    if len(different) > 1 and not backbone.ragged:
        raise Refusal(f"{name} needs one shape per batch, got {different}; use batching='bucket'")
    for shape in different:
        backbone.check(shape)
    check_shape("timesteps", timesteps, (len(latents),))
    if (labels is None) != (spec.num_labels == 0):
        remedy = f"pass labels (B,), {spec.num_labels} for none" if labels is None else "pass labels=None"
        raise Refusal(f"this {name} was built with num_labels={spec.num_labels}, got labels={labels}; {remedy}")
    if labels is not None:
        check_shape("labels", labels, (len(latents),))
    if (text is None) != (spec.text_width == 0):
        raise Refusal(
            f"this {name} was built with text_width={spec.text_width} and got {'no text' if text is None else 'text'}; "
            f"{'pass text=Text(...)' if text is None else 'leave it out'}"
        )
    if text is not None:
        check_shape("text.tokens", text.tokens, (len(latents), None, spec.text_width))
        check_shape("text.mask", text.mask, tuple(text.tokens.shape[:2]))
    return shapes
