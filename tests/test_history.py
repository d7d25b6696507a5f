"""Two runs side by side: what a change did, and which runs are refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import Canary, Measurement, Record
from bench.report.load import load_run
from bench.report.verdicts.history import Change, History, history
from bench.shapes import Refusal
from tests.commands import here
from tests.report_factory import PROTOCOL, axes_of, better, cell, environment, pair, record, write_run

DIT, UNET = "dit:DiT-XS/2", "baselines:UNet-XS"
UNITS = {"train_clips_per_s": "clip/s", "num_params": "1"}
STEPS: dict[str, Any] = {"budget": {"steps": 100}}
OTHER_CLIPS = {"digest": "1" * 32, "num_clips": {}, "label_names": [], "fps": 8.0}


def run(
    folder: Path,
    values: Mapping[str, Sequence[float]],
    *,
    backbone: str = DIT,
    seeds: Sequence[int] = (),
    fields: Any = STEPS,
    **changes: Any,
) -> Path:
    """A run of one contender: measurement -> one value a seed. `fields` of its cells and `changes` of its records are replaced."""
    made: list[Record | None] = []
    num = max(map(len, values.values()))
    for place, seed in enumerate(seeds or range(num)):
        found = [
            Measurement(name=name, value=series[place], unit=UNITS.get(name, "1"), better=better(name), protocol=_protocol(name))  # type: ignore[arg-type]
            for name, series in values.items()
        ]
        asked = cell(backbone, seed).model_dump(mode="json") | fields
        made.append(record(backbone, seed, **{"cell": asked, "measurements": found, **changes}))
    return write_run(folder, made, sheets=False)


def _protocol(name: str) -> dict[str, Any] | None:
    return PROTOCOL if "@" in name else None


def compared(first: Path, second: Path) -> History:
    return history(load_run(first), load_run(second))


def by_name(found: History) -> dict[str, Change]:
    return {change.row.name: change for change in found.changes}


BEFORE = {
    "fd_random3d@64": (30.0, 31.0, 32.0),
    "train_clips_per_s": (50.0, 51.0, 52.0),
    "num_params": (1000.0, 1000.0, 1000.0),
    "peak_storage_bytes": (2048.0, 2048.0, 2048.0),
}
AFTER = {
    "fd_random3d@64": (20.0, 21.0, 22.0),
    "train_clips_per_s": (40.0, 41.0, 42.0),
    "num_params": (1001.0, 1001.0, 1001.0),
    "peak_storage_bytes": (2049.0, 2049.0, 2049.0),
}


def test_what_became_better_and_what_worse(tmp_path: Path) -> None:
    found = by_name(compared(run(tmp_path / "a", BEFORE), run(tmp_path / "b", AFTER)))
    standings = {name: change.standing for name, change in found.items()}
    assert standings == {
        "fd_random3d@64": "better",
        "train_clips_per_s": "worse",
        "num_params": "worse",
        "peak_storage_bytes": "worse",
    }
    difference = found["fd_random3d@64"].difference
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == pytest.approx((-10, -12.267, -7.733), abs=1e-3)
    assert found["num_params"].verdict.outcome == found["peak_storage_bytes"].verdict.outcome == "exact"
    turned = by_name(compared(tmp_path / "b" / "invented", tmp_path / "a" / "invented"))
    assert {name: change.standing for name, change in turned.items()} == {
        name: {"better": "worse", "worse": "better"}[standing] for name, standing in standings.items()
    }


def test_a_count_without_a_direction_is_equal_or_not(tmp_path: Path) -> None:
    found = [Measurement(name="num_params", value=value, unit="1", better="none") for value in (10.0, 11.0)]
    folders = [run(tmp_path / str(place), {"x": [0.0]}, measurements=[each]) for place, each in enumerate(found)]
    assert by_name(compared(folders[0], folders[1]))["num_params"].standing == "not equal"
    assert by_name(compared(folders[0], folders[0]))["num_params"].standing == "equal"


def test_tests_are_corrected_over_the_whole_table(tmp_path: Path) -> None:
    """What one test alone would carry, it does not beside nineteen others."""
    before, after = (10.0, 11.0, 12.0, 13.0), (13.0, 14.0, 15.0, 16.2)
    alone = by_name(compared(run(tmp_path / "a", {"val_loss": before}), run(tmp_path / "b", {"val_loss": after})))["val_loss"]
    assert alone.standing == "worse"
    assert alone.verdict.p_value is not None
    assert 0.0025 < alone.verdict.p_value < 0.05
    others = {f"fd_x{place}@64": (10.0, 11.0, 12.0, 13.0) for place in range(19)}
    moved = dict.fromkeys(others, (10.1, 11.1, 12.0, 13.0))
    among = by_name(compared(run(tmp_path / "c", {"val_loss": before, **others}), run(tmp_path / "d", {"val_loss": after, **moved})))
    assert {change.standing for change in among.values()} == {"not told apart"}
    assert "among 20 tests" in among["val_loss"].verdict.reason
    assert among["val_loss"].verdict.p_value == alone.verdict.p_value


def test_one_seed_tells_nothing_apart(tmp_path: Path) -> None:
    found = by_name(compared(run(tmp_path / "a", {"val_loss": [1.0]}), run(tmp_path / "b", {"val_loss": [9.0]})))["val_loss"]
    assert found.standing == "not told apart"
    assert "a claim needs at least 3" in found.verdict.reason


def test_speed_is_compared_on_one_machine_only(tmp_path: Path) -> None:
    """And where the budget is time, the same is said of quality."""
    first = run(tmp_path / "a", BEFORE, fields={"budget": {"seconds": 60}})
    second = run(tmp_path / "b", AFTER, fields={"budget": {"seconds": 60}}, environment=environment(cpu="Another CPU", num_threads=8))
    found = compared(first, second)
    changes = by_name(found)
    assert {name: change.standing for name, change in changes.items()} == {
        "fd_random3d@64": "better",
        "train_clips_per_s": "other machine",
        "num_params": "worse",
        "peak_storage_bytes": "other machine",
    }
    assert changes["train_clips_per_s"].difference is None
    assert changes["train_clips_per_s"].verdict.reason == "differs in cpu, num_threads"
    assert found.notes == (
        "the budget is seconds of training, and the runs differ in cpu, num_threads: their quality may differ by nothing else",
    )
    by_steps = compared(run(tmp_path / "c", BEFORE), run(tmp_path / "d", AFTER, environment=environment(cpu="Another CPU")))
    assert by_steps.notes == ()


def test_seeds_that_looks_added_do_not_count(tmp_path: Path) -> None:
    """They were added by what had been seen; the tests take seeds that were named beforehand."""
    first = run(tmp_path / "a", {"val_loss": [1.0, 1.1, 0.9]})
    second = run(tmp_path / "b", {"val_loss": [1.0, 1.2, 1.1, 9.0, 9.0]})
    snapshot = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(snapshot | {"until_decided": {"first": 3, "most": 12}}))
    found = compared(first, second)
    [change] = found.changes
    assert [seed for seed, _ in change.entries[1].by_seed] == [0, 1, 2]
    assert found.notes == ("seeds 3, 4 of B, added by looks, are left out: the tests here take seeds named beforehand",)


def test_what_only_one_side_has_is_said(tmp_path: Path) -> None:
    """A contender, a seed, a measurement, a cell that has not run."""
    first = write_run(tmp_path / "a", pair(3), sheets=False)
    second = write_run(tmp_path / "b", [record(DIT, seed) for seed in (0, 1, 5)], sheets=False, not_run=[(DIT, 7)])
    found = compared(first, second)
    assert {change.contender for change in found.changes} == {"DiT-XS/2"}
    assert found.notes[:3] == (
        "contenders only in A: UNet-XS",
        "seeds of DiT-XS/2, which count all the same, only in A: 2",
        "seeds of DiT-XS/2, which count all the same, only in B: 5, 7",
    )
    assert found.notes[3].startswith("B is unfinished: 1 of 4 cells without a readable record")
    lacks = by_name(found)["val_loss"]
    assert lacks.standing == "not told apart"
    assert lacks.verdict.reason == "seeds without a value count too (B: seed 7 not run)"
    one = compared(
        run(tmp_path / "c", {"val_loss": [1.0], "kvd@64": [1.0]}), run(tmp_path / "d", {"val_loss": [1.0], "fd_motion@64": [2.0]})
    )
    assert one.notes == ("measurements only in A: KVD, n = 64", "measurements only in B: Fréchet distance, motion, n = 64")
    assert [change.row.name for change in one.changes] == ["val_loss"]


def test_further_contenders_are_compared_too(tmp_path: Path) -> None:
    """Each with itself, and what its own budget fixes is not."""
    times = [Measurement(name="train_wall_time_s", value=60.0, unit="s", better="lower")]
    folders = []
    for name in ("a", "b"):
        made = [record(backbone, 0, measurements=times) for backbone in (UNET, DIT)]
        by_clips = cell(DIT, 0).model_dump(mode="json") | {"budget": {"samples": 100}}
        made.append(record(DIT, 0, name="further", cell=by_clips, measurements=times))
        folder = write_run(tmp_path / name, made, sheets=False)
        text = json.loads((folder / "run.json").read_text())
        text["cells"][2] |= {"further": True, "axes": {"backbone": DIT, "budget.samples": 100}}
        (folder / "run.json").write_text(json.dumps(text))
        folders.append(folder)
    found = {change.contender: (change.standing, change.verdict.reason) for change in compared(*folders).changes}
    assert found == {
        "UNet-XS": ("not compared", "fixed by the budget"),
        "DiT-XS/2": ("not compared", "fixed by the budget"),
        "DiT-XS/2, samples 100": ("equal", "equal means"),
    }


def test_a_failed_canary_takes_a_contenders_numbers_away(tmp_path: Path) -> None:
    broken = [Canary(name="batch equals one at a time", passed=False, detail="0.3")]
    found = by_name(compared(run(tmp_path / "a", BEFORE), run(tmp_path / "b", AFTER, canaries=broken)))
    assert {change.standing for change in found.values()} == {"not compared"}
    assert {change.verdict.reason for change in found.values()} == {"a canary of B failed"}


def test_a_contender_is_known_by_its_axes(tmp_path: Path) -> None:
    """Not by its label, which depends on who is beside it."""
    first = write_run(tmp_path / "a", [record(DIT, 0, name="one")], sheets=False)
    other = {**cell(DIT, 0).model_dump(mode="json"), "backbone": "elsewhere:DiT-XS/2"}
    second = write_run(tmp_path / "b", [record(DIT, 0, name="one"), record(DIT, 0, name="two", cell=other)], sheets=False)
    found = compared(first, second)
    assert load_run(second).contenders == ("dit:DiT-XS/2", "elsewhere:DiT-XS/2")
    assert {change.contender for change in found.changes} == {"DiT-XS/2"}
    assert found.notes == ("contenders only in B: elsewhere:DiT-XS/2",)
    assert axes_of(record(DIT, 0)) == {"backbone": DIT}


def test_a_loss_through_another_autoencoder_is_not_compared(tmp_path: Path) -> None:
    """A run makes its own; whoever trains it elsewhere gets other weights, and pixels still compare."""
    loss, distance = ({**PROTOCOL, "autoencoder": made} for made in ("here", "there")), PROTOCOL
    folders = [
        run(
            tmp_path / str(place),
            {"x": [0.0]},
            measurements=[
                Measurement(name="val_loss", value=1.0, unit="1", better="lower", protocol=block),
                Measurement(name="kvd@64", value=1.0, unit="1", better="lower", protocol=distance),
            ],
        )
        for place, block in enumerate(loss)
    ]
    found = by_name(compared(folders[0], folders[1]))
    assert found["val_loss"].standing == "not compared"
    assert found["val_loss"].verdict.reason == "measured through another autoencoder"
    assert found["kvd@64"].standing == "equal"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fields": {"budget": {"steps": 200}}}, r"these are not runs of one matrix: cell .* differs in budget\.steps: 100 and 200"),
        ({"protocol_version": 3}, r"protocol_version is 3 and 4"),
        ({"data": OTHER_CLIPS}, "content of its clips: 000000000000 and 111111111111"),
        ({"seeds": (5, 6, 7)}, "share no finished cell: A has DiT-XS-2-seed0, DiT-XS-2-seed1, DiT-XS-2-seed2, B has DiT-XS-2-seed5"),
        ({"status": "oom"}, "share no finished cell: .*, B has none"),
        ({"backbone": UNET}, r"differs in backbone: dit:DiT-XS/2 and baselines:UNet-XS"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare_are_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    first, second = run(tmp_path / "a", BEFORE), run(tmp_path / "b", AFTER, **changes)
    with pytest.raises(Refusal, match=expected):
        compared(first, second)


def test_what_changes_no_number_is_no_difference(tmp_path: Path) -> None:
    first = run(tmp_path / "a", BEFORE)
    second = run(tmp_path / "b", BEFORE, fields=STEPS | {"timeout_s": 60.0, "checkpoint_interval_s": 1.0})
    assert {change.standing for change in compared(first, second).changes} == {"equal"}


def test_the_command_draws_a_table_for_each_contender(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a|b", pair(3), sheets=False)
    second = write_run(tmp_path / "later", pair(3, spread=0.01, commits=["fedcba9876543210"]), sheets=False)
    done = here("compare", first, second)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("- A: ") and "a\\|b/invented" in lines[0] and "commit 012345678" in lines[0]
    assert lines[1].startswith("- B: ") and "commit fedcba987, on Invented CPU @ 2.00GHz, cpu" in lines[1]
    assert [line for line in lines if line.startswith("## ")] == ["## UNet-XS", "## DiT-XS/2"]
    (loss,) = [line.split(" | ") for line in lines[lines.index("## DiT-XS/2") :] if line.startswith("| Validation loss")]
    assert loss[0] == "| Validation loss ↓"
    assert all("[" in value for value in loss[1:4])
    assert loss[4] == "not told apart"
    assert loss[5].startswith("may be chance: 3 seeds each, p = ")


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, pair(1), sheets=False) for name in ("a", "b")]
    other = write_run(tmp_path / "c", pair(1, measurements=_moved(record(DIT, 0).measurements)), sheets=False)
    (tmp_path / "empty").mkdir()
    for second, expected in [
        (other, "val_loss: these values were measured under different protocols and do not compare; num_real: 64 and 65"),
        (tmp_path / "empty", f"no run in {tmp_path / 'empty'}"),
        (tmp_path / "nowhere", f"no run in {tmp_path / 'nowhere'}"),
    ]:
        done = here("compare", runs[0], second)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and expected in done.stderr and done.stderr.count("\n") == 1
    done = here("compare", tmp_path / "empty", tmp_path / "empty")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no score in" in done.stderr and "and no run" in done.stderr


def _moved(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The same, the loss of other clips."""
    block = {**PROTOCOL, "num_real": 65}
    return [m.model_copy(update={"protocol": block}) if m.name == "val_loss" else m for m in measurements]
