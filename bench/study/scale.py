"""A cell made smaller: less training and fewer samples, everything else as it was. Knows no torch and no time."""

import math
from collections.abc import Sequence
from typing import Any

from bench.data.frozen import Frozen, flatten
from bench.study.budget import BUDGETS, Budget
from bench.study.cell import Cell, differences

# Dotted field -> (exponent of the share that is left of it, least that is left where there was as much). Samples are worth less with fewer
# denoising steps and with fewer of them alike, so steps of a sampler go down more slowly.
SCALED = {
    "autoencoder.num_steps": (1.0, 20),
    "optimizer.warmup_steps": (1.0, 1),
    "sampler.num_steps": (0.5, 4),
    "evaluation.num_samples": (1.0, 16),
    "evaluation.grid_samples": (1.0, 8),
    "evaluation.region_samples": (1.0, 8),
    "evaluation.twins": (1.0, 8),
}


class Scaling(Frozen):
    """How a study was made smaller, to fit a time."""

    minutes: float  # that it was to fit
    share: float  # that is left of training budgets, steps of the autoencoder and numbers of samples
    num_seeds: int  # that are left
    of: str  # identity of the study that was scaled: the same command goes on with the same scaling
    changes: tuple[str, ...]  # 'budget.seconds 200 -> 31'

    @property
    def text(self) -> str:
        """A sentence for whoever reads a number of such a run."""
        return f"Scaled to {self.minutes:g} minutes: {', '.join(self.changes)}."


def scaled_budget(budget: Budget, share: float, least: int = 1) -> Budget:
    """So large a part of a budget, at least `least` of what is counted in whole numbers."""
    amount = budget.amount * share
    whole = BUDGETS.find(budget.axis).whole
    return Budget.model_validate({budget.axis: max(min(least, int(budget.amount)), round(amount)) if whole else float(f"{amount:.3g}")})


def scaled_cell(cell: Cell, share: float, least: int = 1) -> Cell:
    """A cell with so large a part of its training and its samples; `least`: of a budget in whole numbers."""
    content = cell.model_dump(mode="json")
    content["budget"] = scaled_budget(cell.budget, share, least).model_dump(mode="json")
    for name, (exponent, fewest) in SCALED.items():  # a pretrained autoencoder has no steps
        part, _, field = name.partition(".")
        if (before := content[part].get(field)) is not None and (field != "grid_samples" or cell.evaluation.grid):
            content[part][field] = max(min(fewest, before), math.floor(before * share**exponent))
    return Cell.model_validate(content)


def changes(before: Sequence[Cell], after: Sequence[Cell]) -> tuple[str, ...]:
    """'field: old -> new' for all that became another in any cell, each once."""
    found: dict[str, None] = {}
    for old, new in zip(before, after, strict=True):
        found |= dict.fromkeys(f"{name} {_text(a)} -> {_text(b)}" for name, a, b in differences(old, new))
    return tuple(sorted(found, key=lambda change: not change.startswith("budget.")))


def moved(axes: dict[str, Any], before: Cell, after: Cell) -> dict[str, Any]:
    """The axes of a cell, of which some fields are others now."""
    old, new = (flatten(cell.model_dump(mode="json")) for cell in (before, after))
    found = {}
    for name, value in axes.items():
        below = {key.removeprefix(f"{name}."): new[key] for key in new if key.startswith(f"{name}.") and new[key] != old[key]}
        found[name] = {**value, **below} if below and isinstance(value, dict) else new[name] if old.get(name) != new.get(name) else value
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
