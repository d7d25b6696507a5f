"""All numbers over one extractor's features of two sets of clips, each with its floor and interval. Knows features, not clips; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from bench.commands.score.record import ClipsProtocol, Distance, Share
from bench.metrics.distances import bias
from bench.metrics.distances.diversity import NUM_NEIGHBOURS, diversity
from bench.metrics.distances.frechet import Features
from bench.metrics.distances.interval import NUM_GROUPS, Statistic, jackknife
from bench.metrics.distances.table import DISTANCES
from bench.shapes import Refusal

INTERVAL = f"delete-group jackknife over clips, {NUM_GROUPS} groups, 95 %"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Features of n real and n generated clips, and of real clips that are compared with nothing else."""

    real: Features  # (n, D), or (n, T, D) of single frames
    generated: Features  # as real
    spare: Features  # (m, ...) other real clips, for the floor
    block: ClipsProtocol
    statistics: Mapping[str, Statistic] = field(default_factory=lambda: DISTANCES)
    per_clip: bool = True  # a row is one draw: False where a clip gives several, and no theory in n holds

    def distance(self, kind: str) -> Distance:
        """The distance with all that stands beside it."""
        statistic, num = self.statistics[kind], len(self.real)
        interval = jackknife(statistic, self.real, self.generated) if num >= NUM_GROUPS else None
        floor, floor_source = self.floor(kind)
        infinite, infinite_source = self.infinite_n(kind)
        return Distance(
            name=self.block.name(kind),
            kind=kind,
            extractor=self.block.extractor,
            value=statistic(self.real, self.generated),
            low=interval.low if interval else None,
            high=interval.high if interval else None,
            interval=INTERVAL if interval else f"none: {NUM_GROUPS} groups need as many clips",
            floor=floor,
            floor_source=floor_source,
            infinite_n=infinite.value if infinite else None,
            infinite_n_low=infinite.low if infinite else None,
            infinite_n_high=infinite.high if infinite else None,
            infinite_n_source=infinite_source,
            protocol=self.block,
            fingerprint=self.block.fingerprint(),
        )

    def floor(self, kind: str) -> tuple[float | None, str]:
        """The distance of real clips to real clips at this n, by the best way there is, and which that was."""
        statistic, num, dim = self.statistics[kind], len(self.real), self.block.dim
        if len(self.spare) >= num:
            return statistic(self.real, self.spare[:num]), f"measured against {num} other real clips"
        every = np.concatenate([self.real, self.spare])
        if kind == "frechet" and num >= dim and self.per_clip:
            return bias.expected_floor(every, num, num), "expected of two sets of one Gaussian with the real clips' covariance"
        half = len(every) // 2
        if half < 2:
            return None, "none: too few real clips"
        halves = statistic(every[:half], every[half : 2 * half])
        if kind == "kernel":  # unbiased: its expectation is 0 at any n
            return halves, f"measured between two halves of the real clips, {half} each"
        # A Frechet distance within one population goes as 1/n above d, more slowly below, where this is a low guess.
        low = f"; low, as n is below {dim} features" if num < dim else ""
        return halves * half / num, f"scaled to n by 1/n from two halves of the real clips, {half} each{low}"

    def infinite_n(self, kind: str) -> tuple[bias.InfiniteN | None, str]:
        """The Frechet distance at infinite n where there are enough clips to say."""
        if kind != "frechet":
            return None, "not needed: unbiased"
        if not self.per_clip:
            return None, "none: frames of a clip are not independent"
        try:
            found = bias.frechet_infinite_n(self.real, self.generated)
        except Refusal as error:
            return None, f"none: {error}"
        return found, f"least squares in 1/n over n = {', '.join(map(str, found.sizes))}"

    def shares(self) -> list[Share]:
        """Diversity, where there are enough clips for their neighbourhoods."""
        if len(self.real) <= NUM_NEIGHBOURS or not self.per_clip:
            return []
        mark, n = self.block.fingerprint(), len(self.real)
        return [
            Share(
                name=f"{name}_{self.block.extractor}@{n}",
                extractor=self.block.extractor,
                value=value,
                protocol=self.block,
                fingerprint=mark,
            )
            for name, value in asdict(diversity(self.real, self.generated)).items()
        ]
