"""The archive: a run's report can be made again, byte for byte, from what is kept of the run, by a stranger, anywhere."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from report_factory import features, pair, write_run

from bench.commands.archive import main
from bench.report import archive, build
from bench.shapes import Refusal

ROOT = Path(__file__).parents[1]
LEFT = {"weights": "averaged.safetensors", "samples": "samples.npz"}  # artefacts of a run that no report reads


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_study(results: Path) -> Path:
    """A finished run with all that a real one leaves."""
    run = write_run(results, pair(1, artefacts={"sheet": "sheet.npz", "features": "features.safetensors"} | LEFT))
    for shift, cell in enumerate(sorted(path.parent for path in run.glob("*/attempt-1.json"))):
        features(cell, seed=shift, shift=0.2 * shift)
        for name in (*LEFT.values(), "checkpoint.pt", "inputs.txt"):
            (cell / name).write_bytes(b"not in the archive")
    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, the archive that it took its place in, and the reports of both: results/invented, results/reference, reports/."""
    root = tmp_path_factory.mktemp("checkout")
    run = write_study(root / "results")
    build([run], root / "reports" / "invented")
    for stale in ("results/reference/invented/gone-12345678/attempt-1.json", "reports/reference/invented/tables/gone.csv"):
        (root / stale).parent.mkdir(parents=True)
        (root / stale).write_text("{}")
    with contextlib.chdir(root), mock.patch.dict(os.environ):
        main([Path("results/invented")])
    return root


def test_the_archives_report_is_the_runs_own(study: Path) -> None:
    made = content(study / "reports" / "reference" / "invented")
    assert made == content(study / "reports" / "invented")
    assert b"different" in made["tables/paired.csv"] and "pictures/samples.webp" in made  # of features, of sheets


def test_only_what_a_report_reads_is_kept(study: Path) -> None:
    run, kept = content(study / "results" / "invented"), content(study / "results" / "reference" / "invented")
    assert {Path(name).name for name in kept} == {"run.json", "attempt-1.json", "sheet.npz", "features.safetensors"}
    same = {name for name in kept if kept[name] == run[name]}
    assert {Path(name).name for name in kept.keys() - same} == {"features.safetensors"}
    _, left_out = archive.keep(study / "results" / "invented", study / "again")
    features_left = [f"random3d/{subject} of features.safetensors" for subject in ("real", "reconstruction")]
    assert left_out == sorted(["checkpoint.pt", "inputs.txt", *LEFT.values(), *features_left])


def test_a_stranger_makes_the_same_bytes(study: Path) -> None:
    """Another process, folder, time zone, language, order of sets, number of threads and kind of processor."""
    other = study / "elsewhere" / "checkout"
    shutil.copytree(study / "results" / "reference", other / "results" / "reference")
    machine = {
        "PYTHONPATH": str(ROOT),
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "OPENBLAS_NUM_THREADS": "2",
        "OPENBLAS_CORETYPE": "Prescott",
    }
    words = [sys.executable, "-m", "bench.commands.archive"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=other, env={**os.environ, **machine}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reports/reference/invented/report.html"]
    assert content(other / "reports") == {name: text for name, text in content(study / "reports").items() if name.startswith("reference/")}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_sees_the_archive_and_nothing_else_that_a_run_or_a_report_writes(study: Path) -> None:
    """So README's commands leave `git status` empty, and a report that is not what its records say does not."""
    shutil.copy(ROOT / ".gitignore", study)
    git = ["git", "-C", str(study), "-c", f"core.excludesFile={os.devnull}"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    words = [*git, "ls-files", "--others", "--exclude-standard", "results", "reports"]
    seen = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert set(seen) == {f"{part}/reference/{name}" for part in ("results", "reports") for name in content(study / part / "reference")}


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (
            "attempt-1.json",
            r"not archived: 1 of 2 cells without a readable record \(first UNet-XS-seed0: not run\); go on with `python -m bench run",
        ),
        ("sheet.npz", "No such file"),
        ("features.safetensors", r"features.safetensors cannot be read \(.*\); run the cell again"),
    ],
)
def test_what_cannot_be_archived_leaves_the_archive_as_it_was(tmp_path: Path, damaged: str, message: str) -> None:
    run = write_study(tmp_path / "results")
    kept, _ = archive.keep(run, tmp_path / "archive")
    before = content(tmp_path / "archive")
    path = next(run.glob(f"UNet*/{damaged}"))
    path.write_bytes(b"x") if damaged.startswith("features") else path.unlink()
    with pytest.raises((Refusal, OSError), match=message):
        archive.keep(run, tmp_path / "archive")
    assert content(tmp_path / "archive") == before and [path.name for path in kept.parent.iterdir()] == ["invented"]


def test_an_archive_of_nothing_is_an_error(tmp_path: Path) -> None:
    for runs, message in (([], "no study in results/reference; a checkout"), ([Path("results/absent")], "no run in results/absent")):
        with contextlib.chdir(tmp_path), mock.patch.dict(os.environ), pytest.raises(SystemExit, match=f"^error: {message}"):
            main(runs)
    assert not list(tmp_path.iterdir())


# --- what is committed


def test_the_committed_reports_are_those_of_the_committed_records(tmp_path: Path) -> None:
    for page in archive.make_reports(ROOT / archive.ARCHIVE, tmp_path):
        made, committed = content(page.parent), content(ROOT / archive.REPORTS / page.parent.name)
        differ = sorted(name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name))
        assert not differ, f"{page.parent.name}: {differ} are not what `python -m bench.commands.archive` writes; run it and commit"


def test_every_committed_report_has_its_records() -> None:
    assert {path.name for path in (ROOT / archive.REPORTS).iterdir()} == {path.name for path in (ROOT / archive.ARCHIVE).iterdir()}


def test_the_archive_is_small_and_holds_no_weights() -> None:
    files = content(ROOT / archive.ARCHIVE)
    num_cells = sum(name.endswith("attempt-1.json") for name in files)
    names = {
        "run.json",
        "prediction.json",
        "sheet.npz",
        "physics.npz",
        "features.safetensors",
        *(f"attempt-{n}.json" for n in range(1, 10)),
    }
    assert {Path(name).name for name in files} <= names
    assert sum(map(len, files.values())) < 0.5e6 * num_cells  # record, features, sheet
