"""Clips as NaViT takes them (2307.06304, section 3.1): any size, aspect and duration, small ones more often. Knows no torch.

Shapes are latents (T, H, W), one token per 2x2 voxels of a frame.
"""

import math
from collections.abc import Sequence

import numpy as np

from bench.data.policy.own_shapes import pack_greedily
from bench.shapes import Shape

SIDES = (8, 32)  # least and most latent voxels of a side, even
MOST_ASPECT = 3.0  # and as much the other way
TOKEN_VOXELS = 4


def num_tokens(shape: Shape) -> int:
    """Tokens of one clip."""
    return math.prod(shape) // TOKEN_VOXELS


def draw_clips(num: int, *, max_frames: int = 8, seed: int = 0) -> list[Shape]:
    """`num` shapes: sides and frames from Beta(1, 2), whose mean is a third of the way up, aspects uniform in their logarithm."""
    generator = np.random.default_rng(seed)
    least, most = SIDES
    shapes = []
    for _ in range(num):
        side = least + (most - least) * generator.beta(1, 2)
        stretch = math.exp(generator.uniform(-1, 1) * math.log(MOST_ASPECT) / 2)
        height, width = (int(np.clip(2 * round(size / 2), least, most)) for size in (side * stretch, side / stretch))
        shapes.append((1 + int(max_frames * generator.beta(1, 2)), height, width))
    return shapes


def mixed_packs(num: int, budget: int, *, max_frames: int = 8) -> list[list[Shape]]:
    """The clips of `num` packs of at most `budget` tokens, each of other clips."""
    taken: list[list[Shape]] = []
    seed = 0
    while len(taken) < num:
        clips = draw_clips(max(256, budget // 8), max_frames=max_frames, seed=seed)
        lengths = [num_tokens(shape) for shape in clips]
        taken += [[clips[clip] for clip in pack] for pack in pack_greedily(lengths, budget)[:-4]]  # the last ones are leftovers
        seed += 1
    return taken[:num]


def tokens_seen(shapes: Sequence[Shape]) -> float:
    """How many tokens a token attends to on average: what attention costs beside the number of tokens."""
    lengths = [num_tokens(shape) for shape in shapes]
    return sum(length**2 for length in lengths) / sum(lengths)


def uniform_like(shapes: Sequence[Shape]) -> list[Shape]:
    """Clips of one shape, whose tokens see as many as those of these; nearly as many tokens, so compare what one of them takes."""
    total, seen = sum(map(num_tokens, shapes)), tokens_seen(shapes)
    sides = range(SIDES[0], SIDES[1] + 1, 2)
    candidates = [(t, h, w) for t in range(1, 9) for h in sides for w in sides if h <= w <= 2 * h]

    def misfit(shape: Shape) -> float:
        length = num_tokens(shape)
        return 10 * abs(length / seen - 1) + abs(round(total / length) * length / total - 1)

    best = min(candidates, key=misfit)
    return [best] * max(1, round(total / num_tokens(best)))
