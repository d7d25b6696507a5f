"""The claim `next-patch`: judged by its own contrast alone, either way, and rarely wrong where contenders are equal."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.perf.evidence import sequential, verdicts
from bench.perf.evidence.seed_noise import SeedNoise
from bench.perf.evidence.sequential import GrowingDesign
from bench.perf.evidence.verdicts import StudyDesign, Tally, findings_of, simulate, studies_of
from bench.report.verdicts import answer, claims, findings
from bench.report.verdicts.claim_table import CLAIMS, claim_of
from bench.report.verdicts.claims import settle
from bench.report.verdicts.named import compared, key_of
from bench.report.verdicts.stats import Verdict
from bench.study.contrasts import NEXT_PATCH
from tests.five import ALL, CONTRASTS, CONV, DIT, EQUAL, FRAME, PATCH, run_of, series

COMMITTED = Path(__file__).parents[1] / "reports/calibration" / verdicts.NOISE
NOISE = SeedNoise.of(pd.read_csv(COMMITTED))


def opened(title: str, leader: str, p_value: float) -> tuple[claims.Key, Verdict]:
    """A contrast of `a`, which the sentence is about, against `b`."""
    verdict = Verdict(outcome="open", reason="5 seeds each", leader=leader, rival="b" if leader == "a" else "a", p_value=p_value)
    return key_of(title, "fd_motion@96", {}), compared(title, ("a", "b"), verdict)


@pytest.mark.parametrize(
    ("leader", "p_value", "other", "state"),
    [
        ("a", 0.001, 0.5, "supported"),
        ("b", 0.001, 0.5, "not supported"),
        ("a", 0.5, 1e-9, "inconclusive"),  # the other is carried, and turns nothing
        ("a", 0.02, 0.5, "inconclusive"),  # carried alone: the two share a level
        ("a", 0.02, 1e-9, "supported"),  # what is carried leaves its part (Holm)
    ],
)
def test_its_own_contrast_decides(leader: str, p_value: float, other: float, state: str) -> None:
    found: dict[claims.Key, claims.Finding] = dict([opened(NEXT_PATCH, leader, p_value), opened("convolution or attention", "b", other)])
    decided, conclusion = settle(claim_of("next-patch", True), found, "fd_motion")
    assert conclusion.state == state and conclusion.carried == (state in ("supported", "not supported"))
    assert [part.state for part in conclusion.parts] == [state, "leads" if other < 1e-6 else "inconclusive"]
    assert all(isinstance(each, type(found[key])) for key, each in decided.items())  # a settled one still knows its sides


def test_without_its_contrast_it_is_not_tested() -> None:
    found: dict[claims.Key, claims.Finding] = dict([opened("next frame", "a", 1e-6)])
    for given in (found, {}):
        _, conclusion = settle(CLAIMS["next-patch"], given, "fd_motion")
        assert (conclusion.state, conclusion.carried) == ("not tested", False)
    _, conclusion = settle(CLAIMS["next-patch"], dict([opened(NEXT_PATCH, "a", 1e-6)]), "fvd")
    assert conclusion.state == "not tested"  # by another measure than the one that decides


def test_contrasts_under_another_budget_are_no_part_of_it() -> None:
    _, verdict = opened(NEXT_PATCH, "a", 1e-6)
    found: dict[claims.Key, claims.Finding] = {key_of(NEXT_PATCH, "fd_motion@96", {"budget.samples": 2400}): verdict}
    _, conclusion = settle(CLAIMS["next-patch"], found, "fd_motion")
    assert conclusion.state == "not tested"


@pytest.mark.parametrize(
    ("changes", "said", "mark"),
    [
        ({PATCH: 30.0}, "Predicting the next patch makes better clips: AR-patch is better than DiT, 30.1 [29.1", "decided"),
        ({PATCH: 60.0}, "Predicting the next patch makes worse clips: DiT is better than AR-patch, 40.0 [38.6", "decided"),
        (
            {CONV: 20.0, FRAME: 20.0},
            "Whether predicting the next patch makes better clips is open: five seeds cannot tell DiT from AR-pa",
            "open",
        ),
    ],
)
def test_what_the_page_answers(tmp_path: Path, changes: dict[str, float], said: str, mark: str) -> None:
    run = run_of(tmp_path, {name: series(mean, 5) for name, mean in (EQUAL | changes).items()})
    made = answer.answer(run, findings.find(run))
    assert made.question.startswith("Does predicting the next patch make better clips")
    assert made.sentences[0].startswith(said) and made.mark == mark
    assert "Convolution or attention: " in made.sentences[1] and "Next frame: " in made.sentences[1]


# --- by simulation


def counted(seeds: int, studies: int, **changes: float) -> Tally:
    design = StudyDesign(claim="next-patch", contenders=5, seeds=seeds, law="normal", **changes)  # type: ignore[arg-type]
    return simulate(design, np.random.default_rng(1), noise=NOISE, primary="fd_motion", studies=studies)


def test_equal_contenders_are_rarely_told_apart() -> None:
    found = counted(3, 300)
    assert found.page / 300 < 0.075  # 5 % and two of its standard errors
    assert found.headline <= found.page


def test_true_differences_are_found() -> None:
    found = counted(8, 100, shift=2.5)
    assert found.right / 100 > 0.85 and found.headline == found.right


def test_an_uncorrected_page_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation sees the fault that it is there for."""
    kept = counted(5, 300).page
    monkeypatch.setattr(claims, "holm", list)
    assert counted(5, 300).page / 300 > 0.05 and counted(5, 300).page > 2 * kept


def test_looks_keep_the_level_and_spare_seeds() -> None:
    def grown(studies: int, **changes: float) -> sequential.GrownTally:
        design = StudyDesign(claim="next-patch", contenders=5, seeds=3, law="normal", **changes)  # type: ignore[arg-type]
        growing = GrowingDesign(design=design, growth="until decided")
        return sequential.simulate(growing, np.random.default_rng(1), noise=NOISE, primary="fd_motion", studies=studies)

    equal, apart = grown(100), grown(50, shift=2.5)
    assert equal.page / 100 < 0.10 and equal.seeds / 100 < 8
    assert apart.right / 50 > 0.8 and apart.seeds / 50 < 9


def test_the_page_says_what_the_simulation_counts(tmp_path: Path) -> None:
    """The same values through records, report and rules, and through the rules alone."""
    design = StudyDesign(claim="next-patch", contenders=5, seeds=3, law="normal", shift=4.0)
    names = dict(zip(design.contender_names(), (PATCH, DIT, FRAME, CONV, ALL[0]), strict=True))
    for k, values in enumerate(studies_of(design, NOISE, "fd_motion", 4, np.random.default_rng(4))):
        own = {names[name]: series for name, series in values["fd_motion"].items()}
        page = findings.find(run_of(tmp_path / str(k), own))
        alone = findings_of("next-patch", {"fd_motion": values["fd_motion"]}, {"fd_motion": "lower"}, list(names), "fd_motion")
        decided, conclusion = settle(claim_of("next-patch"), alone, "fd_motion")
        assert page.conclusion.state == conclusion.state
        assert [each.verdict.p_value for each in page.named] == pytest.approx(
            [decided[key_of(t, "fd_motion", {})].p_value for t in CONTRASTS]
        )
