"""Coverage of the intervals, by simulation: `python -m bench.metrics.distances.calibration` writes reports/calibration.

Every run draws real clips and two models of one distribution, so that the truth is known: A/A where the models equal the real clips, A/B
where they do not. Minutes on one core; `--quick` takes seconds and shows only that it works.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.progress import Reporter
from bench.metrics.distances.bias import CLIPS_PER_FEATURE, frechet_infinite_n
from bench.metrics.distances.frechet import Features, FrechetSubsets, frechet_distance
from bench.metrics.distances.interval import Interval, binomial_interval, jackknife, jackknife_difference
from bench.metrics.distances.kernel import kernel_distance

SEED = 5  # `PAIR_SHARE` and `PAIR_LEAST` of interval.py were chosen with others
GOAL = (0.90, 0.98)  # of 95 % intervals
MOST_DIFFERENT = 0.075  # of A/A verdicts, 15 of 200
NUM_RESAMPLES = 200  # of the bootstrap
GAIN, SHIFT = 1.2, 0.3  # deviations of model B over those of the real clips; its mean, in deviations

# What each column counts. `frechet`, `kernel`, `bootstrap` cover the mean of the column's estimates over all runs.
COLUMNS = {
    "frechet": "jackknife of the Fréchet distance covers the distance expected at this n",
    "infinite_n": "interval at infinite n covers the Fréchet distance of the populations",
    "kernel": "jackknife of the kernel distance covers the kernel distance expected at this n",
    "bootstrap": "WARNING: naive percentile bootstrap of the Fréchet distance covers the distance expected at this n",
    "different": "two models of one distribution are called different (the interval of their difference, real clips shared, excludes 0)",
}


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """One simulated comparison."""

    n: int  # clips of each set
    d: int  # features a clip
    spectrum: str  # "flat", "power law" (variance of feature i is 1/i)
    family: str  # "Gaussian", "mixture" of 4 classes, "t5": Student's t with 5 degrees of freedom, one radius a clip
    models: str  # "A/A": distributed as the real clips; "A/B": not
    runs: int = 400
    bootstrap: bool = False

    def __str__(self) -> str:
        return f"{self.family}, {self.spectrum}, n = {self.n}, d = {self.d}, {self.models}"


ROWS = (
    CoverageRow(n=64, d=16, spectrum="flat", family="Gaussian", models="A/A", bootstrap=True),
    CoverageRow(n=64, d=32, spectrum="flat", family="Gaussian", models="A/B"),
    CoverageRow(n=256, d=32, spectrum="power law", family="Gaussian", models="A/A"),
    CoverageRow(n=256, d=32, spectrum="power law", family="Gaussian", models="A/B", bootstrap=True),
    CoverageRow(n=256, d=16, spectrum="power law", family="mixture", models="A/A"),
    CoverageRow(n=256, d=16, spectrum="power law", family="mixture", models="A/B"),
    CoverageRow(n=256, d=16, spectrum="power law", family="t5", models="A/B"),
    CoverageRow(n=200, d=100, spectrum="power law", family="Gaussian", models="A/B", runs=100),
    CoverageRow(n=800, d=400, spectrum="flat", family="Gaussian", models="A/A", runs=40),
)


@dataclass(frozen=True, kw_only=True)
class Population:
    """What clips are drawn from, with its true moments."""

    deviations: np.ndarray  # (d,) inside a class
    centres: np.ndarray  # (classes, d)
    family: str

    def sample(self, generator: np.random.Generator, n: int) -> Features:
        noise = generator.standard_normal((n, len(self.deviations)))
        if self.family == "t5":
            noise /= np.sqrt(generator.chisquare(5, (n, 1)) / 5)
        return np.asarray(noise * self.deviations + self.centres[generator.integers(len(self.centres), size=n)])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d)."""
        spread = self.centres - self.centres.mean(axis=0)
        inner = np.diag(np.square(self.deviations)) * (5 / 3 if self.family == "t5" else 1)
        return self.centres.mean(axis=0), inner + spread.T @ spread / len(spread)


def populations(row: CoverageRow) -> tuple[Population, Population]:
    """Of the real clips and of both models."""
    index = np.arange(1, row.d + 1)
    deviations = np.ones(row.d) if row.spectrum == "flat" else index**-0.5
    # Classes two deviations apart, fixed by sines so that no draw decides what a row is.
    angles = np.arange(4)[:, None] * index
    centres = 2 * np.sin(angles) * deviations if row.family == "mixture" else np.zeros((1, row.d))
    gain, shift = (1.0, 0.0) if row.models == "A/A" else (GAIN, SHIFT)
    return (
        Population(deviations=deviations, centres=centres, family=row.family),
        Population(deviations=gain * deviations, centres=centres + shift * deviations, family=row.family),
    )


def percentile_bootstrap(generator: np.random.Generator, a: Features, b: Features) -> Interval:
    """What not to do: percentiles of distances between sets resampled with replacement."""
    pairs = [[sample[generator.integers(len(sample), size=len(sample))] for sample in (a, b)] for _ in range(NUM_RESAMPLES)]
    every = np.ones(len(a), bool), np.ones(len(b), bool)
    values = [FrechetSubsets(x, y)(*every) for x, y in pairs]
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(estimate=frechet_distance(a, b), low=float(low), high=float(high), standard_error=float(np.std(values)))


def simulate(row: CoverageRow, index: int, runs: int, reporter: Reporter) -> dict[str, tuple[int, int]]:
    """Column -> (runs counted, runs in all)."""
    of_real, of_model = populations(row)
    (mean_a, covariance_a), (mean_b, covariance_b) = of_real.moments(), of_model.moments()
    root_trace = np.sqrt(np.linalg.eigvals(covariance_a @ covariance_b).real).sum()
    truth = float(np.square(mean_a - mean_b).sum() + np.trace(covariance_a + covariance_b) - 2 * root_trace)
    intervals: dict[str, list[Interval]] = {column: [] for column in COLUMNS}
    for run in range(runs):
        generator = np.random.default_rng([SEED, index, run])
        real, fake, other = of_real.sample(generator, row.n), of_model.sample(generator, row.n), of_model.sample(generator, row.n)
        intervals["frechet"].append(jackknife(frechet_distance, real, fake))
        intervals["kernel"].append(jackknife(kernel_distance, real, fake))
        if row.bootstrap:
            intervals["bootstrap"].append(percentile_bootstrap(generator, real, fake))
        if row.n >= CLIPS_PER_FEATURE * row.d:
            intervals["infinite_n"].append(frechet_infinite_n(real, fake, seed=run)[0])
        intervals["different"].append(jackknife_difference(frechet_distance, real, fake, other))
        reporter(run + 1, runs, str(row))
    counts = {}
    for column, found in intervals.items():
        if found:
            target = {"infinite_n": truth, "different": 0.0}.get(column, float(np.mean([interval.estimate for interval in found])))
            covered = sum(interval.low <= target <= interval.high for interval in found)
            counts[column] = (len(found) - covered if column == "different" else covered, len(found))
    return counts


FACTS = ["family", "spectrum", "n", "d", "models"]  # of a row, as tables show it


def tidy(results: list[tuple[CoverageRow, dict[str, tuple[int, int]]]]) -> pd.DataFrame:
    """A line for each row and column that was counted: share with its binomial interval, and whether it meets its goal."""
    lines = [
        (index, *(getattr(row, fact) for fact in FACTS), column, *counted)
        for index, (row, counts) in enumerate(results)
        for column, counted in counts.items()
    ]
    table = pd.DataFrame(lines, columns=["row", *FACTS, "column", "count", "runs"])
    table["share"] = table["count"] / table["runs"]
    table["low"], table["high"] = binomial_interval(table["count"], table["runs"])
    table["met"] = np.where(table["column"] == "different", table["share"] <= MOST_DIFFERENT, table["share"].between(*GOAL))
    return table


def write_tables(table: pd.DataFrame, folder: Path, command: str) -> None:
    """table.csv with counts, table.md with what they mean."""
    table.drop(columns=["row", "met"]).to_csv(folder / "table.csv", index=False, float_format="%.4f")
    text = [
        "# Calibration of the intervals",
        "",
        f"Made by `{command}`, seed {SEED}. Each cell counts simulated runs. Intervals are 95 %: covering counts should lie between",
        f"{GOAL[0]:.0%} and {GOAL[1]:.0%}, `different` at or below {MOST_DIFFERENT:.1%} (15 of 200).",
        "",
        *(f"- `{column}`: {meaning}." for column, meaning in COLUMNS.items()),
        "",
        f"A/A: models distributed as the real clips. A/B: deviations times {GAIN}, mean moved by {SHIFT} deviations. Power law: the",
        "variance of feature i is 1/i. A cell in bold misses its goal. `t5` has tails so heavy that a few clips decide a covariance:",
        "an interval cannot see those that did not come, and may be too short. The two constants of the jackknife's correction were",
        "chosen with other seeds.",
        "",
        "| family | spectrum | n | d | models | " + " | ".join(COLUMNS) + " |",
        "|---|---|---:|---:|---|" + "---:|" * len(COLUMNS),
    ]
    for facts, row in table.groupby(["row", *FACTS], sort=False):
        cells = {line.column: f"{line.count}/{line.runs}" if line.met else f"**{line.count}/{line.runs}**" for line in row.itertuples()}
        text.append("| " + " | ".join(map(str, [*facts[1:], *(cells.get(column, "") for column in COLUMNS)])) + " |")
    (folder / "table.md").write_text("\n".join(text) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.metrics.distances.calibration", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three small rows of few runs")
    parser.add_argument("--out", type=Path, default=Path("reports/calibration"), help="folder for table.md and table.csv")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    with Reporter("calibration").live() as reporter:
        for index, row in enumerate(ROWS[:3] if options.quick else ROWS):
            results.append((row, simulate(row, index, 12 if options.quick else row.runs, reporter)))
    write_tables(tidy(results), options.out, "python -m bench.metrics.distances.calibration" + (" --quick" if options.quick else ""))
    print(f"{options.out / 'table.md'} written")


if __name__ == "__main__":
    main()
