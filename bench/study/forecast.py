"""Which cells of a matrix are predicted before they train, by a law fitted to all its others. Knows no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from bench.backbone import canonical_name, short_name, split_name
from bench.data.frozen import Frozen
from bench.shapes import Refusal, did_you_mean
from bench.study.budget import BUDGETS, Spent
from bench.study.cell import Cell
from bench.study.scale import scaled_budget

if TYPE_CHECKING:
    from bench.study.matrix import NamedCell

MIN_SIZES, MIN_BUDGETS = 3, 3  # of each family, beside what is held out: fewer do not tell a power from a line


class Forecast(Frozen):
    """Cells whose losses are predicted before they train, by a law of size and data fitted to all the others."""

    held_out: tuple[str, ...] = Field(min_length=1)  # backbones of the matrix, in full or without their module: they train last
    about: str | None = None  # family that the claim is about, as DiT/2; null: every family


def family_of(backbone: str) -> str:
    """What the sizes of one backbone share: its name without its size and its changes.

    >>> family_of("dit:DiT-XS/2{depth: 4}"), family_of("baselines:UNet-S"), family_of("mine:Net")
    ('dit:DiT/2', 'baselines:UNet', 'mine:Net')
    """
    module, _, name = split_name(backbone)[0].rpartition(":")
    return f"{module}:{re.sub(r'-[^-/]+', '', name, count=1)}"


def parts_of(cell: Cell) -> tuple[float, ...]:
    """Parts of a cell's budget at which its loss is known."""
    return (*cell.branches, 1.0)


def clips_at(cell: Cell, part: float, latent_voxels: int, flops: int) -> int:
    """Clips that a part of its budget draws, each of so many latent voxels and forward FLOPs."""
    num, budget = cell.batching.batch_size, cell.budget if part == 1 else scaled_budget(cell.budget, part)
    assert num is not None

    def used(steps: int) -> float:
        clips = num * steps
        return budget.fraction(
            Spent(steps=steps, samples=clips, latent_voxels=clips * latent_voxels, forward_flops=clips * flops, seconds=0.0)
        )

    steps = max(1, round(1 / used(1)) - 1)
    while used(steps) < 1:
        steps += 1
    return num * steps


def check_forecast(forecast: Forecast, cells: Sequence[NamedCell]) -> Forecast:
    """The forecast with backbones by their full names. Refusal where it names what is not there, or a law could not be fitted."""
    known = list(dict.fromkeys(named.cell.backbone for named in cells))
    full = tuple(_named(name, known) for name in forecast.held_out)
    families = dict.fromkeys(family_of(name) for name in known)
    if forecast.about is not None and forecast.about not in {short_name(family) for family in families}:
        names = [short_name(family) for family in families]
        raise Refusal(
            f"forecast.about {forecast.about!r} is no family of the matrix{did_you_mean(forecast.about, names)}; it has {', '.join(names)}"
        )
    for named in cells:
        _check_cell(named)
    for family in families:
        own = [named for named in cells if family_of(named.cell.backbone) == family and named.cell.backbone not in full]
        sizes = {named.cell.backbone for named in own}
        budgets = {(part * named.cell.budget.amount) for named in own for part in parts_of(named.cell)}
        if len(sizes) < MIN_SIZES:
            raise Refusal(
                f"forecast: {short_name(family)} has {len(sizes)} sizes beside those held out, and a law needs {MIN_SIZES} or more; "
                "give it further sizes"
            )
        if len(budgets) < MIN_BUDGETS:
            raise Refusal(
                f"forecast: {short_name(family)} has {len(budgets)} budgets, and a law needs {MIN_BUDGETS} or more; give the cells "
                "branches, such as branches: [0.25, 0.5]"
            )
    return forecast.model_copy(update={"held_out": full})


def held_out(forecast: Forecast | None, cells: Iterable[NamedCell]) -> list[NamedCell]:
    """The cells that train last."""
    return [named for named in cells if forecast is not None and named.cell.backbone in forecast.held_out]


def _named(name: str, known: Sequence[str]) -> str:
    """A backbone of the matrix. Refusal where it is none."""
    asked = canonical_name(name)
    found = [each for each in known if asked in (each, short_name(each))]
    if len(found) != 1:
        raise Refusal(f"forecast.held_out: {name!r} names {len(found) or 'none'} of the matrix's backbones; use {', '.join(known)}")
    return found[0]


def _check_cell(named: NamedCell) -> None:
    """Refusal for a cell whose points no law of clips is about."""
    cell = named.cell
    if cell.batching.batch_size is None or cell.data.mixed:
        raise Refusal(f"forecast: cell {named.name} has clips of several shapes, and the law counts clips; give data of one shape")
    if cell.batching.stills:
        raise Refusal(f"forecast: cell {named.name} has batching.stills {cell.batching.stills}, and the law counts clips; use 0")
    if not BUDGETS.find(cell.budget.axis).drawn:
        raise Refusal(
            f"forecast: cell {named.name} trains for {cell.budget.axis}, and what that comes to is not known before; use samples, "
            "latent_voxels or train_flops"
        )
