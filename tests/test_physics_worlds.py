"""Worlds with exact laws: where starts are drawn, laws in the truth, the same motion at any shape, twins."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from bench.data.physics import collision, parabola, pendulum, stack
from bench.data.physics.regions import REGIONS, Region
from bench.data.physics.rigid import FPS, GROWTH, JUMP, SIDE, SPAN_S, middle
from bench.data.physics.table import WORLDS
from bench.data.physics.world import Film, Scene
from bench.data.source import load_clips
from bench.data.sources.physics import OUTSIDE, Config, scene
from bench.shapes import Refusal

NAMES = ("motion", "collision", "parabola", "pendulum", "stack")
TRUTH = {"x", "y", "vx", "vy", "radius", "mass", "hue", "kinetic_energy", "potential_energy", "collided"}
worlds = pytest.mark.parametrize("name", NAMES)


def config(name: str, **changes: Any) -> Config:
    fields = {"world": name, "num_frames": 12, "height": 32, "width": 32, "num_train": 6, "num_val": 2, "num_test": 3}
    return Config.model_validate(fields | changes)


def scenes(name: str, num: int = 40, **changes: Any) -> list[Scene]:
    return [scene(config(name, **changes), "test", index) for index in range(num)]


def film(what: Scene, name: str) -> Film:
    found = WORLDS.find(name).film(what)
    assert found is not None
    return found


def films(name: str, num: int = 40, **changes: Any) -> dict[str, np.ndarray]:
    """The truth of some test clips, each (N, T, K)."""
    found = [film(one, name).truth for one in scenes(name, num, **changes)]
    return {key: np.stack([truth[key] for truth in found]) for key in found[0]}


# Where starts are drawn.


@worlds
@pytest.mark.parametrize("region", REGIONS)
def test_starts_are_in_their_region(name: str, region: Region) -> None:
    made = config(name)
    regions, ranges, rng = made.regions(), made.ranges(), np.random.default_rng(0)
    starts = [regions.draw(region, rng) for _ in range(300)]
    fractions = np.array([[(start[key] - every[0][0]) / (every[0][1] - every[0][0]) for key, every in ranges.items()] for start in starts])
    inside = (fractions >= 0) & (fractions <= 1)
    withheld = [list(ranges).index(key) for key in WORLDS.find(name).withheld]
    corner = (fractions[:, withheld] > 0.5).all(axis=1)
    distances = np.array([regions.distance(start) for start in starts])
    if region == "out":
        assert (~inside).any(axis=1).all() and inside.any(axis=1).any()
        for column, (key, every) in enumerate(ranges.items()):
            for start, is_inside in zip(starts, inside[:, column], strict=True):
                assert is_inside or any(low <= start[key] <= high for low, high in every[1:])
            assert (~inside[:, column]).any() == (len(every) > 1)
        assert (distances > 0).all()
        several = (~inside).sum(axis=1)
        assert (several == 1).any() and (several > 1).any()
    else:
        assert inside.all() and (corner == (region == "combinatorial")).all()
        assert ((distances > 0) == (region == "combinatorial")).all()
    assert np.abs(np.diff(np.sort(fractions[inside.all(axis=1)], axis=0), axis=0)).max(initial=0) < 0.15  # nowhere is left out


def test_distance_by_hand() -> None:
    regions = config("motion").regions()  # radius .7 to 1.4, speed 1 to 4
    assert regions.distance({"radius": 1.0, "speed": 3.9}) == 0
    assert regions.distance({"radius": 0.7 - 0.35, "speed": 2}) == pytest.approx(0.5)
    assert regions.distance({"radius": 1.4 + 0.07, "speed": 4 + 0.9}) == pytest.approx(0.6)  # the way out of the corner is the longer
    assert regions.distance({"radius": 1.4, "speed": 4 - 0.3}) == pytest.approx(0.4)  # by way of the speed


def test_given_ranges_take_the_place_of_the_worlds_own() -> None:
    made = config("motion", region="out", trained={"radius": (0.9, 1.0)}, beyond={"radius": [(1.2, 1.3)], "speed": []})
    starts = [made.regions().draw("out", np.random.default_rng(seed)) for seed in range(50)]
    assert all(1.2 <= start["radius"] <= 1.3 and 1 <= start["speed"] <= 4 for start in starts)
    assert made.regions().distance({"radius": 1.25, "speed": 1.5}) == pytest.approx(2.5)


def test_training_never_leaves_its_ranges(tmp_path: Path) -> None:
    clips = load_clips(config("motion", region="out"), tmp_path)
    for split, expected in (("train", True), ("val", True), ("test", False)):
        truth = clips.splits[split].truth or {}
        assert ((truth[OUTSIDE] == 0) == expected).all(), split


# Laws.


@worlds
def test_velocities_are_those_of_the_places(name: str) -> None:
    fine = films(name, 8, fps=400.0, num_frames=40)
    for place, velocity in (("x", "vx"), ("y", "vy")):
        step = np.diff(fine[place], axis=1) * 400
        mean = (fine[velocity][:, 1:] + fine[velocity][:, :-1]) / 2
        calm = fine["collided"][:, 1:] == 0
        assert np.abs(step - mean)[calm].max() < (0.02 if name == "stack" else 1e-2)


def test_uniform_motion() -> None:
    truth = films("motion")
    assert np.ptp(truth["vx"], axis=1).max() == 0 and np.abs(truth["vy"]).max() == 0
    assert 0.2 < (truth["vx"] > 0).mean() < 0.8  # both ways


@pytest.mark.parametrize("region", REGIONS)
def test_collisions_keep_momentum_and_energy_and_part_as_fast_as_they_meet(region: Region) -> None:
    truth = films("collision", 100, region=region)
    momentum, energy = (truth["mass"] * truth["vx"]).sum(axis=2), truth["kinetic_energy"].sum(axis=2)
    assert np.abs(momentum - momentum[:, :1]).max() < 1e-9
    assert np.abs(energy / np.maximum(energy[:, :1], 1e-9) - 1).max() < 1e-9 or (energy[:, 0] < 1e-6).any()
    closing = truth["vx"][..., 0] - truth["vx"][..., 1]
    assert np.allclose(np.abs(closing), np.abs(closing[:, :1]))
    apart = np.abs(truth["x"][..., 0] - truth["x"][..., 1]) - truth["radius"].sum(axis=2)
    assert apart.min() > -1e-9
    assert np.allclose(truth["mass"], np.pi * truth["radius"] ** 2) and np.allclose(truth["y"], SIDE / 2)
    event = truth["collided"].any(axis=2)
    assert (event.sum(axis=1) <= 1).all()
    turned = (np.diff(truth["vx"], axis=1) != 0).any(axis=2)
    assert (turned == event[:, 1:]).all()  # told of in the frame that shows it


def test_collisions_come_after_the_known_frames_and_in_time_to_be_seen() -> None:
    for region in REGIONS:
        event = films("collision", 100, region=region)["collided"].any(axis=2)
        first = np.where(event.any(axis=1), event.argmax(axis=1), 99)
        assert ((first >= 4) & (first <= 8)).mean() > (0.95 if region == "out" else 0.999), region


def test_a_thrown_ball_falls_in_a_parabola() -> None:
    truth = films("parabola")
    assert np.abs(np.diff(truth["y"], 2, axis=1) * FPS**2 - parabola.GRAVITY).max() < 1e-9
    assert np.abs(np.diff(truth["x"], 2, axis=1)).max() < 1e-12
    assert np.abs(truth["vy"][:, 0]).max() == 0
    energy = truth["kinetic_energy"] + truth["potential_energy"]
    assert np.ptp(energy, axis=1).max() < 1e-9


def test_a_pendulum_swings_as_elliptic_functions_say() -> None:
    for what in scenes("pendulum", 12, num_frames=40, region="out"):
        truth = film(what, "pendulum").truth
        length, angle = what.start["length"], math.radians(what.start["angle"])
        modulus = math.sin(angle / 2)
        _, cosine, delta, _ = special.ellipj(math.sqrt(pendulum.GRAVITY / length) * np.arange(40) / FPS, modulus**2)
        turns = 2 * np.arcsin(modulus * cosine / delta)
        swung = np.stack([np.abs(truth["x"][:, 0] - truth["x"][0, 0]), truth["y"][:, 0] - truth["y"][0, 0]])
        assert np.abs(swung[0] - np.abs(length * (np.sin(turns) - np.sin(turns[0])))).max() < 1e-7
        assert np.abs(swung[1] - length * (np.cos(turns) - np.cos(turns[0]))).max() < 1e-7
        energy = truth["kinetic_energy"] + truth["potential_energy"]
        assert np.ptp(energy) < 1e-7


@pytest.mark.parametrize("region", REGIONS)
def test_stacked_bodies_never_gain_energy_and_hardly_sink_into_each_other(region: Region) -> None:
    truth = films("stack", 30, region=region, num_frames=20)
    energy = (truth["kinetic_energy"] + truth["potential_energy"]).sum(axis=2)
    assert np.diff(energy, axis=1).max() < 2e-3 * energy.max()
    assert (energy[:, -1] < energy[:, 0] - 0.1).mean() > 0.9
    assert (truth["y"] + truth["radius"]).max() < SIDE + 0.05
    for one, other in ((0, 1), (0, 2), (1, 2)):
        apart = np.hypot(truth["x"][..., one] - truth["x"][..., other], truth["y"][..., one] - truth["y"][..., other])
        assert (apart - truth["radius"][..., one] - truth["radius"][..., other]).min() > -0.1
    starts = np.array([one.start["height"] for one in scenes("stack", 30, region=region)])
    touch = truth["collided"][:, :, 2].argmax(axis=1) / FPS
    assert np.abs(np.ceil(np.sqrt(2 * starts / stack.GRAVITY) * FPS - 1e-3) / FPS - touch).max() < 0.101  # it falls freely until then
    assert truth["collided"][:, :3, :2].max() == 0 or region == "out"  # lying on the floor is no collision


# Shapes, seeds, places.


@worlds
def test_motion_is_the_same_at_any_shape_and_rate(name: str) -> None:
    for what in scenes(name, 5):
        base = film(what, name).truth
        large = film(replace(what, shape=(16, 64, 64)), name).truth
        wide = film(replace(what, shape=(12, 32, 80)), name).truth
        tall = film(replace(what, shape=(12, 56, 32)), name).truth
        exact = {"atol": 0.02, "rtol": 0} if name == "stack" else {"atol": 1e-9, "rtol": 0}  # of which the rate sets the steps
        often = film(replace(what, shape=(23, 32, 32), fps=2 * FPS), name).truth
        for key in TRUTH:
            assert (base[key] == large[key][:12]).all(), key
            shift = {"x": 10 * (80 / 32 - 1) / 2}.get(key, 0.0)
            assert np.allclose(base[key] + shift, wide[key]), key
            assert np.allclose(base[key] + {"y": 10 * (56 / 32 - 1) / 2}.get(key, 0.0), tall[key]), key
            if key not in ("collided", "vx", "vy", "kinetic_energy"):
                assert np.allclose(base[key], often[key][::2], **exact), key


@worlds
def test_frames_are_of_the_shape_that_is_asked_for_and_show_the_bodies(name: str) -> None:
    for shape in ((5, 24, 40), (1, 48, 32)):
        made = film(replace(scenes(name, 1)[0], shape=shape), name)
        assert made.frames.shape == (*shape, 3) and made.frames.dtype == np.uint8
        assert set(made.truth) == TRUTH and all(values.shape[0] == shape[0] for values in made.truth.values())
        rows, columns = (np.floor(made.truth[key][0] * min(shape[1:]) / SIDE).astype(int) for key in ("y", "x"))
        assert (np.ptp(made.frames[0, rows, columns].astype(int), axis=-1) > 100).all()  # a saturated colour at every centre


@worlds
def test_known_starts_are_inside_and_hues_can_be_told_apart(name: str) -> None:
    for region in REGIONS:
        truth = films(name, 60, region=region)
        for key in ("x", "y"):
            edge = np.minimum(truth[key], SIDE - truth[key]) - truth["radius"]
            assert edge[:, 0].min() > -0.01
            if name == "pendulum" or (name in ("motion", "parabola") and region != "out"):
                assert edge[:, : int(SPAN_S * FPS) + 1].min() > -1e-9
        hues = truth["hue"][:, 0]
        for one in range(hues.shape[1]):
            for other in range(one):
                turn = np.abs(hues[:, one] - hues[:, other])
                assert np.minimum(turn, 1 - turn).min() > 1 / 3 - 1e-9


@worlds
def test_clips_are_deterministic_and_do_not_depend_on_their_number(name: str, tmp_path: Path) -> None:
    few, more = load_clips(config(name), tmp_path / "few"), load_clips(config(name, num_train=9, num_test=5), tmp_path / "more")
    for split, clips in few.splits.items():
        assert clips.truth is not None and set(clips.truth) == TRUTH | {OUTSIDE}
        assert all(values.shape[:2] == (len(clips), 12) for values in clips.truth.values())
        assert (clips.frames == more.splits[split].frames[: len(clips)]).all()
        assert all((values == (more.splits[split].truth or {})[key][: len(clips)]).all() for key, values in clips.truth.items())
    seen = {np.asarray(clip).tobytes() for clips in more.splits.values() for clip in clips.frames}
    assert len(seen) == 9 + 2 + 5
    assert few.digest != more.digest and few.fps == FPS and few.label_names == ()


def test_a_long_rods_swing_fits_where_its_circle_does_not() -> None:
    for what in scenes("pendulum", 10):
        truth = film(replace(what, start={"length": 6.0, "radius": 0.8, "angle": 30.0}, shape=(40, 32, 32)), "pendulum").truth
        for key in ("x", "y"):
            assert (np.minimum(truth[key], SIDE - truth[key]) - 0.8).min() > -1e-9
        assert np.ptp(truth["x"]) > 5.9  # to the other side, and back


# Twins.


@worlds
def test_twins_share_the_known_frames_and_no_later_one(name: str) -> None:
    for kind in WORLDS.find(name).twins:
        made = [(what, WORLDS.find(name).film(replace(what, altered=kind, known=4))) for what in scenes(name, 25)]
        twins = [(what, twin) for what, twin in made if twin is not None]
        assert len(twins) >= 20, kind
        for what, twin in twins:
            valid = film(what, name)
            assert (twin.frames[:4] == valid.frames[:4]).all() and (twin.frames[4:] != valid.frames[4:]).any(), kind
            assert set(twin.truth) == TRUTH
            assert all((twin.truth[key][:4] == valid.truth[key][:4]).all() for key in TRUTH - {"collided"}), kind


@worlds
def test_a_teleported_body_jumps_once_and_a_growing_one_grows(name: str) -> None:
    for what in scenes(name, 20):
        valid = film(what, name).truth
        jumped = WORLDS.find(name).film(altered := replace(what, altered="teleport", known=4))
        if jumped is not None:
            first = middle(altered)
            off = np.hypot(jumped.truth["x"] - valid["x"], jumped.truth["y"] - valid["y"])
            assert off[:first].max() == 0 and (off[first:, 0] >= JUMP).all() and np.ptp(off[first:, 0]) < 1e-9
            assert off[:, 1:].max(initial=0) == 0
        grown = film(replace(what, altered="growing", known=4), name).truth["radius"]
        assert np.allclose(grown[-1] / grown[3], 1 + GROWTH * (11 - 3) / FPS) and (grown[:4] == valid["radius"][:4]).all()


def test_collisions_against_their_laws() -> None:
    for what in scenes("collision", 20):
        valid, gains, passes = (
            film(replace(what, altered=kind, known=4), "collision").truth for kind in (None, "over_elastic", "pass_through")
        )
        momentum = [(truth["mass"] * truth["vx"]).sum(axis=1) for truth in (valid, gains, passes)]
        assert np.ptp(np.array(momentum)) < 1e-9
        closing = np.diff(valid["vx"][0])
        assert np.allclose(np.diff(gains["vx"][-1]), -collision.OVER_ELASTIC * closing)
        assert np.allclose(passes["vx"], valid["vx"][0]) and passes["collided"].max() == 0
        assert gains["kinetic_energy"].sum(axis=1)[-1] > 1.05 * valid["kinetic_energy"].sum(axis=1)[-1]


@pytest.mark.parametrize("name", ["parabola", "pendulum", "stack"])
def test_gravity_flipped_pulls_upwards(name: str) -> None:
    for what in scenes(name, 10):
        valid, twin = film(what, name).truth, film(replace(what, altered="gravity_flipped", known=4), name).truth
        assert (twin["y"][-1] < valid["y"][-1] - 0.1).any()
        rise = np.diff(twin["y"][3:], 2, axis=0) * FPS**2
        if name == "parabola":
            assert np.abs(rise + parabola.GRAVITY).max() < 1e-9
        kinetic, potential = twin["kinetic_energy"], twin["potential_energy"]
        assert np.ptp((kinetic + potential)[3:].sum(axis=1)) > 0.05 * kinetic.max()  # the true law does not hold


def test_a_turned_ball_turns_once() -> None:
    for what in scenes("motion", 10):
        twin = film(altered := replace(what, altered="turned", known=4), "motion").truth
        step = np.diff(twin["x"][:, 0])
        first = middle(altered)
        assert np.allclose(step[: first - 1], step[0]) and np.allclose(step[first - 1 :], -step[0])


def test_stacked_bodies_against_their_laws() -> None:
    gained, sunk = [], []
    for what in scenes("stack", 12):
        energy = [
            (truth["kinetic_energy"] + truth["potential_energy"]).sum(axis=1)
            for truth in (film(replace(what, altered=kind, known=4), "stack").truth for kind in (None, "over_elastic"))
        ]
        gained.append(energy[1][-1] - energy[0][-1])
        twin = film(replace(what, altered="pass_through", known=4), "stack").truth
        apart = np.hypot(twin["x"] - twin["x"][:, [2]], twin["y"] - twin["y"][:, [2]])[:, :2]
        sunk.append((apart - twin["radius"][:, :2] - twin["radius"][:, [2]]).min())
    assert min(gained) > 1 and max(sunk) < -0.3


def test_a_law_that_nothing_obeys_is_not_broken() -> None:
    what = scenes("collision", 1)[0]
    for kind in ("over_elastic", "pass_through"):
        assert WORLDS.find("collision").film(replace(what, altered=kind, known=9)) is None  # they have met before
        assert WORLDS.find("collision").film(replace(what, altered=kind, known=2, shape=(4, 32, 32))) is None  # they will have
    still = replace(what, start={**what.start, "speed_1": 0.0, "speed_2": 0.0}, altered="over_elastic", known=4)
    assert WORLDS.find("collision").film(still) is None
    high = replace(scenes("stack", 1)[0], shape=(6, 32, 32), known=4)
    high = replace(high, start={**high.start, "height": 4.0})
    assert WORLDS.find("stack").film(replace(high, altered="pass_through")) is None
    for name in NAMES:
        first = scenes(name, 1)[0]
        assert all(WORLDS.find(name).film(replace(first, altered=kind, known=12)) is None for kind in WORLDS.find(name).twins)
        with pytest.raises(Refusal, match=r"law 'anything' cannot be broken here; .*growing can"):
            WORLDS.find(name).film(replace(first, altered="anything"))


# The source.
