"""A tiny study of a physics world, end to end: clips go on from known frames, are scored by region beside floors, and resumed."""

from pathlib import Path

import numpy as np
import pytest

from bench.data.physics.table import WORLDS
from bench.metrics.physics.scoring import region_name
from bench.metrics.physics.table import scorecard_of
from bench.records.record import FLOORS, Record
from tests.commands import cell_folder, here, record_of, write_matrix
from tests.tiny import cell_fields

REGIONS = ("in", "out", "combinatorial")
KNOWN, NUM = 2, 6
CARD = scorecard_of("collision")


def matrix(folder: Path, **changes: object) -> Path:
    defaults = cell_fields()
    del defaults["backbone"]
    defaults["data"] = {
        "source": "physics", "world": "collision", "num_frames": 10, "height": 16, "width": 16,
        "num_train": 24, "num_val": 6, "num_test": 6,
        "beyond": {f"radius_{ball}": [[1.6, 1.9]] for ball in "12"},
    }  # fmt: skip
    defaults |= {"budget": {"steps": 4}, "objective": {"known_frames": KNOWN}}
    defaults["evaluation"] = {
        "extractors": ["random3d"], "num_samples": 6, "regions": list(REGIONS), "region_samples": NUM, "twins": 5,
    }  # fmt: skip
    defaults |= changes
    axes = {"backbone": ["tests.small:UNet-XXS", "tests.small:DiT-XXS/2"]}
    return write_matrix(folder, axes=axes, defaults=defaults, primary=CARD.primary, claim="physics")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("physics")
    done = here("run", matrix(folder), "--results", folder / "results")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


def records(finished: Path) -> list[Record]:
    return [record_of(finished, f"{name}-seed0") for name in ("UNet-XXS", "DiT-XXS_2")]


def test_every_region_has_its_scores_beside_its_floors(finished: Path) -> None:
    for record in records(finished):
        assert record.status == "ok", record.reason
        assert all(canary.passed for canary in record.canaries), record.canaries
        for region in REGIONS:
            name = region_name(CARD.primary, region)
            found = {subject: record.measurement(name, subject) for subject in ("trained", "real", "reconstruction", *FLOORS)}
            assert all(found.values()), (name, [subject for subject, there in found.items() if there is None])
            values = {subject: measurement.value for subject, measurement in found.items() if measurement}
            assert values["real"] < 0.2 * min(values["frozen"], values["nearest"])
            measurement = found["trained"]
            assert measurement is not None and measurement.protocol is not None and measurement.low is not None
            assert measurement.protocol["num_clips"] == NUM and measurement.protocol["known_frames"] == KNOWN


def test_floors_are_the_same_for_rivals_and_models_are_not(finished: Path) -> None:
    first, second = records(finished)
    for region in REGIONS:
        name = region_name(CARD.primary, region)
        for subject in ("real", "reconstruction", *FLOORS):
            assert first.measurement(name, subject) == second.measurement(name, subject)
        a, b = first.measurement(name), second.measurement(name)
        assert a is not None and b is not None and a.protocol_fingerprint == b.protocol_fingerprint


def test_twins_of_every_law_are_asked_trained_and_untrained(finished: Path) -> None:
    laws = WORLDS.find("collision").twins
    for record in records(finished):
        for subject in ("trained", "untrained"):
            each = [record.measurement(f"twin_preference_{law}", subject) for law in laws]
            assert all(measurement is not None and 0 <= measurement.value <= 1 and measurement.floor == 0.5 for measurement in each)
            whole = record.measurement("twin_preference", subject)
            assert whole is not None
            assert whole.value == pytest.approx(np.mean([measurement.value for measurement in each if measurement]))
            assert whole.low is whole.high is None and whole.interval == "none: the laws share their valid clips"
            assert all(m is not None and m.low is not None and m.high is not None and m.low <= m.value <= m.high for m in each)


def test_what_a_report_draws_is_kept(finished: Path) -> None:
    with np.load(cell_folder(finished, "DiT-XXS_2-seed0") / "physics.npz") as kept:
        for region in REGIONS:
            assert kept[f"{region}/outside"].shape == (NUM,)
            assert (kept[f"{region}/outside"] > 0).all() == (region != "in")
            assert kept[f"{region}/trained/{CARD.primary}"].shape == (NUM,)
            assert kept[f"{region}/frames/real"].dtype == np.uint8
            known = [kept[f"{region}/frames/{subject}"][:, :KNOWN].astype(int) for subject in ("real", "trained")]
            assert np.abs(known[0] - known[1]).mean() < 60  # the same, but for an autoencoder of three steps


def test_samples_of_the_cell_go_on_from_the_test_clips(finished: Path) -> None:
    with np.load(cell_folder(finished, "UNet-XXS-seed0") / "sheet.npz") as sheet:
        known = sheet["generated"][:, :KNOWN].astype(int), sheet["reconstruction"][:, :KNOWN].astype(int)
    with np.load(cell_folder(finished, "UNet-XXS-seed0") / "samples.npz") as samples:
        assert samples["frames"].shape == (6, 10, 16, 16, 3)
    assert np.abs(known[0] - known[1]).mean() < 1  # of sheet clips both are the test clip's, through the autoencoder


def test_the_report_has_a_chapter(finished: Path, tmp_path: Path) -> None:
    done = here("report", finished / "tiny", "--out", tmp_path / "report")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Does it follow the laws?" in page and "Nearest training clip" in page and "constant velocity" in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Does a video model learn the laws of this world" in text
    assert (tmp_path / "report" / "tables" / "physics.csv").read_text().count("combinatorial") >= 5
    names = {path.name for path in (tmp_path / "report" / "pictures").iterdir()}
    assert {"physics-errors.svg", "physics-film.svg", "physics-distance.svg"} <= names


def test_more_samples_go_on_from_known_frames(finished: Path, tmp_path: Path) -> None:
    done = here(
        "sample", cell_folder(finished, "UNet-XXS-seed0"), "--num-clips", "3", "--out", tmp_path / "more.npz", "--results", finished
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = here(
        "sample", cell_folder(finished, "UNet-XXS-seed0"), "--shape", "4x16x16", "--out", tmp_path / "other.npz", "--results", finished
    )
    assert done.returncode != 0 and "--shape 4x16x16: this cell goes on from known frames" in done.stderr


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"objective": {}}, "evaluation.regions is of clips that go on from known frames; give objective.known_frames, such as 3"),
        ({"objective": {"known_frames": 10}}, "objective.known_frames 10 leaves nothing to predict of data.num_frames 10; use fewer"),
        ({"data": cell_fields()["data"]}, "evaluation.regions needs clips whose laws are known, and source 'worlds' knows none"),
    ],
)
def test_bad_input_is_a_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    done = here("validate", matrix(tmp_path, **changes))
    assert done.returncode != 0 and line in done.stderr and "Traceback" not in done.stderr


def test_a_primary_that_no_region_measures_is_refused(tmp_path: Path) -> None:
    evaluation = {"extractors": ["random3d"], "num_samples": 6, "regions": ["out"]}
    done = here("run", matrix(tmp_path, evaluation=evaluation), "--results", tmp_path)
    assert done.returncode != 0 and f"primary {CARD.primary} is measured in regions" in done.stderr


def test_a_law_that_no_clip_can_break_is_refused_before_anything_trains(tmp_path: Path) -> None:
    """Balls that meet before the known frames end."""
    done = here("run", matrix(tmp_path, objective={"known_frames": 9}), "--results", tmp_path / "results")
    assert done.returncode != 0 and "broken 'over_elastic': of " in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "results").rglob("checkpoint.pt"))


def test_regions_without_samples_are_refused(tmp_path: Path) -> None:
    done = here("validate", matrix(tmp_path, evaluation={"num_samples": 0, "regions": ["in"]}))
    assert done.returncode != 0 and "num_samples 0 trains and samples nothing, so that regions cannot be scored" in done.stderr


def test_a_finished_run_is_not_run_again_and_floors_are_cached(finished: Path) -> None:
    folders = list((finished / "cache" / "physics").iterdir())
    assert len(folders) == len(REGIONS)  # of both rivals
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("attempt-*.json")}
    done = here("run", matrix(finished.parent), "--results", finished)
    assert done.returncode == 0 and before == {path: path.stat().st_mtime_ns for path in finished.rglob("attempt-*.json")}
