"""Learning rates of sizes that were not tuned: a line through the best ones of their family, rate against parameters, both as logarithms.

The best rate of a tuned size is the least of a parabola in the logarithm of the rate, through the best trial and its neighbours. The line
falls at most as fast as the rate of a wide layer may (with one over its width, which is parameters to the power of -1/2: 2203.03466), and
never rises: of two sizes the noise of their trials could say anything.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bench.backbone import short_name
from bench.data.progress import Say
from bench.records.record import Record
from bench.shapes import Refusal
from bench.study.forecast import family_of
from bench.study.matrix import NamedCell, Study
from bench.study.trials import differs, with_values
from bench.study.tune import SizeRule, Tune, Tuning

RATE = "optimizer.learning_rate"
STEEPEST, FLATTEST = -0.5, 0.0  # exponents of parameters
DIGITS = 3  # of a rate that a cell is given


def rates_by_size(study: Study, found: Sequence[tuple[Record, Tuning]], tune: Tune, params: Mapping[str, int], say: Say) -> Study:
    """The study with every cell's rate by the rule of its family; `found`: a record and the choice of each size that was tuned.

    `params`: of every backbone of the study. Refusal where a family was tuned at fewer than two sizes, or something else was tuned.
    """
    if set(tune.grid) != {RATE}:
        raise Refusal(f"tuned_rule size is of the learning rate alone, and the tuning chose {', '.join(tune.grid)}; give tuned_rule=same")
    families: dict[str, list[tuple[Record, Tuning]]] = {}
    for record, tuning in found:
        families.setdefault(family_of(record.cell.backbone), []).append((record, tuning))
    rules = {family: rule_of(family, own) for family, own in families.items()}
    cells, said = list[NamedCell](), dict[str, None]()
    for named in study.cells:
        backbone = named.cell.backbone
        if (rule := rules.get(family_of(backbone))) is None:
            raise Refusal(f"tuned_rule size: no size of {short_name(family_of(backbone))} was tuned; tune two, or give tuned_rule=same")
        own = families[family_of(backbone)]
        value = float(f"{rule.rate(params[backbone]):.{DIGITS}g}")
        apart = [each for each in differs(own[-1][0].cell, named.cell, tune.grid) if not each.startswith("backbone:")]
        tuning = Tuning(
            by=tune.by,
            study=own[0][1].study,
            trials=tuple(trial for _, each in own for trial in each.trials),
            chosen={RATE: value},
            at_edge=tuple(dict.fromkeys(name for _, each in own for name in each.at_edge)),
            differs=tuple(apart),
            rule=rule,
        )
        cells.append(named.model_copy(update={"cell": with_values(named.cell, {RATE: value}), "tuning": tuning}))
        said[f"{backbone}: learning_rate {value:g}, of {params[backbone]:,} parameters"] = None
    for rule in rules.values():
        say(f"{short_name(rule.family)}: {rule.text}")
    for line in said:
        say(line)
    return study.model_copy(update={"cells": tuple(cells)})


def rule_of(family: str, found: Sequence[tuple[Record, Tuning]]) -> SizeRule:
    """The line through the best rates of a family's tuned sizes. Refusal where there are fewer than two."""
    best = {}
    for record, tuning in found:
        if record.backbone is not None:
            best[record.backbone.num_params] = best_rate(tuning)
    if len(best) < 2:
        raise Refusal(
            f"tuned_rule size needs two tuned sizes of {short_name(family)}, there {'is one' if best else 'are none'}; tune another"
        )
    sizes, rates = (np.log(list(values)) for values in (best.keys(), best.values()))
    slope = float(((sizes - sizes.mean()) * (rates - rates.mean())).sum() / ((sizes - sizes.mean()) ** 2).sum())
    return SizeRule(
        family=family,
        best=tuple(sorted(best.items())),
        exponent=min(max(slope, STEEPEST), FLATTEST),
        seen=slope,
        params=math.exp(sizes.mean()),
        at=math.exp(rates.mean()),
    )


def best_rate(tuning: Tuning) -> float:
    """The rate of the least loss: of a parabola through the best trial and its neighbours, where all three have a loss."""
    losses = sorted((trial.point[RATE], trial.mean) for trial in tuning.full)
    for before, best, after in zip(losses, losses[1:], losses[2:], strict=False):
        if best[0] == tuning.chosen[RATE] and all(math.isfinite(loss) for _, loss in (before, best, after)):
            at = np.log([rate for rate, _ in (before, best, after)])
            curve = np.polyfit(at - at[1], [loss for _, loss in (before, best, after)], 2)
            return float(np.exp(at[1] + np.clip(-curve[1] / (2 * curve[0]), at[0] - at[1], at[2] - at[1])))
    return float(tuning.chosen[RATE])
