"""A batching policy is one object that carries all that the rest of the tree asks of it. Knows integers and boxes, not pixels."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.shapes import Shape, bounding_shape

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the clip as it came


@dataclass(frozen=True)
class Item:
    """One training example: frames `first_frame` ... of a clip, `box` of each, at the size of `shape`."""

    clip: int  # in its split
    first_frame: int
    box: Box
    shape: Shape  # (T, H, W) in pixels, as the autoencoder gets it


@dataclass(frozen=True)
class Lost:
    """A clip that no item shows."""

    clip: int
    kind: str  # "short", "small", "large"
    reason: str  # with what would be right


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The bounds within which clips are fitted, and the function that does it."""

    fit: "FitClips"
    nothing: str  # what an error says where no item is left
    one_shape: Shape  # (T, H, W) in pixels: of the data
    multiple: int = 1  # pixels: heights and widths are cut to multiples of it
    max_pixels: int = sys.maxsize  # T x H x W of the largest item that fits a batch
    buckets: tuple[Shape, ...] = ()  # that the user lists; () = none


# Clips (T, H, W) in pixels -> of each in turn its items, or why it has none. Refusal where a shape that was asked for cannot be.
# Of clips that all have one shape only the first is given, and all are treated as it is.
FitClips = Callable[[Sequence[Shape], Rules], Sequence[list[Item] | Lost]]
# (items in an epoch's order, latent shape of every item, latent voxels that an item costs, voxels in a batch) -> items of each batch.
# Blind to backbones, or rivals would see other clips. What is in no batch waits for another epoch.
PlanBatches = Callable[[Sequence[int], Sequence[Shape], Callable[[int], int], int], list[list[int]]]


@dataclass(frozen=True, kw_only=True)
class BatchingPolicy:
    """How clips become training examples and these become batches, and what the rest must know of it. Ours are in table.py."""

    name: str  # as a matrix writes it
    word: str  # its batches to the reader of a report: "packs"
    family: str  # what it is in the 2 x 2 tables of a report, alone or with others like it: "own shapes"
    fit: FitClips
    plan: PlanBatches
    one_shape: bool = False  # items of videos have the one shape of the data: with `batch_size` in place of a budget, nothing is planned
    full_batches: bool = False  # a batch has one shape and waits until it is full: a rare shape may never be trained on
    pads: bool = False  # clips of a batch are filled up with zeros to the largest of them, which the loss leaves out
    needs_ragged: bool = False  # a batch mixes shapes, for backbones that take that
    drops_tokens: bool = False  # takes `token_dropping`
    takes_buckets: bool = False  # takes `buckets`
    baseline: bool = False  # what a report sets the families against
    against: str | None = None  # a policy that a report sets it against as well, at one backbone

    def given(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Latent shapes of a batch's clips as a backbone gets them."""
        return (bounding_shape(shapes),) * len(shapes) if self.pads else tuple(shapes)
