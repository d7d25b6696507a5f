"""The scorecard of rigid worlds: floors on true clips, twins, lost bodies, values by hand, the floors that it draws."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from bench.data.physics.rigid import FPS, SIDE, draw
from bench.data.physics.table import WORLDS
from bench.data.physics.world import Scene
from bench.data.sources.physics import Config, scene
from bench.metrics.physics import table
from bench.metrics.physics.conserved import LAWS
from bench.metrics.physics.contract import PerClip, Stage
from bench.metrics.physics.rigid import RIGID, continued, held, iou, penetration, read, score
from bench.metrics.physics.table import scorecard_of
from bench.shapes import Refusal

NUM, KNOWN = 16, 4
SINGLE = {"motion", "parabola", "pendulum"}
worlds = pytest.mark.parametrize("name", list(LAWS))


@functools.cache
def setting(name: str, region: str = "in", side: int = 64, num_frames: int = 12) -> tuple[list[Scene], np.ndarray, Stage]:
    """Scenes, their true clips (N, T, H, W, 3), and what the scorecard is told."""
    fields = {"num_frames": num_frames, "height": side, "width": side, "num_train": 1, "num_val": 1, "num_test": NUM}
    config = Config.model_validate({"world": name, "region": region, **fields})
    scenes = [scene(config, "test", index) for index in range(NUM)]
    clips, stage = filmed(scenes, config)
    return scenes, clips, stage


def filmed(scenes: Sequence[Scene], config: Config) -> tuple[np.ndarray, Stage]:
    films = [WORLDS.find(config.world).film(one) for one in scenes]
    assert all(films)
    truth = {key: np.stack([film.truth[key] for film in films if film]) for key in films[0].truth} if films[0] else {}
    return np.stack([film.frames for film in films if film]), Stage(config=config, fps=scenes[0].fps, known=KNOWN, truth=truth)


def scored(frames: np.ndarray, stage: Stage) -> PerClip:
    return score(read(frames, stage), stage)


def only(stage: Stage, chosen: Any) -> Stage:
    return replace(stage, truth={key: values[chosen] for key, values in stage.truth.items()})


# Floors.


@worlds
@pytest.mark.parametrize("region", ["in", "out", "combinatorial"])
def test_true_clips_are_read_to_a_hundredth_of_a_unit_a_step(name: str, region: str) -> None:
    _, clips, stage = setting(name, region)
    values = scored(clips, stage)
    assert list(values) == [value.name for value in RIGID.values] and all(one.shape == (NUM,) for one in values.values())
    assert (values["valid_rate"] == 1).all()
    assert values["velocity_error"].max() < 0.01 * FPS
    assert np.mean(values["velocity_error"]) < 0.003 * FPS  # as small as phyworld's floor, 0.010 units/s, for most bodies
    assert values["centre_error"].max() < 0.01
    assert values["iou"].min() > 0.97
    assert values["acceleration_error"].max() < 0.02 * FPS**2
    assert np.isnan(values["gravity_error"]).all() if name != "parabola" else values["gravity_error"].max() < 0.03
    assert np.nanmax(values["energy_drift"]) < 0.1
    assert np.isnan(values["momentum_drift"]).all() if name in ("pendulum", "stack") else np.nanmax(values["momentum_drift"]) < 0.05
    assert np.isnan(values["penetration"]).all() if name in SINGLE else values["penetration"].max() < 0.02


@worlds
def test_small_frames_and_an_autoencoders_blur_are_read_too(name: str) -> None:
    _, clips, stage = setting(name, side=32)
    soft = ndimage.gaussian_filter(clips.astype(float), (0, 0, 0.7, 0.7, 0)) + np.random.default_rng(0).normal(0, 6, clips.shape)
    for frames, most in ((clips, 0.01), (np.clip(soft, 0, 255).astype(np.uint8), 0.03)):
        values = scored(frames, stage)
        assert (values["valid_rate"] == 1).all() and values["velocity_error"].mean() < most * FPS and values["iou"].min() > 0.9


def test_frames_of_any_aspect_are_read() -> None:
    scenes, _, stage = setting("collision")
    wide = [replace(one, shape=(12, 40, 72)) for one in scenes]
    clips, told = filmed(wide, stage.config.changed(height=40, width=72))
    values = scored(clips, told)
    assert (values["valid_rate"] == 1).all() and values["centre_error"].max() < 0.02


def test_the_instrument_looks_at_no_truth_of_the_frames_to_predict() -> None:
    _, clips, stage = setting("stack")
    blind = {key: np.where((np.arange(12) < KNOWN)[:, None], values, np.nan) for key, values in stage.truth.items()}
    seen, told = read(clips, stage), read(clips, replace(stage, truth=blind))
    assert set(seen) == {"x", "y", "radius", "colour_off", "pieces", "strange"}
    assert all(np.array_equal(seen[key], told[key], equal_nan=True) for key in seen)
    assert (continued(clips, stage) == continued(clips, replace(stage, truth=blind))).all()


# What moves a score.

MOVES = {  # twin -> scores that name it, each with what its mean is at least (of valid_rate, at most)
    ("motion", "turned"): {"velocity_error": 1.5, "momentum_drift": 0.5, "acceleration_error": 2},
    ("motion", "teleport"): {"centre_error": 0.5, "acceleration_error": 20},
    ("motion", "growing"): {"valid_rate": 0},
    ("collision", "over_elastic"): {"energy_drift": 0.4, "velocity_error": 0.4},
    ("collision", "pass_through"): {"penetration": 0.3, "velocity_error": 2, "valid_rate": 0.2},
    ("collision", "teleport"): {"centre_error": 0.4, "acceleration_error": 10},
    ("collision", "growing"): {"valid_rate": 0},
    ("parabola", "gravity_flipped"): {"gravity_error": 1.9, "velocity_error": 1, "energy_drift": 0.05},
    ("parabola", "teleport"): {"centre_error": 0.5, "acceleration_error": 20},
    ("parabola", "growing"): {"valid_rate": 0},
    ("pendulum", "gravity_flipped"): {"energy_drift": 0.25, "velocity_error": 1},
    ("pendulum", "teleport"): {"centre_error": 0.5, "acceleration_error": 20},
    ("pendulum", "growing"): {"valid_rate": 0},
    ("stack", "over_elastic"): {"energy_drift": 0.2, "velocity_error": 0.5},
    ("stack", "pass_through"): {"penetration": 0.3},
    ("stack", "gravity_flipped"): {"energy_drift": 1, "velocity_error": 2},
    ("stack", "teleport"): {"centre_error": 0.2, "acceleration_error": 5},
    ("stack", "growing"): {"valid_rate": 0.1, "penetration": 0.2},
}


def test_every_twin_has_its_score() -> None:
    assert set(MOVES) == {(name, kind) for name in LAWS for kind in WORLDS.find(name).twins}


@pytest.mark.parametrize(("name", "kind"), MOVES)
def test_twins_move_the_score_that_names_them(name: str, kind: str) -> None:
    scenes, clips, stage = setting(name)
    films = [WORLDS.find(name).film(replace(one, altered=kind, known=KNOWN)) for one in scenes]
    made = [index for index, film in enumerate(films) if film]
    told = only(stage, made)
    values, true = scored(np.stack([film.frames for film in films if film]), told), scored(clips[made], told)
    for score_name, bound in MOVES[name, kind].items():
        if score_name == "valid_rate":
            assert np.mean(values[score_name]) <= bound
        else:
            assert np.nanmean(values[score_name]) > bound > 3 * np.nanmean(true[score_name]), score_name


def test_a_start_moved_by_a_hundredth_costs_little() -> None:
    for name in LAWS:
        scenes, _, stage = setting(name)
        near, _ = filmed([replace(one, start={key: value * 1.01 for key, value in one.start.items()}) for one in scenes], stage.config)
        values = scored(near, stage)
        assert (values["valid_rate"] == 1).all() and 0.002 < values["centre_error"].mean() < 0.1 and values["velocity_error"].mean() < 0.2


def test_what_is_there_twice_in_another_colour_or_size_or_strange_is_not_valid() -> None:
    _, clips, stage = setting("motion", side=48)
    truth = stage.truth
    place, radius, hue = np.stack([truth["x"], truth["y"]], axis=-1), truth["radius"], truth["hue"]
    later = (np.arange(12) == 9)[:, None]  # one frame, after the known ones

    def valid(**changes: np.ndarray) -> np.ndarray:
        values = scored(draw(**{"place": place, "radius": radius, "hue": hue, "height": 48, "width": 48, **changes}), stage)
        return values["valid_rate"]

    assert (valid() == 1).all()
    assert (valid(hue=(hue + 0.03 * later) % 1) == 1).all() and (valid(hue=(hue + 0.12 * later) % 1) == 0).all()
    assert (valid(radius=radius * (1 + 0.15 * later)) == 1).all() and (valid(radius=radius * (1 + 0.45 * later)) == 0).all()
    assert (valid(radius=radius * (1 - 0.45 * later)) == 0).all()
    elsewhere = (place + np.array([0, 5])) % SIDE
    elsewhere[..., 1] = np.clip(elsewhere[..., 1], 1.5, SIDE - 1.5)
    apart = np.abs(elsewhere[:, 9, 0, 1] - place[:, 9, 0, 1]) > 3.2
    for turn, least in ((0.0, 0), (0.35, 0)):  # a second one of its colour, and one of another
        other = draw(elsewhere, radius, (hue + turn) % 1, 48, 48)
        both = np.where(later[..., None, None], np.maximum(clips, other), clips)
        assert apart.any() and (scored(both, stage)["valid_rate"][apart] == least).all()
        smaller = np.where(later[..., None, None], np.maximum(clips, draw(elsewhere, radius * 0.7, hue, 48, 48)), clips)
        assert np.abs(read(smaller, stage)["y"] - truth["y"])[apart].max() < 0.05  # the larger piece is the body
    early = np.where((np.arange(12) == 1)[:, None, None, None], np.uint8(255), clips)
    assert (scored(early, stage)["valid_rate"] == 1).all()  # a known frame is not scored


def test_a_body_that_turns_to_another_hue_is_not_valid_where_others_can_mix_it() -> None:
    _, _, stage = setting("stack")
    truth = stage.truth
    for turn, expected in ((0.05, 1), (0.085, 0)):
        later = np.where(np.arange(12) == 9, turn, 0.0)[:, None] * [0, 0, 1]
        frames = draw(np.stack([truth["x"], truth["y"]], axis=-1), truth["radius"], (truth["hue"] + later) % 1, 64, 64)
        assert (scored(frames, stage)["valid_rate"] == expected).all(), turn
        assert (read(frames, stage)["pieces"] == 1).mean() > 0.99


def test_a_lost_body_rests_where_it_was_last_seen() -> None:
    _, clips, stage = setting("motion")
    lost = clips.copy()
    lost[:, 8:] = 16  # background
    values, true = scored(lost, stage), stage.truth
    assert (values["valid_rate"] == 0).all()
    x = true["x"][..., 0]
    expected = np.concatenate([np.zeros((NUM, 4)), np.abs(x[:, 8:] - x[:, [7]])], axis=1).mean(axis=1)
    assert np.abs(values["centre_error"] - expected).max() < 0.01
    speed = np.abs(true["vx"][:, 0, 0])
    assert np.abs(values["velocity_error"] - speed / 2).max() < 0.05  # of 8 steps the last 4 are wrong by all of it
    assert np.abs(values["iou"] - 0.5).max() < 0.01
    gone = scored(np.full_like(clips, 16), stage)  # never seen, not even where it is known: it rests at its true start
    assert np.abs(gone["centre_error"] - np.abs(x[:, KNOWN:] - x[:, [0]]).mean(axis=1)).max() < 1e-6
    assert (gone["iou"] == 0).all() and (gone["valid_rate"] == 0).all()
    assert not any(np.isnan(gone[key]).any() for key in ("velocity_error", "acceleration_error", "energy_drift", "momentum_drift"))
    again = clips.copy()
    again[:, 6] = 16  # for one frame
    assert np.isnan(read(again, stage)["x"][:, 6]).all() and not np.isnan(read(again, stage)["x"][:, 7]).any()
    places = held(read(again, stage), stage)
    assert (places[:, 6] == places[:, 5]).all() and (places[:, 7] != places[:, 6]).any()


def test_noise_is_no_body() -> None:
    _, clips, stage = setting("collision")
    noise = np.random.default_rng(0).integers(0, 256, clips.shape).astype(np.uint8)
    values = scored(noise, stage)
    assert (values["valid_rate"] == 0).all() and not np.isnan(values["velocity_error"]).any() and (values["iou"] < 0.5).all()


def test_frames_in_which_the_truth_leaves_the_frame_are_not_scored() -> None:
    _, clips, stage = setting("collision", "out", num_frames=16)
    edge = np.minimum(stage.truth["x"], SIDE - stage.truth["x"]) - stage.truth["radius"]
    cut = (edge < -0.02).any(axis=2)
    assert cut[:, KNOWN:].any(axis=1).sum() > 4
    spoilt = np.where(cut[:, :, None, None, None], np.uint8(16), clips)
    # Nothing that follows a cut frame is the same when it is spoilt, but for those that hold a place: none comes back.
    for key, values in scored(clips, stage).items():
        assert np.allclose(values, scored(spoilt, stage)[key], equal_nan=True), key
    never = only(stage, [0])
    never = replace(never, truth={**never.truth, "x": never.truth["x"] + SIDE})
    assert all(np.isnan(values).all() for values in scored(clips[:1], never).values())


# By hand.


def still(place: Sequence[Sequence[float]], radius: Sequence[float], num_frames: int = 8, name: str = "collision") -> Stage:
    """A truth of bodies at rest, all known but for the last four frames."""
    fields = {"num_frames": num_frames, "height": 64, "width": 64, "num_train": 1, "num_val": 1, "num_test": 1}
    shape = (1, num_frames, len(radius))
    x, y = np.broadcast_to(np.transpose(place)[:, None, None], (2, *shape)).copy()
    truth = {"x": x, "y": y, "radius": np.broadcast_to(radius, shape), "mass": np.pi * np.broadcast_to(radius, shape) ** 2}
    truth |= {"hue": np.broadcast_to(np.arange(len(radius)) / 3, shape), "collided": np.zeros(shape)}
    return Stage(config=Config.model_validate({"world": name, **fields}), fps=10.0, known=num_frames - 4, truth=truth)


def readings(stage: Stage, **changes: np.ndarray) -> dict[str, np.ndarray]:
    shape = stage.truth["x"].shape
    exact = {"x": stage.truth["x"], "y": stage.truth["y"], "radius": stage.truth["radius"], "colour_off": np.zeros(shape)}
    return {**exact, "pieces": np.ones(shape), "strange": np.zeros(shape[:2]), **changes}


def test_errors_by_hand() -> None:
    stage = still([(3, 5), (7, 5)], [1, 1])
    off = np.zeros((1, 8, 2))
    off[0, 5:, 0] = [0.3, 0.6, 0.6]  # the first body moves in two of the four steps
    values = score(readings(stage, y=stage.truth["y"] + off), stage)
    assert values["centre_error"][0] == pytest.approx((0.3 + 0.6 + 0.6) / 8)
    assert values["velocity_error"][0] == pytest.approx((3 + 3) / 8)  # units per second
    assert values["acceleration_error"][0] == pytest.approx((30 + 0 + 30) / 8)
    assert values["penetration"][0] == 0 and values["valid_rate"][0] == 1
    # Energy and momentum relative to bodies of half a unit per second: two of 4 steps, one of two equal masses.
    assert values["energy_drift"][0] == pytest.approx(2 / 4 * (3**2) / (2 * 0.5**2))
    assert values["momentum_drift"][0] == pytest.approx(2 / 4 * 3 / (2 * 0.5))
    deep = np.where(np.arange(8) == 6, 2.5, 0.0)[None, :, None] * [1, 0]
    assert score(readings(stage, x=stage.truth["x"] + deep), stage)["penetration"][0] == pytest.approx(0.5)


def test_what_leads_from_outside_the_frame_is_not_scored() -> None:
    stage = still([(3, 5), (7, 5)], [1, 1])
    stage.truth["x"][0, 3, 0] = -5.0  # in the last known frame
    off = np.where(np.arange(8) == 3, 1.0, 0.0)[None, :, None] * [1, 0]
    values = score(readings(stage, x=stage.truth["x"] + off), stage)
    assert values["velocity_error"][0] == values["acceleration_error"][0] == values["centre_error"][0] == 0


def test_steps_beside_a_collision_have_no_drift() -> None:
    stage = still([(3, 5), (7, 5)], [1, 1], num_frames=12)
    stage = replace(stage, known=2, truth={**stage.truth, "collided": np.where(np.arange(12) == 6, 1.0, 0.0)[None, :, None] * [1, 1]})
    for frame, counts in ((4, True), (5, False), (6, False), (7, False), (8, True)):
        off = np.where(np.arange(12) >= frame, 0.3, 0.0)[None, :, None] * [1, 0]  # one step, to this frame
        values = score(readings(stage, y=stage.truth["y"] + off), stage)
        assert (values["energy_drift"][0] > 0) == (values["momentum_drift"][0] > 0) == counts, frame
    last = replace(stage, known=6)
    last = replace(last, truth={key: values[:, :8] for key, values in last.truth.items()})
    assert np.isnan(score(readings(last), last)["energy_drift"][0])  # no other step is left


def test_gravity_by_hand() -> None:
    stage = still([(5, 2)], [1], num_frames=10, name="parabola")
    fall = np.arange(10)[None, :, None] ** 2 / 2 / 100  # of 1 unit per second squared
    stage = replace(stage, truth={**stage.truth, "y": stage.truth["y"] + 2.5 * fall})
    values = score(readings(stage, y=stage.truth["y"] - 0.5 * fall), stage)
    assert values["gravity_error"][0] == pytest.approx(0.2)
    assert np.isnan(score(readings(replace(stage, known=8)), replace(stage, known=8))["gravity_error"][0])  # two frames have no parabola
    sideways = score(readings(stage, x=stage.truth["x"] + fall), stage)
    assert sideways["gravity_error"][0] == pytest.approx(0) and sideways["momentum_drift"][0] > 0.1
    assert values["momentum_drift"][0] == pytest.approx(0)  # gravity acts on the other axis


def test_only_energy_that_is_gained_counts_where_contacts_take_it() -> None:
    stage = still([(2, 5), (5, 5), (8, 5)], [1, 1, 1], name="stack")
    slowly = 0.05 * np.maximum(np.arange(8) - 3, 0)[None, :, None] * [1, 0, 0]  # at half a unit per second, from the fifth frame on
    drifts = [score(readings(stage, y=stage.truth["y"] + sign * slowly), stage)["energy_drift"][0] for sign in (1, -1)]
    mass_each_step = np.array([0.025, 0.075, 0.125, 0.175]) * 9.8 + 0.5**2 / 2  # of the one that rises, by its mean height
    assert drifts[0] == 0 and drifts[1] == pytest.approx(mass_each_step.mean() / (3 * 0.5**2 / 2))


def test_overlap_by_hand() -> None:
    assert iou(np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 2, 2])) == pytest.approx(
        [0.25, 0.25, monte_carlo(2.0, 1.0, 2.0), 0.0], abs=0.005
    )
    assert iou(np.array(0.0), np.array(1.5), np.array(1.5)) == pytest.approx(1)
    places = np.array([[[[0.0, 0.0], [1.5, 0.0], [9.0, 0.0]]]])
    assert penetration(places, np.array([[[1.0, 1.0, 1.0]]]))[0, 0] == pytest.approx(0.5)
    assert penetration(places, np.array([[[np.nan, 1.0, 1.0]]]))[0, 0] == 0


def monte_carlo(apart: float, first: float, second: float) -> float:
    points = np.random.default_rng(0).uniform(-4, 4, (400_000, 2))
    one, other = np.hypot(*points.T) < first, np.hypot(points[:, 0] - apart, points[:, 1]) < second
    return float((one & other).sum() / (one | other).sum())


# What is drawn.


@worlds
def test_the_floor_of_constant_velocity(name: str) -> None:
    _, clips, stage = setting(name)
    going_on = continued(clips, stage)
    assert going_on.shape == clips.shape and going_on.dtype == np.uint8 and (going_on[:, :KNOWN] == clips[:, :KNOWN]).all()
    frozen = clips.copy()
    frozen[:, KNOWN:] = clips[:, [KNOWN - 1]]
    values, rests = scored(going_on, stage), scored(frozen, stage)
    places = held(read(going_on, stage), stage)[:, KNOWN - 2 :]
    moves = np.diff(places, axis=1)
    seen = ~np.isnan(read(going_on, stage)["x"][:, KNOWN - 2 :]).any(axis=(1, 2))
    if name == "motion":
        assert values["velocity_error"].max() < 0.01 * FPS and values["centre_error"].max() < 0.1
        assert (rests["velocity_error"] > 0.9).all()
    assert (values["centre_error"].mean() < rests["centre_error"].mean()) == (name != "collision")  # through each other they go far
    if name in SINGLE:
        assert seen.sum() > NUM / 2 and np.abs(moves[seen] - moves[seen][:, :1]).max() < 0.03
    one_frame = continued(clips, replace(stage, known=1))
    assert (one_frame[:, 1:] == one_frame[:, [1]]).all()  # no velocity is known


def test_what_a_report_draws() -> None:
    _, clips, stage = setting("collision")
    found = read(clips, stage)
    curves = RIGID.drawn(found, stage)
    assert list(curves) == ["x", "y"]
    for name, (seen, true) in curves.items():
        assert seen is found[name] and (true == stage.truth[name]).all() and seen.shape == true.shape == (NUM, 12, 2)


def test_the_scorecard_is_found_and_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(scorecard_of(name) is RIGID for name in LAWS) and RIGID.worlds == tuple(LAWS)
    primary = next(value for value in RIGID.values if value.name == RIGID.primary)
    assert primary.better == "lower" and primary.axis and primary.plain
    assert {"cover", "rim", "piece", "strange", "radius_share", "hue_off", "strange_share", "slowest"} == set(RIGID.settings)
    with pytest.raises(Refusal, match=r"world 'water' has no physics scores; there are some of .*motion"):
        scorecard_of("water")
    monkeypatch.setattr(table, "SCORECARDS", (RIGID, replace(RIGID, name="other")))
    table.scorecards.cache_clear()
    with pytest.raises(Refusal, match="share the name 'motion'"):
        scorecard_of("motion")
    monkeypatch.undo()
    table.scorecards.cache_clear()
