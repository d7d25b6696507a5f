"""Equal tuning, what a matrix asks and what was found: the same trials for every contender, judged by validation loss. Knows no torch."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bench.data.frozen import Frozen, dotted
from bench.shapes import Refusal, did_you_mean
from bench.study.budget import Budget
from bench.study.cell import Cell

TUNABLE = ("optimizer", "objective", "batching")  # parts of a cell whose fields leave the meaning of a validation loss as it is
FIXED = ("objective.name", "objective.known_frames", "batching.policy")  # among them
MOST_TRIALS = 1000  # of a contender


class Tune(Frozen, extra="allow"):
    """How every contender is tuned before the study: any field of optimizer, objective or batching, with a list of values each.

    `learning_rate: [1e-3, 2e-3, 4e-3]` or `optimizer.learning_rate: [...]`; of several fields every combination is tried.
    """

    budget: Budget | None = None  # of a trial; null: that of the cell, which is what a rate must suit
    seeds: tuple[int, ...] = Field((1000,), min_length=1)  # of the trials: none of the study's
    by: Literal["val_loss"] = "val_loss"  # the least wins, on validation clips: trials see no test clip
    further: bool = True  # cells of `include` beside `axes` have trials too; false: they take the choice of their backbone under `axes`
    extend: bool = False  # widen the grid of all contenders until the best values of none are at its edge; else that is refused
    halving: int | None = Field(None, ge=2, le=100)  # successive halving: the best 1/n go on to n times the budget; null: all get it all

    @model_validator(mode="before")
    @classmethod
    def _full_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key if key in cls.model_fields else full_name(key): value for key, value in given.items()}

    @model_validator(mode="after")
    def _is_a_choice(self) -> Self:
        if not self.grid:
            raise Refusal("tune names no field to tune; give one with its values, such as learning_rate: [1e-3, 2e-3, 4e-3]")
        for name, values in self.grid.items():
            if not isinstance(values, list) or len(values) < 2 or any(values.count(value) > 1 for value in values):
                raise Refusal(f"tune.{name} is {values!r}: a choice needs a list of two different values or more")
        if (num := math.prod(map(len, self.grid.values()))) > MOST_TRIALS:
            raise Refusal(f"tune has {num:,} trials a contender, at most {MOST_TRIALS:,} can be; give its fields fewer values")
        if self.halving is not None and self.extend:
            raise Refusal("tune.extend goes on from trials at the full budget, which tune.halving spares; use one of the two")
        if self.halving is not None and num < self.halving**2:
            raise Refusal(f"tune.halving {self.halving} needs {self.halving**2} trials, the grid has {num}; remove it or widen the grid")
        return self

    @property
    def grid(self) -> dict[str, list[Any]]:
        """Dotted field of a cell -> the values to try."""
        return dict(self.model_extra or {})


def full_name(name: str) -> str:
    """The dotted field that a name under `tune` means; one without a dot is the optimiser's. Refusal for what cannot be tuned."""
    every = dotted(Cell)
    leaves = [field for field in every if not any(other.startswith(f"{field}.") for other in every)]
    known = [field for field in leaves if field.partition(".")[0] in TUNABLE and field not in FIXED]
    found = next((field for field in (name, f"optimizer.{name}") if field in known), None)
    if found is None:
        near = did_you_mean(name, [*known, *(field.rpartition(".")[2] for field in known)])
        raise Refusal(f"tune.{name} is no field that can be tuned{near}; there are {', '.join(known)}")
    return found


class TuningTrial(Frozen):
    """One point of the grid for one contender."""

    point: dict[str, Any]  # dotted field -> value
    budget: Budget
    losses: tuple[tuple[int, float | None], ...]  # (seed, validation loss); None: it diverged, or ran out of memory

    @property
    def mean(self) -> float:
        """Over its seeds; infinite where one has none: what diverges at one seed is no choice."""
        found = [math.inf if loss is None or not math.isfinite(loss) else loss for _, loss in self.losses]
        return sum(found) / len(found) if found else math.inf


class SizeRule(Frozen):
    """Learning rates by size, of one family of backbones: at (N / params)^exponent."""

    family: str
    best: tuple[tuple[int, float], ...]  # (parameters, best rate) of the sizes that were tuned
    exponent: float
    seen: float  # the exponent through those, which may be beyond what is taken
    params: float  # N of the middle
    at: float  # rate there

    def rate(self, params: int) -> float:
        """The rate of a size."""
        return self.at * (params / self.params) ** self.exponent

    @property
    def text(self) -> str:
        """The rule, and what it was made from."""
        best = " and ".join(f"{rate:.2g} at {params:,}" for params, rate in self.best)
        held = "" if self.exponent == self.seen else f" (tuned sizes alone: {self.seen:.2f})"
        return f"learning rate {self.at:.2g} (N / {self.params:,.0f})^{self.exponent:.2f}{held}, by the best of {best} parameters"


class Tuning(Frozen):
    """How a contender's fields were chosen: every trial, and what came of it."""

    by: str
    study: str  # the run of the trials
    trials: tuple[TuningTrial, ...]
    chosen: dict[str, Any]  # dotted field -> value
    at_edge: tuple[str, ...] = ()  # fields whose chosen value is the least or largest that was tried
    rule: SizeRule | None = None  # that chose the rate of a size, from the trials of others; None: the trials are its own
    differs: tuple[str, ...] = ()  # what a cell that uses the choice has otherwise than its trials: 'budget.steps: 20 | 40'

    @property
    def full(self) -> list[TuningTrial]:
        """The trials at the largest budget, which the choice is among."""
        most = max(trial.budget.amount for trial in self.trials)
        return [trial for trial in self.trials if trial.budget.amount == most]


def at_edge(trials: Mapping[str, list[Any]], chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields whose chosen value is an end of the values tried; one that holds no numbers has no ends.

    >>> at_edge({"optimizer.learning_rate": [1e-3, 2e-3, 4e-3]}, {"optimizer.learning_rate": 4e-3})
    ('optimizer.learning_rate',)
    """
    found = []
    for name, values in trials.items():
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values) and chosen[name] in (min(numbers), max(numbers)):
            found.append(name)
    return tuple(found)
