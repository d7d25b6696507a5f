"""The law of scaling: it is found again from losses that it made, its intervals widen with noise, and claims rest on what is sure."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bench.perf.evidence.scaling import FAMILIES, HELD_OUT, ScalingDesign, drawn, kind_of, one_study
from bench.report.scaling.foresight import HeldOutLoss, predict, study_law
from bench.report.scaling.frontier import ClipCost, best_at, gains, loss_exponent, size_exponent
from bench.report.scaling.interval import LawEstimate, fitted
from bench.report.scaling.isoflop import minima
from bench.report.scaling.law import Law, Losses, fit, huber_weights
from bench.report.scaling.points import LawPoint, LawPoints
from bench.report.scaling.rule import CARRIED, HeldOutcome, steeper, trend
from bench.shapes import Refusal

EXACT = ScalingDesign(name="exact", noise=1e-6, size_exponent=(0.25, 0.5), data_exponent=(0.7, 0.35), size=(0.1, 0.2), data=(0.2, 0.1))


def points_of(design: ScalingDesign, seed: int = 0) -> LawPoints:
    return drawn(design, np.random.default_rng(seed))


def test_the_law_that_made_the_losses_is_found() -> None:
    law = fit(points_of(EXACT).losses)
    assert law.floor == pytest.approx(0.25, abs=2e-3)
    for found, true in ((law.size_exponent, (0.25, 0.5)), (law.data_exponent, (0.7, 0.35))):
        assert list(found) == pytest.approx(true, rel=0.01)
    losses = points_of(replace(EXACT, noise=0.0)).losses
    assert law.loss(losses.backbone, losses.params, losses.clips) == pytest.approx(losses.loss, rel=1e-4)
    assert law.spread < 1e-5


def test_the_floor_is_shared_and_never_negative() -> None:
    design = replace(EXACT, floor=0.0)
    losses = points_of(replace(design, noise=0.03), 3).losses
    assert fit(losses).floor >= 0
    below = [fit(points_of(replace(design, noise=0.03), seed).losses, signed=True).floor for seed in range(6)]
    assert min(below) < 0 and min(below) >= -losses.loss.min() * 1.1


def test_a_run_that_went_astray_does_not_bend_the_law() -> None:
    losses = points_of(replace(EXACT, noise=0.005)).losses
    loss = losses.loss.copy()
    loss[losses.run == 3] *= 1.3
    astray = fit(Losses(**{**vars(losses), "loss": loss}))
    plain = fit(losses)
    assert list(astray.size_exponent) == pytest.approx(list(plain.size_exponent), rel=0.35)
    assert huber_weights(np.array([0.01, -0.01, 0.012, 0.5]), 3)[3] < 0.15
    assert list(huber_weights(np.array([0.01, -0.01, 0.012, 0.5]), 3)[:3]) == [1, 1, 1]


def test_runs_are_left_out_whole() -> None:
    """The same losses as four independent runs each: what their budgets share then looks like knowledge, and errors shrink."""
    points = points_of(ScalingDesign(name="", noise=0.02, shared=0.95))
    alone = tuple(replace(point, folder=f"{point.folder} {point.clips}") for point in points.fitted)
    together, apart = study_law(points), study_law(replace(points, fitted=alone))
    assert together.fitted.law.floor == apart.fitted.law.floor
    assert together.estimate(FAMILIES[0], "size gain").error > 1.2 * apart.estimate(FAMILIES[0], "size gain").error
    assert together.estimate(FAMILIES[0], "size").freedom == 16 - 5
    assert apart.estimate(FAMILIES[0], "size").freedom == 64 - 5


def test_an_interval_by_hand() -> None:
    found = LawEstimate(value=1.0, error=0.3, freedom=7)
    low, high = found.interval(0.95)
    assert (1 - low, high - 1) == pytest.approx((2.364624 * 0.3,) * 2, rel=1e-5)
    wide = found.interval(0.95, 0.4)
    assert wide[1] - 1 == pytest.approx(2.364624 * 0.5, rel=1e-5)


def test_errors_grow_with_noise_and_do_not_stand_still_at_a_floor_of_nothing() -> None:
    small, large = (study_law(points_of(ScalingDesign(name="", noise=noise))) for noise in (0.005, 0.02))
    for what in ("size", "data", "compute"):
        assert large.estimate(FAMILIES[1], what).error > small.estimate(FAMILIES[1], what).error
    for seed in range(20):
        losses = points_of(ScalingDesign(name="", noise=0.03, floor=0.02), seed).losses
        found = fitted(losses, lambda law: {"floor": law.floor})
        if found.law.floor == 0:
            assert found.estimates["floor"].error > 0.01
            return
    raise AssertionError("no study had a floor of 0")


def test_compute_by_hand() -> None:
    law = Law(
        floor=0.1,
        size_scale=np.array([2.0]),
        size_exponent=np.array([0.5]),
        data_scale=np.array([3.0]),
        data_exponent=np.array([0.25]),
        unit=(1.0, 1.0),
        spread=0.0,
    )
    cost = ClipCost(scale=6.0, exponent=0.9)
    both = 0.5 + 0.9 * 0.25
    assert loss_exponent(law, 0, cost) == pytest.approx(0.5 * 0.25 / both) and size_exponent(law, 0, cost) == pytest.approx(0.25 / both)
    best = best_at(law, 0, cost, 6e12)
    sizes = np.geomspace(best.params / 30, best.params * 30, 4001)
    losses = law.loss(np.zeros(4001, int), sizes, 1e12 / sizes**0.9)
    assert best.params == pytest.approx(sizes[losses.argmin()], rel=0.01) and best.loss == pytest.approx(losses.min(), rel=1e-5)
    assert best.clips * best.params**0.9 * 6 == pytest.approx(6e12)
    further = best_at(law, 0, cost, 6e14)
    assert (best.loss - 0.1) / (further.loss - 0.1) == pytest.approx(100 ** (0.125 / both))
    assert further.params / best.params == pytest.approx(100 ** (0.25 / both))
    size, data = gains(law, 0, [10, 1000], [100, 10_000])
    assert size == pytest.approx(math.log((0.1 + 2 / 10**0.5 + 0.3) / (0.1 + 2 / 1000**0.5 + 0.3)))
    assert data == pytest.approx(math.log((0.1 + 2 / 1000**0.5 + 3 / 100**0.25) / (0.1 + 2 / 1000**0.5 + 0.3)))


def test_flops_of_a_clip_are_counted() -> None:
    points = points_of(EXACT)
    scale, slope = points.flops_law(FAMILIES[0])
    assert (scale, slope) == pytest.approx((300.0, 0.95))


def test_what_is_held_out_is_not_fitted_to() -> None:
    points = points_of(ScalingDesign(name=""))
    assert all(point.params != HELD_OUT for point in points.fitted) and len(points.held_out) == 2 * 2 * 4
    worse = replace(points, held_out=tuple(replace(point, loss=9.0) for point in points.held_out))
    assert study_law(points).fitted.estimates == study_law(worse).fitted.estimates


@pytest.mark.parametrize(("params", "clips"), [((50_000, 150_000), None), (None, (1200, 2400))])
def test_too_few_sizes_or_budgets_are_refused(params: tuple[int, ...] | None, clips: tuple[int, ...] | None) -> None:
    points = points_of(ScalingDesign(name=""))
    kept = [point for point in points.fitted if (params is None or point.params in params) and (clips is None or point.clips in clips)]
    words = "2 sizes and 4 budgets" if params else "4 sizes and 2 budgets"
    with pytest.raises(Refusal, match=f"no law of scaling: UNet has losses of {words}, a law needs 3 and 3"):
        study_law(replace(points, fitted=tuple(kept)))


def outcomes(points: LawPoints, factor: float = 1.0) -> tuple[object, list[HeldOutcome]]:
    held = [
        HeldOutLoss(folder=each.folder, family=each.family, part=each.part, params=each.params, clips=each.clips)
        for each in points.held_out
    ]
    law = study_law(points, held)
    found = []
    for point, each in zip(points.held_out, held, strict=True):
        expected, low, high = law.loss(each)
        found.append(
            HeldOutcome(
                family=each.family, folder=each.folder, seed=point.seed, part=each.part, params=each.params, clips=each.clips,
                expected=expected, low=low, high=high, loss=factor * point.loss,
            )
        )  # fmt: skip
    return law, found


def test_steady_growth_needs_both_gains_and_what_was_foreseen() -> None:
    law, found = outcomes(points_of(ScalingDesign(name="", noise=0.01)))
    good = trend(law, FAMILIES[1], found, claimed=True)  # type: ignore[arg-type]
    assert good.outcome == "supported" and good.carried and "8 of 8" in good.reason
    _, missed = outcomes(points_of(ScalingDesign(name="", noise=0.01)), 1.5)
    bad = trend(law, FAMILIES[1], missed, claimed=True)  # type: ignore[arg-type]
    assert bad.outcome == "not supported" and "0 of 8" in bad.reason
    lacking = [replace(each, loss=None) for each in found]
    assert trend(law, FAMILIES[1], lacking, claimed=True).outcome == "inconclusive"  # type: ignore[arg-type]
    assert trend(law, FAMILIES[1], [], claimed=True).outcome == "inconclusive"  # type: ignore[arg-type]
    few = [each if place % 8 < 6 else replace(each, loss=9.0) for place, each in enumerate(found)]
    assert trend(law, FAMILIES[1], few, claimed=True).outcome == "supported"  # type: ignore[arg-type]
    fewer = [each if place % 8 < 5 else replace(each, loss=9.0) for place, each in enumerate(found)]
    assert trend(law, FAMILIES[1], fewer, claimed=True).outcome == "not supported"  # type: ignore[arg-type]


def test_what_size_gives_nothing_to_is_not_said_to_grow_nor_compared() -> None:
    law, found = outcomes(points_of(ScalingDesign(name="", noise=0.01, size=(0.15, 0.0)), 1))
    said = trend(law, FAMILIES[1], found, claimed=True)  # type: ignore[arg-type]
    assert said.outcome == "inconclusive" and "a larger size" in said.reason
    assert trend(law, FAMILIES[0], found, claimed=True).outcome == "supported"  # type: ignore[arg-type]
    assert [each.outcome for each in steeper(law)] == ["not compared"]  # type: ignore[arg-type]


def test_who_gains_more_is_told_where_the_difference_is_sure() -> None:
    apart = study_law(points_of(ScalingDesign(name="", noise=0.003, size_exponent=(0.2, 0.8), data_exponent=(0.3, 0.9))))
    (found,) = steeper(apart)
    assert found.outcome == "carried" and found.winner == FAMILIES[1] and found.low > 0
    (same,) = steeper(study_law(points_of(ScalingDesign(name="", noise=0.02))))
    assert same.outcome == "inconclusive" and same.winner is None and same.low < 0 < same.high


def test_claims_are_held_at_the_level_of_a_headline() -> None:
    assert pytest.approx(0.975) == CARRIED


def course(sizes: dict[int, float], flops: tuple[float, ...] = (1e9, 1e10)) -> list[LawPoint]:
    return [
        LawPoint(
            family="a:A", folder=f"{size}", backbone=f"{size}", seed=0, part=1.0, params=size, clips=int(each / size), flops=each,
            loss=loss, held_out=False,
        )
        for size, loss in sizes.items()
        for each in flops
    ]  # fmt: skip


def test_the_best_size_at_equal_compute_only_where_it_is_bracketed() -> None:
    bowl = {size: math.exp(0.1 * math.log(size / 300) ** 2) for size in (100, 200, 400, 800)}
    found = minima(course(bowl))
    assert [each.flops for each in found] == pytest.approx([1e9, 1e10])
    assert found[0].params == pytest.approx(300) and found[0].loss == pytest.approx(1.0)
    falling = minima(course({100: 3.0, 200: 2.0, 400: 1.0}))
    assert all(each.params is None and each.loss is None for each in falling) and len(falling) == 2
    assert minima(course({100: 3.0, 200: 2.0})) == []


def test_a_prediction_names_what_it_was_fitted_to() -> None:
    points = points_of(ScalingDesign(name=""))
    held = [HeldOutLoss(folder="x", family=FAMILIES[1], part=1.0, params=HELD_OUT, clips=9600)]

    class Stored:
        fingerprint, attempt = "f", 2

    found = predict("m", "2026-01-01T00:00:00+00:00", {point.folder: Stored() for point in points.fitted}, points, held)  # type: ignore[misc]
    assert len(found.fitted_to) == 16 and {each.attempt for each in found.fitted_to} == {2}
    (said,) = found.losses
    true = float(ScalingDesign(name="").truth.loss(np.array([1]), np.array([HELD_OUT]), np.array([9600]))[0])
    assert said.low < said.loss < said.high and said.loss == pytest.approx(true, rel=0.1)
    assert len(found.sha256) == 64 and found.model_copy(update={"floor": 0.5}).sha256 != found.sha256


def test_the_simulation_counts_what_it_says() -> None:
    found = one_study((1, 2, 3), ScalingDesign(name="", noise=0.01))
    counts = {"E": 1, "exponents": 6, "differences": 3, "mean held-out losses": 8, "held-out losses": 16}
    assert {kind: len(held) for kind, held in found.items()} == counts | {"steeper claimed": 1, "steady claimed": 1}
    assert kind_of("1 N at 1e+12") is None and kind_of("floor") == "E"
