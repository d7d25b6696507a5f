"""The source of physics worlds: what identifies its clips, what it tells beforehand, what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import cli
from bench.data.physics.regions import Regions
from bench.data.physics.rigid import FPS
from bench.data.physics.table import WORLDS
from bench.data.source import clips_digest, load_clips, load_config, survey_clips
from bench.data.sources import physics
from bench.data.sources.physics import Config
from bench.shapes import Refusal
from tests.test_physics_worlds import NAMES, config


def test_a_digest_names_all_that_determines_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config("stack")
    digests = {clips_digest(made), clips_digest(config("stack", region="out")), clips_digest(config("stack", seed=1))}
    digests |= {
        clips_digest(config("stack", trained={"height": (1.0, 2.0)})),
        clips_digest(config("motion")),
        clips_digest(config("stack", fps=5)),
    }
    monkeypatch.setattr(physics.importlib.metadata, "version", lambda name: "0")
    assert len(digests | {clips_digest(made)}) == 7
    same = clips_digest(config("motion"))
    monkeypatch.setitem(WORLDS.own, "motion", replace(WORLDS.find("motion"), version=2))
    assert clips_digest(config("motion")) != same


def test_the_source_is_known_and_surveyed(tmp_path: Path) -> None:
    made = load_config(
        {"source": "physics", "world": "collision", "num_frames": 6, "height": 24, "width": 40, "num_train": 3, "num_val": 2, "num_test": 2}
    )
    survey = survey_clips(made, tmp_path)
    assert survey.shapes["train"] == ((6, 24, 40),) * 3 and survey.fps == FPS
    assert isinstance(made, Config)
    tested = made.tested("combinatorial", 5)
    assert (tested.region, tested.num_train, tested.num_val, tested.num_test) == ("combinatorial", 1, 1, 5)
    again, other = (load_clips(tested.changed(region=region), tmp_path).splits["test"] for region in ("in", "combinatorial"))
    assert not set(again.clip_ids) & set(other.clip_ids)


def test_listed_by_ls(tmp_path: Path) -> None:
    said = CliRunner().invoke(cli.app, ["ls", "--results", str(tmp_path)], env={"COLUMNS": "200"}).stdout
    for name in NAMES:
        assert name in said and WORLDS.find(name).says in said


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("motoin", {}, "unknown physics world 'motoin' .did you mean 'motion'"),
        (
            "motion",
            {"trained": {"raduis": (1, 2)}},
            "trained has 'raduis', which world 'motion' has not .did you mean 'radius'.*it has radius, speed",
        ),
        ("motion", {"beyond": {"mass": [(1, 2)]}}, "beyond has 'mass'"),
        ("motion", {"trained": {"radius": (1.2, 0.8)}}, r"radius: \(1.2, 0.8\) is \(smallest, largest\)"),
        ("motion", {"trained": {"radius": (0.5, 1.2)}}, r"beyond: radius \(0.3, 0.6\) overlaps its trained range \(0.5, 1.2\)"),
        ("motion", {"region": "out", "beyond": {"radius": [], "speed": []}}, "region 'out' of world 'motion' has no range"),
        ("motion", {"height": 8, "width": 64}, r"radius from 0.3 is a disc of 0.24 pixels' radius in 8x64; use radii from 0.62"),
        ("motion", {"beyond": {"radius": [(4.9, 5.2)]}}, "a ball needs 10.4 units, and a frame's shorter side has 10"),
        ("motion", {"num_frames": 60}, "radius 1.4 at speed 4 leaves the frame after 1.8 s of 5.9; use fewer frames"),
        ("collision", {"beyond": {"radius_1": [(3, 4)]}}, "two balls side by side needs 12.2 units"),
        ("collision", {"num_frames": 60}, "leaves the frame after"),
        ("parabola", {"beyond": {"radius": [(4, 4.5)]}}, "a ball below the frame's top needs 10.5 units"),
        ("parabola", {"num_frames": 60, "trained": {"speed": (0.9, 1)}}, "a ball that falls leaves the frame after 2.1 s of 5.9"),
        ("pendulum", {"beyond": {"length": [(8, 9.5)]}}, "a rod with its bob needs 10.7 units"),
        ("pendulum", {"beyond": {"angle": [(60, 89)]}}, "a swing needs 10.2 units"),
        ("pendulum", {"beyond": {"length": [(0.5, 1)]}}, "length from 0.5 does not reach out of a bob of radius 0.9"),
        ("pendulum", {"beyond": {"angle": [(-20, -10)]}}, "is not between 0 and 90 degrees"),
        ("stack", {"beyond": {"height": [(5, 7)]}}, "a disc above two needs 12.4 units"),
        ("stack", {"beyond": {"offset": [(0.7, 1.5)]}}, "offset from 0 to 1.5 is not between 0 and 0.9"),
        ("stack", {"beyond": {"height": [(-1, 0.5)]}}, "height from -1 begins inside another disc"),
    ],
)
def test_what_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        load_config(
            {
                "source": "physics",
                **config("motion").model_dump(include={"num_frames", "height", "width", "num_train", "num_val", "num_test"}),
                "world": name,
                **changes,
            }
        )
    assert isinstance(caught.value, Refusal) and "\n" not in str(caught.value)


def test_regions_take_any_world() -> None:
    world = WORLDS.find("stack")
    regions = Regions(world, {p.name: p.trained for p in world.parameters}, {p.name: p.beyond for p in world.parameters})
    assert regions.shifted == ["radius", "height", "offset"]
