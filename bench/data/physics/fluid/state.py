"""The exact state of a liquid at one moment, as a clip's truth keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.data.physics.fluid.drawing import cover, resampled
from bench.data.physics.fluid.flow import Flow
from bench.data.physics.fluid.surface import columns_beside, count_pieces, crest
from bench.data.physics.fluid.tank import Tank

BLOCKS = 16  # along the shorter side: places of which the truth says how full they are
Moment = dict[str, np.ndarray]


def observe(flow: Flow) -> Moment:
    """What is known of a moment without the others. `cover` (2, h, w) is there to be drawn."""
    own = (np.ones(flow.dyed.shape, bool), flow.dyed)
    return {
        "centre": np.stack([flow.places[:, which].mean(1) for which in own]),  # (2, 2) of all liquid and of the dyed: x, y
        "mass": np.array([which.sum() for which in own]) * flow.volume,  # (2,) squared lengths
        "kinetic": np.array([flow.kinetic()]),
        "potential": np.array([flow.potential()]),
        "divergence": np.array([flow.divergence]),
        "cover": cover(flow),
    }


def truth_of(moments: Sequence[Moment], flow: Flow, span: tuple[float, float], num_columns: int) -> dict[str, np.ndarray]:
    """T moments -> a clip's truth, each (T, objects, ...). `flow`: at the end. `span`: of the drops' way. `num_columns`: of the frame."""
    num, tank = len(moments), flow.tank
    truth = {name: np.stack([each[name] for each in moments]) for name in moments[0] if name != "cover"}
    covered = np.stack([each["cover"] for each in moments])  # (T, 2, h, w)
    spans = np.tile(span, (num, 1))
    beside = columns_beside(spans, covered.shape[-1], tank.width)
    place = tank.width * tank.height / covered[0, 0].size
    return truth | {
        "surface": surface(covered[:, 0], num_columns, tank.height)[:, None],  # (T, 1, K) liquid in each column, as a height
        "filled": blocks(covered, tank),  # (T, 2, blocks) of all and of dyed liquid: shares
        "crest": crest(covered[:, 0], beside, tank.height)[:, None],  # beside the drops' way
        "pieces": count_pieces(covered[:, 0], place)[:, None],
        "span": spans[:, None],  # (T, 1, 2) left and right end of the drops' way
        "contact": np.full((num, 1), flow.contact),  # seconds at which the drop first touches the pool; NaN where it does not
    }


def surface(cover: np.ndarray, num_columns: int, height: float) -> np.ndarray:
    """Cover (..., h, w) of a frame `height` lengths high -> how high its liquid would stand in each column, (..., columns)."""
    return resampled(cover, 1, num_columns)[..., 0, :] * height


def blocks(cover: np.ndarray, tank: Tank) -> np.ndarray:
    """Cover (..., h, w) -> the share that it covers of each block of the frame, row by row, (..., blocks)."""
    filled = resampled(cover, round(BLOCKS * tank.height), round(BLOCKS * tank.width))
    return filled.reshape(*cover.shape[:-2], -1)
