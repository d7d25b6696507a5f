"""Seeds that are added until the verdict is carried: the level is spent once, the page judges as the run did, and time is not wasted."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.special import ndtr

from bench.perf.evidence import sequential as evidence
from bench.perf.evidence import sequential_page
from bench.perf.evidence.sequential import GrowingDesign, GrownTally, kept_promises, simulate
from bench.perf.evidence.verdicts import StudyDesign
from bench.records.record import Asked, Measurement
from bench.report.load import Run, load_run
from bench.report.verdicts import findings, spending
from bench.report.verdicts.claims import LEVELS, Effect
from bench.report.verdicts.sequential import FUTILE, look, look_at, look_for
from bench.report.verdicts.spending import share
from bench.report.verdicts.stats import MIN_SEEDS, Difference, judge, welch
from bench.study.looks import Looks
from tests.report_factory import PROTOCOL, record, study, write_run
from tests.test_verdict_rules import NOISE

LOOKS, LEVEL = Looks(), LEVELS["headline"]
NEVER = 100  # seeds that spend less than any look may


# --- what a look may spend


@pytest.mark.parametrize("looks", [LOOKS, Looks(first=5, most=9), Looks(first=3, most=30)])
def test_all_looks_together_spend_the_level_once(looks: Looks) -> None:
    """Counted on random walks: the chance that any look is beyond its boundary, and by the way, what is spent by each."""
    seeds = np.arange(looks.first, looks.most + 1)
    steps = np.random.default_rng(0).standard_normal((100_000, len(seeds))) * np.sqrt(np.diff([0, *seeds]))
    p_values = 2 * ndtr(-abs(steps.cumsum(1)) / np.sqrt(seeds))
    crossed = np.maximum.accumulate(p_values < LEVEL * np.array([share(looks, 0, n) for n in seeds]), axis=1).mean(0)
    assert crossed == pytest.approx(LEVEL * (seeds / looks.most) ** 2, abs=4 * np.sqrt(LEVEL / 100_000))


def test_one_look_may_spend_all() -> None:
    assert share(Looks(first=5, most=5), 0, 5) == pytest.approx(1)
    assert share(None, 0, 3) == 1
    assert share(LOOKS, 0, 2) == share(LOOKS, 0, 3) and share(LOOKS, 0, NEVER) == share(LOOKS, 0, 12)  # others than were asked for


def test_a_fixed_study_that_is_extended_spends_at_most_twice() -> None:
    assert sum(share(None, extensions, 5) for extensions in range(20)) <= 2
    assert share(LOOKS, 1, 7) == share(LOOKS, 0, 7) / 2


def test_looks_have_an_order() -> None:
    assert LOOKS.first == MIN_SEEDS
    with pytest.raises(ValidationError, match="looks end at 4 seeds, before the first at 5"):
        Looks(first=5, most=4)


# --- what the next look does


def of(mean: float, seeds: int, spread: float = 1.0) -> list[float]:
    """Values of this very mean and deviation."""
    raw = np.random.default_rng(seeds).standard_normal(seeds)
    return (mean + spread * (raw - raw.mean()) / raw.std(ddof=1)).tolist()


def next_of(values: dict[str, list[float]], **changes: Any) -> Any:
    return look(values, better="lower", looks=LOOKS, **changes)


def test_before_the_first_look_nothing_is_tested() -> None:
    found = next_of({"a": of(0, 2), "b": of(100, 3)})
    assert (found.state, found.more, found.chance, found.further_seeds) == ("go on", ("a",), None, None)
    assert look({"a": of(0, 4), "b": of(100, 4)}, better="lower", looks=Looks(first=5)).more == ("a", "b")


def test_it_stops_when_it_is_carried() -> None:
    found = next_of({"a": of(0, 5), "b": of(10, 5)})
    assert (found.state, found.more, found.reason) == ("carried", (), "a leads")
    assert look({"a": of(0, 5), "b": of(10, 5)}, better="higher", looks=LOOKS).reason == "b leads"


def test_a_beaten_rival_gets_no_more_seeds() -> None:
    found = next_of({"a": of(0, 5), "b": of(1.2, 5), "far": of(20, 5)})
    assert (found.state, found.more) == ("go on", ("a", "b"))
    again = next_of({"a": of(0, 8), "b": of(1, 8), "far": of(20, 5)})
    assert again.more == ("a", "b")
    assert next_of({"a": of(0, 8), "b": of(1, 8), "far": of(4, 5, spread=8.0)}).more == ("a", "b", "far")  # not beaten by these
    assert next_of({"a": of(0, 12), "b": of(1.2, 12), "late": of(2, 10, spread=3.0)}).more == ("late",)  # those that have all get none


def test_it_stops_where_it_is_futile() -> None:
    alike = next_of({"a": of(0, 7), "b": of(0.1, 7)})
    assert (alike.state, alike.more) == ("futile", ()) and alike.chance < FUTILE
    early = next_of({"a": of(0, 3), "b": of(0.1, 3)})
    assert early.state == "go on" and early.chance > FUTILE  # three seeds that look alike prove nothing


def test_it_stops_at_the_last_look() -> None:
    found = next_of({"a": of(0, 12), "b": of(0.7, 12)})
    assert (found.state, found.more) == ("at the last", ())


def test_a_seed_that_failed_ends_it() -> None:
    found = next_of({"a": of(0, 5), "b": of(10, 4)}, missing={"b": "seed 4 oom"})
    assert found.state == "stuck" and "b: seed 4 oom" in found.reason


def test_values_without_spread_tell_nothing_yet() -> None:
    assert next_of({"a": [1.0] * 3, "b": [2.0] * 3}).state == "go on"


def test_it_expects_to_need_what_it_needs_on_average() -> None:
    """Of walks that begin at one look, whose difference is any as likely as any other."""
    found, rng, taken = next_of({"a": of(0, 6), "b": of(1.2, 6)}), np.random.default_rng(3), []
    for _ in range(150):
        difference = 1.2 + rng.standard_normal() * np.sqrt(2 / 6)
        values = {"a": of(0, 6), "b": of(1.2, 6)}
        while next_of(values).more:
            values["a"].append(rng.standard_normal())
            values["b"].append(difference + rng.standard_normal())
        taken.append(len(values["a"]) - 6)
    assert found.further_seeds == pytest.approx(np.mean(taken), abs=0.5)


def test_the_page_carries_what_the_run_stopped_for() -> None:
    rng, seen = np.random.default_rng(1), set()
    for seeds in (3, 5, 8, 12):
        for shift in (0.5, 1.5, 3.0):
            values = {name: (shift * place + rng.standard_normal(seeds)).tolist() for place, name in enumerate("ab")}
            verdict = judge(values, better="lower", share=lambda n: share(LOOKS, 0, n))
            assert verdict.p_value is not None
            carried = verdict.settled(min(1.0, verdict.p_value / verdict.share), LEVEL, 1).carried
            assert (next_of(values).state == "carried") == carried
            seen.add(carried)
    assert seen == {True, False}


def test_the_weakest_rival_is_the_one_that_its_own_looks_let_pass_least() -> None:
    """A rival of three seeds at p = 0.004 is not beaten; one of twelve at 0.009 is."""
    values = {"a": of(0, 12), "b": of(1.17, 12), "few": of(4.7, 3)}
    few, many = (welch(values["a"], values[name]).p_value for name in ("few", "b"))
    assert few is not None and many is not None and few < many < LEVEL * share(LOOKS, 0, 12)
    assert few > LEVEL * share(LOOKS, 0, 3)
    verdict = judge(values, better="lower", share=lambda n: share(LOOKS, 0, n))
    assert verdict.p_value == few and verdict.reason == "3 to 12 seeds, against few"
    assert judge(values, better="lower").p_value == many


def an_effect(p_value: float, seeds: int = 5) -> Effect:
    difference = Difference(value=-1.0, low=None, high=None, p_value=p_value)
    by_seed = tuple((seed, 0.0) for seed in range(seeds))
    return Effect(kind="pipeline", by_seed=by_seed, difference=difference, outcome="open", reason="5 seeds", favours="buckets")


def test_a_claim_of_two_parts_goes_on_while_one_may_be_carried() -> None:
    counts = dict.fromkeys("abcd", 5)
    assert look_for([an_effect(1e-6), an_effect(0.2)], counts, LOOKS).more == ("a", "b", "c", "d")
    nine = dict.fromkeys("abcd", 9)
    assert look_for([an_effect(1e-6, 9), an_effect(0.9, 9)], nine, LOOKS).state == "carried"
    assert look_for([an_effect(0.8, 9), an_effect(0.9, 9)], nine, LOOKS).state == "futile"
    assert look_for([an_effect(1e-6, 4), an_effect(1e-6)], counts, LOOKS).state == "stuck"
    assert look_for([an_effect(0.0020)], counts, LOOKS).state == "carried"
    assert look_for([an_effect(0.0020), an_effect(0.0020)], counts, LOOKS).state == "go on"  # each has half the level


# --- records and pages


def grown(path: Path, seeds: int, asked_of: dict[int, Looks | None], looks: Looks | None = None) -> Run:
    """A run of two contenders, 2.7 deviations apart, of seeds that were asked for one after the other.

    `asked_of`: seeds of each -> looks of the run that asked for so many.
    """
    values = {"dit:DiT-XS/2": of(10.0, seeds), "baselines:UNet-XS": of(12.7, seeds)}
    block = {"unit": "1", "better": "lower", "protocol": PROTOCOL}
    made = {
        (name, seed): record(name, seed, measurements=[Measurement.model_validate({"name": "fd_random3d@64", "value": value, **block})])
        for name, series in values.items()
        for seed, value in enumerate(series)
    }
    before, told = 0, []
    for there, asked_looks in asked_of.items():
        cells = tuple(f"{each.name}-{each.fingerprint[:8]}" for (_, seed), each in made.items() if seed < there)
        asked = Asked(claim="backbone", primary="fd_random3d", cells=cells, until_decided=asked_looks)
        told += [each.model_copy(update={"asked": asked}) for (_, seed), each in made.items() if before <= seed < there]
        before = there
    return load_run(write_run(path, sorted(told, key=lambda each: each.cell.backbone), until_decided=looks, sheets=False))


def leads(run: Run) -> tuple[bool, str]:
    part = findings.find(run).conclusion.parts[0]
    assert part.finding is not None
    return part.finding.carried, part.finding.reason


def test_a_page_holds_a_run_that_looked_at_what_its_looks_may_spend(tmp_path: Path) -> None:
    fixed = grown(tmp_path / "fixed", 5, {5: None})
    assert leads(fixed) == (True, "5 seeds each, p = 0.003, below 0.025") and not fixed.changed
    looked = grown(tmp_path / "looked", 5, {3: LOOKS, 4: LOOKS, 5: LOOKS}, LOOKS)
    assert leads(looked) == (False, "may be chance: 5 seeds each, p = 0.003, over all looks 0.026, not below 0.025")
    assert not looked.changed and not looked.extensions  # by rule
    found = look_at(looked, findings.find(looked))
    assert (found.state, found.more) == ("go on", ("DiT-XS/2", "UNet-XS")) and found.further_seeds is not None
    assert leads(grown(tmp_path / "more", 6, {5: LOOKS, 6: LOOKS}, LOOKS))[0]


def test_looks_are_not_forgotten_by_asking_for_fixed_seeds(tmp_path: Path) -> None:
    run = grown(tmp_path, 5, {3: LOOKS, 5: LOOKS})
    assert run.until_decided is None and run.looks == LOOKS and not leads(run)[0]
    assert not run.changed


def test_fixed_seeds_that_grow_are_told_and_held_at_half_the_level(tmp_path: Path) -> None:
    run = grown(tmp_path / "by hand", 5, {3: None, 5: None})
    assert run.extensions == 1 and run.changed == "cells changed after others had finished (4 added)"
    assert leads(run)[1] == "5 seeds each, p = 0.003, over all looks 0.005, below 0.025"
    assert grown(tmp_path / "twice", 6, {3: None, 5: None, 6: None}).extensions == 2
    assert grown(tmp_path / "too few to claim", 5, {1: None, 2: None, 5: None}).extensions == 0
    others = grown(tmp_path / "other looks", 5, {3: Looks(most=4), 4: Looks(most=4), 5: LOOKS}, LOOKS)
    assert others.extensions == 1 and "added" in others.changed
    then = grown(tmp_path / "then looks", 5, {3: None, 5: LOOKS}, LOOKS)
    assert then.extensions == 1 and "4 added" in then.changed
    assert "over all looks 0.053" in leads(then)[1]


def test_a_contender_that_came_later_is_told(tmp_path: Path) -> None:
    """Looks add seeds, and no rivals."""
    run = grown(tmp_path, 3, {3: LOOKS}, LOOKS)
    first = [cell.record for cell in run.cells if cell.record and cell.contender == "DiT-XS/2"]
    asked = Asked(cells=tuple(cell.path.name for cell in run.of("DiT-XS/2")), until_decided=LOOKS)
    others = [cell.record for cell in run.of("UNet-XS") if cell.record]
    folder = write_run(
        tmp_path / "b", [each.model_copy(update={"asked": asked}) for each in first] + others, until_decided=LOOKS, sheets=False
    )
    assert load_run(folder).changed == "cells changed after others had finished (3 added)"


def test_a_claim_of_effects_is_looked_at_too(tmp_path: Path) -> None:
    cells = {
        (name, policy): of(10.0 + 0.8 * (policy == "crop"), 3)
        for name in ("baselines:UNet-XS", "dit:DiT-XS/2")
        for policy in ("crop", "bucket")
    }
    run = load_run(write_run(tmp_path, study(cells), claim="shapes", until_decided=LOOKS, sheets=False))
    found = findings.find(run)
    assert found.conclusion.parts[0].finding is not None and found.conclusion.parts[0].finding.share == share(LOOKS, 0, 3)
    assert look_at(run, found).more == run.contenders


def test_what_was_not_measured_is_not_waited_for(tmp_path: Path) -> None:
    run = grown(tmp_path, 3, {3: LOOKS}, LOOKS)
    other = run.model_copy(update={"primary": "kvd"})
    found = look_at(other, findings.find(other))
    assert (found.state, found.more, found.reason) == ("stuck", (), "kvd was not measured")


# --- by simulation


def counted(growth: Any, studies: int, **design: Any) -> GrownTally:
    design = {"claim": "backbone", "contenders": 2, "seeds": 3, "law": "normal"} | design
    growing = GrowingDesign(design=StudyDesign(**design), growth=growth)
    return simulate(growing, np.random.default_rng(1), noise=NOISE, primary="fd_motion", studies=studies)


@pytest.mark.parametrize(
    ("growth", "design"),
    [
        ("until decided", {}),
        ("until decided", {"contenders": 3, "shift": -2.5}),
        ("fixed, then until decided", {}),
        ("fixed, then as told", {}),
    ],
)
def test_equal_contenders_are_rarely_told_apart(growth: str, design: dict[str, Any]) -> None:
    found = counted(growth, 200, **design)
    assert found.page / 200 < 0.08 and found.headline / 200 < 0.05  # what is promised and two standard errors
    assert found.seeds / 200 < 9  # futile ones are stopped


def test_a_difference_is_found_and_quickly_where_it_is_large() -> None:
    smaller, large = (counted("until decided", studies, shift=shift) for studies, shift in ((150, 1.5), (50, 4.0)))
    assert smaller.right / 150 > 0.73 and smaller.headline == smaller.right  # 80 % less two standard errors
    assert large.right == 50 and large.seeds / 50 < 5.5


def test_looks_at_the_level_of_one_test_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation sees the fault that the boundary is there for."""
    monkeypatch.setattr(spending, "share", lambda *_: 1.0)
    monkeypatch.setattr("bench.report.verdicts.sequential.share", lambda *_: 1.0)
    assert counted("until decided", 200).headline / 200 >= 0.05


def test_promises_are_counted() -> None:
    lines = pd.DataFrame(kept_promises(5, 60, np.random.default_rng(2)))
    assert set(lines["said"]) == set(evidence.SAID)
    promised = lines[lines["said"].isin(("probably", "may"))]
    assert (promised["held"] * promised["studies"]).sum() / promised["studies"].sum() > 0.55
    assert not lines.query("shift == 0")["held"].max() > 0.3


def test_the_page_of_the_simulation_says_whether_promises_are_kept() -> None:
    base = {"claim": "backbone", "contenders": 2, "law": "normal", "rivals": 0.0, "spread": sequential_page.SPREAD, "seeds": 6.0}
    said = [
        {"growth": "fixed", "first": 5, "shift": 0.0, "headline": 0.02, "right": 0.01, "page": 0.06},
        {"growth": "until decided", "first": 3, "shift": 0.0, "headline": 0.03, "right": 0.01, "page": 0.04},
        {"growth": "fixed, then as told", "first": 3, "shift": 0.0, "headline": 0.03, "right": 0.01, "page": 0.03},
        {"growth": "until decided", "first": 3, "shift": -2.5, "headline": 0.01, "right": 0.0, "page": 0.03},
        {"growth": "fixed", "first": 5, "shift": 2.5, "headline": 0.9, "right": 0.88, "page": 0.9},
        {"growth": "until decided", "first": 3, "shift": 1.5, "headline": 0.8, "right": 0.79, "page": 0.8},
    ]
    rows = pd.DataFrame([base | each for each in said])
    promises = pd.DataFrame(
        [
            {"seeds": 3, "shift": 0.0, "said": "may", "studies": 10, "more": 4.0, "chance": 0.5, "held": 0.1},
            {"seeds": 3, "shift": 0.5, "said": "may", "studies": 30, "more": 8.0, "chance": 0.5, "held": 0.5},
        ]
    )
    page = sequential_page.to_markdown(rows, promises, 2000)
    assert "at most 2.0% and 6.0% | **no** |" in page and "at most 3.0% and 4.0% | yes |" in page
    assert "at least 88.0% | yes |" in page and "at least 79.0% | **no** |" in page and "at most 1.0% | yes |" in page
    assert "| 3 | all of these | 0 % |  | 100 % | 40 % | 0 % |  | 0 % |  | 7.0 |" in page
    assert sequential_page.picture(rows).startswith("<?xml")


def test_without_noise_nothing_is_simulated(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: no seed noise in"):
        evidence.command(tmp_path)
