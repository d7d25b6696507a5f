"""The points of a law: for every run and budget the size, the clips seen, the FLOPs taken and the loss at the fixed timesteps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.backbone import short_name
from bench.records.record import OF_CLIPS, Record
from bench.report.scaling.law import Losses
from bench.study.forecast import MIN_BUDGETS, MIN_SIZES, Forecast, family_of

TRAINING = 3  # FLOPs of training over those of its forward passes


@dataclass(frozen=True, kw_only=True)
class LawPoint:
    """What a run was worth after a part of its budget."""

    family: str  # of its backbone
    folder: str  # of its cell
    backbone: str
    seed: int
    part: float
    params: int  # N, all of them
    clips: int  # D
    flops: float  # of training
    loss: float
    held_out: bool
    loss_of: str = OF_CLIPS  # which of the quantities that are called a loss


@dataclass(frozen=True, kw_only=True)
class LawPoints:
    """All of them, in the order of the records."""

    families: tuple[str, ...]
    fitted: tuple[LawPoint, ...]  # that the law is fitted to
    held_out: tuple[LawPoint, ...]

    @property
    def labels(self) -> dict[str, str]:
        """Family -> its name on a page, without its module where that says which."""
        short = [short_name(family) for family in self.families]
        return {family: cut if short.count(cut) == 1 else family for family, cut in zip(self.families, short, strict=True)}

    @property
    def losses(self) -> Losses:
        """What the law is fitted to."""
        runs = {folder: place for place, folder in enumerate(dict.fromkeys(point.folder for point in self.fitted))}
        return Losses(
            backbone=np.array([self.families.index(point.family) for point in self.fitted]),
            run=np.array([runs[point.folder] for point in self.fitted]),
            params=np.array([point.params for point in self.fitted], dtype=float),
            clips=np.array([point.clips for point in self.fitted], dtype=float),
            loss=np.array([point.loss for point in self.fitted]),
        )

    @property
    def lacks(self) -> str:
        """Why no law can be fitted; "" where one can."""
        if len(kinds := dict.fromkeys(point.loss_of for point in self.fitted)) > 1:
            return f"losses are different quantities ({'; '.join(kinds)}), and no law holds them all"
        for family, label in self.labels.items():
            own = [point for point in self.fitted if point.family == family]
            sizes, budgets = len({point.params for point in own}), len({point.clips for point in own})
            if sizes < MIN_SIZES or budgets < MIN_BUDGETS:
                return f"{label} has losses of {sizes} sizes and {budgets} budgets, a law needs {MIN_SIZES} and {MIN_BUDGETS}"
        return "" if self.fitted else "there are no losses"

    def flops_law(self, family: str) -> tuple[float, float]:
        """(f, g) of the training FLOPs of a clip, f N^g, by least squares over the sizes of a family in logarithms."""
        own = {point.params: point.flops / point.clips for point in (*self.fitted, *self.held_out) if point.family == family}
        sizes, flops = np.log(list(own)), np.log(list(own.values()))
        slope = float(((sizes - sizes.mean()) * (flops - flops.mean())).sum() / ((sizes - sizes.mean()) ** 2).sum())
        return math.exp(flops.mean() - slope * sizes.mean()), slope


def points_of(records: Iterable[tuple[str, Record]], forecast: Forecast) -> LawPoints:
    """The points of cells, by folder; of what failed or diverged none."""
    found = [point for folder, record in records if record.status == "ok" for point in _of_record(folder, record, forecast)]
    return LawPoints(
        families=tuple(dict.fromkeys(point.family for point in found)),
        fitted=tuple(point for point in found if not point.held_out),
        held_out=tuple(point for point in found if point.held_out),
    )


def _of_record(folder: str, record: Record, forecast: Forecast) -> Sequence[LawPoint]:
    training, backbone = record.training, record.backbone
    if training is None or backbone is None or not training.validation_by_timestep:
        return []
    last = list(training.validation_by_timestep.values())
    ends = [(branch.part, branch.num_samples, branch.forward_flops, branch.loss) for branch in training.branches]
    ends.append((1.0, training.num_samples, sum(work[4] for work in training.step_work), sum(last) / len(last)))
    name = record.cell.backbone
    return [
        LawPoint(
            family=family_of(name),
            folder=folder,
            backbone=name,
            seed=record.cell.seed,
            part=part,
            params=backbone.num_params,
            clips=clips,
            flops=TRAINING * flops,
            loss=loss,
            held_out=name in forecast.held_out,
            loss_of=record.loss_of,
        )
        for part, clips, flops, loss in ends
        if math.isfinite(loss) and loss > 0
    ]
