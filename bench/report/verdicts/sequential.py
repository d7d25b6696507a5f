"""What the next look at a study that runs until it is decided should do: add seeds, to whom, or stop, and why. Knows no torch.

Seeds are added pair by pair: one more to each contender that the headline still needs. Those are the leader and every rival that it does
not beat yet; a rival that it beats, at the seeds both have and at the share of the level that these may spend (spending.py), gets none,
unless more seeds of the leader, or another leader, take the win back. So nobody has to remember what was decided: the page, which sees
the final values only, judges each pair by the same rule, and for a false lead a contender as good as any must be beaten at some look.

Where it is futile a run stops: where the chance that the seeds up to the last would carry the headline is below `FUTILE`. The chance is
predictive: it averages over how large the true difference may be, at the spread seen, any as likely as any other beforehand. The chance
at the very difference that was seen ("conditional power") would lose one find in eight of a difference of 1.5 deviations, by stopping
after three or four seeds that happen to look alike. To stop for futility claims nothing, so it costs finds and no level, and it does not
bind: whoever adds seeds nevertheless keeps the level.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
from scipy.special import ndtr

from bench.report.load import Run
from bench.report.render import words
from bench.report.verdicts import stats
from bench.report.verdicts.claims import LEVELS, Effect
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.spending import boundary, share
from bench.report.verdicts.stats import Difference, Verdict
from bench.study.looks import Looks

FUTILE = 0.10
WALKS, SEED = 2000, 7  # imagined, of what is still to come

Next = Literal["go on", "carried", "futile", "at the last", "stuck"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A test that the headline needs, on its way to the last look as a random walk of unit variance by then."""

    deviate: float  # of its p-value; above 0: towards what is asked of it
    fraction: float  # of the information that the last seeds will have brought
    seeds: int  # of the two contenders, the fewer
    looks: Looks
    extensions: int
    level: float  # that all looks spend together

    def bound(self, seeds: int) -> float:
        """The deviate that so many seeds need."""
        return boundary(self.level * share(self.looks, self.extensions, seeds))

    @property
    def passed(self) -> bool:
        """Whether it is there now."""
        return self.deviate > self.bound(self.seeds)

    def chance(self) -> float:
        """Predictive, that it is there at the last look."""
        return float(predictive(np.array(self.deviate), self.fraction, self.bound(self.looks.most)))

    @property
    def reversed(self) -> "Walk":
        """Towards the opposite."""
        return replace(self, deviate=-self.deviate)

    def further_seeds(self) -> float:
        """On average, of each of the two, until it is there, on either side, or futile, or at the last look."""
        rng, start, most = np.random.default_rng(SEED), self.fraction, self.looks.most
        drift = self.deviate / math.sqrt(start) + rng.standard_normal(WALKS) / math.sqrt(start)
        place, on, taken = np.full(WALKS, self.deviate * math.sqrt(start)), np.ones(WALKS, dtype=bool), 0.0
        for seeds in range(self.seeds + 1, most + 1):
            step = (1 - start) / (most - self.seeds)
            place = place + drift * step + math.sqrt(step) * rng.standard_normal(WALKS)
            taken += on.mean()
            fraction = start + step * (seeds - self.seeds)
            deviate = place / math.sqrt(fraction)
            hope = sum(predictive(side * deviate, fraction, self.bound(most)) for side in (1, -1))
            on &= (abs(deviate) < self.bound(seeds)) & (hope >= FUTILE)
        return float(taken)


def predictive(deviate: np.ndarray, fraction: float, bound: float) -> np.ndarray:
    """The chance that a walk which has come so far is above `bound` at its end, whatever its drift may be."""
    if fraction >= 1:
        return np.asarray(deviate > bound, dtype=float)
    return np.asarray(ndtr((deviate / math.sqrt(fraction) - bound) / math.sqrt(1 / fraction - 1)))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a look at the seeds says."""

    state: Next
    more: tuple[str, ...]  # contenders that get one more seed each; () where it ends
    reason: str  # a clause
    chance: float | None = None  # that the seeds up to the last carry the headline, at what was seen; None where that says nothing yet
    walk: Walk | None = None  # of the test that has furthest to go

    @cached_property
    def further_seeds(self) -> float | None:
        """What it expects to need: further seeds of each of `more` until it ends, on average, at what was seen."""
        return None if self.walk is None else self.walk.further_seeds()


def look(
    values: Mapping[str, Sequence[float]],
    *,
    better: Literal["lower", "higher"],
    looks: Looks,
    extensions: int = 0,
    missing: Mapping[str, str] | None = None,
) -> Look:
    """Who leads: of contenders' values of the primary measure, one a seed.

    `extensions` as `Run.extensions`; `missing`: contender -> why some of its seeds have no value, which no further seed mends.
    """
    assert len(values) > 1, "one contender has nobody to be told from"
    counts = {name: len(series) for name, series in values.items()}
    if first := _first(counts, looks, missing or {}):
        return first
    sign = -1 if better == "lower" else 1
    order = sorted(values, key=lambda name: -sign * statistics.fmean(values[name]))

    @cache
    def walk(name: str, other: str) -> Walk:
        if order.index(other) < order.index(name):
            return walk(other, name).reversed
        difference = stats.welch(values[name], values[other])
        seeds, fraction = min(counts[name], counts[other]), _fraction(values[name], values[other], looks)
        return _walk(difference, sign, fraction, seeds, looks=looks, extensions=extensions)

    walks = {other: walk(order[0], other) for other in order[1:]}
    pool = [order[0], *(other for other, each in walks.items() if not each.passed)]
    if len(pool) == 1:
        return Look(state="carried", more=(), reason=f"{order[0]} leads", chance=1.0)
    # To lead, it must beat every other: no more likely than to beat the one that it is least likely to beat.
    chance = sum(min(walk(name, other).chance() for other in pool if other != name) for name in pool)
    return _on(pool, counts, chance, max((walks[other] for other in pool[1:]), key=lambda each: each.bound(each.seeds) - each.deviate))


def look_at(run: Run, found: Findings) -> Look:
    """The same of a run that says `until_decided`, by the rule of its claim."""
    assert run.looks is not None, "its seeds are fixed"
    parts = [(part.finding, part.key) for part in found.conclusion.parts]
    if any(finding is None or finding.outcome == "not compared" for finding, _ in parts):
        why = "; ".join(finding.reason if finding else f"{run.primary} was not measured" for finding, _ in parts)
        return Look(state="stuck", more=(), reason=why)
    if run.contrasts:
        asked = [each for each in found.named if each.main]
        values = {name: list(series) for each in asked for name, series in zip(each.sides, each.by_seed, strict=True)}
        missing = {name: why for each in asked for name, why in each.missing.items()}
        return look_between([each.sides for each in asked], values, run.looks, run.extensions, missing)
    if isinstance(parts[0][0], Verdict):
        row = next(row for row in found.rows if ("lead", row.name) == parts[0][1] and row.subject == "trained")
        values = {entry.contender: [value for _, value in entry.by_seed] for entry in row.entries}
        missing = {entry.contender: entry.missing for entry in row.entries if entry.missing}
        better: Literal["lower", "higher"] = "lower" if row.better == "lower" else "higher"
        return look(values, better=better, looks=run.looks, extensions=run.extensions, missing=missing)
    effects = [(finding, key[1]) for finding, key in parts if isinstance(finding, Effect) and key]
    pool = [name for block in found.blocks if block.design.pipeline == effects[0][1] for name in block.design.contenders]
    pool = list(dict.fromkeys(pool))
    return look_for([effect for effect, _ in effects], {name: len(run.of(name)) for name in pool}, run.looks, run.extensions)


def look_for(effects: Sequence[Effect], counts: Mapping[str, int], looks: Looks, extensions: int = 0) -> Look:
    """Whether effects are there, each at its part of the level: of contenders with so many seeds, all of which get more or none."""
    seeds = min(len(effect.by_seed) for effect in effects)
    missing = {effect.kind: effect.reason for effect in effects if len(effect.by_seed) < min(counts.values())}
    if first := _first(counts, looks, missing):
        return first
    level, walks = LEVELS["headline"] / len(effects), []
    for effect in effects:
        walk = _walk(effect.difference, 1, seeds / looks.most, seeds, looks=looks, extensions=extensions, level=level)
        walks.append(walk if walk.deviate > 0 else walk.reversed)
    left = [walk for walk in walks if not walk.passed and walk.chance() + walk.reversed.chance() >= FUTILE]
    if not left and any(walk.passed for walk in walks):
        return Look(state="carried", more=(), reason=f"{sum(walk.passed for walk in walks)} of {len(walks)} tests carried", chance=1.0)
    walk = max(left or walks, key=lambda walk: walk.deviate)
    return _on(list(counts), counts, walk.chance() + walk.reversed.chance(), walk)


def look_between(
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Sequence[float]],
    looks: Looks,
    extensions: int = 0,
    missing: Mapping[str, str] | None = None,
) -> Look:
    """Which pairs differ, each at its part of the level: one more seed for both of every pair that is neither carried nor hopeless.

    A contender that several pairs have gets one for all of them. Who is better may be either: both sides of a test are looked at.
    """
    counts = {name: len(series) for name, series in values.items()}
    if first := _first(counts, looks, missing or {}):
        return first
    level, walks = LEVELS["headline"] / len(pairs), dict[tuple[str, str], Walk]()
    for pair in pairs:
        first_values, second_values = (values[name] for name in pair)
        seeds, fraction = min(counts[name] for name in pair), _fraction(first_values, second_values, looks)
        difference = stats.welch(first_values, second_values)
        walk = _walk(difference, 1, fraction, seeds, looks=looks, extensions=extensions, level=level)
        walks[pair] = walk if walk.deviate > 0 else walk.reversed
    opened = {pair: walk for pair, walk in walks.items() if not walk.passed}
    if not opened:
        return Look(state="carried", more=(), reason=f"{len(walks)} of {len(walks)} contrasts carried", chance=1.0)
    chances = {pair: walk.chance() + walk.reversed.chance() for pair, walk in opened.items()}
    left = [pair for pair, chance in chances.items() if chance >= FUTILE and min(counts[name] for name in pair) < looks.most]
    if not left and len(opened) < len(walks):
        return Look(state="carried", more=(), reason=f"{len(walks) - len(opened)} of {len(walks)} contrasts carried", chance=1.0)
    best = max(left or opened, key=lambda pair: chances[pair])
    pool = list(dict.fromkeys(name for pair in left or [best] for name in pair))
    return _on(pool, counts, chances[best], opened[best])


def _first(counts: Mapping[str, int], looks: Looks, missing: Mapping[str, str]) -> Look | None:
    """Where seeds failed, or are fewer than at the first look."""
    if missing:
        why = "; ".join(f"{name}: {text}" for name, text in missing.items())
        return Look(state="stuck", more=(), reason=f"seeds without a value count too ({why})")
    young = tuple(name for name, seeds in counts.items() if seeds < looks.first)
    return Look(state="go on", more=young, reason=f"the first look is at {looks.first} seeds each") if young else None


def _on(pool: Sequence[str], counts: Mapping[str, int], chance: float, walk: Walk) -> Look:
    """Not carried yet: futile, at the last look, or one more seed for each of the pool that has not all."""
    more = tuple(name for name in pool if counts[name] < walk.looks.most)
    if not more:
        return Look(state="at the last", more=(), reason=f"not told apart by {walk.looks.most} seeds each", chance=0.0, walk=walk)
    state: Next = "futile" if chance < FUTILE else "go on"
    reason = f"the chance that {walk.looks.most} seeds each tell {words.listed(pool)} apart is about {chance:.0%}"
    return Look(state=state, more=() if state == "futile" else more, reason=reason, chance=min(chance, 1.0), walk=walk)


def _walk(
    difference: Difference, sign: int, fraction: float, seeds: int, *, looks: Looks, extensions: int, level: float = LEVELS["headline"]
) -> Walk:
    """A test as a walk, above 0 where the difference has this sign; one without spread tells nothing yet."""
    size = 0.0 if difference.p_value is None else boundary(difference.p_value)
    deviate = math.copysign(size, sign * difference.value)
    return Walk(deviate=deviate, fraction=fraction, seeds=seeds, looks=looks, extensions=extensions, level=level)


def _fraction(first: Sequence[float], second: Sequence[float], looks: Looks) -> float:
    """The part of the information of `looks.most` seeds each that these have."""
    squares = [stats.variance(series) for series in (first, second)]
    now = squares[0] / len(first) + squares[1] / len(second)
    return sum(squares) / looks.most / now if now else min(len(first), len(second)) / looks.most
