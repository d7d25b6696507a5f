"""The exact state of a liquid at one moment, as a clip's truth keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.data.physics.fluid.drawing import cover
from bench.data.physics.fluid.flow import Flow
from bench.data.physics.fluid.surface import blocks, pieces_and_crest, surface

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
    pieces, crest = pieces_and_crest(covered[:, 0], np.array(span), tank)
    return truth | {
        "surface": surface(covered[:, 0], num_columns, tank)[:, None],  # (T, 1, columns) liquid in each column, as a height
        "filled": blocks(covered, tank),  # (T, 2, blocks) of all and of dyed liquid: shares
        "pieces": pieces[:, None],
        "crest": crest[:, None],  # height of what splashes beside the drops' way
        "span": np.tile(span, (num, 1, 1)),  # (T, 1, 2) left and right end of the drops' way
        "contact": np.full((num, 1), flow.contact),  # seconds at which the drop first touches the pool; NaN where it does not
    }
