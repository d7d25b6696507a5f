"""What would decide, where a verdict is not carried: how many more seeds, minutes and clips, with the command. Knows no torch.

How many seeds: as many as would find the difference that was seen in four of five repeats of the study, at the spread that was seen
and at the level that would apply then. Both are guesses from a few seeds. So beside the number stands the chance that it carries the
verdict, averaged over how large the true difference may be (`sequential.predictive`), and where that is below `PROBABLY`, the sentence
says it. Where the difference seen would need very many, few seeds do not exclude that the true one needs fewer: then nobody knows, and
only else will more seeds hardly decide. How often the promise holds is counted in `reports/calibration/sequential.md`.
"""

import math
import shlex
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import nctdtr, stdtrit

from bench.metrics.protocol import read_name
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.verdicts.claims import LEVELS, Effect, Key
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import WEIGHTS, DesignRow
from bench.report.verdicts.findings import Findings
from bench.report.verdicts.named import NAMED, NamedContrast, key_of
from bench.report.verdicts.seed_noise import SEED_DEVIATION
from bench.report.verdicts.sequential import predictive
from bench.report.verdicts.spending import boundary, share
from bench.report.verdicts.stats import MIN_FLOORS, MIN_SEEDS, Verdict, variance

FOUND, PROBABLY, POSSIBLE = 0.8, 0.6, 0.2
MOST = 30  # seeds of each contender: beyond, more seeds are no remedy
MOST_CLIPS = 100_000
ROUND_CLIPS = 64
PARTS = {0.1: "a tenth of", 0.2: "a fifth of", 0.25: "a quarter of", 0.33: "a third of", 0.5: "half", 0.67: "two thirds of"}
Said = Literal["first", "probably", "may", "unknown", "hardly"]  # first: there are too few to say
LevelAt = Callable[[int], float]  # seeds of each -> what a p-value must be below


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What would carry a verdict."""

    said: Said
    more: int | None  # further seeds of each contender; None where no number that makes sense would do
    seeds: int  # of each, now; of the one that has fewest
    chance: float | None  # that so many carry it, or the most that make sense; None where too few seeds tell
    minutes: float | None  # one cell after another; None where no record tells
    spreads: float | None  # the difference, in seed deviations
    clips: int | None  # n that makes the bias of n a third of the best distance; None where n is not the limit, or no n would do
    command: str | None  # what adds the seeds
    sentence: str  # without the command


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A weighted sum of means of independent groups, as far as few seeds tell: its size, and what a seed moves each group."""

    value: float
    variances: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, groups: Sequence[Sequence[float]], weights: Sequence[float] = (1.0, -1.0), usual: float | None = None) -> "Gap | None":
        """From each group's values, one a seed; of fewer than three all groups' deviations together; of one the usual part of its mean."""
        means = [statistics.fmean(group) for group in groups]
        fewest = min(map(len, groups))
        if fewest < 2 and usual is None:
            return None
        variances = [(usual * mean) ** 2 for mean in means] if fewest < 2 and usual else [variance(group) for group in groups]
        if 2 <= fewest < MIN_SEEDS:
            variances = [statistics.fmean(variances)] * len(variances)
        value = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
        return cls(value=value, variances=tuple(variances), weights=tuple(weights))

    @property
    def spreads(self) -> float:
        """Its size in seed deviations; of two groups with weights 1 and -1, those of both together."""
        pooled = sum(weight**2 * variance for weight, variance in zip(self.weights, self.variances, strict=True)) / 2
        return abs(self.value) / math.sqrt(pooled) if pooled else math.inf

    def power(self, seeds: int, level: float) -> float:
        """The chance that Welch's test finds it with so many seeds of each, on its own side.

        >>> round(Gap(value=1.0, variances=(1.0, 1.0), weights=(1.0, -1.0)).power(17, 0.05), 3)  # Cohen 1988, table 2.3.5: 0.81
        0.807
        """
        squares = [weight**2 * variance / seeds for weight, variance in zip(self.weights, self.variances, strict=True)]
        if not sum(squares):
            return 1.0
        parts = [square / max(squares) for square in squares]  # no fourth power overflows
        freedom = sum(parts) ** 2 / sum(part**2 / (seeds - 1) for part in parts)
        return float(1 - nctdtr(freedom, abs(self.value) / math.sqrt(sum(squares)), stdtrit(freedom, 1 - level / 2)))


def seeds_needed(gaps: Sequence[Gap], level: LevelAt, seeds: int, most: int = MOST) -> int | None:
    """Fewest seeds of each, more than there are, that find every one of these in `FOUND` of studies; None where even `most` do not."""
    for number in range(max(seeds + 1, MIN_SEEDS), most + 1):
        if sum(1 - gap.power(number, level(number)) for gap in gaps) <= 1 - FOUND:
            return number
    return None


def chance_of(p_value: float, seeds: int, number: int, level: LevelAt) -> float:
    """That a test which had this p-value is carried at `number` seeds, on either side; at the spread seen, whatever the difference is."""
    deviate, bound = boundary(p_value), boundary(level(number))
    return float(sum(predictive(np.array(side * deviate), seeds / number, bound) for side in (1, -1)))


def of_row(run: Run, found: Findings, row: MeasureRow) -> Prospect | None:
    """Of who leads an axis; None where it is carried, or more seeds would tell nothing."""
    verdict = row.verdict
    if verdict is None or verdict.outcome != "inconclusive" or verdict.leader is None or any(entry.missing for entry in row.entries):
        return None
    values = {entry.contender: [value for _, value in entry.by_seed] for entry in row.entries if entry.by_seed}
    usual = SEED_DEVIATION.get(row.name.partition("@")[0])
    gaps = [Gap.of((values[verdict.leader], values[other]), usual=usual) for other in values if other != verdict.leader]
    made = _prospect(run, found, ("lead", row.name), [gap for gap in gaps if gap], min(map(len, values.values())), verdict)
    return made and _with_clips(made, row)


def of_effect(run: Run, found: Findings, block: DesignRow, effect: Effect) -> Prospect | None:
    """Of an effect in a 2 x 2; None where it is carried, or more seeds would tell nothing."""
    if effect.outcome != "inconclusive" or block.missing or not effect.by_seed:
        return None
    groups = [[value for _, value in block.row.entry(name).by_seed] for name in block.design.contenders]
    gap = Gap.of(groups, WEIGHTS[effect.kind])
    key = ("effect", block.design.pipeline, block.row.name, effect.kind)
    made = _prospect(run, found, key, [gap] if gap else [], min(map(len, groups)), effect)
    return made and _with_clips(made, block.row)


def of_contrast(run: Run, found: Findings, each: NamedContrast) -> Prospect | None:
    """Of a contrast that the matrix names; None where it is carried, or more seeds would tell nothing."""
    verdict = each.verdict
    if verdict.outcome != "inconclusive" or verdict.leader is None or each.missing:
        return None
    gap = Gap.of(each.by_seed, usual=SEED_DEVIATION.get(each.row.name.partition("@")[0]))
    key = key_of(each.title, each.row.name, each.under)
    made = _prospect(run, found, key, [gap] if gap else [], min(map(len, each.by_seed)), verdict)
    if made is None:
        return None
    told = made.sentence[0].lower() + made.sentence[1:]
    return _with_clips(replace(made, sentence=f"On {each.title}, {told}"), each.row)


def of_headline(run: Run, found: Findings) -> Prospect | None:
    """Of the first test that the headline rests on and that is not carried."""
    for key in (part.key for part in found.conclusion.parts if part.key and not (part.finding and part.finding.carried)):
        for row in found.rows if key[0] == "lead" else ():
            if row.name == key[1] and row.subject == "trained":
                return of_row(run, found, row)
        for each in found.named if key[0] == NAMED else ():
            if key == key_of(each.title, each.row.name, each.under):
                return of_contrast(run, found, each)
        for block in found.blocks if key[0] == "effect" else ():
            if (block.design.pipeline, block.row.name) == key[1:3] and (effect := block.effect(key[3])):
                return of_effect(run, found, block, effect)
    return None


def said(number: int | None, chance: float) -> Said:
    """In which words a number of seeds is promised, or none is."""
    if number is None:
        return "unknown" if chance >= POSSIBLE else "hardly"
    return "probably" if chance >= PROBABLY else "may"


def _prospect(run: Run, found: Findings, key: Key, gaps: Sequence[Gap], seeds: int, finding: Verdict | Effect) -> Prospect | None:
    """From what is known of the gaps that must be found."""
    level, most = _level(run, found, key, seeds), run.looks.most if run.looks else MOST
    number = seeds_needed(gaps, level, seeds, most) if gaps else None
    chance: float | None = None
    word: Said = "first"
    if seeds < MIN_SEEDS:
        sentence = _first_sentence(run, number, seeds, bool(gaps))
        number = number or MIN_SEEDS
    elif finding.p_value is None:  # no spread: nothing tells what chance does
        return None
    else:
        chance = chance_of(finding.p_value, seeds, number or most, level)
        word = said(number, chance)
        sentence = _sentence(run, number, seeds, chance, word, min(gap.spreads for gap in gaps))
    return Prospect(
        said=word,
        more=number and number - seeds,
        seeds=seeds,
        chance=chance,
        minutes=_minutes(run, number - seeds) if number else None,
        spreads=min((gap.spreads for gap in gaps), default=None),
        clips=None,
        command=_command(run, number and number - seeds) if number or word == "unknown" else None,
        sentence=sentence,
    )


def _level(run: Run, found: Findings, key: Key, seeds: int) -> LevelAt:
    """What a p-value must be below, of a test in its family, once the run has been given more seeds."""
    decisive = [part.key for part in found.conclusion.parts]
    family = LEVELS["headline"] / max(1, len(decisive)) if key in decisive else LEVELS["rest"] / max(1, found.num_tests - found.num_carried)
    extensions = run.extensions + (run.looks is None and seeds >= MIN_SEEDS)
    return lambda number: family * share(run.looks, extensions, number)


def minutes_of(run: Run, contenders: Sequence[str]) -> float | None:
    """What one more seed of each takes, one cell after another, as long as its cells took on average; None where no record tells."""
    means = []
    for name in contenders:
        times = [sum(cell.record.time_split_s.values()) for cell in run.of(name) if cell.record and cell.record.status == "ok"]
        if not any(times):
            return None
        means.append(statistics.fmean(times))
    return sum(means) / 60


def _minutes(run: Run, more: int) -> float | None:
    """What so many more seeds of every contender take."""
    one = minutes_of(run, run.labels)
    return None if one is None else more * one


def _command(run: Run, more: int | None) -> str:
    """The run's own, asked for more seeds, or to add them until it is decided where nobody knows how many that takes."""
    if run.looks:  # it adds them by itself
        return run.command
    command = run.words or ["python", "-m", "bench", "run", run.matrix]
    if more is None:
        return shlex.join([*command, "--until-decided"])
    seeds = sorted({cell.seed for cell in run.cells})
    return with_seeds(command, [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + more)])


def with_seeds(words: Sequence[str], seeds: Sequence[int]) -> str:
    """A command of `run` that asks for these seeds.

    >>> with_seeds(["python", "-m", "bench", "run", "quick", "seeds=[0,1]", "--results", "my results"], [0, 1, 2])
    "python -m bench run quick 'seeds=[0,1,2]' --results 'my results'"
    """
    asked = f"seeds=[{','.join(map(str, seeds))}]"
    before = [place for place, word in enumerate(words) if word.startswith("seeds=")]
    place = before[0] if before else [*words, "run"].index("run") + 2
    words = [word for word in words if not word.startswith("seeds=")]
    return shlex.join([*words[:place], asked, *words[place:]])


def _with_clips(made: Prospect, row: MeasureRow) -> Prospect:
    """The same, where the bias of a small n is most of the best distance, with the n that would make it a third."""
    kind, _ = read_name(row.name) or (None, "")
    num, floor = metrics.num_clips(row.name), row.references["real"][1] if "real" in row.references else 0.0
    best = min(entry.interval.mean for entry in row.entries if entry.interval)
    if kind is None or kind.bias != "1/n" or num is None or floor <= 0 or best >= MIN_FLOORS * floor:
        return made
    clips = clips_needed(best, floor, num)
    if clips is None:
        return replace(made, sentence=f"{made.sentence}; {num} clips are too few to tell them from real ones")
    told = f"{made.sentence}; {num} clips are few for it, {metrics.count(clips)} would make their bias a third of the best distance"
    return replace(made, clips=clips, sentence=told)


def clips_needed(distance: float, floor: float, num: int) -> int | None:
    """The n at which a distance is `MIN_FLOORS` floors, of a bias that falls as 1/n; None where it is all bias, or that would be very many.

    Of `distance` at `num` clips the floor is bias, and of what is left it must be half: floor num/n = (distance - floor) / 2.

    >>> clips_needed(20.0, 10.0, 64), clips_needed(9.0, 10.0, 64)
    (128, None)
    """
    left = distance - floor
    clips = (MIN_FLOORS - 1) * floor * num / left if left > 0 else math.inf
    return None if clips > MOST_CLIPS else math.ceil(clips / ROUND_CLIPS) * ROUND_CLIPS


def _first_sentence(run: Run, number: int | None, seeds: int, spread: bool) -> str:
    """Of fewer seeds than can carry anything. `spread`: whether anything is known of it."""
    needed = _seeds_text(run, (number or MIN_SEEDS) - seeds)
    if not spread:
        return f"{needed} are the least that can carry it"
    seen = "usual for this measure" if seeds < 2 else "between the two there are"
    if number is None:
        return f"{needed} are the least that can carry it, and at the spread {seen} they would hardly do"
    return f"{needed} would probably decide, at the spread {seen}"


def _sentence(run: Run, number: int | None, seeds: int, chance: float, word: Said, spreads: float) -> str:
    """Of seeds that tell a spread, which is `spreads` times in the difference."""
    if number is not None:
        needed = _seeds_text(run, number - seeds)
        return f"{needed} would {'probably decide' if word == 'probably' else f'decide in about {round(10 * chance)} of 10 cases'}"
    if run.looks and seeds >= run.looks.most:
        return f"All {seeds} seeds that its looks may take are taken"
    most = run.looks.most if run.looks else MOST
    part = PARTS[min(PARTS, key=lambda part: abs(part - spreads))] if spreads >= 0.075 else "less than a tenth of"
    why = f"the difference is {part} the spread between seeds" if spreads < 0.8 else f"it would take more than {most} of each"
    if word == "unknown":
        return f"{words.number(seeds).capitalize()} seeds do not tell how many more would decide; as far as they do, {why}"
    return f"{f'{most} seeds each will' if run.looks else 'More seeds will'} hardly decide: {why}"


def _seeds_text(run: Run, more: int) -> str:
    """'Two more seeds each, about 9 minutes,'."""
    return f"{words.number(more).capitalize()} more seed{'s' if more > 1 else ''} each{_time_text(_minutes(run, more))}"


def _time_text(minutes: float | None) -> str:
    """', about 9 minutes,'."""
    if minutes is None:
        return ""
    if minutes < 90:
        rounded = max(1, round(minutes))
        return f", about {rounded} minute{'s' if rounded > 1 else ''},"
    return f", about {metrics.number(minutes / 60, 2)} hours,"
