"""The tables of a law: what was foreseen and what came, exponents, what compute buys, the best sizes that were seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.report.scaling.findings import ScalingFindings
from bench.report.scaling.foresight import LARGER, LEVEL, StudyLaw
from bench.report.scaling.frontier import best_at
from bench.report.scaling.isoflop import Minimum, minima
from bench.report.scaling.rule import CARRIED, INSIDE, HeldOutcome
from bench.report.scaling.words import agreed, bounds, counted, exponent, exponent_ends, flops, number, percent, signed, size

EXPONENTS = {"size": "a, of parameters", "data": "b, of clips", "compute": "of compute at the best size"}
EXTRAPOLATION = "extrapolation"


def scaling_tables(found: ScalingFindings | None) -> list[Table]:
    """All of a run that holds cells out; none of any other."""
    if found is None or found.law is None:
        return []
    return [foresight_table(found), exponent_table(found, found.law), compute_table(found.law), isoflop_table(found)]


def foresight_table(found: ScalingFindings) -> Table:
    """What was said of each held-out size and budget before it trained, what came, and by how much it missed."""
    lines, data = [], []
    groups: dict[tuple[str, int, int], list[HeldOutcome]] = {}
    for each in found.outcomes:
        groups.setdefault((each.family, each.params, each.clips), []).append(each)
        label = found.points.labels[each.family]
        data.append((label, each.params, each.clips, each.seed, each.expected, each.low, each.high, each.loss, each.miss, each.inside))
    for (family, params, clips), own in groups.items():
        came = [each.loss for each in own if each.loss is not None]
        misses = [each.miss for each in own if each.miss is not None]
        lines.append(
            (
                f"{found.points.labels[family]}, {counted(params)} parameters",
                f"{clips:,} clips",
                f"{number(own[0].expected)} {bounds(own[0].low, own[0].high)}",
                ", ".join(map(number, came)) or NONE,
                percent(sum(misses) / len(misses)) if misses else NONE,
                f"{sum(each.inside for each in own)} of {len(own)}",
            )
        )
    when = f"; written {found.prediction.written_at}, {found.prediction.sha256[:12]}" if found.prediction else ""
    caption = (
        f"Validation loss of the largest sizes: predicted before they trained, with the {100 * LEVEL:g} % interval of one run{when}. "
        f"Steady growth needs {100 * INSIDE:g} % of them inside"
    )
    columns = ["backbone", "params", "clips", "seed", "predicted", "low", "high", "loss", "miss", "inside"]
    header = ("Held out", "Budget", "Predicted", "Outcome of each seed", "Miss", "Inside")
    return Table("foresight", caption, header, tuple(lines), data=pd.DataFrame(data, columns=columns))


def exponent_table(found: ScalingFindings, law: StudyLaw) -> Table:
    """Exponents and gains of every backbone, and whether two differ."""
    labels, families = law.points.labels, law.points.families
    lines: list[tuple[str, ...]] = []
    data: list[tuple[Any, ...]] = []

    def add(what: str, title: str, texts: list[str], differences: list[str]) -> None:
        lines.append((title, *texts, *differences))
        for family in families:
            each = law.estimate(family, what)
            ends = each.interval(CARRIED)
            data.append((what, labels[family], *(exponent_ends(law, family, what) if what in EXPONENTS else (each.value, *ends))))

    for what, title in EXPONENTS.items():
        texts = [exponent(law, family, what) for family in families]
        add(what, title, texts, [_difference(law, family, what) for family in families[1:]])
    nothing = [NONE] * (len(families) - 1)
    add("best size", "of the best size, in compute", [signed(law.estimate(family, "best size"), CARRIED) for family in families], nothing)
    for what, title in (("size gain", "smallest to largest size fitted"), ("data gain", "least to most clips")):
        add(what, f"loss, {title}", [_gain(law, family, what) for family in families], nothing)
    floor = law.fitted.estimates["floor"]
    low, high = floor.interval(CARRIED)
    shared = f"{number(floor.value)} {bounds(max(low, 0.0), high)}"
    lines.append(("E, the floor of all", *([shared] * len(families)), *nothing))
    data.append(("floor", "all", floor.value, low, high))
    data.append(("spread of a run", "all", law.fitted.law.spread, None, None))
    header = ("Exponent", *labels.values(), *(f"{labels[family]} {metrics.MINUS} {labels[families[0]]}" for family in families[1:]))
    num, spread = len({point.folder for point in law.points.fitted}), percent(law.fitted.law.spread)
    caption = (
        f"L = E + A N^{metrics.MINUS}a + B D^{metrics.MINUS}b, N all parameters, D clips drawn, E shared; intervals at {100 * CARRIED:g} % "
        f"by a jackknife over {num} runs. Losses spread by {spread} around the law"
    )
    return Table("exponents", caption, header, tuple(lines), data=kept(data, ["quantity", "backbone", "value", "low", "high"]))


def kept(lines: Sequence[Sequence[Any]], columns: list[str]) -> pd.DataFrame:
    """Numbers of a law as a file keeps them: the digits on which all processors agree."""
    return pd.DataFrame([[agreed(value) if isinstance(value, float) else value for value in line] for line in lines], columns=columns)


def _difference(law: StudyLaw, family: str, what: str) -> str:
    """Of an exponent to that of the first family, and whether it is carried."""
    each = law.difference(family, what)
    low, high = each.interval(CARRIED)
    return signed(each, CARRIED) + (", inconclusive" if low <= 0 <= high else "")


def _gain(law: StudyLaw, family: str, what: str) -> str:
    each = law.estimate(family, what)
    value, low, high = (math.exp(-value) - 1 for value in (each.value, *each.interval(CARRIED)))
    return f"{percent(value)} [{percent(high)}, {percent(low)}]"


def compute_table(law: StudyLaw) -> Table:
    """What a budget of FLOPs buys at its best, here and beyond."""
    lines, data = [], []
    for times, budget in zip(LARGER, law.budgets, strict=True):
        for family in law.points.families:
            best, loss = law.estimate(family, f"N at {budget:g}"), law.estimate(family, f"loss at {budget:g}")
            params = [math.exp(min(max(value, -60.0), 60.0)) for value in (best.value, *best.interval(LEVEL))]
            cost = law.costs[family]
            clips = budget / (cost.scale * params[0] ** cost.exponent)
            low, high = loss.interval(LEVEL)
            note = EXTRAPOLATION if times > 1 or not is_within(law, family, params[0], clips) else "within what was tried"
            lines.append(
                (
                    flops(budget),
                    law.points.labels[family],
                    size(params[0], params[1], params[2]),
                    counted(clips),
                    f"{number(loss.value)} {bounds(max(low, 0.0), high)}",
                    note,
                )
            )
            data.append((budget, law.points.labels[family], *params, clips, loss.value, low, high, note))
    caption = (
        f"What training FLOPs buy at the size that is best by the law: those of the largest run fitted, and 10 and 100 times as many; "
        f"{100 * LEVEL:g} % intervals. A larger budget is beyond all that was tried"
    )
    columns = ["flops", "backbone", "params", "params_low", "params_high", "clips", "loss", "loss_low", "loss_high", "note"]
    header = ("Training FLOPs", "Backbone", "Best parameters", "Clips", "Loss", "Note")
    return Table("compute", caption, header, tuple(lines), data=kept(data, columns))


def is_within(law: StudyLaw, family: str, params: float, clips: float) -> bool:
    """Whether a size and a number of clips are among those that the law was fitted to."""
    points = [point for point in law.points.fitted if point.family == family]
    tried = ([point.params for point in points], params), ([point.clips for point in points], clips)
    return all(min(values) <= asked <= max(values) for values, asked in tried)


def isoflop_table(found: ScalingFindings) -> Table:
    """The best size at equal FLOPs as the losses themselves have it, where larger and smaller ones were tried."""
    lines, data = [], []
    for line in _minima(found):
        label, minimum, predicted = line
        sizes = ", ".join(map(counted, minimum.sizes))
        best = counted(minimum.params) if minimum.params else "not bracketed"
        loss = number(minimum.loss) if minimum.loss else NONE
        lines.append((label, flops(minimum.flops), sizes, best, loss, counted(predicted)))
        data.append((label, minimum.flops, minimum.params, minimum.loss, predicted))
    caption = (
        "The best size at equal training FLOPs, read off the losses without a law, only where both a larger and a smaller one were tried"
    )
    header = ("Backbone", "Training FLOPs", "Sizes that reach them", "Best parameters", "Loss", "By the law")
    columns = ["backbone", "flops", "params", "loss", "params_by_law"]
    return Table("isoflop", caption, header, tuple(lines), data=kept(data, columns))


def _minima(found: ScalingFindings) -> Iterator[tuple[str, Minimum, float]]:
    law = found.law
    assert law is not None
    for place, (family, label) in enumerate(found.points.labels.items()):
        every = [point for point in (*found.points.fitted, *found.points.held_out) if point.family == family]
        for minimum in minima(every):
            yield label, minimum, best_at(law.fitted.law, place, law.costs[family], minimum.flops).params
