"""Rigid-body worlds: determinism, pixels against state, conservation laws, clips of many shapes."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.data.ragged import Ragged
from bench.data.source import clips_digest, load_clips
from bench.data.sources import worlds
from bench.data.sources.worlds import Config, boxes, clip_shape, simulate
from bench.data.worlds.drawing import BACKGROUND, SHAPES, STATE, render
from bench.shapes import Shape


def config(**changes: Any) -> Config:
    fields = {"num_frames": 10, "height": 24, "width": 24, "num_train": 8, "num_val": 4, "num_test": 4}
    return Config.model_validate(fields | changes)


def states(config: Config, num: int, split: str = "train") -> dict[str, np.ndarray]:
    """State of the first `num` clips, by name: each (N, T, objects)."""
    state = np.stack([simulate(config, split, index) for index in range(num)])
    return {name: state[..., i] for i, name in enumerate(STATE)}


def test_clips_are_deterministic_and_do_not_depend_on_their_number(tmp_path: Path) -> None:
    few = load_clips(config(), tmp_path / "few")
    more = load_clips(config(num_train=70, num_test=9), tmp_path / "more")  # more than one batch
    for split in ("train", "val", "test"):
        num = len(few.splits[split])
        assert (few.splits[split].frames == more.splits[split].frames[:num]).all()
        assert (few.splits[split].labels == more.splits[split].labels[:num]).all()
        for name, values in (few.splits[split].truth or {}).items():
            assert (values == (more.splits[split].truth or {})[name][:num]).all()
    assert few.digest != more.digest


def test_splits_and_seeds_share_no_clip(tmp_path: Path) -> None:
    seen: set[bytes] = set()
    for seed in (0, 1):
        for clips in load_clips(config(seed=seed, num_train=40), tmp_path).splits.values():
            seen |= {np.asarray(clip).tobytes() for clip in clips.frames}
    assert len(seen) == 2 * (40 + 4 + 4)


def test_what_is_stored(tmp_path: Path) -> None:
    clips = load_clips(config(num_frames=4, height=16, width=28, num_objects=1, fps=5.0), tmp_path)
    test = clips.splits["test"]
    assert test.frames.shape == (4, 4, 16, 28, 3) and test.frames.dtype == np.uint8
    assert clips.label_names == SHAPES and clips.fps == 5.0
    assert test.labels.tolist() == [0, 1, 2, 3] and test.labels.dtype == np.int64
    assert test.truth is not None and set(test.truth) == set(STATE)
    assert all(values.shape == (4, 4, 1) for values in test.truth.values())
    assert (test.truth["shape"][:, 0, 0] == test.labels).all()


def test_hue_size_and_motion_are_independent_of_class() -> None:
    truth = {name: values[:, 0, 0] for name, values in states(config(num_frames=1), 800).items()}
    hues = np.histogram2d(truth["shape"], truth["hue"], bins=(4, 6), range=((0, 4), (0, 1)))[0]
    assert stats.chi2_contingency(hues).pvalue > 1e-3
    assert stats.chisquare(hues.sum(axis=0)).pvalue > 1e-3  # every hue comes up
    for name in ("hue", "radius", "vx", "vy", "x", "y"):
        assert stats.f_oneway(*(truth[name][truth["shape"] == shape] for shape in range(4))).pvalue > 1e-3, name


@pytest.mark.parametrize(("num_frames", "height", "width"), [(7, 24, 24), (5, 20, 37), (6, 41, 18)])
def test_truth_is_where_the_pixels_are(num_frames: int, height: int, width: int) -> None:
    made = config(num_frames=num_frames, height=height, width=width)
    truth = states(made, 16)
    frames = render(np.stack([truth[name] for name in STATE], axis=-1), height, width)
    assert frames.shape == (16, num_frames, height, width, 3)
    weight = frames.max(axis=-1).astype(float) - BACKGROUND  # (N, T, H, W)
    total = weight.sum(axis=(2, 3))
    row = (weight.sum(axis=3) * np.arange(height)).sum(axis=2) / total
    column = (weight.sum(axis=2) * np.arange(width)).sum(axis=2) / total
    side = min(height, width)
    assert np.abs(row - (truth["y"][..., 0] * side - 0.5)).max() < 0.15
    assert np.abs(column - (truth["x"][..., 0] * side - 0.5)).max() < 0.15


def test_pixels_show_shape_angle_and_hue() -> None:
    state = np.zeros((4, 1, 1, len(STATE)))
    state[..., STATE.index("x")] = state[..., STATE.index("y")] = 0.5
    state[..., STATE.index("radius")] = 0.4
    state[:, 0, 0, STATE.index("angle")] = [0, np.pi / 4, np.pi, 0]  # a corner points down; at 0 a side does
    state[:, 0, 0, STATE.index("shape")] = range(4)
    state[..., STATE.index("hue")] = 1 / 3  # green
    frames = render(state, 100, 100)[:, 0]
    lit = frames[..., 1] > 128
    assert frames[frames[..., 1] == 255][:, [0, 2]].max() == 0
    cover = (frames[..., 1].astype(float) - BACKGROUND) / (255 - BACKGROUND)
    radius = 40.0
    areas = {"disc": np.pi, "square": 2.0, "triangle": 0.75 * 3**0.5, "ring": np.pi * 0.75}
    for shape, name in enumerate(SHAPES):
        assert cover[shape].sum() == pytest.approx(areas[name] * radius**2, rel=0.01), name
    below, above = (88, 50), (12, 50)
    assert [bool(lit[shape][below]) for shape in range(4)] == [True, True, True, True]
    assert [bool(lit[shape][above]) for shape in range(4)] == [True, True, False, True]
    assert [bool(lit[shape][50, 50]) for shape in range(4)] == [True, True, True, False]
    state[..., STATE.index("angle")] = 0
    upright = render(state, 100, 100)[:, 0, ..., 1] > 128
    assert upright[1, 23:78, 23:78].all()  # the square's sides are the frame's
    assert upright[2, 11:15, 48:52].any()  # the triangle's apex is up, its base at the bottom
    assert upright[2, 68, 20:80].all()


def test_one_object_keeps_speed_on_each_axis_and_stays_inside() -> None:
    truth = states(config(num_frames=60), 12)
    for name in ("vx", "vy"):
        assert np.abs(np.abs(truth[name]) - np.abs(truth[name][:, :1])).max() < 1e-9
    assert np.ptp(truth["angular_velocity"], axis=1).max() < 1e-9
    for name in ("x", "y"):
        assert (truth[name] - truth["radius"]).min() > -0.01 and (truth[name] + truth["radius"]).max() < 1.01
    assert (np.sign(truth["vx"]) != np.sign(truth["vx"][:, :1])).any(axis=1).mean() > 0.9  # walls were hit


def test_collisions_conserve_energy_and_momentum() -> None:
    made = config(num_frames=80, height=24, width=48, num_objects=5, radius=(0.08, 0.16), speed=(0.5, 1.0))
    truth = states(made, 6)
    energy = (truth["mass"] * (truth["vx"] ** 2 + truth["vy"] ** 2)).sum(axis=2)  # (N, T)
    assert np.abs(energy / energy[:, :1] - 1).max() < 1e-6
    reach = truth["radius"] + 1.5 / made.fps  # no wall within a frame, at any speed that occurs
    away = (truth["x"] > reach) & (truth["x"] < 2 - reach)
    free = (away[:, :-1] & away[:, 1:]).all(axis=2)  # (N, T - 1)
    change = np.diff((truth["mass"] * truth["vx"]).sum(axis=2), axis=1)
    collided = (np.abs(np.diff(truth["vx"], axis=1)) > 1e-6).any(axis=2)
    assert (free & collided).sum() >= 5
    assert np.abs(change[free]).max() < 1e-9


def test_free_fall_is_a_parabola() -> None:
    gravity, fps = 0.6, 16.0
    truth = states(config(num_frames=12, gravity=gravity, fps=fps, speed=(0.0, 0.3)), 16)
    y, vy = truth["y"][..., 0], truth["vy"][..., 0]
    frame_free = np.abs(np.diff(vy, axis=1) - gravity / fps) < 1e-9  # (N, T - 1): no wall in this frame
    free = frame_free[:, :-1] & frame_free[:, 1:]
    assert free.mean() > 0.5
    assert np.abs(np.diff(y, 2, axis=1)[free] - gravity / fps**2).max() < 1e-9  # downward: y grows


def test_damping_takes_its_share_of_velocity_and_spin_each_second_and_gives_time_an_arrow() -> None:
    fps, damping = 8.0, 0.5
    truth = states(config(num_frames=17, fps=fps, damping=damping), 12)
    kept = (1 - damping) ** (np.arange(17) / fps)
    speed = np.hypot(truth["vx"], truth["vy"])[..., 0]  # (N, T); walls turn a velocity and keep its length
    assert np.abs(speed / speed[:, :1] / kept - 1).max() < 0.02  # a bounce is spared the loss of its one physics step
    spin = truth["angular_velocity"][..., 0]
    assert np.abs(spin / spin[:, :1] / kept - 1).max() < 1e-9
    undamped = states(config(num_frames=17, fps=fps), 12)
    assert all((truth[name][:, 0] == undamped[name][:, 0]).all() for name in STATE)  # the same worlds, slowed


def test_damping_is_a_share() -> None:
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="damping"):
            config(damping=wrong)


def test_motion_does_not_depend_on_resolution() -> None:
    small, large = states(config(), 4), states(config(height=96, width=96), 4)
    assert all((small[name] == large[name]).all() for name in STATE)


def test_more_frames_and_a_second_object_fit() -> None:
    truth = states(config(num_objects=2, radius=(0.15, 0.22), num_frames=30), 20)
    apart = np.hypot(np.diff(truth["x"], axis=2), np.diff(truth["y"], axis=2))[..., 0] - truth["radius"].sum(axis=2)
    assert apart.min() > -0.02 and (apart[:, 0] > 0).all()


# Taken before clips could have many shapes. A change of pymunk changes the digest, not the pixels of these short clips.
QUICK = {"num_frames": 10, "height": 24, "width": 24, "num_train": 2000, "num_val": 128, "num_test": 128}
QUICK |= {"radius": (0.25, 0.31), "tilt": 0, "spin": 0}
CROWD = {"num_frames": 5, "height": 20, "width": 37, "seed": 3, "num_objects": 2, "radius": (0.15, 0.22), "gravity": 0.4, "damping": 0.1}


@pytest.mark.parametrize(
    ("fields", "split", "index", "pixels"),
    [
        (QUICK, "train", 3, "82baf319aef9abfb65c1e05f4efe1f0d"),
        (QUICK, "test", 0, "3bef4b5c85787ead549f31884f094731"),
        (CROWD, "train", 3, "c53d00f3fc4aabd542b838a2cc07fd16"),
        (CROWD, "test", 0, "371192943d764c3ffe7ec013c1e36c32"),
    ],
)
def test_clips_of_older_configs_keep_their_pixels(fields: dict[str, Any], split: str, index: int, pixels: str) -> None:
    made = config(**fields)
    frames = render(simulate(made, split, index)[None], made.height, made.width)
    assert hashlib.blake2b(frames.tobytes(), digest_size=16).hexdigest() == pixels


def test_older_configs_keep_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds.pymunk, "version", "7.3.1")
    quick = config(**QUICK)
    assert worlds.digest(quick) == "10a2d6fba54f77d5d19b18bb3864e427"
    assert clips_digest(quick) == "dc91709707e93872ec75d39321938cff"
    assert worlds.digest(config(**QUICK, shapes=(), margin=0.0, placement="uniform")) == worlds.digest(quick)
    changes: list[dict[str, Any]] = [
        {"shapes": ((10, 24, 24),)},
        {"margin": 0.1},
        {"placement": "edges", "radius": (0.2, 0.3)},
        {"seed": 1},
    ]
    assert len({worlds.digest(quick), *(worlds.digest(config(**{**QUICK, **change})) for change in changes)}) == 5


MIXED: tuple[Shape, ...] = ((4, 16, 28), (1, 24, 24), (6, 28, 16), (2, 12, 12), (1, 24, 24))


def test_clips_of_many_shapes(tmp_path: Path) -> None:
    made = config(shapes=MIXED, num_train=70, num_val=9)
    assert made.mixed and not config().mixed
    clips = load_clips(made, tmp_path)
    for split, clip_set in clips.splits.items():
        assert isinstance(clip_set.frames, Ragged) and clip_set.truth is not None
        assert clip_set.shapes == tuple(clip_shape(made, index) for index in range(len(clip_set)))
        for index in (0, 1, 2, 3, len(clip_set) - 1):  # the last lies in another batch
            state = simulate(made, split, index)
            num_frames, height, width = clip_set.shapes[index]
            assert state.shape == (num_frames, 1, len(STATE))
            assert (clip_set.frames[index] == render(state[None], height, width)[0]).all()
            for i, name in enumerate(STATE):
                truth = clip_set.truth[name][index]  # (longest T, objects)
                assert truth.shape == (6, 1) and (truth[:num_frames] == state[..., i]).all()
                assert (truth[num_frames:] == -1 if name == "shape" else np.isnan(truth[num_frames:])).all()
        assert (clip_set.labels == np.arange(len(clip_set)) % 4).all()
    fewer = load_clips(config(shapes=MIXED, num_train=5), tmp_path).splits["train"]
    assert all((one == other).all() for one, other in zip(fewer.frames, clips.splits["train"].frames, strict=False))


@pytest.mark.parametrize("num_shapes", [1, 2, 3, 4, 5, 6, 8, 12])
def test_shapes_are_dealt_evenly_and_independently_of_class(num_shapes: int) -> None:
    made = config(shapes=[(1, 8, 8 + i) for i in range(num_shapes)])
    dealt = [clip_shape(made, index)[2] - 8 for index in range(8 * num_shapes)]
    for num in range(1, len(dealt)):
        counts = np.bincount(dealt[:num], minlength=num_shapes)
        assert counts.max() - counts.min() <= 1, num
    every = set(itertools.product(range(num_shapes), range(4)))
    for first in range(0, 4 * num_shapes, int(np.lcm(4, num_shapes))):
        assert {(dealt[index], index % 4) for index in range(first, first + 4 * num_shapes)} == every


def test_a_shape_named_twice_comes_twice_as_often() -> None:
    made = config(shapes=MIXED)
    dealt = [clip_shape(made, index) for index in range(100)]
    assert dealt.count((1, 24, 24)) == 40 and dealt.count((4, 16, 28)) == 20


def test_one_clip_of_a_shape_is_that_clip_of_the_grid(tmp_path: Path) -> None:
    """`at` shows the same motion: the clips that have the shape among others are found again."""
    made = config(shapes=MIXED, num_test=12, margin=0.05)
    grid = made.at((6, 28, 16), 5)
    assert (grid.num_frames, grid.height, grid.width, grid.num_train, grid.num_val, grid.num_test) == (6, 28, 16, 1, 5, 5)
    assert not grid.mixed and grid.margin == 0.05
    mixed, uniform = load_clips(made, tmp_path), load_clips(grid, tmp_path)
    assert isinstance(uniform.splits["test"].frames, np.ndarray) and len(uniform.splits["train"]) == 1
    shared = [index for index, shape in enumerate(mixed.splits["test"].shapes[:5]) if shape == (6, 28, 16)]
    assert shared and all((mixed.splits["test"].frames[i] == uniform.splits["test"].frames[i]).all() for i in shared)
    with pytest.raises(ValueError, match=r"height: Input should be greater than or equal to 8 \(got 4\)"):
        made.at((6, 4, 16), 5)
    with pytest.raises(ValueError, match=r"num_objects = 3 .* in 8x8 leave no room; use 1"):
        config(num_objects=3, width=48).at((6, 8, 8), 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": [(0, 8, 8)]}, r"shapes has \(0, 8, 8\): .* at least \(1, 8, 8\)"),
        ({"shapes": [(2, 24, 24), (2, 24, 7)]}, r"shapes has \(2, 24, 7\)"),
        ({"shapes": [(2, 24)]}, "shapes.0.2"),
        ({"margin": 0.25}, "margin = 0.25: .* with the margin below 0.5"),
        ({"margin": -0.1}, "margin"),
        ({"num_objects": 4, "radius": (0.1, 0.2), "margin": 0.1}, "in 24x24 leave no room; use 2"),
        ({"num_objects": 4, "radius": (0.1, 0.2), "width": 48, "shapes": [(2, 24, 48), (2, 48, 48)]}, "in 48x48 leave no room; use 3"),
        ({"placement": "edges", "margin": 0.1}, r"outer third of 24x24; together they must be below 0.333"),
        ({"placement": "edges", "margin": 0.1, "shapes": [(2, 24, 48), (2, 24, 26)]}, r"outer third of 24x26; .* below 0.361"),
        ({"placement": "middle"}, "placement"),
    ],
)
def test_shapes_and_placements_that_cannot_be_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize("shape", [(30, 24, 24), (30, 20, 44)])
def test_margin_is_kept_at_all_times(shape: Shape) -> None:
    num_frames, height, width = shape
    made = config(num_frames=num_frames, height=height, width=width, margin=0.12, num_objects=2, radius=(0.1, 0.2), speed=(0.5, 1.0))
    truth = states(made, 40)
    gaps = [truth["x"] - truth["radius"], truth["y"] - truth["radius"]]
    gaps += [width / min(shape[1:]) - truth["x"] - truth["radius"], height / min(shape[1:]) - truth["y"] - truth["radius"]]
    first = np.array([gap[:, 0].min() for gap in gaps])
    assert (first >= 0.12).all() and (first < 0.2).all()
    assert np.min(gaps) > 0.12 - 0.01  # a wall is felt within one physics step
    assert np.max([gap.min() for gap in gaps]) < 0.12 + 0.01  # every wall is hit, so it stands at the margin
    assert np.allclose(np.hypot(truth["vx"], truth["vy"])[:, 0].max(), 1.0, atol=0.05)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (24, 48), (60, 20)])
def test_edges_puts_the_first_object_in_an_outer_third_of_the_longer_side(height: int, width: int) -> None:
    made = config(height=height, width=width, num_objects=2, radius=(0.1, 0.18), margin=0.05, placement="edges", num_frames=1)
    truth = states(made, 400)
    side = min(height, width)
    x, y = truth["x"][:, 0] * side / width, truth["y"][:, 0] * side / height  # (N, objects), in frames
    outer = {"x": np.abs(x - 0.5) > 1 / 6, "y": np.abs(y - 0.5) > 1 / 6}
    if height == width:
        assert (outer["x"] | outer["y"])[:, 0].all() and not outer["x"][:, 0].all() and not outer["y"][:, 0].all()
        along = x
    else:
        longer, along = ("x", x) if width > height else ("y", y)
        assert outer[longer][:, 0].all() and not outer[longer][:, 1].all()  # the second is anywhere
    assert 0.3 < (along[:, 0] < 0.5).mean() < 0.7  # either end
    classes = truth["shape"][:, 0, 0]
    assert stats.chi2_contingency(np.histogram2d(classes, along[:, 0] < 0.5, bins=(4, 2))[0]).pvalue > 1e-3
    gaps = np.minimum(truth["x"], truth["y"]) - truth["radius"]
    assert gaps.min() >= 0.05


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 150), (150, 64)])
def test_box_is_the_extent_of_what_is_drawn(height: int, width: int) -> None:
    made = config(num_frames=5, height=height, width=width, spin=2.0)
    state = np.stack([simulate(made, "train", index) for index in range(16)])
    frames = render(state, height, width)
    box = boxes(list(state), [(5, height, width)] * 16)  # (N, T, objects, 4)
    assert box.shape == (16, 5, 1, 4)
    half_lit = frames.max(axis=-1) > (BACKGROUND + 255) / 2  # (N, T, H, W)
    for clip, frame in itertools.product(range(16), range(5)):
        rows, columns = np.nonzero(half_lit[clip, frame])
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        slack = {"disc": 0.6, "ring": 0.6, "square": 1.6, "triangle": 2.1}[SHAPES[clip % 4]]  # a sharp corner covers little of a pixel
        assert np.abs(box[clip, frame, 0] - drawn).max() < slack
        assert (box[clip, frame, 0, :2] < np.add(drawn[:2], 0.6)).all() and (box[clip, frame, 0, 2:] > np.subtract(drawn[2:], 0.6)).all()


def test_box_by_hand() -> None:
    state = np.zeros((1, 4, len(STATE)))
    state[..., STATE.index("x")], state[..., STATE.index("y")], state[..., STATE.index("radius")] = 1.0, 0.5, 0.4
    state[..., STATE.index("shape")] = range(4)
    disc, square, triangle, ring = boxes([state], [(1, 100, 200)])[0, 0]
    assert disc == pytest.approx([60, 10, 140, 90]) and ring == pytest.approx(disc)
    assert square == pytest.approx([100 - 40 / 2**0.5, 50 - 40 / 2**0.5, 100 + 40 / 2**0.5, 50 + 40 / 2**0.5])
    assert triangle == pytest.approx([100 - 20 * 3**0.5, 10, 100 + 20 * 3**0.5, 70])  # apex up: y is down
    state[..., STATE.index("angle")] = np.pi / 4
    assert boxes([state], [(1, 100, 200)])[0, 0, 1] == pytest.approx([60, 10, 140, 90])  # the square stands on a corner
    assert boxes([state], [(1, 200, 100)])[0, 0, 0] == pytest.approx([60, 10, 140, 90])  # the shorter side, whichever it is


def test_box_is_stored_where_older_configs_are_not_meant(tmp_path: Path) -> None:
    """A cache of an older config has none, so that what is stored under one digest is always the same."""
    for changes in ({"margin": 0.1}, {"placement": "edges"}, {"shapes": ((10, 24, 24), (3, 8, 8))}):
        test = load_clips(config(radius=(0.2, 0.22), **changes), tmp_path).splits["test"]
        assert test.truth is not None and test.truth["box"].shape == (4, 10, 1, 4)
        box = test.truth["box"][0, :, 0]  # (T, 4)
        assert (box[:, :2] >= -0.5).all() and (box[:, 2:] <= 24.5).all() and (box[:, 2:] - box[:, :2] == pytest.approx(48 * 0.21, abs=0.6))
    mixed = test.truth["box"]
    assert np.isnan(mixed[1, 3:]).all() and not np.isnan(mixed[1, :3]).any()
    plain = load_clips(config(), tmp_path).splits["test"]
    assert plain.truth is not None and "box" not in plain.truth
