"""When training ends: the axes that a budget may be set on, one object each, and the budget of a cell. Knows no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from bench.data.frozen import Frozen
from bench.data.registry import Registry
from bench.shapes import Refusal

MOST = 10**18  # of what is counted in whole numbers
FRACTIONS = 1000  # parts in which progress counts what has no whole numbers
CURVE_FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of any budget, where the validation curve is taken
CURVE_CLIPS = 16  # validation clips of a point of the curve; the final value uses them all
_WHOLE: TypeAdapter[Any] = TypeAdapter(Annotated[int, Field(ge=1, le=MOST)])
_ABOVE_ZERO: TypeAdapter[Any] = TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)])


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a training run has used so far; all of it comes back when the run is resumed."""

    steps: int  # of the optimiser
    samples: int  # clips drawn
    latent_voxels: int  # T x H x W of every drawn clip, padding not counted
    forward_flops: int  # of every drawn clip, padding counted
    seconds: float  # wall clock of the training loop, warm-up steps included


@dataclass(frozen=True, kw_only=True)
class BudgetAxis:
    """An axis that a budget may be set on, and all that the rest must know of it."""

    name: str  # as a matrix writes it
    used: Callable[[Spent], float]  # how much of it a run has used; must mean the same for all rivals
    words: str  # what is said behind an amount: "training steps"
    meaning: str = ""  # what is counted, for the configuration reference
    untrained: bool = False  # may be 0: nothing is trained (`initialise: pretrained` alone)
    whole: bool = True  # amounts are whole numbers from 1 on, and progress counts them; else numbers above 0
    prefixed: bool = False  # an amount is said with a prefix of the measurement's unit, behind the words: "1.20 training PFLOP"
    measurement: str | None = None  # of a record, which such a budget fixes: nobody can win it
    per_item: bool = False  # counts a still image as much as a clip
    drawn: bool = False  # follows from the clips drawn alone, and not from how fast: what a branch of a run uses is known

    def checked(self, amount: Any) -> float:
        """An amount as a budget holds it. Refusal for what is none."""
        if self.untrained and type(amount) is int and amount == 0:
            return 0
        try:
            return (_WHOLE if self.whole else _ABOVE_ZERO).validate_python(amount)
        except ValidationError as error:
            right = "a whole number from 1 to 10^18" if self.whole else "a number above 0"
            raise Refusal(f"budget.{self.name} must be {right}, got {amount!r}") from error


BUDGETS: Registry[BudgetAxis] = Registry(
    "budget axis",
    "unet_vs_dit.budgets",
    (
        BudgetAxis(
            name="steps",
            used=lambda spent: spent.steps,
            words="training steps",
            meaning="optimiser steps; 0 samples pretrained weights as they are",
            untrained=True,
            measurement="train_steps",
            drawn=True,
        ),
        BudgetAxis(
            name="samples",
            used=lambda spent: spent.samples,
            words="training clips",
            meaning="clips drawn",
            measurement="train_samples",
            per_item=True,
            drawn=True,
        ),
        BudgetAxis(
            name="latent_voxels",
            used=lambda spent: spent.latent_voxels,
            words="latent voxels of training clips",
            meaning="T x H x W of every drawn clip, padding not counted",
            measurement="train_latent_voxels",
            drawn=True,
        ),
        BudgetAxis(
            name="train_flops",
            used=lambda spent: 3 * spent.forward_flops,  # a backward pass has twice those of its forward
            words="training",
            meaning="3 x forward FLOPs of every drawn clip, padding counted",
            whole=False,
            prefixed=True,
            measurement="train_flops",
            drawn=True,
        ),
        BudgetAxis(
            name="seconds",
            used=lambda spent: spent.seconds,
            words="seconds of training",
            meaning="wall clock of the training loop, warm-up steps included",
            whole=False,
            measurement="train_wall_time_s",
        ),
    ),
)


class Budget(Frozen, extra="allow"):
    """When training ends: exactly one axis, {steps: 100}, equal for all rivals. Axes: the names of BUDGETS (budget.py)."""

    @model_validator(mode="before")
    @classmethod
    def _one_axis(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        amounts = {name: amount for name, amount in given.items() if amount is not None}  # older records list every axis
        if len(amounts) != 1:
            raise Refusal(f"budget needs exactly one of {', '.join(BUDGETS.names())}, got {', '.join(map(str, amounts)) or 'none'}")
        ((name, amount),) = amounts.items()
        return {name: BUDGETS.find(name).checked(amount)}

    @property
    def axis(self) -> str:
        """Name of the one axis."""
        return next(iter(self.model_extra or {}))

    @property
    def amount(self) -> float:
        """How much of it."""
        return (self.model_extra or {})[self.axis]

    @property
    def parts(self) -> int:
        """How many parts progress counts."""
        return int(self.amount) if BUDGETS.find(self.axis).whole else FRACTIONS

    def fraction(self, spent: Spent) -> float:
        """The part of it that a run has used; 1 and more: it ends."""
        return BUDGETS.find(self.axis).used(spent) / self.amount if self.amount else 1.0
