"""The command `battery`: which clips the battery gets, what is refused, and the exit status."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import cli
from bench.commands.score import battery as score_battery
from bench.commands.score.battery import MIN_CLIPS, run_battery
from bench.metrics.battery.battery import BatteryClips


class Card:
    """Stands for a report card."""

    def __init__(self, passed: bool):
        self.passed = passed


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def battery(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The battery replaced by one that keeps what it was given."""
    seen: dict[str, Any] = {"passed": True}

    def run(extractor: Any, clips: BatteryClips, **options: Any) -> Card:
        seen.update(extractor=extractor.name, clips=clips, options=options)
        return Card(seen["passed"])

    monkeypatch.setattr(score_battery.battery, "run", run)
    monkeypatch.setattr(score_battery.card_report, "write", lambda card, out, source: seen.update(out=out, source=source))
    monkeypatch.setattr(score_battery.card_report, "verdict", lambda card: "passes" if card.passed else "fails")
    return seen


def folder(path: Path, num: int, num_frames: int) -> Path:
    path.mkdir()
    clips = np.random.default_rng(0).integers(0, 256, (num, num_frames, 8, 8, 3), dtype=np.uint8)
    np.savez(path / "clips.npz", frames=clips)
    return path


def test_its_own_clips_are_made_as_asked(battery: dict[str, Any], tmp_path: Path) -> None:
    assert run_battery("random3d", None, tmp_path / "card", num_clips=3, num_frames=4, size=(24, 24)) == (True, "passes")
    assert battery["clips"].reference.shape == (3, 4, 24, 24, 3) and battery["clips"].source.shape == (3, 7, 24, 24, 3)
    assert battery["out"] == tmp_path / "card" and battery["source"] is battery["clips"].source
    with pytest.raises(ValueError, match="are square, got --size 24x32"):
        run_battery("random3d", None, tmp_path / "card", size=(24, 32))


def test_a_folders_clips_are_twice_as_long_where_there_are_enough(battery: dict[str, Any], tmp_path: Path) -> None:
    long = folder(tmp_path / "long", 2 * MIN_CLIPS, 9)
    run_battery("random3d", long, tmp_path / "card", num_clips=MIN_CLIPS, num_frames=4)
    assert battery["clips"].source.shape == (MIN_CLIPS, 7, 8, 8, 3) and battery["clips"].reference.shape == (MIN_CLIPS, 4, 8, 8, 3)
    assert not battery["clips"].arrow
    run_battery("random3d", folder(tmp_path / "short", MIN_CLIPS, 4), tmp_path / "card", num_frames=4)
    assert battery["clips"].source.shape == (MIN_CLIPS // 2, 4, 8, 8, 3)


def test_too_few_clips_are_refused(battery: dict[str, Any], tmp_path: Path) -> None:
    few = folder(tmp_path / "few", MIN_CLIPS - 1, 4)
    with pytest.raises(ValueError, match=rf"the battery needs {MIN_CLIPS} clips of 4 frames, two sets, .* gives {MIN_CLIPS - 1}"):
        run_battery("random3d", few, tmp_path / "card", num_frames=4)
    with pytest.raises(ValueError, match="the battery needs 120 clips of 4 frames"):
        run_battery("random3d", few, tmp_path / "card", num_clips=60, num_frames=4)
    with pytest.raises(ValueError, match="has 4 frames, a clip of 5 needs 5"):
        run_battery("random3d", folder(tmp_path / "short", MIN_CLIPS, 4), tmp_path / "card", num_frames=5)


def test_the_least_number_of_clips_is_said_beforehand() -> None:
    said = CliRunner().invoke(cli.app, ["battery", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
    assert f"{MIN_CLIPS} or more" in said


@pytest.mark.parametrize("option", ["--stride", "--start", "--seed", "--protocol", "--cache", "--json", "--compare"])
def test_no_option_is_taken_and_ignored(option: str) -> None:
    for command in (["battery", "random3d"], ["compare", "a", "b"]):
        refused = CliRunner().invoke(cli.app, [*command, option, "1"])
        assert refused.exit_code == 2 and "No such option" in refused.output
    for gone in ("--battery", "--compare"):
        assert "No such option" in CliRunner().invoke(cli.app, ["score", "a", "b", gone]).output


def test_the_exit_status_is_the_verdict(battery: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["battery", "random3d", "-n", "2", "--num-frames", "4", "--size", "24"]
    passed = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "card")])
    assert passed.exit_code == 0 and passed.stdout == f"passes; card in {tmp_path / 'card'}\n"
    battery["passed"] = False
    failed = CliRunner().invoke(cli.app, arguments)
    assert failed.exit_code == 1 and battery["out"] == Path("reports/battery/random3d")
