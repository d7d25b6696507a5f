"""Size and evidence: what few pairs of a known spread must lead to."""

import math

import numpy as np
import pytest

from bench.perf.gate.judge import PRIOR_SPREAD, alpha_of_a_look, judge_groups, judge_pairs, usual_spread

ALPHA = alpha_of_a_look(0.01, 11, 9)


def outcomes(ratio: float, spread: float, num: int, trials: int = 400, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    pairs = generator.normal(math.log(ratio), spread, (trials, num))
    return [judge_pairs(values.tolist(), detect=0.05, alpha=ALPHA).outcome for values in pairs]


def test_by_hand() -> None:
    estimate = judge_pairs([math.log(1.08)] * 4, detect=0.05, alpha=ALPHA)
    assert (estimate.outcome, estimate.num_pairs) == ("regressed", 4)
    assert estimate.ratio == pytest.approx(1.08)
    assert estimate.low < 1.08 < estimate.high
    assert judge_pairs([0.0] * 4, detect=0.05, alpha=ALPHA).outcome == "unchanged"
    assert judge_pairs([-math.log(1.08)] * 4, detect=0.05, alpha=ALPHA).outcome == "improved"


def test_size_without_evidence_is_not_called() -> None:
    assert judge_pairs([0.2, -0.1, 0.15, 0.0], detect=0.05, alpha=ALPHA).outcome == "inconclusive"


def test_evidence_without_size_passes() -> None:
    """A slow-down of 1 % that is surely there is below what the policy asks for."""
    estimate = judge_pairs([0.0100, 0.0101, 0.0099, 0.0100] * 3, detect=0.05, alpha=ALPHA)
    assert estimate.outcome == "unchanged"
    assert estimate.low > 1


def test_a_few_equal_pairs_do_not_pretend_to_certainty() -> None:
    """Pairs that happen to agree say little of the spread: the usual one stands in."""
    assert judge_pairs([math.log(1.03)] * 2, detect=0.05, alpha=ALPHA).outcome == "inconclusive"


def test_what_is_usual_is_what_the_suite_shows_where_it_is_noisier() -> None:
    calm, wild = [0.001, -0.001, 0.0], [0.1, -0.1, 0.0]
    assert usual_spread([calm, calm, wild]) == PRIOR_SPREAD
    assert usual_spread([calm, wild, wild]) == pytest.approx(0.1)
    assert usual_spread([wild]) == pytest.approx(0.1)
    four = [0.05, 0.06, 0.04, 0.05]
    assert judge_pairs(four, detect=0.05, alpha=ALPHA).outcome == "regressed"
    assert judge_pairs(four, detect=0.05, alpha=ALPHA, usual=0.1).outcome == "inconclusive"


def test_false_alarms_are_rare_and_slow_downs_are_caught() -> None:
    assert outcomes(1.0, 0.012, 8).count("regressed") == 0
    assert outcomes(1.05, 0.012, 8).count("regressed") >= 0.9 * 400
    assert outcomes(1.10, 0.012, 4).count("regressed") >= 0.99 * 400
    assert outcomes(1.05, 0.012, 8).count("unchanged") <= 0.02 * 400


@pytest.mark.parametrize("detect", [0.05, 0.2])
def test_a_larger_slow_down_is_never_judged_milder(detect: float) -> None:
    order = ["improved", "unchanged", "inconclusive", "regressed"]
    noise = [0.004, -0.006, 0.002, 0.0]
    found = [judge_pairs([shift + value for value in noise], detect=detect, alpha=ALPHA).outcome for shift in np.linspace(-0.3, 0.3, 121)]
    places = [order.index(outcome) for outcome in found]
    below = [place for shift, place in zip(np.linspace(-0.3, 0.3, 121), places, strict=True) if shift >= 0]
    assert below == sorted(below)
    assert {found[0], found[60], found[-1]} == {"improved", "unchanged", "regressed"}


def test_processes_that_ran_alone() -> None:
    base = [0.100, 0.104, 0.098, 0.101, 0.103, 0.099]
    assert judge_groups(base, [1.5 * s for s in base], detect=0.25, alpha=0.001).outcome == "regressed"
    assert judge_groups(base, base[::-1], detect=0.25, alpha=0.001).outcome == "unchanged"
    assert judge_groups(base, [s / 1.5 for s in base], detect=0.25, alpha=0.001).outcome == "improved"
    assert judge_groups([0.1, 0.2, 0.1], [0.2, 0.1, 0.3], detect=0.25, alpha=0.001).outcome == "inconclusive"
