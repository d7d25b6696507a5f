"""The scores of a physics world as a table: every score in every region, contenders beside each other, then what knows no physics."""

import statistics
from collections.abc import Mapping

import pandas as pd

from bench.backbone import short_name
from bench.data.frozen import flatten
from bench.data.physics.regions import REGIONS
from bench.metrics.physics.scoring import TWINS, region_name
from bench.metrics.physics.table import scorecards
from bench.records.record import FLOORS
from bench.report.load import CellResult, Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.report.verdicts.learned import FloorContrast
from bench.report.verdicts.stats import SeedInterval, mean_interval

TITLES = {
    "real": "Truth, read",
    "reconstruction": "Autoencoder",
    "twin": "Start moved by 1 %",
    "nearest": "Nearest training clip",
    "continued": "Constant velocity",
    "frozen": "Frozen frame",
}
assert {*TITLES} == {"real", "reconstruction", *FLOORS}
NO_REGION = "pairs"


def setups_of(run: Run) -> dict[str, str]:
    """Name of a cell -> what it has of all that the run varies beside the backbone: 'num_train 400', "" where that is nothing.

    Cells of one setup differ in their backbone and seed alone. The main ones come first.
    """
    keys = dict.fromkeys(key for cell in run.cells for key in cell.axes if key != "backbone")
    found = {}
    for cell in sorted(run.cells, key=lambda cell: cell.further):
        fields = flatten(cell.record.cell.model_dump(mode="json")) | cell.axes if cell.record else cell.axes
        found[cell.name] = ", ".join(f"{key.rpartition('.')[2]} {fields[key]}" for key in keys if key in fields)
    return found


def backbone_of(cell: CellResult) -> str:
    """Its backbone, as a reader knows it."""
    return short_name(str(cell.axes.get("backbone", cell.contender)))


def is_measured(run: Run) -> bool:
    """Whether a run scores physics."""
    return any(record.cell.evaluation.regions or record.cell.evaluation.twins for record in run.records)


def values_of(run: Run, name: str, subject: str) -> dict[tuple[str, str], list[float]]:
    """(setup, backbone) -> values of a measurement, one a seed."""
    found: dict[tuple[str, str], list[float]] = {}
    setups = setups_of(run)
    for cell in run.cells:
        if cell.record and (measurement := cell.record.measurement(name, subject)) and measurement.invalid is None:
            found.setdefault((setups[cell.name], backbone_of(cell)), []).append(measurement.value)
    return found


def score_names(run: Run) -> list[tuple[str, str]]:
    """(measurement, region) of all scores that any cell has, in the order of their scorecard."""
    there = {m.name for record in run.records for m in record.measurements}
    names: list[tuple[str, str]] = []
    for card in scorecards():
        for value in card.values:  # noqa: PD011  no array's
            names += [(region_name(value.name, region), region) for region in REGIONS]
    twins = sorted(name for name in there if name.startswith(TWINS))
    return [(name, where) for name, where in dict(names).items() if name in there] + [(name, NO_REGION) for name in twins]


def score_table(run: Run) -> Table:
    """One line a score, region and setup."""
    backbones = list(dict.fromkeys(backbone_of(cell) for cell in run.cells))
    setups = list(dict.fromkeys(setups_of(run).values()))
    lines, data = [], []
    for name, region in score_names(run):
        metric, own = metrics.find(name), values_of(run, name, "trained")
        floors = {subject: values_of(run, name, subject) for subject in TITLES}
        untrained = values_of(run, name, "untrained")
        for setup in setups:
            cells = {backbone: own.get((setup, backbone), []) for backbone in backbones}
            if not any(cells.values()):
                continue
            level = {subject: next((found[setup, b] for b in backbones if (setup, b) in found), []) for subject, found in floors.items()}
            texts = [_text(metric, mean_interval(series)) if series else NONE for series in cells.values()]
            if region == NO_REGION and untrained:
                texts = [f"{text}; untrained {_untrained(metric, untrained, setup, b)}" for text, b in zip(texts, backbones, strict=True)]
            shown = [_number(metric, statistics.fmean(series)) if series else NONE for series in level.values()]
            lines.append((metric.title, setup or "all", *texts, *shown))
            data.append(_raw(name, region, setup, cells, level))
    header = ("Score", "Trained with", *backbones, *TITLES.values())
    caption = (
        "Mean over clips, then over seeds with its 95 % interval. Beside it the same of the true clips as the instrument reads them, of "
        "those through the autoencoder, of the world filmed again from a start that was moved, and of three guesses without physics"
    )
    return Table("physics", caption, header, tuple(lines), data=pd.DataFrame(data))


def floor_table(floors: list[FloorContrast]) -> Table:
    """Every contender against the best floor of each region: what the claim rests on."""
    lines, data = [], []
    for each in floors:
        row, effect = each.row, each.effect
        text = f"{row.signed(effect.difference.value)} {row.signed_bounds(effect.difference)} {row.unit}".rstrip()
        said = f"{effect.favours} better, {effect.word}" if effect.favours else effect.word
        lines.append((each.region, each.contender, TITLES[each.floor], row.text(each.level), text, said, effect.reason))
        found = (effect.difference.value, effect.difference.low, effect.difference.high, effect.p_value, effect.corrected)
        data.append((each.region, each.contender, row.name, each.floor, each.level, *found, effect.outcome, effect.reason))
    header = ("Region", "Contender", "Best floor", "Its error", "Error less the floor's, 95 %", "What it says", "Why")
    columns = [
        "region",
        "contender",
        "measurement",
        "floor",
        "level",
        "difference",
        "low",
        "high",
        "p_value",
        "corrected_p",
        "outcome",
        "reason",
    ]
    caption = (
        "Primary error of each contender less that of the best guess without physics in its region, with the wider of the 95 % intervals "
        "over seeds and over clips"
    )
    return Table("physics-floors", caption, header, tuple(lines), data=pd.DataFrame(data, columns=columns))


def _untrained(metric: metrics.Metric, found: Mapping[tuple[str, str], list[float]], setup: str, backbone: str) -> str:
    series = found.get((setup, backbone), [])
    return _number(metric, statistics.fmean(series)) if series else NONE


def _text(metric: metrics.Metric, found: SeedInterval) -> str:
    """'0.021 [0.019, 0.023]'."""
    text = _number(metric, found.mean)
    return text if found.low is None or found.high is None else f"{text} [{_number(metric, found.low)}, {_number(metric, found.high)}]"


def _number(metric: metrics.Metric, value: float) -> str:
    text = f"{100 * value:.0f} %" if metric.scale == "fraction" else metrics.number(value)
    return text.replace("-", metrics.MINUS)


def _raw(name: str, region: str, setup: str, cells: Mapping[str, list[float]], level: Mapping[str, list[float]]) -> dict[str, object]:
    fields: dict[str, object] = {"measurement": name, "region": region, "setup": setup}
    for backbone, series in cells.items():
        fields |= {f"{backbone} mean": statistics.fmean(series) if series else None, f"{backbone} values": " ".join(map(repr, series))}
    return fields | {subject: statistics.fmean(series) if series else None for subject, series in level.items()}
