"""Each backbone at its best: where another field is an axis too, the contender whose validation loss is least. Knows no torch.

Never by the primary measure, which is to judge what is chosen here.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.record import Measurement
from bench.report.load import CellResult, Run
from bench.report.verdicts.compare import protocol_differences
from bench.shapes import Refusal

LOSS = "val_loss"
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
    for cell in run.cells:
        named = contenders.setdefault(_backbone(cell), [])
        if cell.contender not in named:
            named.append(cell.contender)
    return {backbone: _choice(run, backbone, names) for backbone, names in contenders.items()}


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
