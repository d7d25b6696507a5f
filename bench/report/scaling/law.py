"""The law of scaling, L = E + A N^-a + B D^-b, fitted to the losses of several backbones at once. Knows arrays, no records and no torch.

E is what no size and no data takes away: data, noise path and timesteps are the same for all backbones, and so is it. A, a, B and b are
each backbone's own. N counts parameters, D the clips drawn in training. Given the exponents the law is linear in E, A and B, which are
then the least squares of a linear problem without negative values; so only exponents are searched (variable projection, Golub and Pereyra
1973; of scaling laws 2603.22339 shows that fits of parabolas are biased).

Residuals are relative, (law - loss) / loss, since seeds spread a loss in proportion. They are weighted by Huber's rule, so that a run that
went astray does not bend the law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

LEAST, MOST = 0.01, 3.0  # exponents that are searched
STARTS = ((0.3, 0.3), (0.1, 0.6), (0.7, 0.15), (1.0, 1.0))  # (a, b), for all backbones alike
HUBER = 2.0  # standard deviations beyond which a residual weighs less
ROUNDS, NEAR_ROUNDS = 4, 2  # of weights and fits in turn, from afar and from near the end
TINY = 1e-9  # a residual that is none
INSIDE = 1e-3  # how far inside the ends a search begins
# So near to the end that processors, whose powers and logarithms differ in their last digits, agree on the first seven of what is found.
PRECISION: dict[str, Any] = {"jac": "3-point", "max_nfev": 200, "xtol": 1e-10, "ftol": 1e-12, "gtol": 1e-12}
TO_SIGMA = 1.4826  # median of absolute residuals -> standard deviation, of normal ones


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a law is fitted to; all arrays (n,)."""

    backbone: np.ndarray  # int, place among the backbones
    run: np.ndarray  # int, of which training run: its points share what it had of luck
    params: np.ndarray  # N
    clips: np.ndarray  # D
    loss: np.ndarray  # L

    def of(self, kept: np.ndarray) -> Losses:
        """Those that a mask (n,) keeps."""
        return Losses(**{name: values[kept] for name, values in vars(self).items()})

    def __len__(self) -> int:
        return len(self.loss)


@dataclass(frozen=True, kw_only=True)
class Law:
    """L(N, D) of every backbone; all arrays (F,), F backbones."""

    floor: float  # E
    size_scale: np.ndarray  # A, at N and D over those of `unit`
    size_exponent: np.ndarray  # a
    data_scale: np.ndarray  # B
    data_exponent: np.ndarray  # b
    unit: tuple[float, float]  # N and D at which A and B are what size and data add to the loss
    spread: float  # standard deviation of a relative residual, degrees of freedom counted

    @property
    def num(self) -> int:
        """Backbones, F."""
        return len(self.size_exponent)

    def parts(self, backbone: np.ndarray, params: np.ndarray, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What size and data add to the floor, each (n,), where they are as given."""
        size = self.size_scale[backbone] * (params / self.unit[0]) ** -self.size_exponent[backbone]
        data = self.data_scale[backbone] * (clips / self.unit[1]) ** -self.data_exponent[backbone]
        return size, data

    def loss(self, backbone: np.ndarray, params: np.ndarray, clips: np.ndarray) -> np.ndarray:
        """L, (n,)."""
        size, data = self.parts(backbone, params, clips)
        return self.floor + size + data


def num_free(num_backbones: int) -> int:
    """Parameters of a law: E, and four of each backbone."""
    return 1 + 4 * num_backbones


def num_of_runs(num_backbones: int) -> int:
    """Those of them that only several runs tell: E, and A and a of each backbone. Its budgets tell B and b of one run."""
    return 1 + 2 * num_backbones


def fit(losses: Losses, start: Law | None = None, *, signed: bool = False) -> Law:
    """The law of these losses. `start`: one of almost the same losses, near which alone is searched.

    `signed`: E may be below 0, by as much as the least loss is above. No such law is true, but a fit that stands still at E = 0 would
    hide how it moves with the losses, which errors are made of.
    """
    return _Fit(losses, None if start is None else start.unit, signed).run(start)


class _Fit:
    """One fit. Exponents are searched by their logarithms, (2 F,): those of sizes, then those of data."""

    def __init__(self, losses: Losses, unit: tuple[float, float] | None, signed: bool):
        self.losses, self.num = losses, int(losses.backbone.max()) + 1
        self.unit = unit or (_middle(losses.params), _middle(losses.clips))
        self.freedom = max(1, len(losses) - num_free(self.num))
        self.least_floor = -float(losses.loss.min()) if signed else 0.0
        self._size, self._data = (-np.log(values / unit) for values, unit in zip((losses.params, losses.clips), self.unit, strict=True))
        self._own = (losses.backbone[:, None] == np.arange(self.num)) / losses.loss[:, None]  # (n, F)

    def run(self, start: Law | None) -> Law:
        """Fits and weights in turn; the first fit from several starts, unless one is given."""
        weights = np.ones(len(self.losses))
        if start is None:
            starts = (np.log(np.repeat(pair, self.num)) for pair in STARTS)
            found = min((self._search(each, weights) for each in starts), key=lambda each: each[1])[0]
        else:
            found = np.log(np.concatenate([start.size_exponent, start.data_exponent]))
        for _ in range(ROUNDS if start is None else NEAR_ROUNDS):
            weights = huber_weights(self._solve(found, weights)[1], self.freedom)
            found = self._search(found, weights)[0]
        linear, residual = self._solve(found, weights)
        size, data = np.split(np.exp(found), 2)
        return Law(
            floor=float(linear[0]),
            size_scale=linear[1 : 1 + self.num],
            size_exponent=size,
            data_scale=linear[1 + self.num :],
            data_exponent=data,
            unit=self.unit,
            spread=float(np.sqrt((residual**2).sum() / self.freedom)),
        )

    def _search(self, start: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
        """The exponents that are best near a start, and half the sum of weighted squares there."""
        ends, root = (np.log(LEAST), np.log(MOST)), np.sqrt(weights)
        inside = np.clip(start, ends[0] + INSIDE, ends[1] - INSIDE)

        def residual(logs: np.ndarray) -> np.ndarray:
            return self._solve(logs, weights)[1] * root

        found = least_squares(residual, inside, bounds=ends, method="dogbox", **PRECISION)
        return found.x, float(found.cost)

    def _solve(self, logs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """E, A and B (1 + 2 F,) that are best at exponents, and relative residuals (n,), not weighted."""
        size, data = np.split(np.exp(logs), 2)
        floor = 1 / self.losses.loss[:, None]
        columns = np.concatenate([floor, self._own * np.exp(np.outer(self._size, size)), self._own * np.exp(np.outer(self._data, data))], 1)
        root = np.sqrt(weights)
        linear = nnls(columns * root[:, None], (1 - self.least_floor * floor[:, 0]) * root)[0]
        linear[0] += self.least_floor
        return linear, columns @ linear - 1


def huber_weights(residual: np.ndarray, freedom: int) -> np.ndarray:
    """Weight of each residual, (n,): 1 up to `HUBER` standard deviations, beyond as much less as it is further away."""
    sigma = TO_SIGMA * float(np.median(np.abs(residual))) * np.sqrt(len(residual) / freedom)
    return np.minimum(1.0, HUBER * max(sigma, TINY) / np.maximum(np.abs(residual), TINY))


def _middle(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))
