"""Equal tuning: what each contender was given, and what a value shared by all would have cost it. Knows no torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bench.records.choice import chosen
from bench.report.load import Run, contender_labels
from bench.report.render import words
from bench.report.render.table import plain
from bench.report.verdicts.stats import SeedInterval, mean_interval
from bench.shapes import Refusal
from bench.study.tune import Tuning, TuningTrial

PointKey = tuple[tuple[str, str], ...]  # a point of the grid, in a form that two contenders share


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a value that all contenders share costs one of them, against its own best."""

    shared: TuningTrial
    growth: SeedInterval  # of its loss over that of its own best, less 1, over the seeds of the trials


def tunings(run: Run) -> dict[str, Tuning]:
    """Contender -> how its fields were chosen: by its records, or in a run of trials by those themselves."""
    if run.tunes is not None:
        try:
            found = chosen(run.records, run.tunes)
        except Refusal:  # a trial failed, which the table of failed cells says
            return {}
        axes = {cell.record.name: cell.axes for cell in run.cells if cell.record}
        kept = [{key: value for key, value in axes[record.name].items() if key not in run.tunes.grid} for record, _ in found]
        names = contender_labels([fields or {"backbone": record.cell.backbone} for fields, (record, _) in zip(kept, found, strict=True)])
        return {name: tuning for name, (_, tuning) in zip(names, found, strict=True)}
    each = {name: next((cell.record.tuning for cell in run.of(name) if cell.record and cell.record.tuning), None) for name in run.labels}
    return {name: tuning for name, tuning in each.items() if tuning and tuning.rule is None}  # of a rule nothing was tried


def shared_point(found: Mapping[str, Tuning]) -> PointKey | None:
    """The point that would have suited all best: the least mean of every contender's loss over its own best; None without one for all."""
    losses = [{point_key(trial): trial.mean for trial in tuning.full} for tuning in found.values()]
    common = [key for key in losses[0] if all(math.isfinite(each.get(key, math.inf)) for each in losses)] if losses else []
    return min(common, key=lambda key: sum(each[key] / min(each.values()) for each in losses), default=None)


def cost(tuning: Tuning, shared: PointKey) -> Cost:
    """What the shared point costs a contender; its own choice was made on the same losses, so it is rather more than on others."""
    own = next(trial for trial in tuning.full if trial.point == tuning.chosen)
    other = next(trial for trial in tuning.full if point_key(trial) == shared)
    best, losses = dict(own.losses), dict(other.losses)
    both = [(losses[seed], best[seed]) for seed in best if seed in losses]
    return Cost(shared=other, growth=mean_interval([a / b - 1 for a, b in both if a is not None and b is not None]))


def own_trial(tuning: Tuning) -> TuningTrial:
    """The trial that was chosen."""
    return next(trial for trial in tuning.full if trial.point == tuning.chosen)


def question(run: Run) -> str:
    """What a run of trials asks."""
    fields = [name.rpartition(".")[2].replace("_", " ") for name in (run.tunes.grid if run.tunes else ())]
    return f"Which {words.listed(fields)} suit{'s' if len(fields) == 1 else ''} each contender?"


def says(run: Run) -> list[str]:
    """What a run of trials comes to, in at most three sentences."""
    found = tunings(run)
    if not found:
        return ["Nothing is chosen yet: a trial has no result."]
    suits: dict[str, list[str]] = {}
    for name, tuning in found.items():
        suits.setdefault(values_text(own_trial(tuning)), []).append(in_words(name))
    best = next(iter(suits)) + " for all" if len(suits) == 1 < len(found) else ""
    best = best or words.listed([f"{value} for {words.listed(names)}" for value, names in suits.items()])
    tried = next(iter(found.values()))
    said = [f"Of {len(tried.full)} {field_text(tried) or 'point'}s tried, validation loss is least at {best}."]
    if edges := [in_words(name) for name, tuning in found.items() if tuning.at_edge]:
        said.append(f"For {words.listed(edges)} that is the last one tried, so a better one may lie beyond.")
    if (shared := shared_point(found)) is not None and len(found) > 1:
        costs = {name: cost(tuning, shared).growth for name, tuning in found.items()}
        dear = [f"{in_words(name)} {100 * growth.mean:.2g} % of its loss" for name, growth in costs.items() if growth.mean > 0]
        value = ", ".join(text if len(shared) == 1 else f"{name.rpartition('.')[2]} {text}" for name, text in shared)
        said.append(f"One for all, {value}, would have cost {words.listed(dear) if dear else 'nobody anything'}.")
    return said


def in_words(name: str) -> str:
    """A contender's label inside a list: what it has beside its backbone in brackets."""
    backbone, *rest = re.split(r", (?![^{]*})", name, maxsplit=1)  # not inside a backbone's own fields
    return f"{backbone} ({rest[0]})" if rest else name


def field_text(tuning: Tuning) -> str:
    """'learning rate'; "" where several fields were tuned."""
    return next(iter(tuning.chosen)).rpartition(".")[2].replace("_", " ") if len(tuning.chosen) == 1 else ""


def point_key(trial: TuningTrial) -> PointKey:
    """The point of a trial, in a form that contenders share."""
    return tuple((name, plain(value)) for name, value in sorted(trial.point.items()))


def values_text(trial: TuningTrial) -> str:
    """'0.004', or of several fields 'learning_rate 0.004, warmup_steps 50'."""
    several = len(trial.point) > 1
    return ", ".join(f"{name.rpartition('.')[2]} {plain(value)}" if several else plain(value) for name, value in trial.point.items())
