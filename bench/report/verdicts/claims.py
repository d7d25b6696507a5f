"""The rules by which a page claims: which tests its headline rests on, how all are corrected, what they say of the claim. Knows no torch.

A page may be wrong, by chance, in one of twenty studies of equal contenders (`ALPHA`). `LEVELS` has a part for what the headline rests on,
which was named before the run, and one for all else that the page tests, each corrected for its number by Holm's method; the fifth that
they leave is for what Welch's test misses at few seeds of unequal spread. What is not in the headline's part cannot turn it. The rules
see findings and no pages, so that the simulation of their error rate (`bench/perf/evidence/verdicts.py`) calls the same objects as the
report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from bench.data.policy.table import POLICIES
from bench.report.verdicts.stats import MIN_SEEDS, Difference, Verdict, holm, p_text, word_of

if TYPE_CHECKING:
    from bench.report.load import Run
    from bench.report.verdicts.findings import Findings
    from bench.report.verdicts.ratios import AxisRatios

ALPHA = 0.05  # chance that a page of equal contenders claims anything
LEVELS = {"headline": 0.5 * ALPHA, "rest": 0.3 * ALPHA}
CROP = next(policy for policy in POLICIES.own.values() if policy.baseline)
COMPOSITION = ("subject_whole_rate", "framing_distance", "saliency_distance")  # where subjects are; the first that was measured decides

EffectStanding = Literal["open", "carried", "inconclusive", "not compared"]
ClaimState = Literal["leads", "supported", "not supported", "split", "inconclusive", "not tested"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference between contenders that are not simply two: of a 2 x 2 table, or of one contender under two policies."""

    kind: str  # backbone, pipeline, interaction (factorial.WEIGHTS), contrast, or learned
    by_seed: tuple[tuple[int, float], ...]
    difference: Difference
    outcome: EffectStanding
    reason: str
    favours: str | None  # the backbone or pipeline that it is better for; None where it is 0
    share: float = 1.0  # of a level, that its number of seeds may spend (spending.py)
    corrected: float | None = None  # its p-value, for the number of tests beside it and for other looks

    @property
    def carried(self) -> bool:
        """Whether the seeds carry it."""
        return self.outcome == "carried"

    @property
    def word(self) -> str:
        """The outcome as tables say it."""
        few = len(self.by_seed) if 0 < len(self.by_seed) < MIN_SEEDS else None
        return word_of(few) if self.outcome == "inconclusive" else self.outcome

    @property
    def p_value(self) -> float | None:
        """That there is no effect."""
        return self.difference.p_value

    def settled(self, corrected: float, level: float, num_tests: int) -> Effect:
        """An open one, decided at a level among so many tests."""
        assert self.outcome == "open" and self.p_value is not None
        carried, shown = corrected < level, p_text(self.p_value, corrected, level, num_tests, self.share)
        reason = f"{'' if carried else 'may be chance: '}{self.reason}, {shown}"
        return replace(self, outcome="carried" if carried else "inconclusive", corrected=corrected, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Whether the loss of a family of backbones falls with size and data as a law says (scaling/rule.py)."""

    label: str  # of the family
    claimed: bool  # whether the claim is about it
    outcome: Literal["supported", "not supported", "inconclusive"]
    reason: str
    share: float = 1.0
    p_value: float | None = None  # it rests on intervals
    corrected: float | None = None

    @property
    def carried(self) -> bool:
        """Whether the numbers say so, or the opposite."""
        return self.outcome != "inconclusive"

    def settled(self, corrected: float, level: float, num_tests: int) -> Trend:
        """It is never open."""
        return self


Finding = Verdict | Effect | Trend
# ("lead", measure), ("effect", pipeline, measure, kind), ("contrast", first contender, second, measure), ("floor", contender, region),
# ("named", title, measure, condition) or ("trend", family, measure)
Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the questions that a claim is made of, and what its test says."""

    name: str  # quality, composition
    state: ClaimState
    key: Key | None = None  # of the finding it rests on; None where there is none
    finding: Finding | None = None


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What the numbers say of a claim."""

    state: ClaimState
    parts: tuple[Part, ...]

    @property
    def carried(self) -> bool:
        """Whether the numbers carry anything about the claim."""
        return self.state not in ("inconclusive", "not tested")


class Claim(Protocol):
    """A sentence under test, and the rule that judges it."""

    question: str  # a page's title
    of_backbones: bool  # whether it is about backbones, which must then cost alike

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """Part -> the one finding that decides it, known before any value is; None where it was not measured."""
        ...

    def state(self, finding: Finding | None) -> ClaimState:
        """What a part's finding, corrected, says of it."""
        ...

    def whole(self, parts: Sequence[Part]) -> ClaimState:
        """What its parts say of the claim."""
        ...

    def says(self, run: Run, findings: Findings) -> list[str]:
        """What is known, in at most three sentences for whoever knows no statistics: first what is carried."""
        ...

    def ratios(self, run: Run, findings: Findings) -> AxisRatios | None:
        """What its picture holds against what; None where there is nothing."""
        ...


def settle(claim: Claim, findings: Mapping[Key, Finding], primary: str | None) -> tuple[dict[Key, Finding], Conclusion]:
    """All findings with the open ones decided, and what they say of the claim."""
    rests_on = claim.rests_on(findings, primary)
    decisive = [key for key in rests_on.values() if key is not None]
    families = {"headline": decisive, "rest": [key for key in findings if key not in decisive]}
    decided = dict(findings)
    for family, keys in families.items():
        opened = {key: found for key in keys if (found := findings[key]).outcome == "open"}
        tested = {key: min(1.0, found.p_value / found.share) for key, found in opened.items() if found.p_value is not None}
        for key, corrected in zip(tested, holm(list(tested.values())), strict=True):
            decided[key] = findings[key].settled(corrected, LEVELS[family], len(tested))
    parts = []
    for name, rested in rests_on.items():
        finding = decided[rested] if rested is not None else None
        parts.append(Part(name=name, state=claim.state(finding), key=rested, finding=finding))
    return decided, Conclusion(state=claim.whole(parts), parts=tuple(parts))


def state_of(states: Sequence[ClaimState]) -> ClaimState:
    """Of the whole, from its parts: carried ones count, and opposite ones split it."""
    carried = [state for state in dict.fromkeys(states) if state not in ("inconclusive", "not tested")]
    if len(carried) > 1:
        return "split"
    return carried[0] if carried else "inconclusive" if "inconclusive" in states else "not tested"


def is_measure(measure: str, name: str | None) -> bool:
    """Whether a measurement is the one that a matrix calls so, whatever its n."""
    return measure.partition("@")[0] == name
