"""A cost at many shapes from counting it at a few, where it is a polynomial; else by counting it at all. Knows no torch.

Convolutions and projections cost in proportion to T S, with S = H W; attention within frames to T S^2, along time to T^2 S, over
all of a clip to T^2 S^2; what a clip needs once, or a frame, to 1, T or S. The counts are exact, so a polynomial that also gives those
it was not made from is the cost, and one that does not is thrown away.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg

from bench.shapes import Shape

POWERS = [(i, j) for i in range(3) for j in range(3)]  # of T and of S
PROOFS = 3  # counts that the polynomial is not made from
EXACT = 1e-6  # largest relative difference of a proof


def at_all(shapes: Sequence[Shape], count: Callable[[Shape], int], progress: Callable[[int, int], None]) -> dict[Shape, int]:
    """`count` at each of the distinct `shapes`, in few calls where that can be proved right. `progress(done, total)`."""
    num = len(POWERS) + PROOFS
    if len(shapes) <= num:
        return _counted(shapes, {}, count, progress)
    sizes = np.array([(frames, height * width) for frames, height, width in shapes], dtype=float)
    terms = np.stack([np.prod((sizes / sizes.max(axis=0)) ** powers, axis=1) for powers in POWERS], axis=1)  # (shapes, powers)
    _, _, order = scipy.linalg.qr(terms.T, pivoting=True, mode="economic")  # the shapes that tell the terms apart best come first
    known = _counted([shapes[place] for place in order[:num]], {}, count, progress)
    values = np.array([known[shapes[place]] for place in order[:num]], dtype=float)
    weights = np.linalg.lstsq(terms[order[: len(POWERS)]], values[: len(POWERS)], rcond=None)[0]
    found = terms @ weights
    if np.allclose(found[order[:num]], values, rtol=EXACT, atol=0):
        return {shape: known.get(shape, round(float(value))) for shape, value in zip(shapes, found, strict=True)}
    return _counted(shapes, known, count, progress)


def _counted(
    shapes: Sequence[Shape], known: dict[Shape, int], count: Callable[[Shape], int], progress: Callable[[int, int], None]
) -> dict[Shape, int]:
    found = dict(known)
    for shape in shapes:
        if shape not in found:
            progress(len(found), len(shapes))
            found[shape] = count(shape)
    progress(len(shapes), len(shapes))
    return found
