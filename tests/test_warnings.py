"""Warnings are shown where they are true, with numbers, and only there; a serious one takes the green badge of quality."""

from pathlib import Path
from typing import Any

import pytest
from report_factory import MEANS, environment, record, write_run

from bench.records.record import Measurement, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.verdicts import warnings
from bench.report.verdicts.findings import find
from bench.report.verdicts.warnings import Alerts
from bench.study.budget import Budget
from bench.study.tune import Tuning, TuningTrial

UNET, DIT = MEANS
DISTANCE = "fd_random3d@64"
RATE = "optimizer.learning_rate"
TUNING = Tuning(
    by="val_loss",
    study="invented-tuning",
    trials=tuple(TuningTrial(point={RATE: rate}, budget=Budget(steps=9), losses=((1000, 0.5),)) for rate in (1e-3, 2e-3, 4e-3)),
    chosen={RATE: 2e-3},
)


def clips_of(made: Record, **values: tuple[float, float, float]) -> dict[str, Any]:
    """A record's measurements with another primary distance: subject -> value and interval."""
    others = [m for m in made.measurements if m.name != DISTANCE]
    model = next(m for m in made.measurements if m.name == DISTANCE)
    found = [model.model_copy(update={"subject": s, "value": v, "low": low, "high": high}) for s, (v, low, high) in values.items()]
    return {"measurements": [*others, *found]}


GOOD = {"trained": (20.0, 18.0, 22.0), "untrained": (300.0, 280.0, 320.0), "reconstruction": (2.2, 1.9, 2.5), "real": (2.0, 1.8, 2.2)}


def alerts(folder: Path, *changes: dict[str, Any], distances: dict[str, Any] = GOOD, **snapshot: Any) -> Alerts:
    """Of a tuned and matched run without anything to warn of, each record of the DiT changed."""
    made: list[Record | None] = []
    for backbone in MEANS:
        for seed in range(max(1, len(changes))):
            own = record(backbone, seed, tuning=TUNING)
            own = own.model_copy(update=clips_of(own, **(distances if backbone == DIT else GOOD)))
            made.append(own.model_copy(update=changes[seed] if changes and backbone == DIT else {}))
    run = load_run(write_run(folder, made, sheets=False, **{"asks_tuning": True, **snapshot}))
    return warnings.of(run, find(run))


def told(found: Alerts) -> list[tuple[str, str]]:
    return [(alert.name, alert.sentence) for alert in found.each]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path: Path) -> None:
    found = alerts(tmp_path)
    assert found.each == () and found.badge


@pytest.mark.parametrize(("value", "nothing"), [(300.0, True), (281.0, True), (279.0, False)])
def test_who_learnt_nothing_is_named(tmp_path: Path, value: float, nothing: bool) -> None:
    """The untrained clips' interval begins at 280."""
    found = alerts(tmp_path, distances=GOOD | {"trained": (value, value - 20, value + 20)})
    said = f"DiT-XS/2 learnt nothing that its clips show: Fréchet distance, random3d, n = 64 is {value:.0f}, and 300 before training."
    assert told(found) == ([("learnt nothing", said)] if nothing else [])
    assert found.badge is not nothing


@pytest.mark.parametrize(("last", "nothing"), [(0.96, True), (0.94, False)])
@pytest.mark.parametrize("untrained", [None, (300.0, None, None)])
def test_without_a_distance_the_loss_tells_who_learnt_nothing(tmp_path: Path, last: float, nothing: bool, untrained: Any) -> None:
    without = {name: value for name, value in GOOD.items() if name != "untrained"} | ({"untrained": untrained} if untrained else {})
    course = record(DIT, 0).training
    assert course
    points = [point.model_copy(update={"loss": loss}) for point, loss in zip(course.validation[:2], (2.0, 2.0 * last), strict=True)]
    found = alerts(tmp_path, {"training": course.model_copy(update={"validation": points})}, distances=without)
    said = f"DiT-XS/2 learnt nothing: its validation loss is {2 * last:.2f}, and 2.00 before training."
    assert told(found) == ([("learnt nothing", said)] if nothing else [])


@pytest.mark.parametrize(
    ("reconstruction", "percent"),
    [
        ((11.1, 9.0, 13.0), 51),  # 9.1 of 18 above the floor
        ((10.9, 9.0, 13.0), None),
        ((11.1, 1.9, 20.0), None),  # no more above the floor than the draw of clips explains
        ((25.0, 23.0, 27.0), 100),  # generated clips nearer than the autoencoder's own
    ],
)
def test_the_autoencoder_is_the_limit_where_most_of_the_distance_is_its_own(
    tmp_path: Path, reconstruction: Any, percent: int | None
) -> None:
    found = alerts(tmp_path, distances=GOOD | {"reconstruction": reconstruction})
    above = "of the Fréchet distance, random3d, n = 64 above that of real clips"
    said = f"The autoencoder is the limit: {above}, its own part is {percent} % for DiT-XS/2."
    assert told(found) == ([("autoencoder is the limit", said)] if percent else [])
    assert found.badge is (percent is None)


@pytest.mark.parametrize(("steps", "here"), [(0, "was not trained here"), (9, "was only tuned here")])
def test_public_weights_are_told_and_take_the_badge(tmp_path: Path, steps: int, here: str) -> None:
    """Of weights that were not to learn nothing is said of what they learnt."""
    cell = record(DIT, 0).cell.model_copy(update={"initialise": "pretrained", "budget": Budget(steps=steps)})
    found = alerts(tmp_path, {"cell": cell}, distances=GOOD | ({"trained": (300.0, 280.0, 320.0)} if not steps else {}))
    said = dict(told(found))
    assert "learnt nothing" not in said and not found.badge
    assert said["pretrained"].startswith(f"The weights of DiT-XS/2 are public ones, and it {here}: their data and budget are not those of")


def test_a_missed_match_is_told(tmp_path: Path) -> None:
    own = record(DIT, 0)
    larger = [
        m.model_copy(update={"value": 1.1 * 1_312_772}) if m.name == "num_params" else m for m in clips_of(own, **GOOD)["measurements"]
    ]
    found = alerts(tmp_path, {"measurements": larger})
    assert told(found) == [("not matched", "The contenders are not matched: they are 10 % apart in parameters, and the matrix allows 5 %.")]
    assert not found.badge


def test_a_claim_about_backbones_needs_a_match(tmp_path: Path) -> None:
    found = alerts(tmp_path / "a", match=None)
    assert [alert.sentence for alert in found.each] == [
        "The contenders are not matched in what they cost, and the claim is about backbones; "
        "they differ 1.0 times in parameters and 4.1 times in FLOPs of a clip."
    ]
    assert alerts(tmp_path / "b", match=None, claim=None).each == ()


def test_untuned_rates_are_told(tmp_path: Path) -> None:
    found = alerts(tmp_path / "a", {"tuning": None}, asks_tuning=False)
    shared = "Learning rates were not tuned (all have 0.001): whom they suit better has an advantage."
    assert told(found) == [("rates not tuned", shared)] and not found.badge
    own = record(DIT, 0).cell
    other = own.model_copy(update={"optimizer": own.optimizer.model_copy(update={"learning_rate": 5e-3})})
    found = alerts(tmp_path / "b", {"cell": other}, asks_tuning=False)
    assert "(they are 0.001, 0.005)" in found.each[0].sentence
    found = alerts(tmp_path / "c", {"tuning": TUNING.model_copy(update={"at_edge": (RATE,)})})
    assert told(found) == [("rates not tuned", f"Rates are not tuned alike: tuned to the edge of what was tried ({RATE} 0.002).")]


@pytest.mark.parametrize(("rate", "copies"), [(0.20, True), (0.10, False)])
def test_copies_are_told_beyond_chance(tmp_path: Path, rate: float, copies: bool) -> None:
    own = record(DIT, 0)
    protocol = {"measure": "nearest training clip", "num_clips": 64}
    shares = [
        Measurement(name="copy_rate", subject=subject, value=value, unit="share of clips", better="none", protocol=protocol)
        for subject, value in (("trained", rate), ("real", 0.03))
    ]
    found = alerts(tmp_path, {"measurements": [*clips_of(own, **GOOD)["measurements"], *shares]})
    said = "20 % of DiT-XS/2's clips look like copies of training clips; of real clips 3 % do."
    assert told(found) == ([("copies", said)] if copies else []) and found.badge


def test_others_on_the_device_are_told(tmp_path: Path) -> None:
    course = record(DIT, 0).training
    assert course
    busy = [{"training": course.model_copy(update={"other_cpu_share": share})} for share in (0.05, 0.31)]
    found = alerts(tmp_path / "a", *busy)
    said = "Others took up to 31 % of the processors while DiT-XS/2 trained: it was slower than it is, and in its seconds learnt less."
    assert told(found) == [("disturbed", said)] and found.badge
    cell = record(DIT, 0).cell.model_copy(update={"budget": Budget(steps=485)})
    found = alerts(tmp_path / "steps", busy[1] | {"cell": cell})
    assert found.each[-1].sentence.endswith("trained: its speed is that of what was left.")
    assert alerts(tmp_path / "b", busy[0]).each == ()
    found = alerts(tmp_path / "c", {"training": course.model_copy(update={"other_processes": 2})}, {})
    assert found.each[0].sentence.startswith("Up to 2 other processes were on the GPU while DiT-XS/2 trained")


def test_many_that_were_disturbed_have_one_sentence(tmp_path: Path) -> None:
    course = record(DIT, 0).training
    assert course
    made = []
    for place, name in enumerate((UNET, DIT, "dit:DiT-S/2")):
        own = record(UNET if name == UNET else DIT, 0, training=course.model_copy(update={"other_cpu_share": 0.2 + 0.1 * place}))
        cell = own.cell.model_copy(update={"backbone": name})
        made.append(own.model_copy(update={"cell": cell, "name": f"cell-{place}", "fingerprint": cell.fingerprint()}))
    run = load_run(write_run(tmp_path, made, sheets=False))
    said = [alert.sentence for alert in warnings.of(run, find(run)).each if alert.name == "disturbed"]
    who = "while 3 of 3 contenders trained: each was slower than it is, and in its seconds learnt less."
    assert said == [f"Others took up to 40 % of the processors {who}"]


def test_files_left_out_are_named(tmp_path: Path) -> None:
    names = [f"{letter}.mp4" for letter in "gfedcba"]
    own = record(DIT, 0).data
    assert own
    data = own.model_validate(own.model_dump() | {"skipped": [{"name": name, "reason": "no"} for name in names]})
    found = alerts(tmp_path, {"data": data})
    said = "7 files of the data gave no clip: a.mp4, b.mp4, c.mp4, d.mp4, e.mp4 and 2 more."
    assert told(found) == [("files left out", said)] and found.badge


def test_warnings_stand_before_the_answer(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [record(UNET, 0), record(DIT, 0, environment=environment())], sheets=False)
    build([folder], tmp_path / "out")
    page, text = ((tmp_path / "out" / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert page.index("Learning rates were not tuned") < page.index('<div class="answer')
    assert text.splitlines()[2].startswith("**Warning.** Learning rates were not tuned")


def test_a_full_card_is_told(tmp_path: Path) -> None:
    def retries(*values: float) -> Alerts:
        found = [Measurement(name="num_alloc_retries", value=value, unit="1", better="lower") for value in values]
        return alerts(
            tmp_path / str(values), *({"measurements": [*clips_of(record(DIT, 0), **GOOD)["measurements"], one]} for one in found)
        )

    assert told(retries(0.0)) == []
    said = "The card was full while DiT-XS/2 trained: its allocator emptied its cache {}, which costs speed."
    assert told(retries(1.0)) == [("card full", said.format("once"))]
    assert told(retries(0.0, 5.0)) == [("card full", said.format("up to 5 times"))]
