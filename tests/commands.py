"""The command line as a user meets it: in a process of its own, or, many times as fast, in this one."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml

import bench.meters.peak
import bench.meters.process
import bench.run.expected.measure
import bench.run.launchers.local
import bench.run.process
import bench.run.threads
from bench.cli import main
from bench.records.record import Record
from bench.records.store import latest, read_run
from bench.run.expected.pace import Pace
from bench.run.job import EXIT_BAD_INPUT, EXIT_STOPPED
from bench.run.watch import Ended, Watch
from bench.run.worker import perform
from tests.tiny import cell_fields

ROOT = Path(__file__).parents[1]
PACE = Pace(
    budget_s={"steps": 0.5, "samples": 0.25, "latent_voxels": 0.01, "train_flops": 1e-9},
    **dict.fromkeys(("checks_s", "canaries_s", "eval_s", "clip_s", "quality_s", "point_s", "grid_s", "rest_s", "autoencoder_s"), 0.1),
    latents_s=1.0,
)
Done = subprocess.CompletedProcess[str]


def command(*arguments: object, **environment: str) -> Done:
    """`python -m bench ...` in a process of its own, whose jobs are processes of theirs: as it is used, and slow."""
    env = {**os.environ, "PYTHONWARNINGS": "default", "COLUMNS": "200", **environment}
    words = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env, timeout=500)


def here(*arguments: object, folder: Path = ROOT, **environment: str) -> Done:
    """The same with the command and its jobs in this process, which has imported everything already. No job can be timed out."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    words = ["bench", *map(str, arguments)]
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "200", **environment}),
        mock.patch.object(sys, "argv", words),
        jobs_here(),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Done(words, status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def jobs_here() -> Iterator[None]:
    """Inside, jobs are done in this process."""
    with (
        mock.patch.object(bench.run.process, "JobProcess", JobHere),
        mock.patch.object(bench.run.launchers.local, "JobProcess", JobHere),
        mock.patch.object(bench.run.threads, "LOOK_S", 0.0),
        mock.patch.object(bench.meters.process, "keep_freed_memory", lambda: True),  # this process has other tests to do
        mock.patch.object(bench.meters.process, "leave_out_imports", lambda: None),  # and has left out its own
        mock.patch.dict(bench.meters.peak.SIDES, cpu=128),  # its rate is no test's business
        mock.patch.object(bench.run.expected.measure, "measured", lambda cell: PACE),  # nor how long it would take
    ):
        yield


class JobHere:
    """A `JobProcess` that is none: its job is done once it is made."""

    def __init__(self, job: Any, **options: Any):
        self._ended = Ended(word="done")
        try:
            perform(job, SimpleNamespace(requested=False), Watch())  # type: ignore[arg-type]
        except SystemExit as ended:
            word: Any = {EXIT_BAD_INPUT: "refused", EXIT_STOPPED: "stopped"}[ended.code]  # type: ignore[index]
            self._ended = Ended(code=int(ended.code or 0), word=word)

    def ended(self) -> Ended:
        return self._ended


def write_matrix(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """A matrix of two tiny cells; `changes` replace its top-level fields."""
    defaults = cell_fields()
    del defaults["backbone"]
    defaults["budget"] = {"steps": 40}
    matrix = {
        "description": "A tiny matrix <script>alert(1)</script>",
        "claim": "backbone",
        "primary": None,  # no card of random3d passed
        "axes": {"backbone": ["tests.small:UNet-XXS", "tests.small:DiT-XXS/2"]},
        "match": {"by": "params"},
        "defaults": defaults,
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return path


def cell_folder(results: Path, name: str, matrix: str = "tiny") -> Path:
    """Folder of a cell of the newest run of a matrix."""
    run = read_run(results / matrix)
    return results / matrix / next(cell.folder for cell in run.cells if cell.name == name)


def record_of(results: Path, name: str, matrix: str = "tiny") -> Record:
    """The newest record of a cell."""
    record = latest(cell_folder(results, name, matrix))
    assert record is not None
    return record
