"""A report of who follows what it was told: a table with all that a share is read by, and a headline that rests on it."""

from pathlib import Path
from typing import Any

import pytest
from report_factory import MEANS, record, write_run

from bench.metrics.following.values import ALL
from bench.records.record import Measurement, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.page.following import following_table
from bench.report.page.paper import to_paper
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
