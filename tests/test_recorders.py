"""Our recorders with their engines: clips that depend on nothing but their seed, that move, and whose state is what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.data.media.video import read_frames
from bench.data.recorders.pybullet import HALF, PYBULLET, RADIUS, STEPS, STEPS_PER_S
from bench.data.recorders.table import RECORDERS
from bench.data.recorders.vizdoom import SCENARIOS, VIZDOOM
from bench.shapes import Refusal
from tests.commands import here

pytestmark = pytest.mark.games
NAMES = ("vizdoom", "pybullet")


def hashes(folder: Path) -> dict[str, str]:
    return {told["file"]: told["sha256"] for told in json.loads((folder / "manifest.json").read_text())["clips"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_the_same_however_many_there_are_and_whoever_draws_it(tmp_path: Path, name: str) -> None:
    for out, clips, processes in (("a", 40, 2), ("b", 20, 1)):
        assert here("record", name, "--out", tmp_path / out, "--clips", clips, "--processes", processes).returncode == 0
    whole, half = hashes(tmp_path / "a"), hashes(tmp_path / "b")
    assert len(half) == 20 and half.items() <= whole.items() and len(set(whole.values())) == 40


@pytest.mark.parametrize("name", NAMES)
def test_clips_depend_on_no_other_clip(name: str) -> None:
    """Ten clips of each class in another order, some left out: engines keep things from clip to clip."""
    recorder = RECORDERS.find(name)
    for label in recorder.classes:
        with recorder.open(label) as camera:
            first = {seed: camera(seed, 8).frames for seed in range(10)}
        with recorder.open(label) as camera:
            assert all((camera(seed, 8).frames == first[seed]).all() for seed in (7, 2, 9, 0, 7)), label


@pytest.mark.parametrize("name", NAMES)
def test_clips_move(name: str) -> None:
    recorder = RECORDERS.find(name)
    for label in recorder.classes:
        with recorder.open(label) as camera:
            clips = [camera(seed, recorder.num_frames).frames for seed in range(6)]
        changed = [(clip[1:] != clip[:-1]).any((1, 2, 3)).mean() for clip in clips]
        assert np.mean(changed) > 0.8, label
        assert all(clip.shape == (recorder.num_frames, recorder.height, recorder.width, 3) for clip in clips)


def test_scenarios_look_like_themselves(tmp_path: Path) -> None:
    """The mean frame of a clip is nearer to that of its own scenario than to most others; no bar of numbers hides the bottom."""
    assert here("record", "vizdoom", "--out", tmp_path / "out", "--clips", 60, "--size", "24x32", "--frames", 4).returncode == 0
    means = {
        label: [read_frames(path, 0, 4, 1, 24, 32).mean(0) for path in sorted((tmp_path / "out" / label).iterdir())] for label in SCENARIOS
    }
    assert all(len(found) == 6 for found in means.values())
    ranks = []
    for label, found in means.items():
        others = {other: np.mean(rest[1:] if other == label else rest, axis=0) for other, rest in means.items()}
        distance = {other: np.abs(found[0] - mean).mean() for other, mean in others.items()}
        ranks.append(sorted(distance.values()).index(distance[label]))
    assert np.mean(ranks) < 2.5


def test_an_episode_that_is_too_short_is_told() -> None:
    with VIZDOOM.open("deadly_corridor") as camera, pytest.raises(Refusal, match="episodes of deadly_corridor lasts for 2000 frames"):
        camera(0, 2000)


@pytest.mark.parametrize("label", PYBULLET.classes)
def test_the_state_of_bodies_is_physics(label: str) -> None:
    with PYBULLET.open(label) as camera:
        clips = [camera(seed, 16) for seed in range(5)]
    for clip in clips:
        state = clip.state
        bodies = len(state["kind"])
        assert state["kind"][0] == label and 3 <= bodies <= 4
        shapes = {"position": 3, "orientation": 4, "velocity": 3, "angular_velocity": 3}
        assert {name: state[name].shape for name in shapes} == {name: (16, bodies, size) for name, size in shapes.items()}
        np.testing.assert_allclose(np.linalg.norm(state["orientation"], axis=-1), 1)
        assert RADIUS[0][0] <= state["radius"][0] <= RADIUS[0][1] and (state["radius"][1:] < RADIUS[0][0]).all()
        assert (np.abs(state["position"][..., :2]) < HALF).all() and (state["position"][..., 2] > 0.1).all()
        highest = int(state["position"][0, :, 2].argmax())  # it has fallen freely for a frame
        fallen = state["velocity"][1, highest, 2] - state["velocity"][0, highest, 2]
        assert fallen == pytest.approx(-9.81 * STEPS / STEPS_PER_S, rel=0.02)
        moved = (state["position"][1:] - state["position"][:-1]) * STEPS_PER_S / STEPS
        assert np.abs(moved).max() < 8


def test_the_first_body_is_drawn_where_its_state_says() -> None:
    """Its colour is seen more to the right where its x is larger."""
    with PYBULLET.open("sphere") as camera:
        clips = [camera(seed, 2) for seed in range(12)]
    places = []
    for clip in clips:
        colour = clip.state["colour"][0] / clip.state["colour"][0].max()
        seen = clip.frames[0] / np.maximum(clip.frames[0].max(-1, keepdims=True), 1)
        columns = np.nonzero(np.abs(seen - colour).max(-1) < 0.12)[1]
        places.append((clip.state["position"][0, 0, 0], columns.mean()))
    assert np.corrcoef(np.array(places).T)[0, 1] > 0.95
