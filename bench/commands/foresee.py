"""`run` of a matrix with `forecast`: all cells but those held out train; what a law says of these is written down; then they train."""

from collections.abc import Mapping
from pathlib import Path

from bench.data.files import StoreError, now
from bench.data.progress import Say
from bench.records.prediction import PREDICTION, Foresight, read_prediction, write_prediction
from bench.records.record import Record
from bench.records.store import latest
from bench.report.scaling.foresight import HeldOutLoss, predict
from bench.report.scaling.points import points_of
from bench.run.launch import check_study, ready, run_study
from bench.run.launchers.contract import Launcher
from bench.run.launchers.table import launcher as launcher_of
from bench.run.size.resolve import BackboneSize, sizes_of
from bench.shapes import Refusal
from bench.study.forecast import clips_at, family_of, held_out, parts_of
from bench.study.matrix import NamedCell, Study

CHECKPOINT = "checkpoint*"  # of a cell that has begun to train


def run_foreseen(
    study: Study, results: Path, say: Say, command: str, minutes: float | None = None, launcher: Launcher | None = None
) -> list[Record]:
    """Run a study as `load_study` gives it; the records of all its cells. Refusal where a held-out cell trained before its prediction."""
    launcher = launcher or launcher_of()
    study = ready(study, results, say, lambda trials: run_study(trials, results, say, command, launcher), minutes, launcher)
    forecast, folder = study.matrix.forecast, results / study.name
    assert forecast is not None
    held = held_out(forecast, study.cells)
    names = {named.name for named in held}
    sizes = sizes_of([named.cell for named in study.cells], study.name, results, launcher)
    prediction = current(folder, study)
    check_order(folder, held, prediction)
    if prediction is None:
        if not launcher.machine and any(latest(folder / named.folder) is None for named in study.cells):
            check_study(study, results)  # a mistake in what trains last is told first
        records = run_study(study, results, say, command, launcher, later=names)
        prediction = foresee(study, records, sizes)
        write_prediction(folder, prediction)
        say(f"{study.name}: {told(prediction)}")
    check_order(folder, held, prediction)
    return run_study(study, results, say, command, launcher, prediction=prediction.sha256)


def current(folder: Path, study: Study) -> Foresight | None:
    """The prediction of these very cells; None where there is none. One of other cells, as after an override, is put aside."""
    found = read_prediction(folder)
    if found is None:
        return None
    cells = {named.folder for named in study.cells}
    if {each.folder for each in found.fitted_to} | {each.folder for each in found.losses} <= cells:
        return found
    (folder / PREDICTION).rename(folder / f"prediction-{found.sha256[:8]}.json")
    return None


def check_order(folder: Path, held: list[NamedCell], prediction: Foresight | None) -> None:
    """Refusal for a held-out cell that trained before what was predicted of it."""
    for named in held:
        place = folder / named.folder
        record = latest(place)
        begun = record is not None or any(place.glob(CHECKPOINT))
        if (prediction is None and begun) or (
            prediction is not None
            and record is not None
            and (record.asked.prediction != prediction.sha256 or record.started_at < prediction.written_at)
        ):
            raise Refusal(
                f"cell {named.name} trained before its prediction, which then says nothing: remove {place} and run the same command again"
            )


def foresee(study: Study, records: list[Record], sizes: Mapping[str, BackboneSize]) -> Foresight:
    """What the law of the finished cells says of those held out. Refusal where cells that it needs are not there."""
    forecast = study.matrix.forecast
    assert forecast is not None
    folders = {named.name: named.folder for named in study.cells}
    by_folder = {folders[record.name]: record for record in records}
    waiting = [named for named in study.cells if named.cell.backbone not in forecast.held_out]
    if failed := [record.name for record in records if record.status in ("failed", "timeout")]:
        raise StoreError(f"{study.name}: {failed[0]} has not finished, and the prediction waits for it; run the same command again")
    if missing := [named.name for named in waiting if named.folder not in by_folder]:
        raise StoreError(f"{study.name}: {missing[0]} has no record, and the prediction waits for it; run the same command again")
    losses = []
    for named in held_out(forecast, study.cells):
        size = sizes[named.cell.backbone]
        for part in parts_of(named.cell):
            clips = clips_at(named.cell, part, size.latent_voxels, size.flops_per_clip)
            family = family_of(named.cell.backbone)
            losses.append(HeldOutLoss(folder=named.folder, family=family, part=part, params=size.params, clips=clips))
    return predict(study.name, now(), by_folder, points_of(by_folder.items(), forecast), losses)


def told(prediction: Foresight) -> str:
    """What is said on the console."""
    last = [each for each in prediction.losses if each.part == 1]
    texts = dict.fromkeys(
        f"{each.params:,} parameters after {each.clips:,} clips {each.loss:.3g} [{each.low:.3g}, {each.high:.3g}]" for each in last
    )
    return f"predicted before they train ({PREDICTION}, {prediction.sha256[:12]}): validation loss of {'; '.join(texts)}"
