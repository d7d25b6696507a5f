"""Each backbone at its best: where another field is an axis too, the contender whose validation loss is least. Knows no torch.

Never by the primary measure, which is to judge what is chosen here.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.record import Measurement
from bench.report.load import POLICY, CellResult, Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.report.verdicts.compare import LOSS, protocol_differences
from bench.shapes import Refusal

UNSEEN = ("sampler.", "evaluation.")  # axes that no validation loss sees: what is trained is the same at every value


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One backbone's contenders, and the best of them."""

    backbone: str
    chosen: str  # contender
    curve: tuple[tuple[str, float | None], ...]  # contender -> mean validation loss, in the matrix's order; None: not all seeds have one


def best_of(run: Run) -> dict[str, Choice]:
    """Backbone -> its contenders with their losses, and the one to show.

    A contender that lacks a seed's loss is never chosen: what diverges at one seed is no choice. Refusal where validation losses do not
    compare, see no axis, or none of a backbone is whole.
    """
    contenders: dict[str, list[str]] = {}
    for cell in (cell for cell in run.cells if not cell.further):
        named = contenders.setdefault(_backbone(cell), [])
        if cell.contender not in named:
            named.append(cell.contender)
    return {backbone: _choice(run, backbone, names) for backbone, names in contenders.items()}


def at_their_best(run: Run) -> tuple[Run, dict[str, Choice]]:
    """The run with each backbone's best contender alone, and the choices; as it is where its other axes are not to be chosen among.

    Those are axes that a claim is about or a budget, whatever no validation loss tells, and all of a run whose contrasts name contenders.
    """
    main = [cell for cell in run.cells if not cell.further]
    others = {key for cell in main for key in cell.axes} - {"backbone"}
    apart = {key for key in others if key == POLICY or f"{key}.".startswith(("budget.", "backbone."))}
    if not others or apart or run.tunes is not None or run.contrasts:
        return run, {}
    try:
        choices = best_of(run)
    except Refusal:  # all are shown
        return run, {}
    chosen = {choice.chosen for choice in choices.values()}
    cells = tuple(cell.model_copy(update={"aside": not cell.further and cell.contender not in chosen}) for cell in run.cells)
    fields = {name: getattr(run, name) for name in Run.model_fields}  # and nothing that was computed from all cells
    return Run.model_validate(fields | {"cells": cells}), choices


def tried_table(run: Run, choices: Mapping[str, Choice]) -> Table:
    """What else was tried: every contender of each backbone, by validation loss, with the primary measure beside it."""
    lines, data = [], []
    for backbone, choice in choices.items():
        for name, loss in choice.curve:
            primary = [m.value for cell in run.of(name) if (m := _primary(run, cell))]
            mean = statistics.fmean(primary) if primary else None
            shown = "shown" if name == choice.chosen else NONE
            lines.append((name, *(NONE if value is None else metrics.number(value) for value in (loss, mean)), shown))
            data.append((backbone, name, loss, mean, name == choice.chosen))
    header = ("Contender", "Validation loss", run.primary or "Primary", "On this page")
    caption = "Each backbone is shown at its best, chosen on validation loss and not on what decides"
    raw = pd.DataFrame(data, columns=["backbone", "contender", "val_loss", "primary", "chosen"])
    return Table("tried", caption, header, tuple(lines), data=raw)


def _primary(run: Run, cell: CellResult) -> Measurement | None:
    found = cell.record.measurements if cell.record else []
    return next((m for m in found if m.subject == "trained" and m.name.partition("@")[0] == run.primary), None)


def _choice(run: Run, backbone: str, names: Sequence[str]) -> Choice:
    axes = _varying([cell.axes for name in names for cell in run.of(name)])
    if unseen := [key for key in axes if f"{key}.".startswith(UNSEEN)]:
        raise Refusal(f"no best of {backbone}: its {LOSS} does not see {', '.join(unseen)}, on which its contenders differ; name one")
    losses = {name: [_loss(cell) for cell in run.of(name)] for name in names}
    prints = {loss.protocol_fingerprint for series in losses.values() for loss in series if loss}
    if len(prints) > 1:
        differing = "; ".join(protocol_differences(run.records, {LOSS})) or "some have none"
        raise Refusal(f"no best of {backbone}: validation losses of different protocols do not compare ({differing}); name one")
    means = {name: statistics.fmean(m.value for m in series if m) if all(series) else None for name, series in losses.items()}
    whole = {name: mean for name, mean in means.items() if mean is not None}
    if not whole:
        raise Refusal(f"no best of {backbone}: none of {', '.join(names)} has a {LOSS} at every seed; run what is missing, or name one")
    return Choice(backbone=backbone, chosen=min(whole, key=lambda name: whole[name]), curve=tuple(means.items()))


def _backbone(cell: CellResult) -> str:
    return str(cell.axes.get("backbone") or (cell.record.cell.backbone if cell.record else cell.contender))


def _varying(axes: Sequence[dict[str, Any]]) -> list[str]:
    """Axes on which some differ."""
    keys = dict.fromkeys(key for each in axes for key in each)
    return [key for key in keys if len({str(each.get(key)) for each in axes}) > 1]


def _loss(cell: CellResult) -> Measurement | None:
    return cell.record.measurement(LOSS) if cell.record and cell.status == "ok" else None
