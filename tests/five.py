"""Invented runs of five contenders with named contrasts, for tests of verdicts and pages. None of these numbers was measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from report_factory import record, write_run

from bench.records.record import Asked, Record
from bench.report.load import Run, load_run
from bench.study.budget import Budget

UNET, CONV, DIT, FRAME, PATCH = "x:UNet", "x:Conv", "y:DiT", "y:AR-frame", "y:AR-patch"
ALL = (UNET, CONV, DIT, FRAME, PATCH)
CONTRASTS = {"next patch": (PATCH, DIT), "next frame": (FRAME, DIT), "convolution or attention": (CONV, DIT)}
PRIMARY = "fd_random3d@64"
EQUAL = {UNET: 40.0, CONV: 40.4, DIT: 39.8, FRAME: 40.2, PATCH: 39.9}  # means of contenders that are as good as any
FEW = (0.97, 1.04, 0.99, 1.0, 1.02, 0.98, 1.03, 0.96, 1.01, 1.0, 0.99, 1.01)  # what a seed makes of a mean


def series(mean: float, seeds: int, spread: float = 1.0) -> list[float]:
    """Values of so many seeds about a mean."""
    return [mean * (1 + spread * (FEW[seed] - 1)) for seed in range(seeds)]


def asked(contrasts: Mapping[str, tuple[str, str]] = CONTRASTS) -> dict[str, Any]:
    """As a snapshot and a record hold them."""
    return {title: ({"backbone": first}, {"backbone": second}) for title, (first, second) in contrasts.items()}


def records(values: Mapping[str, Sequence[float]], claim: str | None = "next-patch", budget: Budget | None = None) -> list[Record]:
    """A record for each contender's value; under another budget where one is given."""
    found = []
    for place, (name, own) in enumerate(values.items()):
        for seed, value in enumerate(own):
            made = record("dit:DiT-XS/2", seed)
            measured = [
                m.model_copy(update={"value": value}) if (m.name, m.subject) == (PRIMARY, "trained") else m
                for m in made.measurements
                if "@" not in m.name or m.name == PRIMARY
            ]
            cell = made.cell.model_copy(update={"backbone": name} | ({"budget": budget} if budget else {}))
            fields = {
                "cell": cell,
                "fingerprint": f"{place:02d}{seed}{budget.axis if budget else ''}".ljust(64, "0"),
                "name": f"{name.partition(':')[2]}{f'-{budget.axis}' if budget else ''}-seed{seed}",
                "measurements": measured,
                "asked": Asked(claim=claim, primary="fd_random3d", contrasts=asked()),
            }
            found.append(made.model_copy(update=fields))
    return found


def run_of(
    folder: Path,
    values: Mapping[str, Sequence[float]],
    further: Mapping[str, Sequence[float]] | None = None,
    claim: str | None = "next-patch",
    contrasts: Mapping[str, tuple[str, str]] = CONTRASTS,
    **changes: Any,
) -> Run:
    """The run of these values of the primary measure, contender -> one a seed; `further`: at 2,400 clips."""
    clips = Budget.model_validate({"samples": 2400})
    made = [*records(values, claim), *records(further or {}, claim, clips)]
    path = write_run(folder, made, sheets=False, claim=claim, contrasts=asked(contrasts), match=None, **changes)
    snapshot = json.loads((path / "run.json").read_text())
    for cell in snapshot["cells"]:
        if "-samples-" in cell["name"]:
            cell["axes"]["budget.samples"], cell["further"] = 2400, True
    (path / "run.json").write_text(json.dumps(snapshot))
    return load_run(path)
