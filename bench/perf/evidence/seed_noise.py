"""How much a value moves from seed to seed, as studies recorded it, and whether rivals move together at one seed."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from bench.report.render import catalogue
from bench.shapes import Refusal

LEAST_SEEDS = 6


@dataclass(frozen=True)
class SeedNoise:
    """Seed-to-seed residuals of recorded studies, each contender's and measure's of mean 0 and variance 1.

    Of contenders of `LEAST_SEEDS` seeds at least: over their own deviation the residuals of three lie on a circle, whatever the noise.
    """

    measures: tuple[str, ...]
    better: Mapping[str, str]
    residuals: np.ndarray  # (R, M): a row a cell

    @classmethod
    def of(cls, table: pd.DataFrame) -> "SeedNoise":
        """From measurements of trained models: study, contender, seed, name (without its n), better, value; the measures that all have.

        Refusal where no contender has seeds enough.
        """
        seeds = table.groupby(["study", "contender"])["seed"].transform("nunique")
        if (seeds < LEAST_SEEDS).all():
            raise Refusal(
                f"no contender has {LEAST_SEEDS} seeds, at most {seeds.max()}; name a run that has, such as results/reference/seeds"
            )
        known = table[seeds >= LEAST_SEEDS]
        wide = known.pivot_table(index=["study", "contender", "seed"], columns="name", values="value").dropna(axis=1)
        wide = wide.loc[:, (wide.groupby(["study", "contender"]).std() > 0).all()]  # one that never moves has no noise to draw
        parts = []
        for _, own in wide.groupby(["study", "contender"]):
            centred = own.to_numpy() - own.to_numpy().mean(0)
            parts.append(centred / centred.std(0, ddof=1) * np.sqrt(len(own) / (len(own) - 1)))
        better = table.drop_duplicates("name").set_index("name")["better"]
        return cls(tuple(wide.columns), {name: better[name] for name in wide.columns}, np.concatenate(parts))

    @cached_property
    def factor(self) -> np.ndarray:
        """Of the correlation of measures, shrunk a tenth towards none so that it has one; (M, M)."""
        correlation = np.corrcoef(self.residuals, rowvar=False)
        return np.linalg.cholesky(0.9 * correlation + 0.1 * np.eye(len(correlation)))

    def draw(self, rng: np.random.Generator, among: np.ndarray, seeds: int, law: str) -> np.ndarray:
        """(contenders, seeds, M) of variance 1; `among`: correlation of contenders at one seed, of the normal law and of the smoothing.

        Resampled rows are smoothed by a normal kernel of Silverman's width: of so few rows some are drawn twice, and two equal seeds
        would have no variance between them, which real ones do.
        """
        contenders, root = len(among), np.linalg.cholesky(among)
        noise = np.einsum("cd,dsm,nm->csn", root, rng.standard_normal((contenders, seeds, len(self.measures))), self.factor)
        if law == "normal":
            return noise
        width = 1.06 * len(self.residuals) ** -0.2
        return (self.residuals[rng.integers(len(self.residuals), size=(contenders, seeds))] + width * noise) / np.sqrt(1 + width**2)


def recorded(runs: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The values that `SeedNoise` is made of: of (study, measurements as `Run.measurements` has them) what a page judges."""
    tables = []
    for study, table in runs:
        own = table[(table["subject"] == "trained") & (table["status"] == "ok")]
        names = [name for name in own["name"].unique() if (metric := catalogue.find(name)).axis and not metric.exact]
        own = own[own["name"].isin(names)].assign(study=study, name=own["name"].str.partition("@")[0])
        tables.append(own[["study", "contender", "seed", "name", "better", "value"]])
    return pd.concat(tables, ignore_index=True)


def correlations(table: pd.DataFrame) -> pd.DataFrame:
    """Of rivals at shared seeds: study, measure, group, pairs of contenders, seeds that two share, mean correlation, its standard error.

    The error takes pairs for independent, which they are not where one contender is in several: it is too small rather than too large.
    """
    lines = []
    for (study, name), own in table.groupby(["study", "name"]):
        by_contender = {contender: part.set_index("seed")["value"] for contender, part in own.groupby("contender")}
        found, seeds = [], []
        for first, second in itertools.combinations(by_contender.values(), 2):
            both = pd.concat([first, second], axis=1).dropna()
            if len(both) > 2 and (both.std() > 0).all():
                found.append(float(np.corrcoef(both.to_numpy().T)[0, 1]))
                seeds.append(len(both))
        if found:
            error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
            lines.append((study, name, catalogue.find(str(name)).group, len(found), max(seeds), float(np.mean(found)), error))
    return pd.DataFrame(lines, columns=["study", "measure", "group", "pairs", "seeds", "correlation", "error"])
