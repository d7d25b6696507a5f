"""Losses that are given their past, on a page: never compared with those of whole clips, and no fault of the run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.records.record import GIVEN_PAST, OF_CLIPS, FrameError, Measurement
from bench.report.load import load_run
from bench.report.page import generation, tuning
from bench.report.page.figures import training_curves
from bench.report.page.page import write
from bench.report.scaling.points import points_of
from bench.report.verdicts.compare import compare, losses_apart
from bench.report.verdicts.faults import protocols
from bench.study.tune import Tuning
from tests.report_factory import PROTOCOL, record, write_run
from tests.test_report import changed, rows_of, text_of

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"


def conditional(seed: int, unit: str = "frame", **changes: Any) -> Any:
    return changed(record(DIT, seed), val_loss={"protocol": {**PROTOCOL, "loss": f"{GIVEN_PAST}, {unit}", **changes}})


def test_a_loss_given_its_past_is_not_compared_and_no_fault(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [*(record(UNET, seed) for seed in range(3)), *(conditional(seed) for seed in range(3))])
    row = rows_of(folder)[1]["val_loss"]
    assert row.verdict is not None and row.verdict.outcome == "not compared"
    told = f"the loss of UNet-XS is {OF_CLIPS}; the loss of DiT-XS/2 is {GIVEN_PAST}, frame"
    assert row.verdict.reason == f"different quantities: {told}"
    assert not [entry for entry in row.entries if entry.best]
    run = load_run(folder)
    assert losses_apart(run) == told
    assert not list(protocols(run))
    write([run], tmp_path / "out")
    assert "different quantities" in text_of(tmp_path / "out") and told in text_of(tmp_path / "out")  # the table, and the curves


def test_whoever_sees_two_kinds_of_loss_on_one_scale_is_told_first(tmp_path: Path) -> None:
    """The curves of training, the picture of a tuning and its table; and that a pass of who generates units is one of training."""
    for name, made in (("apart", conditional), ("alike", lambda seed: record(DIT, seed))):
        cells = [tuned(each) for seed in range(3) for each in (record(UNET, seed), made(seed))]
        run = load_run(write_run(tmp_path / name, cells))
        curves, tried = training_curves(run), tuning.tuning_curves(run)
        assert curves is not None and tried is not None
        said = "Losses of different kinds are not to be compared: the loss of UNet-XS is of whole clips; the loss of DiT-XS/2 is"
        assert curves.caption.startswith(said) == tried.caption.startswith(said) == (name == "apart")
        assert (said in tuning.tuning_table(run).caption) == (name == "apart") and ".." not in tuning.tuning_table(run).caption
        (flops,) = (row for row in compare(run) if row.name == "flops_per_clip")
        assert flops.caveats == (("of a training pass",) if name == "apart" else ())


def tuned(made: Any) -> Any:
    block, losses = {"budget": {"seconds": 80}}, {1e-3: 0.2, 2e-3: 0.1}
    trials = [block | {"point": {"optimizer.learning_rate": rate}, "losses": [[100, loss]]} for rate, loss in losses.items()]
    chosen = {"by": "val_loss", "study": "t", "trials": trials, "chosen": {"optimizer.learning_rate": 2e-3}}
    return made.model_copy(update={"tuning": Tuning.model_validate(chosen)})


def test_other_differences_of_its_protocol_are_still_faults(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [record(UNET, 0), conditional(0, dtype="bf16")])
    faults = list(protocols(load_run(folder)))
    assert len(faults) == 1 and "val_loss under another protocol" in faults[0].what


def test_losses_of_one_unit_are_compared(tmp_path: Path) -> None:
    block = {"protocol": {**PROTOCOL, "loss": f"{GIVEN_PAST}, frame"}}
    folder = write_run(tmp_path, [*(changed(record(UNET, s), val_loss=block) for s in range(3)), *(conditional(s) for s in range(3))])
    verdict = rows_of(folder)[1]["val_loss"].verdict
    assert verdict is not None and verdict.outcome != "not compared"
    folder = write_run(tmp_path / "two", [changed(record(UNET, 0), val_loss=block), conditional(0, "patch")])
    verdict = rows_of(folder)[1]["val_loss"].verdict
    assert verdict is not None and verdict.outcome == "not compared"  # a patch has another past than a frame


def test_no_law_holds_two_kinds_of_loss() -> None:
    facts = {"backbone": SimpleNamespace(num_params=10)}
    records = [("a", record(UNET, 0).model_copy(update=facts)), ("b", conditional(0).model_copy(update=facts))]
    forecast: Any = SimpleNamespace(held_out=())
    for _, made in records:
        assert made.training is not None
        made.training.step_work[:] = [(1, 1, 1, 1, 1)]
    assert "losses are different quantities" in points_of(records, forecast).lacks
    assert "different quantities" not in points_of(records[:1], forecast).lacks


# --- what generating takes, and error by frame


def with_frames(made: Any, slope: float, length: int = 20) -> Any:
    errors = [FrameError(frame=frame, distance=0.1 + slope * frame, floor=0.05) for frame in range(length)]
    more = [
        Measurement(name="generation_calls", value=259, unit="1", better="none"),
        Measurement(name="first_frame_s", value=0.0125, unit="s", better="lower"),
        Measurement(name="cache_bytes", value=3 * 2**20, unit="B", better="lower"),
    ]
    return made.model_copy(update={"frames": errors, "measurements": [*made.measurements, *more]})


def test_the_page_tells_what_generating_takes_and_how_errors_grow(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, [with_frames(record(UNET, 0), 0.0), with_frames(record(DIT, 0), 0.5)]))
    lines = {line[0]: line[1:] for line in generation.generation_table(run).rows}
    assert lines["network calls, one after another"] == ("259", "259")
    assert lines["time to its first frame [ms]"] == ("12.5", "12.5")
    assert lines["kept from call to call [MiB]"] == ("3.00", "3.00")
    frames = generation.frame_table(run)
    assert len(frames.rows) == generation.MOST_FRAMES and (frames.rows[0][0], frames.rows[-1]) == ("0", ("19", "0.100", "9.60", "0.0500"))
    assert frames.data is not None and len(frames.data) == 20
    write([run], tmp_path / "out")
    text = text_of(tmp_path / "out")
    assert "What generating a clip takes" in text and "A line that climbs is drift." in text


def test_a_run_that_asks_for_neither_shows_neither(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, [record(UNET, 0), record(DIT, 0)]))
    assert not generation.generation_table(run).rows and not generation.frame_table(run).rows
    assert generation.frame_figure(run) is None
