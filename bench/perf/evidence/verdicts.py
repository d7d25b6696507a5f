"""How often the rules of a page claim what is not so, and find what is: `python -m bench.perf.evidence.verdicts`.

Simulated studies whose truth is known, of the seed noise that real studies recorded: drawn from a normal law with their correlations of
measures, or drawn again from their own residuals. The rules are the report's own objects (`bench/report/verdicts/claims.py`); what is
simulated is the values of the records. Of equal contenders everything that a page claims is false. Writes reports/calibration/verdicts.*.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import scipy.stats
import typer

from bench.data.files import write_files, write_text
from bench.data.physics.regions import Region
from bench.data.progress import Reporter
from bench.perf.evidence.seed_noise import SeedNoise, correlations, recorded
from bench.perf.gate import quality
from bench.report.load import load_run
from bench.report.render import catalogue
from bench.report.verdicts import claims, factorial, named
from bench.report.verdicts.claim_physics import JUDGED
from bench.report.verdicts.claim_table import claim_of
from bench.report.verdicts.claims import CROP, Conclusion, Finding, Key
from bench.report.verdicts.stats import judge
from bench.shapes import Refusal, lines_of
from bench.study.contrasts import NEXT_PATCH

SPREAD = 0.5  # of the logarithm of a contender's seed deviation, about what recorded studies have beyond that of so few seeds
SEED, NOISE = 7, "seeds.csv"
SEEDS, RIVALS = (3, 4, 5, 8), (0.0, 0.5)
AGAINST, WITHIN, WIDE = -0.15, 0.3, 1.0  # correlations and a spread that are not what was recorded, shown beside the promise
GATE_POLICY = {"fd_motion": 0.1, "val_loss": 0.05}  # growth that passes, as docs/gate.md shows it
SHIFT = 2.5  # a true difference, in seed standard deviations
FAR = 10.0  # what the first contender's errors are below a floor, likewise: seeds move an error by a tenth, and floors are a half off
LEVEL, FLOOR = 100.0, "nearest"  # mean of every value where nothing differs, and so of the floor
BACKBONES, PIPELINES = ("first", "second"), (CROP.word, "buckets", "own shapes")
# Title -> its two contenders, of a study of named contrasts: three against one, and a fifth that none of them has.
ASKED = {NEXT_PATCH: (0, 1), "next frame": (2, 1), "convolution or attention": (3, 1)}
Values = Mapping[str, Mapping[str, Sequence[float]]]  # measure -> contender -> one value a seed


@dataclass(frozen=True, kw_only=True)
class StudyDesign:
    """Which studies are simulated."""

    claim: str  # backbone, shapes, physics, next-patch
    contenders: int
    seeds: int
    law: str  # normal, resampled
    rivals: float = 0.0  # correlation of rivals at one seed
    within: float = 0.0  # of the two backbones under one policy, which have the same batches, at one seed
    spread: float = SPREAD  # of the logarithm of contenders' seed deviations
    shift: float = 0.0  # of the first contender, or of the pipeline, on the primary measure, in seed deviations; then all spread alike

    def contender_names(self) -> tuple[str, ...]:
        """Of `shapes`: both backbones under the first pipelines."""
        if self.claim != "shapes":
            return tuple(f"contender {k}" for k in range(self.contenders))
        return tuple(f"{b} {p}" for b in BACKBONES for p in PIPELINES[: self.contenders // 2])

    def among(self) -> np.ndarray:
        """Correlation of contenders at one seed."""
        found = (1 - self.rivals) * np.eye(self.contenders) + self.rivals
        if self.within:
            half = self.contenders // 2
            found[np.arange(half), half + np.arange(half)] = found[half + np.arange(half), np.arange(half)] = self.within
        return found


@dataclass(kw_only=True)
class Tally:
    """What simulated studies said."""

    headline: int = 0  # claimed something
    right: int = 0  # claimed what is so
    page: int = 0  # claimed something anywhere


def findings_of(
    claim: str,
    values: Values,
    better: Mapping[str, str],
    names: Sequence[str],
    primary: str,
    share: Callable[[int], float] = lambda seeds: 1.0,
) -> dict[Key, Finding]:
    """What a page of these values tests, before correction. `share`: seeds -> the part of a level that they may spend."""
    found: dict[Key, Finding] = {}
    for measure, series in values.items():
        found["lead", measure] = judge(series, better="lower" if better[measure] == "lower" else "higher", share=share)
    if claim == "physics":
        for region, measure in region_measures(values, primary).items():
            for name in names:
                apart = {seed: [value - LEVEL] for seed, value in enumerate(values[measure][name])}
                effect = factorial.effect_of("learned", apart, (1.0,), better=better[measure], names=(FLOOR, name), share=share)
                found["floor", name, region] = effect
    if claim == "next-patch":
        by_name, lower = values[primary], better[primary] == "lower"
        for title, (first, second) in ASKED.items():
            sides = names[first], names[second]
            verdict = judge({name: by_name[name] for name in sides}, better="lower" if lower else "higher", share=share)
            found[named.key_of(title, primary, {})] = named.compared(title, sides, verdict)
    if claim == "shapes":
        for pipeline in PIPELINES[1 : len(names) // 2]:
            four = [f"{backbone} {policy}" for backbone in BACKBONES for policy in (CROP.word, pipeline)]
            for measure, kind in itertools.product(values, factorial.WEIGHTS):
                if better[measure] not in ("lower", "higher") or catalogue.find(measure).group != "quality":
                    continue
                by_seed = dict(enumerate(zip(*(values[measure][name] for name in four), strict=True)))
                favoured = (CROP.word, pipeline) if kind == "pipeline" else BACKBONES
                effect = factorial.effect_of(kind, by_seed, factorial.WEIGHTS[kind], better=better[measure], names=favoured, share=share)
                found["effect", pipeline, measure, kind] = effect
        if len(names) == 6:  # packs against buckets, of each backbone
            for backbone, measure in itertools.product(BACKBONES, (name for name in values if name in (primary, claims.COMPOSITION[0]))):
                pair = f"{backbone} {PIPELINES[1]}", f"{backbone} {PIPELINES[2]}"
                by_seed = dict(enumerate(zip(*(values[measure][name] for name in pair), strict=True)))
                effect = factorial.effect_of("contrast", by_seed, (-1.0, 1.0), better=better[measure], names=PIPELINES[1:], share=share)
                found["contrast", *pair, measure] = effect
    return found


def region_measures(values: Values, primary: str) -> dict[Region, str]:
    """Region that the claim on physics is made of -> the recorded measure whose noise stands for that of its error."""
    return dict(zip(JUDGED, (primary, next(name for name in values if name != primary)), strict=True))


def simulate(design: StudyDesign, rng: np.random.Generator, *, noise: SeedNoise, primary: str, studies: int) -> Tally:
    """So many studies of one design."""
    tally, names = Tally(), design.contender_names()
    for values in studies_of(design, noise, primary, studies, rng):
        findings = findings_of(design.claim, values, noise.better, names, primary)
        decided, conclusion = claims.settle(claim_of(design.claim), findings, primary)
        tally.headline += conclusion.carried
        tally.right += is_right(conclusion)
        tally.page += any(finding.carried for finding in decided.values())
    return tally


def studies_of(design: StudyDesign, noise: SeedNoise, primary: str, studies: int, rng: np.random.Generator) -> Iterator[Values]:
    """The values of each study; where there is a true difference it makes the first contender, or what is not cropped, better."""
    names = design.contender_names()
    for _ in range(studies):
        drawn = noise.draw(rng, design.among(), design.seeds, design.law)
        if not design.shift:
            drawn = drawn * np.exp(design.spread * rng.standard_normal((len(names), 1, len(noise.measures))))
        values = {m: {n: (LEVEL + drawn[c, :, k]).tolist() for c, n in enumerate(names)} for k, m in enumerate(noise.measures)}
        if design.shift:
            sign = -1 if noise.better[primary] == "lower" else 1
            better = names[:1] if design.claim != "shapes" else [name for name in names if not name.endswith(CROP.word)]
            moved = {primary: sign}
            if design.claim == "physics":
                moved = {measure: -1 if noise.better[measure] == "lower" else 1 for measure in region_measures(values, primary).values()}
            for name, (measure, way) in itertools.product(better, moved.items()):
                values[measure][name] = [value + way * design.shift for value in values[measure][name]]
        yield values


def is_right(conclusion: Conclusion) -> bool:
    """Whether the part on quality says what was planted; of physics, whether all of it does."""
    if conclusion.parts[0].key is not None and conclusion.parts[0].key[0] == "floor":
        return conclusion.state == "supported"
    part = next((part for part in conclusion.parts if part.name == NEXT_PATCH), conclusion.parts[0])
    if part.state == "leads":
        return getattr(part.finding, "leader", None) == "contender 0"
    return part.state == "supported"


def gate_calls(seeds: int, noise: float, checks: int, rng: np.random.Generator) -> float:
    """Share of checks of two equal runs, two contenders each, in which the quality gate calls something worse or better.

    `noise`: deviation of a value from seed to seed, over its mean.
    """
    called = 0
    for _ in range(checks):
        changes = []
        for (name, allowed), _contender in itertools.product(GATE_POLICY.items(), range(2)):
            before, after = (1 + noise * rng.standard_normal((2, seeds))).tolist()
            changes.append(quality.QualityChange(name=name, before=before, after=after, better="lower", allowed=allowed))
        called += any(outcome in ("regressed", "improved") for outcome in quality.outcomes(changes))
    return called / checks


def compared_tests(seeds: int, rivals: float, studies: int, rng: np.random.Generator) -> tuple[float, float]:
    """Shares of studies in which Welch's and a paired test find `SHIFT` between two contenders at 5 %."""
    among = np.linalg.cholesky((1 - rivals) * np.eye(2) + rivals)
    first, second = np.einsum("cd,dns->cns", among, rng.standard_normal((2, studies, seeds)))
    found = (
        scipy.stats.ttest_ind(first, second + SHIFT, axis=1, equal_var=False).pvalue,
        scipy.stats.ttest_rel(first, second + SHIFT, axis=1).pvalue,
    )
    welch, paired = (float(np.mean(p_values < 0.05)) for p_values in found)
    return welch, paired


def designs() -> Iterator[StudyDesign]:
    """All that are simulated."""
    sizes = [("backbone", contenders) for contenders in (2, 3, 4, 6)] + [("shapes", contenders) for contenders in (4, 6)]
    laws = [("normal", rivals) for rivals in RIVALS] + [("resampled", 0.0)]
    for (claim, contenders), seeds, (law, rivals), shift in itertools.product(sizes, SEEDS, laws, (0.0, SHIFT)):
        if not shift or (rivals == 0 and seeds in SEEDS[:3]):
            yield StudyDesign(claim=claim, contenders=contenders, seeds=seeds, law=law, rivals=rivals, shift=shift)
    for seeds in SEEDS:  # beside the promise: what it rests on
        yield StudyDesign(claim="backbone", contenders=2, seeds=seeds, law="normal", rivals=AGAINST)
        yield StudyDesign(claim="shapes", contenders=6, seeds=seeds, law="normal", within=WITHIN)
        yield StudyDesign(claim="backbone", contenders=2, seeds=seeds, law="normal", spread=WIDE)
        yield StudyDesign(claim="shapes", contenders=6, seeds=seeds, law="normal", spread=WIDE)
    for seeds, (law, rivals) in itertools.product(SEEDS, laws):  # errors that are those of the best floor, and as far below as is told
        yield StudyDesign(claim="physics", contenders=2, seeds=seeds, law=law, rivals=rivals)
        if rivals == 0:
            yield StudyDesign(claim="physics", contenders=2, seeds=seeds, law=law, shift=FAR)
    for seeds, (law, rivals), shift in itertools.product(SEEDS, laws, (0.0, SHIFT)):  # three contrasts among five contenders
        if not shift or (rivals == 0 and seeds in SEEDS[:3]):
            yield StudyDesign(claim="next-patch", contenders=5, seeds=seeds, law=law, rivals=rivals, shift=shift)


def main(runs: Sequence[Path], out: Path, studies: int, primary: str) -> None:
    """All designs, so many studies each, of the noise of these runs or of the committed one. Refusal where that has too little."""
    from bench.perf.evidence import verdict_page

    if runs:
        table = recorded([(run.matrix, run.measurements) for run in map(load_run, runs)])
    elif (out / NOISE).is_file():
        table = pd.read_csv(out / NOISE)
    else:
        raise Refusal(f"no seed noise in {out / NOISE}; name a finished run, such as results/seeds")
    noise, rng = SeedNoise.of(table), np.random.default_rng(SEED)
    if primary not in noise.measures or not set(claims.COMPOSITION) & set(noise.measures):  # the claim has two parts
        raise Refusal(f"the seed noise is of {', '.join(noise.measures)}, and needs {primary} and one of {', '.join(claims.COMPOSITION)}")
    together = correlations(table)
    if not (together["group"] == "quality").any():
        raise Refusal("the seed noise has no two contenders that share seeds; name a run of two or more")
    if runs:
        write_text(out / NOISE, table.to_csv(index=False))
    lines, every = [], list(designs())
    streams = [np.random.default_rng([SEED, place]) for place in range(len(every))]  # its own, so that rows may be counted side by side
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool, Reporter("verdicts").live() as reporter:
        tallies = pool.map(partial(simulate, noise=noise, primary=primary, studies=studies), every, streams)
        for done, (design, tally) in enumerate(zip(every, tallies, strict=True), 1):
            reporter(done, len(every), f"{design.claim}, {design.contenders} contenders, {design.seeds} seeds")
            shares = {key: count / studies for key, count in asdict(tally).items()}
            lines.append(asdict(design) | shares)
    gate = [(n, cv, gate_calls(n, cv, studies, rng)) for n in (1, *SEEDS) for cv in (0.02, 0.05, 0.15)]
    tests = [(n, rho, *compared_tests(n, rho, 20_000, rng)) for n in (3, 5, 8) for rho in (-0.2, 0.0, 0.5)]
    rows = pd.DataFrame(lines)
    page = verdict_page.to_markdown(
        rows,
        pd.DataFrame(gate, columns=["seeds", "noise", "called"]),
        pd.DataFrame(tests, columns=["seeds", "rivals", "welch", "paired"]),
        together,
        studies,
    )
    files: dict[str, str | bytes] = {"verdicts.md": page, verdict_page.PICTURE: verdict_page.picture(rows)}
    files["verdicts.csv"] = rows.to_csv(index=False)
    for path in write_files(out, files):
        typer.echo(path)


def command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs, six seeds or more, whose seed noise takes the place of the committed one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("reports/calibration"),
    studies: Annotated[int, typer.Option(help="Simulated studies a row.", min=10)] = 4000,
    primary: Annotated[str, typer.Option(help="The measure that decides in them.")] = "fd_motion",
) -> None:
    """Simulate and write verdicts.csv, verdicts.md and verdicts.svg; seeds.csv is the noise that was recorded."""
    try:
        main(runs or [], out, studies, primary)
    except (Refusal, OSError) as error:
        raise SystemExit("\n".join(f"error: {line}" for line in lines_of(error))) from None


if __name__ == "__main__":
    typer.run(command)
