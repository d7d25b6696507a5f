"""The rules by which a page claims: which tests its headline rests on, how all are corrected, what they say of the claim. Knows no torch.

A page may be wrong, by chance, in one of twenty studies of equal contenders (`ALPHA`). `LEVELS` has a part for what the headline rests on,
which was named before the run, and one for all else that the page tests, each corrected for its number by Holm's method; the fifth that
they leave is for what Welch's test misses at few seeds of unequal spread. What is not in the headline's part cannot turn it. The rules
see findings and no pages, so that the simulation of their error rate (`bench/perf/evidence/verdicts.py`) calls the same objects as the
report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from bench.data.policy.table import POLICIES
from bench.report.verdicts.stats import MIN_SEEDS, Difference, Verdict, holm, p_text, word_of

ALPHA = 0.05  # chance that a page of equal contenders claims anything
LEVELS = {"headline": 0.5 * ALPHA, "rest": 0.3 * ALPHA}
CROP = next(policy for policy in POLICIES.own.values() if policy.baseline)
COMPOSITION = ("subject_whole_rate", "framing_distance", "saliency_distance")  # where subjects are; the first that was measured decides

EffectStanding = Literal["open", "carried", "inconclusive", "not compared"]
ClaimState = Literal["leads", "supported", "not supported", "split", "inconclusive", "not tested"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference between contenders that are not simply two: of a 2 x 2 table, or of one contender under two policies."""

    kind: str  # backbone, pipeline, interaction (factorial.WEIGHTS), or contrast
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

    def settled(self, corrected: float, level: float, num_tests: int) -> "Effect":
        """An open one, decided at a level among so many tests."""
        assert self.outcome == "open" and self.p_value is not None
        carried, shown = corrected < level, p_text(self.p_value, corrected, level, num_tests, self.share)
        reason = f"{'' if carried else 'may be chance: '}{self.reason}, {shown}"
        return replace(self, outcome="carried" if carried else "inconclusive", corrected=corrected, reason=reason)


Finding = Verdict | Effect
# ("lead", measure), ("effect", pipeline, measure, kind) or ("contrast", first contender, second, measure)
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


class Leader:
    """Of several contenders one is better: by the primary measure."""

    def __init__(self, question: str, of_backbones: bool = False):
        self.question, self.of_backbones = question, of_backbones

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The lead on the primary measure."""
        return {"quality": next((key for key in findings if key[0] == "lead" and _is(key[1], primary)), None)}

    def state(self, finding: Finding | None) -> ClaimState:
        """Who leads, leads."""
        return "not tested" if finding is None else "leads" if finding.carried else "inconclusive"


class Cropping:
    """Cropping costs quality and composition: crops lose against the first other pipeline of a run, buckets where there are any.

    Quality is the primary measure, composition the first of `COMPOSITION` that was measured.
    """

    question = "Training on any size, aspect and duration: how much of the difference is the backbone, how much the data pipeline?"
    of_backbones = False

    def rests_on(self, findings: Mapping[Key, Finding], primary: str | None) -> dict[str, Key | None]:
        """The pipeline's effects in the first 2 x 2."""
        effects = [key for key in findings if key[0] == "effect" and key[3] == "pipeline"]
        first = [key for key in effects if key[1] == effects[0][1]]
        parts: dict[str, Key | None] = {"quality": next((key for key in first if _is(key[2], primary)), None)}
        if parts["quality"] is None:  # what decides was not measured: half a claim is none
            return parts
        where = next((key for name in COMPOSITION for key in first if _is(key[2], name)), None)
        return parts | ({"composition": where} if where else {})

    def state(self, finding: Finding | None) -> ClaimState:
        """Supported where crops lose, not supported where they win."""
        if finding is None:
            return "not tested"
        assert isinstance(finding, Effect)
        return "inconclusive" if not finding.carried else "not supported" if finding.favours == CROP.word else "supported"


CLAIMS: dict[str, Claim] = {
    "backbone": Leader(
        "Which backbone should a video diffusion model have, for this data, this budget and this machine?", of_backbones=True
    ),
    "shapes": Cropping(),
}
DEFAULT = Leader("How do the contenders compare on this data, this budget and this machine?")


def claim_of(name: str | None) -> Claim:
    """The rule of a matrix's claim; one that no table knows is judged by who leads."""
    return CLAIMS.get(str(name), DEFAULT)


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
    return decided, Conclusion(state=_state([part.state for part in parts]), parts=tuple(parts))


def _state(states: list[ClaimState]) -> ClaimState:
    """Of the whole, from its parts: carried ones count, and opposite ones split it."""
    carried = [state for state in dict.fromkeys(states) if state not in ("inconclusive", "not tested")]
    if len(carried) > 1:
        return "split"
    return carried[0] if carried else "inconclusive" if "inconclusive" in states else "not tested"


def _is(measure: str, name: str | None) -> bool:
    """Whether a measurement is the one that a matrix calls so, whatever its n."""
    return measure.partition("@")[0] == name
