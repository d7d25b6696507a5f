"""The world `liquid`: laws that its flow keeps, twins that break one, and what no frame has room for."""

import dataclasses
import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from bench.data.physics.fluid.flow import PER_CELL, Flow
from bench.data.physics.fluid.particles import corners
from bench.data.physics.fluid.projection import Projection, fill_holes
from bench.data.physics.fluid.surface import pieces_and_crest, resampled
from bench.data.physics.fluid.tank import CELLS, Tank
from bench.data.physics.fluid.twins import GROWTH
from bench.data.physics.liquid import LIQUID, begin
from bench.data.physics.regions import Region
from bench.data.physics.world import Film, Scene
from bench.data.source import load_config
from bench.data.sources import physics
from bench.data.sources.physics import Config, scene, write
from bench.shapes import Refusal

START = {"radius": 0.1, "height": 0.15, "speed": 0.4, "depth": 0.25, "gravity": 4.0, "tilt": 0.0, "apart": 0.0}
SPLASH = Scene(start=START, seed=3, shape=(14, 64, 64), fps=25.0)  # the drop touches the pool in frame 5


def config(**fields: object) -> Config:
    return Config(**{"world": "liquid", "num_frames": 14, "height": 64, "width": 64, "num_train": 1, "num_val": 1, "num_test": 1, **fields})


@functools.cache
def valid() -> Film:
    film = LIQUID.film(SPLASH)
    assert film is not None
    return film


@functools.cache
def twin(altered: str, known: int = 3) -> Film | None:
    return LIQUID.film(dataclasses.replace(SPLASH, altered=altered, known=known))


def steps(flow: Flow, seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Energy and divergence after each step of a flow."""
    found, plain = [(flow.energy(), 0.0)], Flow._step

    def recorded(self: Flow, step: float, swelling: float) -> None:
        plain(self, step, swelling)
        found.append((self.energy(), self.divergence))

    monkeypatch.setattr(Flow, "_step", recorded)
    flow.advance(seconds)
    return found


@pytest.mark.parametrize(("region", "index"), [*itertools.product(["in", "out", "combinatorial"], range(2))])
def test_no_divergence_no_energy_no_liquid_gained(region: Region, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    flow, _, _ = begin(scene(config(region=region), "test", index))
    gained, lose = [], Flow._lose
    monkeypatch.setattr(Flow, "_lose", lambda self, energy: (gained.append(max(energy, 0.0)), lose(self, energy)))
    num, energy = flow.dyed.size, flow.energy()
    found = np.array(steps(flow, 0.52, monkeypatch))
    assert len(found) > 30
    assert found[:, 1].max() < 1e-12
    assert np.diff(found[:, 0]).max() < 1e-12 * energy
    assert flow.energy() < 0.99 * energy  # a splash costs some
    assert sum(gained) < 0.006 * energy  # next to nothing had to be taken
    assert flow.dyed.size == num and flow.time == 0.52
    size = np.array([[flow.tank.width], [flow.tank.height]])
    assert ((flow.places > 0) & (flow.places < size)).all()


def test_the_area_of_the_liquid_stays() -> None:
    """What is drawn, against what there is."""
    for index in range(4):
        truth = LIQUID.film(scene(config(), "test", index)).truth  # type: ignore[union-attr]
        mass = truth["mass"][:, 0]
        assert np.ptp(mass) == 0
        assert np.abs(truth["surface"].mean((1, 2)) / mass - 1).max() < 0.04
        assert np.abs(truth["filled"][:, 1].mean(-1) / truth["mass"][:, 1] - 1).max() < 0.08


def test_a_fall_is_a_parabola_until_it_touches() -> None:
    truth = valid().truth
    seconds = np.arange(14) / 25
    contact = truth["contact"][0, 0]
    assert 0.15 / 0.9 < contact < 0.15 / 0.4  # at the mean speed of a fall of 0.15, about 0.7
    air = seconds < contact - 1 / 25
    down = truth["centre"][:, 1, 1]
    np.testing.assert_allclose(down[air], (down[0] + 0.4 * seconds + 2 * seconds**2)[air], atol=1e-9)
    np.testing.assert_allclose(truth["centre"][air, 1, 0], truth["centre"][0, 1, 0], atol=1e-9)
    assert abs(down[8] - (down[0] + 0.4 * seconds[8] + 2 * seconds[8] ** 2)) > 0.02  # the pool has stopped it


def test_a_pool_at_rest_rests() -> None:
    flow, _, _ = begin(SPLASH)
    flow.places, flow.velocities = flow.places[:, ~flow.dyed], flow.velocities[:, ~flow.dyed]
    flow.affine, flow.dyed = flow.affine[:, :, ~flow.dyed], flow.dyed[~flow.dyed]
    before = flow.places[1].mean()
    flow.advance(0.4)
    assert math.sqrt((flow.velocities**2).mean()) < 1e-3
    assert abs(flow.places[1].mean() - before) < 1e-4


def test_a_splash_throws_up_a_crown_and_sinks_the_dye() -> None:
    truth = valid().truth
    assert truth["crest"][0, 0] == pytest.approx(0.25, abs=0.01)
    assert truth["crest"].max() > 0.35
    assert truth["centre"][-1, 1, 1] > 0.74  # below the surface at 0.75, about


def test_transfers_keep_momentum_and_carry_linear_flows_exactly() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform([[2], [2]], [[10], [7]], (2, 300))  # cells, of 9 x 12
    for axis, near in enumerate(corners(places, (9, 12))):
        velocity, affine = rng.normal(size=300), rng.normal(size=(2, 300))
        mean, weight = near.scatter(velocity, affine)
        assert weight.sum() == pytest.approx(300)
        assert (mean * weight).sum() == pytest.approx(velocity.sum())
        linear = 0.3 + 0.2 * places[0] - 0.7 * places[1]
        faces, weight = near.scatter(linear, np.stack([np.full(300, 0.2), np.full(300, -0.7)]))
        row, column = np.indices(faces.shape)
        there = 0.3 + 0.2 * (column + 0.5 * axis) - 0.7 * (row + 0.5 * (1 - axis))
        np.testing.assert_allclose(faces[weight > 0], there[weight > 0], atol=1e-12)
        np.testing.assert_allclose(near.gather(there), linear, atol=1e-12)
        np.testing.assert_allclose(near.gradient(there), np.broadcast_to([[0.2], [-0.7]], (2, 300)), atol=1e-12)


def test_pressure_removes_divergence_and_only_takes_energy() -> None:
    rng = np.random.default_rng(1)
    full = rng.uniform(size=(7, 11)) < 0.6
    density = rng.uniform(0.2, 1, (7, 12)), rng.uniform(0.2, 1, (8, 11))
    weight = [each.copy() for each in density]  # of the energy: inside, liquid is of density 1
    weight[0][:, 1:-1][full[:, 1:] & full[:, :-1]] = weight[1][1:-1][full[1:] & full[:-1]] = 1.0
    for floor_below in (True, False):
        faces = rng.normal(size=(7, 12)), rng.normal(size=(8, 11))
        solve = Projection(full, density, (0.1, 0.15), floor_below=floor_below)
        solve.close(faces)
        before = sum((own * each**2).sum() for own, each in zip(weight, faces, strict=True))
        old = [each.copy() for each in faces]
        solve.remove_divergence([faces], [0.0])
        assert np.abs(solve.divergence(faces)).max() < 1e-11
        after = sum((own * each**2).sum() for own, each in zip(weight, faces, strict=True))
        lost = sum((own * (each - was) ** 2).sum() for own, each, was in zip(weight, faces, old, strict=True))
        assert after + lost == pytest.approx(before)  # a projection: what is left stands square on what is taken
        assert not faces[0][:, [0, -1]].any() and not faces[1][-1 if floor_below else 0].any()
        assert faces[1][0 if floor_below else -1].any()  # the lid is open
        again = [each.copy() for each in faces]
        solve.remove_divergence([faces], [0.5])
        np.testing.assert_allclose(solve.divergence(faces)[full], 0.5)
        assert np.abs(faces[0] - again[0]).max() > 0


def test_a_hole_between_full_cells_is_full() -> None:
    full = np.array([[0, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]], bool)
    assert fill_holes(full).astype(int).tolist() == [[0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]]


def test_the_same_scene_is_the_same_film_and_another_seed_is_not() -> None:
    again = LIQUID.film(SPLASH)
    other = LIQUID.film(dataclasses.replace(SPLASH, seed=4))
    assert again is not None and other is not None
    assert (again.frames == valid().frames).all()
    assert all(np.array_equal(again.truth[name], own, equal_nan=True) for name, own in valid().truth.items())
    assert (other.truth["dye"] != again.truth["dye"]).any()
    assert abs(other.truth["centre"][0, 1, 0] - again.truth["centre"][0, 1, 0]) > 0.01


def test_several_processes_film_what_one_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = config(num_frames=6, height=16, width=16, num_train=17)
    for num in (1, 2):
        (tmp_path / str(num)).mkdir()
        monkeypatch.setattr(physics.os, "cpu_count", lambda num=num: num)
        write(small, tmp_path / str(num), lambda *_: None)
    for name in ("train.npy", "train.truth.npz"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_motion_does_not_depend_on_resolution() -> None:
    small = LIQUID.film(dataclasses.replace(SPLASH, shape=(14, 24, 24)))
    assert small is not None and small.frames.shape == (14, 24, 24, 3)
    for name in ("centre", "mass", "kinetic", "filled", "crest", "contact"):
        np.testing.assert_array_equal(small.truth[name], valid().truth[name])


@pytest.mark.parametrize(("height", "width"), [(24, 40), (40, 24), (21, 32)])
def test_frames_of_any_aspect(height: int, width: int) -> None:
    film = LIQUID.film(dataclasses.replace(SPLASH, shape=(5, height, width)))
    assert film is not None
    assert film.frames.shape == (5, height, width, 3) and film.frames.dtype == np.uint8
    assert {name: own.dtype for name, own in film.truth.items()} == dict.fromkeys(valid().truth, np.dtype(np.float64))
    tank = Tank.of_frame(height, width)
    rows, columns = tank.shape
    assert min(rows, columns) == CELLS and tank.cell[0] == pytest.approx(tank.cell[1], rel=0.01)
    shapes = {"centre": (2, 2), "mass": (2,), "surface": (1, width), "dye": (1, 3), "span": (1, 2)}
    shapes["filled"] = (2, round(16 * tank.height) * round(16 * tank.width))
    for name, own in film.truth.items():
        assert own.shape == (5, *shapes.get(name, (1,))), name
    assert film.truth["mass"][0, 1] == pytest.approx(math.pi * 0.01, rel=0.03)  # lengths in the shorter side
    assert film.truth["mass"][0, 0] == pytest.approx(math.pi * 0.01 + 0.25 * tank.width, rel=0.01)


def test_a_start_says_the_drop_and_the_pool() -> None:
    flow, span, _ = begin(dataclasses.replace(SPLASH, start={**START, "tilt": 0.06, "apart": 2.6}))
    x, y = flow.places[:, flow.dyed]
    middle = sum(span) / 2
    assert (x.min(), x.max()) == pytest.approx((span[0], span[1]), abs=0.01)
    assert span[1] - span[0] == pytest.approx(0.1 * 4.6)
    assert not ((x > middle - 0.025) & (x < middle + 0.025)).any()  # two drops
    assert y.max() == pytest.approx(1 - 0.25 - 0.15, abs=0.01)
    assert (flow.velocities == np.stack([0 * flow.dyed, 0.4 * flow.dyed])).all()
    x, y = flow.places[:, ~flow.dyed]
    assert [1 - y[abs(x - at) < 0.03].min() for at in (0.03, 0.5, 0.97)] == pytest.approx([0.222, 0.25, 0.278], abs=0.01)
    assert flow.dyed.size * flow.volume == pytest.approx(0.25 + 2 * math.pi * 0.01, rel=0.02) and flow.volume * PER_CELL == CELLS**-2


def test_a_start_a_hundredth_off_begins_almost_the_same() -> None:
    near = LIQUID.film(dataclasses.replace(SPLASH, start={name: 1.01 * value for name, value in START.items()}))
    assert near is not None
    off = np.abs(near.truth["centre"] - valid().truth["centre"])[:, 1].max(-1)
    assert 0 < off[0] < 0.01 and off.max() < 0.03


@pytest.mark.parametrize("altered", LIQUID.twins)
def test_a_twin_shares_the_known_frames_and_no_more(altered: str) -> None:
    film = twin(altered)
    assert film is not None
    assert (film.frames[:3] == valid().frames[:3]).all()
    assert (film.frames[-1] != valid().frames[-1]).any()
    assert {name: own.shape for name, own in film.truth.items()} == {name: own.shape for name, own in valid().truth.items()}
    assert LIQUID.film(dataclasses.replace(SPLASH, altered=altered, known=14)) is None  # nothing comes after


def test_each_twin_breaks_its_law() -> None:
    flipped, moved, _, grown, through = (twin(name) for name in LIQUID.twins)
    assert flipped and moved and grown and through
    real = valid().truth
    assert np.diff(flipped.truth["centre"][3:, 0, 1]).max() < 0  # all liquid rises
    energy = (flipped.truth["kinetic"] + flipped.truth["potential"])[:, 0]
    assert energy[-1] > 1.2 * energy[0]
    jumps = np.abs(np.diff(moved.truth["centre"][:, 1, 0]))
    assert jumps[2] > 0.2 and np.delete(jumps[:4], 2).max() < 1e-9
    assert moved.truth["centre"][3, 1, 1] == pytest.approx(real["centre"][3, 1, 1], abs=1e-6)  # and falls on
    np.testing.assert_allclose(grown.truth["mass"][-1], (1 + GROWTH) * real["mass"][-1], rtol=0.05)
    assert grown.truth["mass"][-1, 0] == pytest.approx((1 + GROWTH) * real["mass"][-1, 0], rel=1e-3)
    assert grown.truth["surface"][-1].mean() > 1.2 * real["surface"][-1].mean()  # and it is seen to
    assert grown.truth["kinetic"].max() > 0.9 * real["kinetic"].max()  # and splashes as before
    assert (grown.truth["divergence"] < 1e-12).all()  # no more than it is meant to have
    assert through.truth["centre"][-1, 1, 1] > 0.95 and real["centre"][-1, 1, 1] < 0.9
    assert through.truth["crest"].max() < 0.26


def test_a_reversed_splash_runs_backwards_once_it_was_seen() -> None:
    back = LIQUID.film(dataclasses.replace(SPLASH, shape=(12, 64, 64), altered="reversed_splash", known=3))
    assert back is not None
    turn = math.ceil(valid().truth["contact"][0, 0] * 25) + 2
    assert turn == 7  # the sixth frame is the first to show the drop in the pool, two more the splash
    np.testing.assert_array_equal(back.frames[: turn + 1], valid().frames[: turn + 1])
    np.testing.assert_array_equal(back.frames[turn:], valid().frames[3 : turn + 1][::-1])
    np.testing.assert_array_equal(back.truth["centre"][turn:], valid().truth["centre"][3 : turn + 1][::-1])


def test_no_twin_where_nothing_obeys_its_law() -> None:
    assert twin("teleport", known=8) is None and twin("pass_through", known=8) is None  # the drop is in the pool
    uphill = dataclasses.replace(SPLASH, start={**START, "height": 0.1, "tilt": 0.13}, seed=8, shape=(6, 16, 16), altered="teleport")
    assert [LIQUID.film(dataclasses.replace(uphill, known=known)) is None for known in (1, 3)] == [False, True]  # it would land in the pool
    short = dataclasses.replace(SPLASH, shape=(5, 16, 16), known=2)  # it never gets there
    assert LIQUID.film(dataclasses.replace(short, altered="pass_through")) is None
    assert LIQUID.film(dataclasses.replace(short, altered="reversed_splash")) is None
    assert LIQUID.film(dataclasses.replace(SPLASH, shape=(9, 16, 16), altered="reversed_splash")) is None  # too little after it
    assert LIQUID.film(dataclasses.replace(short, altered="gravity_flipped")) is not None


def test_frames_far_apart_are_refused() -> None:
    with pytest.raises(Refusal, match=r"fps = 0.5 of world liquid: a frame would take 2 seconds of splashing; use 2 or more"):
        LIQUID.check({}, (16, 64, 64), 0.5)


def test_its_own_ranges_fit_a_square_and_a_twin_a_hundredth_off() -> None:
    own = {each.name: (each.trained, *each.beyond) for each in LIQUID.parameters}
    LIQUID.check(own, (16, 64, 64), 25.0)
    LIQUID.check({name: tuple((1.01 * low, 1.01 * high) for low, high in every) for name, every in own.items()}, (16, 64, 64), 25.0)
    assert {"radius", "height"} == set(LIQUID.withheld)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"beyond": {"height": [[0.4, 0.5]]}}, r"depth, height and radius up to .* put the drop's top at 1.14, outside the frame"),
        ({"beyond": {"apart": [[5, 7]]}}, r"make a drop 1.26 wide, outside the frame; it must be at most 0.94"),
        ({"trained": {"height": [0.05, 0.2]}}, r"height = 0.05 with tilt 0.13: the drop does not fit above the pool; use 0.095 or more"),
        ({"trained": {"depth": [0.05, 0.3]}, "beyond": {"depth": []}}, r"depth = 0.05 with tilt 0.13 leaves a part of the floor dry"),
        ({"trained": {"gravity": [-1, 3]}, "beyond": {"gravity": []}}, r"gravity = -1 of world liquid: it must be at least 0.1"),
        ({"trained": {"radius": [0.01, 0.1]}, "beyond": {"radius": []}}, r"radius = 0.01 of world liquid: it must be at least 0.03"),
        ({"trained": {"speed": [-0.5, 0.1]}}, r"speed = -0.5 of world liquid: it must be at least 0"),
        ({"trained": {"apart": [-0.5, 0.1]}}, r"apart = -0.5 of world liquid: it must be at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(Refusal, match=says):
        load_config({**config().model_dump(), **fields})


def test_resampling_by_area() -> None:
    values = np.array([[4.0, 8.0, 6.0]])
    np.testing.assert_allclose(resampled(values, 1, 2), [[16 / 3, 20 / 3]])  # 4 and half of 8; half of 8 and 6
    np.testing.assert_allclose(resampled(values, 2, 1), [[6.0], [6.0]])
    rng = np.random.default_rng(2)
    several = rng.uniform(size=(2, 3, 10, 13))
    np.testing.assert_allclose(resampled(several, 4, 20).mean((2, 3)), several.mean((2, 3)))
    np.testing.assert_allclose(resampled(several, 4, 20)[1, 2], resampled(several[1, 2], 4, 20))


def test_pieces_and_crest_by_hand() -> None:
    tank = Tank.of_frame(32, 32)
    cover = np.zeros((3, 32, 32))
    cover[:2, 24:] = 1.0  # a pool of a quarter
    cover[0, 20:24, 28:] = 1.0  # a wave at the right
    cover[0, 19, 28:] = 0.25
    cover[0, 4:8, 10:14] = 1.0  # a drop
    cover[0, 0, 0] = 1.0  # spray
    cover[1, 10:24, 15] = 1.0  # a jet where the drop falls
    pieces, crest = pieces_and_crest(cover, np.array([10 / 32, 18 / 32]), tank)
    assert pieces.tolist() == [2, 1, 0]
    edge = 19.5 + 0.25 / 0.75  # rows from the top: cover is a half between the rows' middles
    assert crest == pytest.approx([1 - edge / 32, 1 - 24 / 32, 0])
