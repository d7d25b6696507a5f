"""Rigid-body worlds: determinism, pixels against state, conservation laws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.data import worlds
from bench.data.source import load_clips
from bench.data.worlds import SHAPES, STATE, Config, render, simulate


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
    assert clips.label_names == SHAPES and clips.fps == 5.0 and clips.fps_range == (5.0, 5.0)
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
    weight = frames.max(axis=-1).astype(float) - worlds.BACKGROUND  # (N, T, H, W)
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
    cover = (frames[..., 1].astype(float) - worlds.BACKGROUND) / (255 - worlds.BACKGROUND)
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
