"""The chapter of a physics world and its claim: floors against errors, region by region; what is carried, said and drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.metrics.physics.scoring import region_name
from bench.records.artefacts import save_arrays
from bench.records.record import FLOORS, Measurement, Record
from bench.report.load import Run, load_run
from bench.report.page.page import chapter
from bench.report.physics import figures, scores
from bench.report.physics.kept import KeptPhysics, kept
from bench.report.render.table import NONE
from bench.report.verdicts import findings
from bench.report.verdicts.claim_physics import LEAD, Learning
from bench.report.verdicts.claims import Part
from bench.report.verdicts.learned import NAIVE, floor_contrasts
from bench.study.cell import Cell
from tests import report_factory as factory

PRIMARY = "velocity_error"
LEVELS = {"real": 0.01, "reconstruction": 0.05, "twin": 0.2, "nearest": 0.6, "continued": 1.0, "frozen": 2.0}
UNET, DIT = factory.MEANS
Errors = dict[tuple[str, str], Sequence[float]]  # (backbone, region) -> one error a seed


def measured(name: str, value: float, subject: str = "trained", better: str = "lower", reach: float | None = None) -> Measurement:
    """`reach`: half of its interval over clips."""
    protocol = {"measure": "rigid", "clips": "0" * 32, "region": name, "num_clips": 8}
    ends = {} if reach is None else {"low": value - reach, "high": value + reach, "interval": "t"}
    return Measurement(name=name, subject=subject, value=value, unit="units/s", better=better, protocol=protocol, **ends)  # type: ignore[arg-type]


def physics_cell(backbone: str, seed: int, num_train: int = 200) -> Cell:
    fields = factory.cell(backbone, seed).model_dump(mode="json")
    fields["data"] = {
        "source": "physics", "world": "collision", "num_frames": 12, "height": 32, "width": 32,
        "num_train": num_train, "num_val": 64, "num_test": 64,
    }  # fmt: skip
    fields["objective"] |= {"known_frames": 3}
    fields["evaluation"] |= {"regions": ["in", "out", "combinatorial"], "region_samples": 8, "twins": 4}
    return Cell.model_validate(fields)


def record(backbone: str, seed: int, errors: dict[str, float], reach: float | None) -> Record:
    cell = physics_cell(backbone, seed)
    found = []
    for region, error in errors.items():
        name = region_name(PRIMARY, region)  # type: ignore[arg-type]
        subjects = {"trained": error} | LEVELS
        found += [measured(name, level, subject, reach=reach) for subject, level in subjects.items()]
    found += [measured("twin_preference", 0.9, better="higher"), measured("twin_preference", 0.5, "untrained", better="higher")]
    fields: dict[str, Any] = {"cell": cell.model_dump(mode="json"), "fingerprint": cell.fingerprint(), "measurements": found}
    fields |= {"artefacts": {"physics": "physics.npz"}, "matrix": "invented"}
    return factory.record(backbone, seed, **fields)


def arrays(seed: int, num: int = 8) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(seed), dict[str, np.ndarray]()
    for region in ("in", "out", "combinatorial"):
        found[f"{region}/outside"] = np.zeros(num) if region == "in" else rng.uniform(0.1, 2.0, num)
        for subject in ("trained", *LEVELS):
            found[f"{region}/{subject}/{PRIMARY}"] = rng.uniform(0.1, 1.0, num)
        found[f"{region}/drawn/x/real"] = rng.uniform(0, 10, (4, 12, 2))
        found[f"{region}/drawn/x/trained"] = rng.uniform(0, 10, (4, 12, 2))
        found[f"{region}/drawn/surface/real"] = rng.uniform(0, 1, (4, 12, 32))
        found[f"{region}/drawn/surface/trained"] = rng.uniform(0, 1, (4, 12, 32))
        for subject in ("real", "trained"):
            found[f"{region}/frames/{subject}"] = rng.integers(0, 255, (2, 12, 32, 32, 3), dtype=np.uint8)
    return found


def run_of(folder: Path, errors: Errors, reach: float | None = None) -> Run:
    num = len(next(iter(errors.values())))
    made: list[Record | None] = []
    for backbone in (UNET, DIT):
        for seed in range(num):
            own = {region: values[seed] for (name, region), values in errors.items() if name == backbone}
            made.append(record(backbone, seed, own, reach))
    path = factory.write_run(folder, made, claim="physics", primary=PRIMARY, match=None)
    for place, own in enumerate(made):
        assert own is not None
        save_arrays(path / f"{own.name}-{own.fingerprint[:8]}" / "physics.npz", **arrays(place))
    return load_run(path)


def near(value: float, num: int = 4) -> list[float]:
    return [value * (1 + 0.01 * (place - (num - 1) / 2)) for place in range(num)]


def learnt(inside: float = 0.1, outside: float = 0.3, other: float = 0.12) -> Errors:
    return {(UNET, "in"): near(other), (UNET, "out"): near(0.9), (DIT, "in"): near(inside), (DIT, "out"): near(outside)}


def test_the_best_floor_of_a_region_is_what_an_error_is_held_against(tmp_path: Path) -> None:
    run = run_of(tmp_path, learnt())
    found = findings.find(run).floors
    assert [(each.contender, each.region, each.floor, each.level) for each in found] == [
        (contender, region, "nearest", 0.6) for region in ("in", "out") for contender in ("UNet-XS", "DiT-XS/2")
    ]
    values = {(each.contender, each.region): each.effect.difference.value for each in found}
    assert values["UNet-XS", "in"] == pytest.approx(-0.48) and values["UNet-XS", "out"] == pytest.approx(0.3)
    assert {(each.contender, each.region): each.effect.favours for each in found}["UNet-XS", "out"] == "nearest"


def test_a_law_is_learnt_where_one_model_beats_the_floors_inside_and_outside(tmp_path: Path) -> None:
    run = run_of(tmp_path, learnt())
    found = findings.find(run)
    assert found.conclusion.state == "supported"
    states = {part.name: part.state for part in found.conclusion.parts}
    assert states == {
        "UNet-XS in": "supported", "DiT-XS/2 in": "supported", "UNet-XS out": "not supported", "DiT-XS/2 out": "supported", LEAD: "leads",
    }  # fmt: skip
    said = Learning().says(run, found)
    assert said[0] == (
        "Inside what they were trained on UNet-XS and DiT-XS/2 predict better than the nearest training clip, the best guess without "
        "physics. Outside what they were trained on DiT-XS/2 predicts better than the nearest training clip, the best guess without "
        "physics; UNet-XS predicts worse than the nearest training clip."
    )
    assert said[1].startswith("DiT-XS/2 predicts better: velocity error 0.120 and 0.100 for UNet-XS and DiT-XS/2 (p")


def test_learning_what_was_shown_is_not_learning_the_law(tmp_path: Path) -> None:
    found = findings.find(run_of(tmp_path, learnt(outside=0.9)))
    assert found.conclusion.state == "not supported"


def test_seeds_that_cannot_tell_carry_nothing(tmp_path: Path) -> None:
    noisy = [0.1, 1.1, 0.2, 1.0]
    run = run_of(tmp_path, {(name, region): noisy for name in (UNET, DIT) for region in ("in", "out")})
    found = findings.find(run)
    assert found.conclusion.state == "inconclusive"
    assert "seeds and clips cannot tell UNet-XS and DiT-XS/2 from the nearest training clip" in Learning().says(run, found)[0]


def test_a_difference_that_other_clips_may_turn_is_not_carried(tmp_path: Path) -> None:
    """Seeds that agree to a hundredth, and clips that spread by as much as model and floor are apart."""
    run = run_of(tmp_path, learnt(), reach=0.6)
    found = findings.find(run)
    assert found.conclusion.state == "inconclusive"
    each = found.floors[0]
    assert each.effect.difference.p_value is not None and each.effect.difference.p_value > 0.1
    assert each.effect.reason.startswith("may be chance: 4 seeds, 8 clips")
    half = 0.6 * 2**0.5  # of two intervals of clips drawn apart
    assert each.effect.difference.low == pytest.approx(-0.48 - half) and each.effect.difference.high == pytest.approx(-0.48 + half)


def test_clips_that_spread_little_leave_the_seeds_to_decide(tmp_path: Path) -> None:
    sure, careful = (findings.find(run_of(tmp_path / name, learnt(), reach=reach)) for name, reach in (("a", None), ("b", 1e-4)))
    assert sure.conclusion.state == careful.conclusion.state == "supported"
    assert [each.effect.difference for each in sure.floors] == [each.effect.difference for each in careful.floors]


def test_two_seeds_are_too_few(tmp_path: Path) -> None:
    errors = {key: values[:2] for key, values in learnt().items()}
    found = findings.find(run_of(tmp_path, errors))
    assert found.conclusion.state == "inconclusive"
    assert all("a claim needs at least 3" in each.effect.reason for each in found.floors)


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        ({"a": ["supported", "supported"], "b": ["not supported", "not supported"]}, "supported"),
        ({"a": ["supported", "not supported"], "b": ["not supported", "supported"]}, "not supported"),  # no one model in both
        ({"a": ["supported", "inconclusive"]}, "inconclusive"),
        ({"a": ["inconclusive", "not supported"], "b": ["not supported", "supported"]}, "not supported"),
        ({"a": ["not supported", "supported"], "b": ["supported", "inconclusive"]}, "inconclusive"),  # b may have learnt it
        ({}, "not tested"),
    ],
)
def test_what_the_parts_say_of_the_whole(states: dict[str, list[Any]], whole: str) -> None:
    parts = [
        Part(name=f"{name} {region}", state=state, key=("floor", name, region))
        for name, each in states.items()
        for region, state in zip(("in", "out"), each, strict=True)
    ]
    assert Learning().whole([*parts, Part(name=LEAD, state="leads", key=("lead", PRIMARY))]) == whole


def test_the_chapter_has_pictures_and_tables(tmp_path: Path) -> None:
    errors = learnt() | {(name, "combinatorial"): near(0.2) for name in (UNET, DIT)}
    run = run_of(tmp_path, errors)
    made = chapter(run, "", 1_000_000)
    names = [drawing.name for drawing in made.drawings if drawing.name.startswith("physics-")]
    assert names == ["physics-errors", "physics-film", "physics-x", "physics-surface", "physics-distance"]
    rows = made.tables["physics"].rows
    assert [row[0] for row in rows] == [
        "Velocity error", "Velocity error, outside what was trained on", "Velocity error, combinations never trained on",
        "Valid clips preferred to their twins",
    ]  # fmt: skip
    assert rows[0][4:] == ("0.0100", "0.0500", "0.200", "0.600", "1.00", "2.00")
    assert "untrained 50 %" in rows[-1][2]
    assert len(made.tables["physics-floors"].rows) == 6
    assert not any(subject in {row.subject for row in made.rows} for subject in FLOORS)


def test_cells_of_other_data_are_lines_of_their_own(tmp_path: Path) -> None:
    run = run_of(tmp_path, learnt())
    cells = [
        cell.model_copy(update={"name": f"{cell.name}-few", "axes": {**cell.axes, "data.num_train": 20}, "further": True})
        for cell in run.cells[:4]
    ]
    both = Run.model_validate(run.model_dump() | {"cells": (*run.cells, *cells)})
    lines = scores.score_table(both).rows
    assert [row[1] for row in lines[:2]] == ["num_train 200", "num_train 20"]
    assert lines[0][3] != NONE == lines[1][3]


def test_a_run_without_physics_has_no_chapter(tmp_path: Path) -> None:
    run = load_run(factory.write_run(tmp_path, factory.pair(3)))
    assert figures.all_figures(run) == [] and floor_contrasts(run, []) == []
    assert not {"physics", "physics-floors"} & chapter(run, "", 100_000).tables.keys()


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_a_damaged_file_leaves_the_numbers(tmp_path: Path, damage: str) -> None:
    run = run_of(tmp_path, learnt())
    for cell in run.cells:
        path = cell.artefact("physics")
        assert path is not None
        if damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            wrong = {key: np.array(["x"]) for key in arrays(0)}
            save_arrays(path, **wrong)
    made = chapter(run, "", 1_000_000)
    assert "physics" in made.tables
    assert [drawing.name for drawing in made.drawings if drawing.name.startswith("physics-")] == ["physics-errors"]
    assert bool(kept(run)) == (damage == "foreign")


def test_distances_are_binned_by_equally_many_clips(tmp_path: Path) -> None:
    run = run_of(tmp_path, learnt())
    points = figures._points(kept(run)[:1], PRIMARY, "trained")
    assert len(points) == 24 and sum(x == 0 for x, _ in points) == 8
    assert all(isinstance(own, KeptPhysics) for own in kept(run))


def test_floors_are_named_for_a_reader() -> None:
    assert {*NAIVE} < {*FLOORS} < {*scores.TITLES}
