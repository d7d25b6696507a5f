"""A report of who follows what it was told: a table with all that a share is read by, and a headline that rests on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_factory import MEANS, record, write_run

from bench.metrics.following.values import ALL
from bench.records.record import Measurement, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.page import sheets
from bench.report.page.following import following_table
from bench.report.page.paper import to_paper
from bench.report.sheet import Sheet, load_sheet
from bench.report.verdicts import claim_questions, warnings
from bench.report.verdicts.claim_lead import quality_said
from bench.report.verdicts.findings import find

UNET, DIT = MEANS
SEEDS = 3


def share(name: str, value: float, subject: str = "trained") -> Measurement:
    return Measurement(
        name=name,
        subject=subject,
        value=value,
        unit="share of clips",
        better="higher",
        low=value - 0.1,
        high=value + 0.1,
        floor=0.011,
        protocol={"measure": "following", "num_clips": 48},
    )


def told(backbone: str, seed: int, seen: float, unseen: float, untrained: float = 0.0) -> Record:
    made = record(backbone, seed)
    wobble = 0.01 * (seed - 1)
    found = [share(ALL, seen + wobble), share(f"{ALL}_unseen", unseen - wobble), share(ALL, untrained, "untrained")]
    found += [share(name, value, s) for name in (ALL, f"{ALL}_unseen") for s, value in (("real", 1.0), ("reconstruction", 0.98))]
    return made.model_copy(update={"measurements": [*made.measurements, *found]})


def run_of(folder: Path, dit: tuple[float, ...], **snapshot: Any) -> Path:
    made: list[Record | None] = [told(UNET, seed, 0.6, 0.2) for seed in range(SEEDS)]
    made += [told(DIT, seed, *dit) for seed in range(SEEDS)]
    return write_run(folder, made, **{"primary": ALL, **snapshot})


def test_the_table_has_seen_and_unseen_and_what_to_read_them_by(tmp_path: Path) -> None:
    run = load_run(run_of(tmp_path, (0.9, 0.7)))
    table = following_table(run)
    beside = ("Blind guess", "Real clips, read", "Autoencoder", "Clips")
    assert table.header == ("Measure", "Combination trained on", "UNet-XS", "DiT-XS/2", *beside)
    what = "Clips that show the shape, colour and direction they were told"
    beside = ("1.1 %", "100.0 %", "98.0 %", "48")
    assert table.rows == (
        (what, "yes", "60.0 % [57.5 %, 62.5 %]", "90.0 % [87.5 %, 92.5 %]", *beside),
        (what, "no", "20.0 % [17.5 %, 22.5 %]", "70.0 % [67.5 %, 72.5 %]", *beside),
    )
    assert table.data is not None and table.data["chance"].tolist() == pytest.approx([0.011, 0.011])
    assert following_table(load_run(write_run(tmp_path / "other", [record(UNET, 0), record(DIT, 0)]))).rows == ()


def test_no_share_is_above_all_clips(tmp_path: Path) -> None:
    """An interval of Student's t over three seeds near 99 % would end at 101 %: in the table, a sentence of contrasts, and an article."""
    contrasts = {"U-Net or DiT": ({"backbone": UNET}, {"backbone": DIT})}
    run = load_run(run_of(tmp_path, (0.985, 0.7), contrasts=contrasts, claim=None))
    assert following_table(run).rows[0][3] == "98.5 % [96.0 %, 100.0 %]"
    found = find(run)
    said = claim_questions.outcome_said(run, found.named[0])
    assert said.startswith(
        "DiT-XS/2 is better than UNet-XS, 98.5 [96.0, 100] % against 60.0 [57.5, 62.5] % in clips that show the shape, co"
    )
    assert r"98.5 $\pm$ 2.5" in to_paper(run, found.rows)  # the longer half


def test_the_headline_rests_on_it_and_the_page_shows_it(tmp_path: Path) -> None:
    folder = run_of(tmp_path, (0.9, 0.7))
    run = load_run(folder)
    findings = find(run)
    assert findings.conclusion.parts[0].state == "leads"
    said = quality_said(run, findings)
    assert said.startswith("DiT-XS/2 makes the better clips: they show the shape, colour and direction they were told (p")
    page = build([folder], tmp_path / "out")[0].read_text(encoding="utf-8")
    assert "Does it follow?" in page and "Combination trained on" in page


@pytest.mark.parametrize(("dit", "untrained", "nothing"), [(0.9, 0.0, False), (0.2, 0.15, True), (0.2, 0.05, False)])
def test_more_than_before_training_is_something_learnt(tmp_path: Path, dit: float, untrained: float, nothing: bool) -> None:
    """Of a measure that is better when higher; the untrained clips' interval ends 0.1 above their share."""
    run = load_run(run_of(tmp_path, (dit, 0.0, untrained), primary=ALL))
    said = [alert.sentence for alert in warnings.of(run, find(run)).each if alert.name == "learnt nothing"]
    assert bool(said) is nothing and all(sentence.startswith("DiT-XS/2 learnt nothing") for sentence in said)


def tell(run: Path, captions: list[str], backbone: str = "*") -> None:
    """The clips of every sheet get captions."""
    for path in run.glob(f"{backbone}/sheet.npz"):
        with np.load(path) as arrays:
            content = dict(arrays)
        np.savez(path, **content, told=np.array(captions))


def test_columns_of_clips_say_what_they_were_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, (0.9, 0.7))
    captions = [f"<b>{name}</b> moves {k}" for k, name in enumerate(["a disc", "a ring", "b" * 70, *(["a square"] * 13)])]
    tell(run, captions)
    drawn, notes = sheets.draw(load_run(run), 2_000_000)
    assert drawn is not None and not notes and drawn.first.told
    assert drawn.first.column_labels[:2] == tuple(captions[:2])
    assert drawn.first.column_labels[2] == f"<b>{'b' * 60}…" and len(drawn.first.column_labels[2]) == sheets.MAX_CAPTION
    build([run], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "a column has one caption and starts from one noise" in text and "were told what stands over their column" in text
    assert "&lt;b&gt;a disc&lt;/b&gt; moves 0" in text and "<b>a disc</b> moves" not in text
    assert "of each label" not in text


def test_real_clips_stand_under_the_caption_that_is_theirs(tmp_path: Path) -> None:
    run = run_of(tmp_path, (0.9, 0.7))
    tell(run, [f"clip {k}" for k in range(16)])
    with np.load(next(run.glob("DiT*/sheet.npz"))) as arrays:
        assert (arrays["labels_real"] != arrays["labels_generated"]).any()  # by label others would stand there
    drawn, _ = sheets.draw(load_run(run), 2_000_000)
    assert drawn is not None
    rows = sheets._sheet({"a": (0, sheet_of(run))}, 6, 2_000_000, whole=False)[1]
    places = [int(label.removeprefix("clip ")) for label in drawn.first.column_labels]
    assert all(np.array_equal(clip, sheet_of(run).real[place]) for clip, place in zip(rows[0][1], places, strict=True))


def test_contenders_told_other_captions_are_a_note(tmp_path: Path) -> None:
    run = run_of(tmp_path, (0.9, 0.7))
    tell(run, ["a disc"] * 16, "UNet*")
    assert sheets.draw(load_run(run), 2_000_000)[1] == []  # a cell of before captions were kept says nothing
    tell(run, ["a ring"] * 16, "DiT*")
    assert set(sheets.draw(load_run(run), 2_000_000)[1]) == {"DiT-XS/2 was sampled with other captions than the columns say."}


def sheet_of(run: Path) -> Sheet:
    found = load_sheet(load_run(run).cells[0])
    assert isinstance(found, Sheet)
    return found
