"""How often intervals of a scaling law hold, and its claims are wrong: `python -m bench.perf.evidence.scaling`.

Simulated studies with known exponents, of the shape of matrix `scaling`: four sizes, four budgets of one run each, two seeds, two
backbones, and a fifth size held out. A loss is the law's times exp(noise); a run's noise is shared by its budgets in part. Judged by the
report's own rules (`bench/report/scaling/`). Writes reports/calibration/scaling.md and scaling.csv.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from bench.data.files import write_files
from bench.data.progress import Reporter
from bench.perf.evidence.scaling_page import to_markdown
from bench.report.scaling.foresight import LEVEL, HeldOutLoss, StudyLaw, asked_of, study_law
from bench.report.scaling.law import Law
from bench.report.scaling.points import LawPoint, LawPoints
from bench.report.scaling.rule import HeldOutcome, steeper, trend

SEED = 23
FAMILIES = ("one:UNet", "two:DiT/2")
SIZES = (50_000, 150_000, 450_000, 1_350_000)
HELD_OUT = 4_000_000
CLIPS = (1200, 2400, 4800, 9600)
UNIT = (260_000.0, 3400.0)  # N and D at which A and B are what they add
COST = (300.0, 0.95)  # training FLOPs of a clip, f and g of f N^g


@dataclass(frozen=True, kw_only=True)
class ScalingDesign:
    """The truth of the studies of a row, and their noise."""

    name: str
    noise: float = 0.02  # standard deviation of a loss, relative
    shared: float = 0.5  # part of its variance that all budgets of a run share
    seeds: int = 2
    floor: float = 0.25  # E
    size: tuple[float, float] = (0.15, 0.15)  # A of both backbones
    size_exponent: tuple[float, float] = (0.3, 0.3)
    data: tuple[float, float] = (0.15, 0.15)
    data_exponent: tuple[float, float] = (0.4, 0.4)

    @property
    def truth(self) -> Law:
        """The law that losses are drawn from."""
        pairs = (np.array(each) for each in (self.size, self.size_exponent, self.data, self.data_exponent))
        size, size_exponent, data, data_exponent = pairs
        return Law(
            floor=self.floor,
            size_scale=size,
            size_exponent=size_exponent,
            data_scale=data,
            data_exponent=data_exponent,
            unit=UNIT,
            spread=self.noise,
        )

    @property
    def equal(self) -> bool:
        """Whether the two backbones are."""
        return all(len(set(each)) == 1 for each in (self.size, self.size_exponent, self.data, self.data_exponent))


def designs() -> Iterator[ScalingDesign]:
    """All that are simulated."""
    for noise in (0.01, 0.02, 0.03):
        yield ScalingDesign(name=f"equal backbones, noise {noise:.0%}", noise=noise)
    yield ScalingDesign(name="equal, a run's budgets nearly as one", noise=0.03, shared=0.9)
    yield ScalingDesign(name="equal, budgets independent", shared=0.0)
    yield ScalingDesign(name="equal, floor near 0", floor=0.02)
    yield ScalingDesign(name="equal, three seeds", seeds=3)
    yield ScalingDesign(name="exponents differ", size_exponent=(0.3, 0.6), data_exponent=(0.4, 0.7), noise=0.01)
    yield ScalingDesign(name="size gives the second nothing", size=(0.15, 0.0))
    yield ScalingDesign(name="data give the second nothing", data=(0.15, 0.0))


def drawn(design: ScalingDesign, rng: np.random.Generator) -> LawPoints:
    """The points of one study."""
    law, fitted, held = design.truth, list[LawPoint](), list[LawPoint]()
    for place, family in enumerate(FAMILIES):
        for params in (*SIZES, HELD_OUT):
            for seed in range(design.seeds):
                luck = math.sqrt(design.shared) * rng.standard_normal()
                for clips in CLIPS:
                    noise = design.noise * (luck + math.sqrt(1 - design.shared) * rng.standard_normal())
                    loss = float(law.loss(np.array([place]), np.array([params]), np.array([clips]))[0]) * math.exp(noise)
                    point = LawPoint(
                        family=family,
                        folder=f"{family}-{params}-{seed}",
                        backbone=f"{family}-{params}",
                        seed=seed,
                        part=clips / CLIPS[-1],
                        params=params,
                        clips=clips,
                        flops=COST[0] * params ** COST[1] * clips,
                        loss=loss,
                        held_out=params == HELD_OUT,
                    )
                    (held if point.held_out else fitted).append(point)
    return LawPoints(families=FAMILIES, fitted=tuple(fitted), held_out=tuple(held))


def one_study(stream: Sequence[int], design: ScalingDesign) -> dict[str, list[bool]]:
    """What holds of one study, by kind: intervals of each kind of number, held-out losses, and what is claimed."""
    points = drawn(design, np.random.default_rng(list(stream)))
    held = [
        HeldOutLoss(folder=point.folder, family=point.family, part=point.part, params=point.params, clips=point.clips)
        for point in points.held_out
    ]
    law = study_law(points, held)
    truth = asked_of(law, held)(design.truth)
    found: dict[str, list[bool]] = {}
    for name, estimate in law.fitted.estimates.items():
        if (kind := kind_of(name)) and (design.equal or all((*design.size, *design.data))):
            low, high = estimate.interval(LEVEL)
            found.setdefault(kind, []).append(low <= truth[name] <= high)
    outcomes = [_outcome(point, each, law) for point, each in zip(points.held_out, held, strict=True)]
    found["held-out losses"] = [each.inside for each in outcomes]
    found["steeper claimed"] = [each.outcome == "carried" for each in steeper(law)]
    found["steady claimed"] = [trend(law, FAMILIES[1], outcomes, claimed=True).outcome == "supported"]
    return found


def kind_of(name: str) -> str | None:
    """The kind of a number that is asked of a law; None of one that is not counted.

    >>> kind_of("1 size"), kind_of("1 less 0 data"), kind_of("1 size gain"), kind_of("0 N at 1e+12")
    ('exponents', 'differences', None, None)
    """
    words = name.split()
    if "less" in words:
        return "differences"
    if name == "floor":
        return "E"
    if " of " in name:
        return "mean held-out losses"
    return "exponents" if len(words) == 2 and words[1] in ("size", "data", "compute") else None


def _outcome(point: LawPoint, held: HeldOutLoss, law: StudyLaw) -> HeldOutcome:
    expected, low, high = law.loss(held)
    own = {"family": point.family, "folder": point.folder, "seed": point.seed, "part": point.part, "params": point.params}
    return HeldOutcome(**own, clips=point.clips, expected=expected, low=low, high=high, loss=point.loss)  # type: ignore[arg-type]


def main(out: Path, studies: int) -> None:
    """All designs, so many studies each."""
    lines = []
    every = list(designs())
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool, Reporter("scaling").live() as reporter:
        for place, design in enumerate(every):
            reporter(place, len(every), design.name)
            streams = [(SEED, place, number) for number in range(studies)]
            found = list(pool.map(partial(one_study, design=design), streams, chunksize=5))
            kinds = dict.fromkeys(kind for each in found for kind in each)
            shares = {kind: float(np.mean([held for each in found for held in each.get(kind, [])])) for kind in kinds}
            lines.append({**asdict(design), "equal": design.equal, **shares})
    rows = pd.DataFrame(lines)
    files: dict[str, str | bytes] = {"scaling.md": to_markdown(rows, studies), "scaling.csv": rows.to_csv(index=False)}
    for path in write_files(out, files):
        typer.echo(path)


def command(
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("reports/calibration"),
    studies: Annotated[int, typer.Option(help="Simulated studies a row.", min=10)] = 200,
) -> None:
    """Simulate and write scaling.csv and scaling.md."""
    main(out, studies)


if __name__ == "__main__":
    typer.run(command)
