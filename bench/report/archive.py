"""The archive: finished studies whose records are committed, and their reports, made from those alone. `python -m bench.commands.archive`.

Of a run it keeps what a report reads: run.json, the prediction, every attempt's record, the sheets of clips that are shown, what is drawn
of a physics world, and of the features those that are subtracted. A record is kept as it was written: its `artefacts` name what the run
left beside it, here or not.
"""

import shutil
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from bench.data.files import fresh_folder, remove_folder, remove_leftovers
from bench.data.media.arrays import read_npz
from bench.records.artefacts import save_arrays
from bench.records.prediction import PREDICTION
from bench.records.store import RUN, run_folders
from bench.report import build
from bench.report.load import load_run
from bench.report.physics.kept import is_picture
from bench.report.verdicts.paired import SIDES
from bench.shapes import Refusal

ARCHIVE, REPORTS = Path("results/reference"), Path("reports/reference")  # of a checkout


def keep(folder: Path, archive: Path) -> tuple[Path, list[str]]:
    """Copy a finished run into the archive, in place of what that has of it: its folder there, and the names of what was left out.

    Refusal for an unfinished run or damaged features, OSError for a sheet that is missing or a disk that is full; the archive is then
    as before.
    """
    run, target = load_run(folder), archive / folder.resolve().name
    remove_leftovers(archive)
    if run.unfinished:
        raise Refusal(f"{run.matrix} is not archived: {run.unfinished}")
    left_out = {path.name for path in folder.rglob("*") if path.is_file()}
    shown = {own[0].name for name in run.contenders if (own := run.of(name))}  # whose clips a page has: the first seed's
    with fresh_folder(target) as temp:
        shutil.copyfile(folder / RUN, temp / RUN)
        if run.prediction is not None:
            shutil.copyfile(folder / PREDICTION, temp / PREDICTION)
        for cell in run.cells:
            kept = temp / cell.path.name
            kept.mkdir()
            for path in (*cell.path.glob("attempt-*.json"), cell.artefact("sheet") if cell.name in shown else None):
                if path is not None:
                    shutil.copyfile(path, kept / path.name)
            if (physics := cell.artefact("physics")) is not None:
                found = read_npz(physics)
                read = {name: values for name, values in found.items() if cell.name in shown or not is_picture(name)}
                save_arrays(kept / physics.name, **read)
                left_out |= {f"{name} of {physics.name}" for name in found.keys() - read.keys()}
            if (features := cell.artefact("features")) is not None:
                found = _load(features)
                read = {name: values for name, values in found.items() if name.rpartition("/")[2] in SIDES}
                (kept / features.name).write_bytes(safetensors.numpy.save(read))
                left_out |= {f"{name} of {features.name}" for name in found.keys() - read.keys()}
        left_out -= {path.name for path in temp.rglob("*")}
        remove_folder(target)
    return target, sorted(left_out)


def _load(features: Path) -> dict[str, np.ndarray]:
    """`<extractor>/<subject>` -> features. Refusal where the file is damaged."""
    try:
        return safetensors.numpy.load_file(features)
    except safetensors.SafetensorError as error:
        raise Refusal(f"{features} cannot be read ({error}); run the cell again") from error


def make_reports(archive: Path, reports: Path) -> list[Path]:
    """The report of every study in the archive, each in place of the one before; their pages. Refusal where the archive has none."""
    folders = run_folders(archive)
    if not folders:
        raise Refusal(f"no study in {archive}; a checkout of the project has it, and this is run in its root")
    remove_leftovers(reports)
    for folder in folders:
        with fresh_folder(reports / folder.name) as temp:
            build([folder], temp)
            remove_folder(reports / folder.name)
    return [reports / folder.name / "report.html" for folder in folders]
