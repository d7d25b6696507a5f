"""Equal tuning as a page shows it: loss against the tuned value for every contender, and what a shared value would have cost whom."""

import math

import pandas as pd
from matplotlib.lines import Line2D

from bench.report.load import Run
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import INK, Drawing
from bench.report.render.table import NONE, Table, plain
from bench.report.verdicts.compare import apart_said
from bench.report.verdicts.stats import SeedInterval
from bench.report.verdicts.tuned import cost, field_text, own_trial, point_key, shared_point, tunings, values_text


def tuning_table(run: Run) -> Table:
    """One line a contender: its choice, the trials, and what the shared value would have cost it."""
    found = tunings(run)
    shared, lines, data = shared_point(found), [], []
    for name, tuning in found.items():
        own = own_trial(tuning)
        seeds = [seed for seed, _ in own.losses]
        notes = [f"at the edge of {field} tried" for field in tuning.at_edge] + [f"tuned with {each}" for each in tuning.differs]
        words, growth = NONE, None
        if shared is not None:
            growth = cost(tuning, shared).growth
            words = "nothing, it is its own" if point_key(own) == shared else f"{_percent(growth.mean)}{_bounds(growth)}"
        budget = f"{own.budget.amount:,g} {own.budget.axis}"
        trials = f"{len(tuning.trials)} of {budget}, seed{'s' if len(seeds) > 1 else ''} {plain(seeds)}"
        lines.append((name, values_text(own), metrics.number(own.mean), words, trials, "; ".join(notes) or NONE))
        for trial in tuning.trials:
            for seed, loss in trial.losses:
                data.append((name, *(trial.point.values()), trial.budget.amount, seed, loss, trial.point == tuning.chosen))
    fields = list(next(iter(found.values())).chosen) if found else []
    raw = pd.DataFrame(data, columns=["contender", *fields, "budget", "seed", "val_loss", "chosen"])
    sharing = f"Sharing {', '.join(value for _, value in shared)}" if shared else "Sharing"
    chosen = next((field_text(tuning) for tuning in found.values()), "")
    header = ("Contender", f"Chosen {chosen}".rstrip(), "Validation loss", f"{sharing} costs", "Trials", "Note")
    caption = "Chosen on validation loss, by equal trials for all; what the best shared value would have cost, 95 % over the trials' seeds"
    caption += f". {apart.rstrip('.')}" if (apart := apart_said(run)) else ""
    return Table("tuning", caption, header, tuple(lines), data=raw)


def rate_table(run: Run) -> Table:
    """The learning rates that follow a rule of size, and the rules; without rows where none do."""
    lines, data, rules = [], [], dict[str, str]()
    for cell in {cell.contender: cell for cell in run.cells if cell.record and cell.record.tuning}.values():
        assert cell.record and cell.record.tuning
        if (rule := cell.record.tuning.rule) is None or cell.record.backbone is None:
            continue
        params, rate = cell.record.backbone.num_params, cell.record.cell.optimizer.learning_rate
        tuned = any(size == params for size, _ in rule.best)
        lines.append((cell.contender, f"{params:,}", f"{rate:g}", "tuned size" if tuned else "by the rule"))
        data.append((cell.contender, params, rate, tuned, rule.exponent, rule.seen, rule.at, rule.params))
        rules[rule.family] = f"{rule.family}: {rule.text}"
    caption = f"Learning rates by size. {'; '.join(rules.values())}"
    columns = ["contender", "params", "learning_rate", "tuned", "exponent", "exponent_seen", "rate_at", "params_at"]
    return Table(
        "rates", caption, ("Contender", "Parameters", "Learning rate", "How"), tuple(lines), data=pd.DataFrame(data, columns=columns)
    )


def tuning_curves(run: Run) -> Drawing | None:
    """Validation loss against the tuned value, a line a contender, its choice ringed; None unless one number was tuned."""
    found = tunings(run)
    fields = {field for tuning in found.values() for field in tuning.chosen}
    if len(fields) != 1:
        return None
    [field] = fields
    shared = shared_point(found)
    with canvas.sheet("tuning", 3.2) as figure:
        [axes] = canvas.panels(figure, 1)
        handles, positive = [], True
        for place, (name, tuning) in enumerate(found.items()):
            trials = sorted(tuning.full, key=lambda trial: _number(trial.point[field]))
            if any(math.isnan(_number(trial.point[field])) for trial in trials):
                return None
            at = [_number(trial.point[field]) for trial in trials]
            positive = positive and min(at) > 0
            look = canvas.look(run, name) if name in run.labels else canvas.series(place)
            shown = [(x, trial.mean) for x, trial in zip(at, trials, strict=True) if math.isfinite(trial.mean)]
            axes.plot(*zip(*shown, strict=True), markersize=4, **look)
            points = [(x, loss) for x, trial in zip(at, trials, strict=True) for _, loss in trial.losses if loss is not None]
            if len(points) > len(shown):
                axes.plot(
                    *zip(*points, strict=True), color=look["color"], marker=look["marker"], linestyle="none", markersize=2.5, alpha=0.5
                )
            own = own_trial(tuning)
            axes.plot([_number(own.point[field])], [own.mean], marker="o", markersize=11, markerfacecolor="none", color=look["color"])
            handles.append((Line2D([], [], markersize=6, **look), name))
        if shared is not None:
            axes.axvline(_number(dict(shared)[field]), color=INK, linewidth=1, linestyle=":", alpha=0.6)
            handles.append((Line2D([], [], color=INK, linewidth=1, linestyle=":", alpha=0.6), "best shared value"))
        if positive:
            axes.set_xscale("log", base=2)
            every = sorted({_number(trial.point[field]) for tuning in found.values() for trial in tuning.full})
            axes.set_xticks(every, [f"{value:g}" for value in every])
            axes.minorticks_off()
        axes.set_xlabel(field)
        axes.set_ylabel("validation loss")
        canvas.put_legend(figure, [line for line, _ in handles], [canvas.label(text) for _, text in handles])
        caption = (
            "Mean over the seeds of the trials, which are none of the study's; small marks: each seed. Ringed: what the contender is given."
        )
        caption = " ".join(filter(None, [apart_said(run), caption]))
        return Drawing(name="tuning", title="Equal tuning", caption=caption, svg=canvas.svg(figure))


def _number(value: object) -> float:
    """NaN for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _percent(share: float) -> str:
    return f"{metrics.number(100 * share, 2)} %"


def _bounds(found: SeedInterval) -> str:
    return "" if found.low is None or found.high is None else f" [{_percent(found.low)}, {_percent(found.high)}]"
