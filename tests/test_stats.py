"""Intervals that cover, and verdicts that claim nothing the seeds do not carry."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bench.report.verdicts.seed_noise import SEED_DEVIATION
from bench.report.verdicts.stats import Verdict, contrast, distance_caveats, holm, is_large, judge, mean_interval, welch

RECORDED = Path(__file__).parents[1] / "reports/calibration/seeds.csv"


def alone(verdict: Verdict) -> Verdict:
    """An open verdict, decided as the only test at 5 %."""
    return verdict if verdict.outcome != "open" else verdict.settled(verdict.p_value or 0.0, 0.05, 1)


def test_interval_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.high == pytest.approx(2 + 4.302653 / 3**0.5)  # t(2) at 97.5 %, s = 1
    assert interval.low == pytest.approx(2 - 4.302653 / 3**0.5)


def test_one_seed_has_no_interval() -> None:
    interval = mean_interval([5.0])
    assert (interval.mean, interval.low, interval.high) == (5.0, None, None)


def test_interval_covers_the_truth() -> None:
    draws = np.random.default_rng(0).normal(7.0, 2.0, (2000, 3))
    covered = sum(i.low < 7.0 < i.high for i in map(mean_interval, draws.tolist()) if i.low is not None and i.high is not None)
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_welch_agrees_with_scipy() -> None:
    first, second = [3.0, 3.4, 2.9], [4.1, 5.2, 3.9, 4.4]
    difference = welch(first, second)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_one_seed_is_inconclusive_however_large_the_gap() -> None:
    verdict = judge({"a": [1.0], "b": [1000.0]}, better="lower")
    assert verdict.outcome == "inconclusive"
    assert verdict.leader == "a"
    assert not verdict.carried
    assert "at least 3" in verdict.reason


@pytest.mark.parametrize(("better", "leader"), [("lower", "a"), ("higher", "b")])
def test_three_separated_seeds_lead(better: str, leader: str) -> None:
    verdict = alone(judge({"a": [10.0, 10.2, 9.9], "b": [20.0, 20.4, 19.8]}, better=better))  # type: ignore[arg-type]
    assert (verdict.outcome, verdict.leader) == ("leads", leader)
    assert verdict.difference is not None
    assert verdict.difference.value == pytest.approx(10.0333333 * (1 if better == "higher" else -1))


def test_three_overlapping_seeds_are_inconclusive() -> None:
    verdict = alone(judge({"a": [10.0, 14.0, 12.0], "b": [11.0, 15.0, 13.0]}, better="lower"))
    assert verdict.outcome == "inconclusive"
    assert "may be chance" in verdict.reason


def test_exact_counts_lead_without_seeds() -> None:
    verdict = judge({"a": [100.0], "b": [101.0]}, better="lower", exact=True)
    assert (verdict.outcome, verdict.leader) == ("exact", "a")
    assert judge({"a": [100.0], "b": [100.0]}, better="lower", exact=True).outcome == "tie"


def test_equal_means_are_a_tie() -> None:
    assert judge({"a": [0.0], "b": [0.0]}, better="higher").outcome == "tie"


def test_an_exact_count_that_varies_falls_back_to_seeds() -> None:
    assert judge({"a": [100.0, 101.0], "b": [200.0, 200.0]}, better="lower", exact=True).outcome == "inconclusive"


def test_failed_seeds_forbid_a_claim_but_not_a_count() -> None:
    values = {"a": [10.0, 10.2, 9.9], "b": [20.0, 20.4, 19.8]}
    verdict = judge(values, better="lower", missing={"b": "seed 3 diverged"})
    assert verdict.outcome == "inconclusive"
    assert "seed 3 diverged" in verdict.reason
    assert judge({"a": [1.0], "b": [2.0]}, better="lower", exact=True, missing={"b": "seed 1 oom"}).outcome == "exact"


def test_no_spread_is_no_evidence() -> None:
    assert judge({"a": [1.0] * 3, "b": [0.9] * 3}, better="higher").outcome == "inconclusive"


def test_the_rival_that_is_beaten_least_surely_decides() -> None:
    values = {"a": [10.0, 10.2, 9.9], "b": [10.5, 10.7, 10.6]}
    far = {"c": [20.0, 20.1, 20.3], "d": [30.0, 30.1, 30.3]}
    assert judge({**values, **far}, better="lower").p_value == judge(values, better="lower").p_value == welch(*values.values()).p_value


def test_more_contenders_are_not_more_chances() -> None:
    """To lead is to beat every other: of equal contenders none does so more often than one of two."""
    rng = np.random.default_rng(1)
    for contenders in (2, 3, 6):
        draws = [{str(c): rng.normal(size=4).tolist() for c in range(contenders)} for _ in range(1000)]
        assert sum(alone(judge(values, better="lower")).carried for values in draws) / 1000 < 0.06


def test_holm_keeps_a_family_below_its_level() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.2, 0.9, 0.9]) == pytest.approx([0.6, 1.0, 1.0])
    rng = np.random.default_rng(2)
    assert sum(min(holm(rng.random(20).tolist())) < 0.05 for _ in range(2000)) / 2000 < 0.06


@pytest.mark.parametrize("scale", [2.0**300, 2.0**-300])
def test_numbers_of_any_size_are_tested_alike(scale: float) -> None:
    """The fourth power of their errors is no double."""
    first, second = [10.0, 12.0, 15.0], [20.0, 21.0, 24.0]
    plain = welch(first, second)
    scaled = welch([scale * value for value in first], [scale * value for value in second])
    assert scaled.p_value == plain.p_value and scaled.value == scale * plain.value and plain.p_value is not None


def test_a_contrast_of_four_groups_is_welchs_test_of_two() -> None:
    first, second = [3.0, 3.4, 2.9], [4.1, 5.2, 3.9, 4.4]
    assert contrast((first, second), (1, -1)) == welch(first, second)
    assert contrast((first, first, second, second), (0.5, 0.5, -0.5, -0.5)).value == pytest.approx(welch(first, second).value)
    assert contrast(([1.0], first), (1, -1)).p_value is None and contrast(([1.0, 1.0], [2.0, 2.0]), (1, -1)).p_value is None


def test_a_lead_holds_against_every_rival() -> None:
    values = {"a": [10.0, 10.1, 9.9], "near": [11.0, 11.1, 10.9], "noisy": [11.5, 25.0, 9.5]}
    verdict = alone(judge(values, better="lower"))
    assert verdict.outcome == "inconclusive"
    assert "noisy" in verdict.reason


@pytest.mark.parametrize("values", [{}, {"a": [1.0]}, {"a": [1.0], "b": []}])
def test_nothing_to_compare(values: dict[str, list[float]]) -> None:
    verdict: Verdict = judge(values, better="lower", missing={"b": "seed 0 oom"})
    assert verdict.outcome == "not compared"
    assert "oom" in verdict.reason


def test_false_claims_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(0)
    draws = [alone(judge({"a": rng.normal(size=3).tolist(), "b": rng.normal(size=3).tolist()}, better="lower")) for _ in range(1000)]
    assert sum(verdict.outcome == "leads" for verdict in draws) / 1000 < 0.06


def test_caveats_of_a_distance() -> None:
    assert distance_caveats(100.0, 2.0, None) == []
    assert "below what a headline needs" in distance_caveats(100.0, 2.0, 64)[0]
    assert "2.0 floors" in distance_caveats(4.0, 2.0, None)[0]
    assert "no real-against-real floor" in distance_caveats(4.0, None, None)[0]


# --- words


def word(first: list[float], second: list[float], deviation: float | None = 0.1) -> str:
    return alone(judge({"a": first, "b": second}, better="lower", deviation=deviation)).word


def test_inconclusive_is_not_one_word_for_all() -> None:
    assert word([10.0, 10.2, 9.9], [20.0, 20.4, 19.8]) == "carried"
    assert word([10.0, 14.0, 12.0], [11.0, 15.0, 13.0]) == "not told apart"
    assert word([10.0], [20.0]) == "large, but one run"
    assert word([10.0], [11.0]) == "one run"
    assert word([10.0, 10.1], [11.0, 11.1]) == "two runs"
    assert word([10.0], [20.0], deviation=None) == "one run"  # nothing tells what is large
    assert word([0.0], [20.0]) == "one run"  # no ratio
    assert judge({"a": [1.0], "b": [2.0]}, better="lower", exact=True).word == "exact"
    assert judge({"a": [1.0], "b": [1.0]}, better="lower").word == "tie"
    assert judge({"a": [1.0], "b": [2.0]}, better="lower", missing={"b": "seed 1 oom"}).word == "not told apart"


def test_large_is_beyond_three_standard_errors_of_the_ratio() -> None:
    edge = float(np.exp(3 * 0.1 * 2**0.5))
    assert is_large([edge * 1.001], [1.0], 0.1) and not is_large([edge * 0.999], [1.0], 0.1)
    assert is_large([1.0], [edge * 1.001], 0.1)
    assert is_large([edge * 0.999] * 2, [1.0] * 2, 0.1)  # two seeds each drift less


def recorded_logs() -> dict[str, list[np.ndarray]]:
    """Measure -> the logarithms of each contender's seeds."""
    table = pd.read_csv(RECORDED)
    table = table[table["value"] > 0]
    found: dict[str, list[np.ndarray]] = {}
    for (_, _, name), own in table.groupby(["study", "contender", "name"]):
        found.setdefault(str(name), []).append(np.log(own["value"].to_numpy()))
    return found


def test_what_seeds_drift_is_what_studies_recorded() -> None:
    logs = recorded_logs()
    assert set(logs) == set(SEED_DEVIATION)
    for name, groups in logs.items():
        pooled = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in groups) / sum(len(own) - 1 for own in groups))
        assert SEED_DEVIATION[name] == pytest.approx(pooled, rel=0.2), f"{name}: write {pooled:.2g} into seed_noise.py"


def test_two_seeds_of_one_contender_are_hardly_ever_called_large() -> None:
    called = []
    for name, groups in recorded_logs().items():
        for first, second in (pair for own in groups for pair in itertools.combinations(np.exp(own).tolist(), 2)):
            called.append(is_large([first], [second], SEED_DEVIATION[name]))
    assert len(called) > 500 and np.mean(called) < 0.02
