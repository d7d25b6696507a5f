"""What studies say whose seeds grow: `python -m bench.perf.evidence.sequential`.

Simulated studies as in verdicts.py, of the same noise and judged by the report's own rules, but with seeds added: by the looks of
`run --until-decided`, or as the page of a study with fixed seeds told its reader to. Writes reports/calibration/sequential.*.
"""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import typer

from bench.data.files import write_files
from bench.data.progress import Reporter
from bench.perf.evidence.seed_noise import SeedNoise
from bench.perf.evidence.verdicts import ASKED, NOISE, RIVALS, SHIFT, WIDE, StudyDesign, Values, findings_of, is_right, studies_of
from bench.report.verdicts import claims, prospect, spending
from bench.report.verdicts.claim_table import claim_of
from bench.report.verdicts.claims import LEVELS, Effect
from bench.report.verdicts.prospect import Gap
from bench.report.verdicts.sequential import look, look_between, look_for
from bench.report.verdicts.stats import welch
from bench.shapes import Refusal, lines_of
from bench.study.looks import Looks

SEED = 17
LOOKS = Looks()
SMALLER = 1.5  # a true difference, in seed deviations, that looks must find
PROMISED = (3, 5, 10)  # seeds of studies whose page says how many more would decide
EVERY = (0.0, 0.5, 1.0, SMALLER, 2.0, SHIFT, 3.0)  # true differences that promises are tried on
SAID = ("probably", "may", "unknown", "hardly")
Growth = Literal["fixed", "until decided", "fixed, then until decided", "fixed, then as told"]


@dataclass(frozen=True, kw_only=True)
class GrowingDesign:
    """Which studies are simulated: `design.seeds` of each contender at first, which is all where they are fixed."""

    design: StudyDesign
    growth: Growth

    @property
    def most(self) -> int:
        """Seeds of a contender that any of these studies can come to have."""
        return {"fixed": self.design.seeds, "fixed, then as told": prospect.MOST}.get(self.growth, LOOKS.most)


@dataclass(kw_only=True)
class GrownTally:
    """What simulated studies said, and what it took."""

    headline: int = 0  # claimed something, at any time
    right: int = 0  # claimed what is so
    page: int = 0  # claimed something anywhere on a page that was looked at
    seeds: float = 0.0  # of a contender, summed over studies


class GrowingStudy:
    """A simulated study with all the values that it may come to show."""

    def __init__(self, growing: GrowingDesign, values: Values, better: Mapping[str, str], primary: str):
        self.design, self.values, self.better, self.primary = growing.design, values, better, primary
        self.counts = dict.fromkeys(self.design.contender_names(), self.design.seeds)
        self.looks: Looks | None = None
        self.extensions = 0
        self.page = False

    def shown(self, measure: str) -> dict[str, list[float]]:
        """Contender -> values of the seeds it has."""
        return {name: list(self.values[measure][name][:seeds]) for name, seeds in self.counts.items()}

    def judge_anew(self) -> None:
        """What a page says now."""
        share, claim = partial(spending.share, self.looks, self.extensions), claim_of(self.design.claim)
        values = {measure: self.shown(measure) for measure in self.values}
        self.findings = findings_of(self.design.claim, values, self.better, list(self.counts), self.primary, share)
        decided, self.conclusion = claims.settle(claim, self.findings, self.primary)
        self.page |= any(finding.carried for finding in decided.values())

    def until_decided(self) -> None:
        """Seeds are added as `run --until-decided` does, and the page is made at the end."""
        self.looks = LOOKS
        while True:
            if self.design.claim == "backbone":  # by the values, which is faster than by findings
                better: Literal["lower", "higher"] = "lower" if self.better[self.primary] == "lower" else "higher"
                found = look(self.shown(self.primary), better=better, looks=LOOKS, extensions=self.extensions)
            elif self.design.claim == "next-patch":
                names, values = list(self.counts), self.shown(self.primary)
                pairs = [(names[first], names[second]) for first, second in ASKED.values()]
                asked = {name: values[name] for pair in pairs for name in pair}
                found = look_between(pairs, asked, LOOKS, self.extensions)
            else:
                self.judge_anew()
                decisive = [self.findings[part.key] for part in self.conclusion.parts if part.key]
                found = look_for([effect for effect in decisive if isinstance(effect, Effect)], self.counts, LOOKS, self.extensions)
            if not found.more:
                break
            self.counts |= {name: self.counts[name] + 1 for name in found.more}
        self.judge_anew()

    def as_told(self) -> None:
        """Seeds are added as the page says, again and again, until it says that they will hardly decide."""
        while not self.conclusion.carried:
            first, second = self.shown(self.primary).values()
            number, _, word = promised(first, second, self.extensions + 1)
            if word not in SAID[:2]:
                break
            self.extensions += 1
            self.counts = dict.fromkeys(self.counts, number)
            self.judge_anew()


def promised(first: list[float], second: list[float], extensions: int) -> tuple[int, float, str]:
    """(seeds of each that would decide between two, the chance that they do, in which words a page says it)."""
    gap = Gap.of((first, second))
    assert gap is not None

    def level(seeds: int) -> float:
        return LEVELS["headline"] * spending.share(None, extensions, seeds)

    number = prospect.seeds_needed([gap], level, len(first))
    chance = prospect.chance_of(_p_value(first, second), len(first), number or prospect.MOST, level)
    return number or prospect.MOST, chance, prospect.said(number, chance)


def simulate(growing: GrowingDesign, rng: np.random.Generator, *, noise: SeedNoise, primary: str, studies: int) -> GrownTally:
    """So many studies of one design."""
    count = GrownTally()
    for values in studies_of(replace(growing.design, seeds=growing.most), noise, primary, studies, rng):
        study = GrowingStudy(growing, values, noise.better, primary)
        if growing.growth != "until decided":
            study.judge_anew()
        if growing.growth == "fixed, then as told":
            study.as_told()
        elif growing.growth == "fixed, then until decided" and not study.conclusion.carried:
            study.extensions = 1
            study.until_decided()
        elif growing.growth == "until decided":
            study.until_decided()
        count.headline += study.conclusion.carried
        count.right += is_right(study.conclusion)
        count.page += study.page
        count.seeds += float(np.mean(list(study.counts.values())))
    return count


def kept_promises(seeds: int, studies: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    """Of two contenders that so many seeds do not tell apart: what their page says would, and how often that many do.

    One line a true difference and what was said; where no number was, the most that make sense are tried.
    """
    for shift in EVERY:
        said: dict[str, list[tuple[int, float, bool]]] = {word: [] for word in SAID}
        for _ in range(studies):
            first, second = rng.standard_normal((2, prospect.MOST)).tolist()
            second = [value + shift for value in second]
            if _p_value(first[:seeds], second[:seeds]) < LEVELS["headline"]:
                continue
            number, chance, word = promised(first[:seeds], second[:seeds], 1)
            held = _p_value(first[:number], second[:number]) < LEVELS["headline"] * spending.share(None, 1, number)
            said[word].append((number - seeds, chance, held))
        for word, found in said.items():
            more, chances, held = np.array(found or [(0, 0.0, False)], dtype=float).mean(0)
            yield {"seeds": seeds, "shift": shift, "said": word, "studies": len(found), "more": more, "chance": chances, "held": held}


def _p_value(first: list[float], second: list[float]) -> float:
    found = welch(first, second).p_value
    assert found is not None
    return found


def designs() -> Iterator[GrowingDesign]:
    """All that are simulated."""

    def of(contenders: int, law: str, growth: Growth, seeds: int = LOOKS.first, claim: str = "backbone", **changes: float) -> GrowingDesign:
        design = StudyDesign(claim=claim, contenders=contenders, seeds=seeds, law=law, **changes)
        return GrowingDesign(design=design, growth=growth)

    for contenders, law in itertools.product((2, 3, 4), ("normal", "resampled")):
        yield of(contenders, law, "fixed", seeds=5)
        yield of(contenders, law, "until decided")
    for law in ("normal", "resampled"):
        yield of(4, law, "until decided", claim="shapes")
        yield of(5, law, "until decided", claim="next-patch")
        yield of(2, law, "fixed, then until decided")
        yield of(2, law, "fixed, then as told")
        yield of(3, law, "fixed", seeds=5, shift=-SHIFT)
        yield of(3, law, "until decided", shift=-SHIFT)
        yield of(2, law, "fixed", seeds=5, shift=SHIFT)
        yield of(2, law, "fixed", seeds=12, shift=SMALLER)
        for contenders, shift in itertools.product((2, 3, 4), (1.0, SMALLER, SHIFT)):
            yield of(contenders, law, "until decided", shift=shift)
    for contenders in (2, 3):  # beside the promise
        yield of(contenders, "normal", "until decided", spread=WIDE)
        yield of(contenders, "normal", "until decided", rivals=RIVALS[1])


def main(out: Path, studies: int, primary: str) -> None:
    """All designs, so many studies each, of the committed noise. Refusal where there is none."""
    from bench.perf.evidence import sequential_page

    if not (out / NOISE).is_file():
        raise Refusal(f"no seed noise in {out / NOISE}; make it with `python -m bench.perf.evidence.verdicts results/seeds`")
    noise, every, lines = SeedNoise.of(pd.read_csv(out / NOISE)), list(designs()), []
    if primary not in noise.measures:
        raise Refusal(f"the seed noise is of {', '.join(noise.measures)}, and not of {primary}")
    streams = [np.random.default_rng([SEED, place]) for place in range(len(every))]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool, Reporter("sequential").live() as reporter:
        counts = pool.map(partial(simulate, noise=noise, primary=primary, studies=studies), every, streams)
        for done, (growing, count) in enumerate(zip(every, counts, strict=True), 1):
            reporter(done, len(every), f"{growing.design.claim}, {growing.design.contenders} contenders, {growing.growth}")
            shares = {key: value / studies for key, value in asdict(count).items()}
            lines.append(asdict(growing.design) | {"first": growing.design.seeds, "growth": growing.growth} | shares)
    rows = pd.DataFrame(lines)
    promises = pd.DataFrame(
        [line for seeds in PROMISED for line in kept_promises(seeds, studies, np.random.default_rng([SEED, 99, seeds]))]
    )
    files: dict[str, str | bytes] = {"sequential.md": sequential_page.to_markdown(rows, promises, studies)}
    files |= {sequential_page.PICTURE: sequential_page.picture(rows), "sequential.csv": rows.to_csv(index=False)}
    for path in write_files(out, files):
        typer.echo(path)


def command(
    out: Annotated[Path, typer.Option(help="Folder of the page, where the seed noise is.")] = Path("reports/calibration"),
    studies: Annotated[int, typer.Option(help="Simulated studies a row.", min=10)] = 6000,
    primary: Annotated[str, typer.Option(help="The measure that decides in them.")] = "fd_motion",
) -> None:
    """Simulate and write sequential.csv, sequential.md and sequential.svg."""
    try:
        main(out, studies, primary)
    except (Refusal, OSError) as error:
        raise SystemExit("\n".join(f"error: {line}" for line in lines_of(error))) from None


if __name__ == "__main__":
    typer.run(command)
