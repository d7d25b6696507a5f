"""The scorecard of the liquid: floors of its instrument, what each broken law moves, and clips that show nothing."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pytest

from bench.data.physics.fluid.drawing import BACKGROUND, POOL, dye_colour
from bench.data.physics.liquid import LIQUID as WORLD
from bench.data.physics.world import Film
from bench.data.sources.physics import Config, film, scene
from bench.metrics.physics.contract import PerClip, Stage
from bench.metrics.physics.dye import centres, moved_on, unmixed
from bench.metrics.physics.liquid import LIQUID, held
from bench.metrics.physics.table import scorecard_of
from bench.shapes import Refusal

NUM, KNOWN = 6, 3
CONFIG = Config(world="liquid", num_frames=16, height=64, width=64, num_train=1, num_val=1, num_test=NUM)


@functools.cache
def films() -> tuple[Film, ...]:
    return tuple(film(CONFIG, scene(CONFIG, "test", index)) for index in range(NUM))


def real() -> np.ndarray:
    """(N, T, H, W, 3)."""
    return np.stack([each.frames for each in films()])


def stage(which: list[int] | None = None, known: int = KNOWN) -> Stage:
    some = [films()[index] for index in (range(NUM) if which is None else which)]
    return Stage(
        config=CONFIG, fps=25.0, known=known, truth={name: np.stack([each.truth[name] for each in some]) for name in some[0].truth}
    )


def scored(frames: np.ndarray, own: Stage) -> PerClip:
    return LIQUID.score(LIQUID.read(frames, own), own)


@functools.cache
def floor() -> PerClip:
    """Of the true clips themselves."""
    return scored(real(), stage())


@functools.cache
def of_twin(altered: str) -> tuple[PerClip, list[int]]:
    """Scores of twins, and which of the clips have one."""
    found = [WORLD.film(dataclasses.replace(scene(CONFIG, "test", index), altered=altered, known=KNOWN)) for index in range(NUM)]
    which = [index for index, each in enumerate(found) if each is not None]
    return scored(np.stack([each.frames for each in found if each is not None]), stage(which)), which


def test_what_the_instrument_is_off_on_true_clips() -> None:
    readings, truth = LIQUID.read(real(), stage()), stage().truth
    off = np.linalg.norm(readings["centre"] - truth["centre"], axis=-1).mean((0, 1))
    assert off[0] <= 0.002 and off[1] <= 0.004
    drift = np.abs(readings["mass"] / truth["mass"] - 1)
    assert drift[..., 0].max() <= 0.02 and drift[..., 1].max() <= 0.08
    assert np.abs(readings["surface"] - truth["surface"][:, :, 0]).mean() < 0.001
    assert np.abs(readings["filled"] - truth["filled"]).mean() < 0.002
    limits = {
        "drop_path_error": 0.004,
        "liquid_path_error": 0.002,
        "mass_drift": 0.02,
        "dye_mass_drift": 0.04,
        "fall_error": 0.05,
        "lifted_share": 0,
        "surface_error": 0.001,
    }
    limits |= {"crown_height_error": 0.01, "crown_time_error": 0.02, "pieces_error": 0.05, "wave_error": 0.02}
    assert {name: value for name, value in floor().items() if name in limits and not np.nanmean(value) <= limits[name]} == {}
    assert all(floor()[name].min() > 0.97 for name in ("liquid_iou", "dye_iou", "seen_share"))
    assert (~np.isnan(floor()["fall_error"])).sum() >= 3  # of six clips


def test_a_decoders_noise_moves_it_little() -> None:
    noise = np.random.default_rng(0).normal(0, 8, real().shape)  # a decoder of 30 dB
    noisy = scored((real() + noise).clip(0, 255).astype(np.uint8), stage())
    limits = {
        "drop_path_error": 0.008,
        "liquid_path_error": 0.004,
        "mass_drift": 0.03,
        "dye_mass_drift": 0.05,
        "surface_error": 0.008,
        "crown_height_error": 0.02,
        "pieces_error": 0.1,
    }
    assert {name: noisy[name].mean() for name, limit in limits.items() if noisy[name].mean() > limit} == {}
    assert noisy["seen_share"].min() == 1


def exact() -> dict[str, np.ndarray]:
    """Readings that are the truth."""
    truth = stage().truth
    whole = {name: truth[name].copy() for name in ("centre", "mass", "filled")}
    return whole | {name: truth[name][:, :, 0].copy() for name in ("surface", "crest", "pieces")}


def test_an_exact_reading_scores_nothing() -> None:
    found = LIQUID.score(exact(), stage())
    assert tuple(found) == tuple(value.name for value in LIQUID.values)
    for value in LIQUID.values:
        best = 1.0 if value.better == "higher" else 0.0
        np.testing.assert_allclose(
            found[value.name][~np.isnan(found[value.name])], best, atol=1e-3
        )  # of a fall, as far as it is a parabola


def test_each_score_says_its_own_reading() -> None:
    """One reading is off by hand, in the frames after the known ones: which scores move, and by how much."""
    best, after = LIQUID.score(exact(), stage()), np.s_[:, KNOWN:]

    def moved(name: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        readings = exact()
        readings[name][after] = change(readings[name][after])
        off = {value: np.nanmean(own - best[value]) for value, own in LIQUID.score(readings, stage()).items()}
        return {value: pytest.approx(by, abs=1e-6) for value, by in off.items() if abs(by) > 1e-9}

    assert moved("centre", lambda own: own + np.array([[0.003, 0.004], [0, 0]])) == {"liquid_path_error": 0.005}
    assert moved("centre", lambda own: own + np.array([[0, 0], [0.01, 0]])) == {"drop_path_error": 0.01}
    assert moved("mass", lambda own: own * [1.1, 1.0]) == {"mass_drift": 0.1}
    assert moved("mass", lambda own: own * [1.0, 0.8]) == {"dye_mass_drift": 0.2}
    assert moved("filled", lambda own: own * [[0.5], [1.0]]) == {"liquid_iou": -0.5}
    assert moved("filled", lambda own: own * [[1.0], [0.75]]) == {"dye_iou": -0.25}
    assert moved("surface", lambda own: own + 0.02) == {"surface_error": 0.02}
    assert moved("crest", lambda own: own + 0.05) == {"crown_height_error": 0.05}
    assert moved("crest", lambda own: np.where(own == own.max(1, keepdims=True), own, 0)) == {}
    last = stage().truth["crest"][after][:, :, 0]
    wait = (last.shape[1] - 1 - last.argmax(1)).mean() / 25
    assert moved("crest", lambda own: np.where(np.arange(own.shape[1]) == own.shape[1] - 1, own.max(1, keepdims=True), 0)) == {
        "crown_time_error": wait
    }
    assert moved("pieces", lambda own: own + 2) == {"pieces_error": 2}


@pytest.mark.parametrize(
    ("altered", "name", "least"),
    [
        ("gravity_flipped", "lifted_share", 0.3),
        ("teleport", "drop_path_error", 0.2),
        ("reversed_splash", "crown_time_error", 0.1),
        ("growing_mass", "mass_drift", 0.1),
        ("pass_through", "dye_mass_drift", 0.15),
        ("pass_through", "crown_height_error", 0.1),
    ],
)
def test_each_broken_law_moves_the_score_that_names_it(altered: str, name: str, least: float) -> None:
    broken, which = of_twin(altered)
    assert len(which) >= 3
    assert np.nanmean(broken[name]) > least > 5 * np.nanmean(floor()[name])
    assert broken[LIQUID.primary].mean() > 5 * floor()[LIQUID.primary].mean()  # and the one that says most


def test_a_frozen_clip_is_worse_than_one_that_moves_on_and_that_than_a_twin_a_hundredth_off() -> None:
    frozen = real()
    frozen[:, KNOWN:] = frozen[:, KNOWN - 1 : KNOWN]
    near = [
        WORLD.film(dataclasses.replace(each, start={name: 1.01 * value for name, value in each.start.items()}))
        for each in (scene(CONFIG, "test", index) for index in range(NUM))
    ]
    subjects = (real(), np.stack([each.frames for each in near if each]), LIQUID.continued(real(), stage()), frozen)
    path = [scored(each, stage())["drop_path_error"].mean() for each in subjects]
    assert path[0] < path[1] < path[2] / 5 and path[2] < path[3] / 2
    assert (subjects[2][:, :KNOWN] == real()[:, :KNOWN]).all()


def test_a_clip_that_shows_nothing_keeps_an_error() -> None:
    dark = real()
    dark[:, 8:] = np.array(BACKGROUND)
    readings = LIQUID.read(dark, stage())
    assert np.isnan(readings["centre"][:, 8:]).all() and not np.isnan(readings["centre"][:, :8]).any()
    found, truth = LIQUID.score(readings, stage()), stage().truth
    assert all(np.isfinite(found[value.name]).all() for value in LIQUID.values if value.name != "fall_error")
    np.testing.assert_allclose(found["seen_share"], 5 / 13)
    last = readings["centre"][:, 7:8, 1]  # the drop is held to be where it was last seen
    by_hand = np.linalg.norm(
        np.concatenate([readings["centre"][:, KNOWN:8, 1], np.repeat(last, 8, 1)], 1) - truth["centre"][:, KNOWN:, 1], axis=-1
    )
    np.testing.assert_allclose(found["drop_path_error"], by_hand.mean(1))
    stray = dark.copy()
    stray[:, 8:, 5, 5] = truth["dye"][:, 8:, 0]
    assert np.isnan(LIQUID.read(stray, stage())["centre"][:, 8:]).all()  # one pixel is no drop


def test_places_before_any_reading_are_those_that_were_given() -> None:
    true = np.arange(6.0).reshape(1, 6)
    assert held(np.array([[np.nan, np.nan, 7.0, np.nan, 8.0, np.nan]]), true, 2).tolist() == [[1, 1, 7, 7, 8, 8]]


def test_no_gravity_without_a_fall_and_no_crown_without_a_splash() -> None:
    contact = stage().truth["contact"][:, 0, 0] * 25
    late = LIQUID.score(LIQUID.read(real(), stage()), stage(known=int(contact.min()) + 1))
    assert np.isnan(late["fall_error"]).sum() > np.isnan(floor()["fall_error"]).sum()
    air = np.ceil(contact - 1e-9) - (KNOWN - 1)  # frames of fall from the last known one on
    assert (np.isnan(floor()["fall_error"]) == (air < 4)).all()
    short = dataclasses.replace(stage(), truth={name: own[:, :5] for name, own in stage().truth.items()})
    assert (
        np.isnan(scored(real()[:, :5], short)["crown_height_error"]).all()
        and np.isnan(scored(real()[:, :5], short)["crown_time_error"]).all()
    )


def test_colours_are_taken_apart() -> None:
    dye = np.array(dye_colour(0.1))
    background, pool = np.array(BACKGROUND, float), np.array(POOL, float)
    shares = np.array([(0, 0), (1, 0), (0, 1), (0.5, 0.5), (0.3, 0.2), (0.6, 0.0), (0.02, 0.02)])  # of pool and of dye
    pixels = np.rint(background + shares[:, :1] * (pool - background) + shares[:, 1:] * (dye - background)).astype(np.uint8)
    every, dyed = unmixed(pixels[None], dye)[:, 0]
    np.testing.assert_allclose(every, [0, 1, 1, 1, 0.5, 0.6, 0], atol=0.01)  # what is almost nothing is taken for noise
    np.testing.assert_allclose(dyed, [0, 0, 1, 0.5, 0.2, 0, 0], atol=0.01)
    thin = np.rint(background + 0.9 * (pool - background) + 0.05 * (dye - background)).astype(np.uint8)  # so little dye is taken for pool
    lengths = (dye - background) @ (pool - background) / ((pool - background) ** 2).sum()
    np.testing.assert_allclose(unmixed(thin[None], dye)[:, 0], [0.9 + 0.05 * lengths, 0], atol=0.01)
    black, white = unmixed(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), dye)[0, 0]
    assert black == 0 and white == 1
    assert (unmixed(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8), dye) >= 0).all()


def test_a_centre_by_hand() -> None:
    cover = np.zeros((2, 4, 8))
    cover[0, 1, 2:4] = 1, 0.5
    np.testing.assert_allclose(centres(cover, (2.0, 1.0))[0], [(2.5 + 3.5 / 2) / 1.5 / 4, 1.5 / 4])
    assert np.isnan(centres(cover, (2.0, 1.0))[1]).all()


def test_what_moves_on_is_the_dye_at_its_last_velocity() -> None:
    dye = np.array(dye_colour(0.0))
    clip = np.tile(np.array(BACKGROUND, np.uint8), (6, 20, 12, 1))
    clip[:, 15:] = np.array(POOL)
    for index, row in enumerate((2, 3, 5)):  # two rows in the last step
        clip[index, row : row + 3, 4:7] = np.rint(dye)
    out = moved_on(clip, dye, 3)
    assert (out[:3] == clip[:3]).all()
    expected = clip[3:].copy()
    for index, row in enumerate((7, 9, 11)):
        expected[index, row : row + 3, 4:7] = np.rint(dye)
    assert np.abs(out[3:].astype(int) - expected).max() <= 1
    assert (moved_on(clip, dye, 1)[1:] == clip[0]).all()  # one frame has no velocity


def test_what_a_report_draws() -> None:
    series = LIQUID.drawn(LIQUID.read(real(), stage()), stage())
    assert {name: own.shape for name, (own, _) in series.items()} == {
        "drop_height": (NUM, 16),
        "liquid_height": (NUM, 16),
        "surface": (NUM, 16, 64),
    }
    for own, true in series.values():
        assert own.shape == true.shape and np.abs(own - true).mean() < 0.005
    assert (np.diff(series["drop_height"][1][:, :3]) < 0).all()


def test_it_is_found_by_its_world() -> None:
    assert scorecard_of("liquid") is LIQUID
    assert LIQUID.primary in {value.name for value in LIQUID.values}
    with pytest.raises(Refusal, match=r"world 'honey' has no physics scores; there are some of .*liquid"):
        scorecard_of("honey")
