"""Shapes of clips and latents, as plain integers, and the one place that checks them. Knows no torch.

Dimension key, used in every file of the suite:
    B  clips in a batch          T  frames            N  tokens in a pack     K  attention heads
    C  channels                  H  height            D  model width          E  width of one head
    P  values in one patch       W  width
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any


class Refusal(ValueError):
    """What a user got wrong, in one line that names the thing, the value and what would be right. Any other exception is a bug."""


@contextmanager
def told_of(subject: str) -> Iterator[None]:
    """Inside, a Refusal begins with what it is of: "matrix quick: ..."."""
    try:
        yield
    except Refusal as error:
        raise Refusal(f"{subject}: {error}") from error


LONGEST_LINE = 2000  # letters of what an error says: a value may be a whole file


def lines_of(error: Exception) -> list[str]:
    """What an error says, each part in one line: a Refusal of several things has one argument for each. Of a long one both ends."""
    parts = error.args if isinstance(error, Refusal) and error.args else (error,)
    return [_cut(visible(" ".join(str(part).split()))) for part in parts]


def _cut(line: str) -> str:
    """The thing and the value stand first, the remedy last."""
    if len(line) <= LONGEST_LINE:
        return line
    return f"{line[: LONGEST_LINE // 2]} ... ({len(line):,} letters) ... {line[-LONGEST_LINE // 4 :]}"


def did_you_mean(name: str, known: list[str]) -> str:
    """' (did you mean X?)' where a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


# Controls but tab and line end, what turns the direction of writing, ends a line elsewhere, cannot be seen, or is half a character.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Anybody's text, safe to be shown on a console or a page: what would move a cursor or hide is told as an escape.

    >>> print(visible("a\\x1b[2J \\u202e \\udce9"))
    a\\x1b[2J \\u202e \\xe9
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """A character as Python writes it; of a name that is not UTF-8, the byte that it stands for."""
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else found[0].encode("unicode_escape").decode()


Shape = tuple[int, int, int]  # (T, H, W), of a clip in pixels or of its latents, as the name says


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a backbone must know of the autoencoder and the labels to be built."""

    latent_channels: int  # C of the latents
    spatial_stride: int  # pixels per latent voxel, in height and in width
    temporal_stride: int  # frames per latent frame
    num_labels: int  # classes; 0 = unconditional. The null label is `num_labels`
    given_channels: int = 0  # further channels of what a backbone takes, which tell of a clip's known frames; it predicts none of them
    text_width: int = 0  # channels of a token of a clip's caption, where a backbone is given these; 0: it is given none
    text_tokens: int = 0  # L of these, the same for every clip: a mask says which are of its caption
    frame_step: int = 0  # clips have 1 + a multiple of so many frames, the first a latent frame of its own; 0: a multiple of the stride

    @property
    def input_channels(self) -> int:
        """Channels of a clip that a backbone takes."""
        return self.latent_channels + self.given_channels

    def with_known_frames(self) -> LatentSpec:
        """The same for clips whose first frames are known: their latents, and a mask that says which frames these are."""
        return replace(self, given_channels=self.latent_channels + 1)

    def with_text(self, width: int, num_tokens: int) -> LatentSpec:
        """The same for clips that are told of in so many tokens of this width."""
        return replace(self, text_width=width, text_tokens=num_tokens)

    def latent_shape(self, clip_shape: Shape) -> Shape:
        """Clip (T, H, W) in pixels -> latents (T, H, W). Refusal where a stride does not divide."""
        sizes = []
        strides = (self.temporal_stride, self.spatial_stride, self.spatial_stride)
        for axis, size, stride in zip(("frames", "height", "width"), clip_shape, strides, strict=True):
            if axis == "frames" and self.frame_step:
                sizes.append(self._latent_frames(size))
                continue
            if size < stride or size % stride:
                raise Refusal(f"{axis} {size} is not a multiple of the autoencoder's stride {stride}; {nearest_multiples(size, stride)}")
            sizes.append(size // stride)
        return (sizes[0], sizes[1], sizes[2])

    def _latent_frames(self, frames: int) -> int:
        """Latent frames of a clip whose first frame stands alone. Refusal naming the nearest numbers of frames that there are."""
        step = self.frame_step
        whole, over = divmod(frames - 1, step)
        if frames < 1 or over:
            below = max(whole, 0) * step + 1
            raise Refusal(f"frames {frames} are not 1 + a multiple of {step}, as the autoencoder has it; use {below} or {below + step}")
        return (frames - 1) // self.temporal_stride + 1


def parse_shape(text: str, name: str) -> Shape:
    """'10x24x48' -> (10, 24, 48). Refusal naming what `name` should be.

    >>> parse_shape("10x24x48", "--shape")
    (10, 24, 48)
    """
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and len(size) < 7 and int(size) for size in sizes):
        raise Refusal(f"{name} {text!r} is not TxHxW, frames, height and width, such as 16x32x32")
    frames, height, width = map(int, sizes)
    return (frames, height, width)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """What --size says: "64" -> (64, 64), "48x64" -> (48, 64), height first. Refusal for anything else."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and len(side) < 6 and int(side) >= 8 for side in sides):
        raise Refusal(f"--size {text!r} is not a size; give 64 or, height first, 48x64, each at least 8")
    return int(sides[0]), int(sides[-1])


def shape_text(shape: Shape) -> str:
    """(10, 24, 48) -> '10x24x48': frames x height x width."""
    return "x".join(map(str, shape))


def num_voxels(latent_shape: Shape) -> int:
    """Latent voxels T x H x W: the unit in which rates and budgets compare backbones, since tokens differ."""
    frames, height, width = latent_shape
    return frames * height * width


def bounding_shape(shapes: Sequence[Shape]) -> Shape:
    """The smallest (T, H, W) that holds each of `shapes`.

    >>> bounding_shape([(1, 6, 8), (4, 8, 2)])
    (4, 8, 8)
    """
    return (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes), max(shape[2] for shape in shapes))


def cover_box(height: int, width: int, to_height: int, to_width: int) -> tuple[float, float, float, float]:
    """Centred window (left, top, right, bottom) of a frame that, scaled, is `to_height` x `to_width`: the largest of that aspect.

    >>> cover_box(24, 72, 24, 24)
    (24.0, 0.0, 48.0, 24.0)
    """
    scale = min(height / to_height, width / to_width)  # pixels of the frame per pixel of the result; the other axis is cropped
    left, top = (width - to_width * scale) / 2, (height - to_height * scale) / 2
    return (max(left, 0.0), max(top, 0.0), min(left + to_width * scale, width), min(top + to_height * scale, height))


def nearest_multiples(size: int, divisor: int) -> str:
    """The remedy half of a divisibility error: 'use 24 or 28'."""
    below = size // divisor * divisor
    return f"use {below} or {below + divisor}" if below else f"use {divisor}"


def check_divisible(name: str, latent_shape: Shape, divisors: Shape) -> None:
    """Refusal naming the axis, the size and the divisor, where `latent_shape` (T, H, W) is not divisible by `divisors`."""
    for axis, size, divisor in zip(("frames", "height", "width"), latent_shape, divisors, strict=True):
        if size < 1 or size % divisor:
            raise Refusal(
                f"{name} needs latent {axis} divisible by {divisor}, got {size} (latents {latent_shape}); "
                f"{nearest_multiples(size, divisor)}"
            )


def check_shape(name: str, array: Any, expected: Sequence[int | None]) -> None:
    """Refusal unless `array.shape` is `expected`; None admits any size on that axis."""
    actual = tuple(array.shape)
    if len(actual) != len(expected) or any(want not in (None, got) for want, got in zip(expected, actual, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise Refusal(f"{name} has shape {actual}, expected ({wanted})")
