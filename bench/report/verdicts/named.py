"""The contrasts that a matrix names before it runs: of each its two contenders and who is better by the primary measure. Knows no torch.

A headline of contrasts rests on these tests alone, each Welch's of two contenders over their seeds, all corrected together (claims.py).
Further contenders (`include` beside `axes`) that fix what the two sides fix, and agree on all else, such as a budget of clips in the place
of seconds, are the same contrast under another condition: shown beside it, corrected with the rest of the page.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pandas as pd

from bench.data.frozen import content_hash
from bench.report.load import Run
from bench.report.render import words
from bench.report.render.budget import budget_text
from bench.report.render.table import NONE, Table
from bench.report.verdicts import stats
from bench.report.verdicts.claims import Key
from bench.report.verdicts.compare import MeasureRow, seed_interval, who_leads, why_not_comparable
from bench.report.verdicts.stats import Verdict

NAMED = "named"  # first part of a key: ("named", title, measure, condition)
USED = ("train_samples", "train_wall_time_s", "train_flops")  # what each contender was given, beside what it came to
MOST_MEASURES = 3  # of quality, in the table of contenders


@dataclass(frozen=True, kw_only=True)
class ContrastVerdict(Verdict):
    """A verdict between the two sides of a contrast, which it knows by name."""

    title: str
    sides: tuple[str, str]  # contenders, in the matrix's order

    @property
    def first_better(self) -> bool:
        """Whether the first side is ahead, carried or not."""
        return self.leader == self.sides[0]


@dataclass(frozen=True, kw_only=True)
class NamedContrast:
    """A contrast under one condition."""

    title: str
    under: dict[str, Any]  # axes that both sides fix beside those of the contrast; {}: the headline's own
    budget: tuple[str, float]  # axis and amount
    sides: tuple[str, str]  # contenders
    row: MeasureRow
    by_seed: tuple[tuple[float, ...], tuple[float, ...]]
    missing: dict[str, str]  # contender -> why some of its seeds have no value
    verdict: ContrastVerdict

    @property
    def main(self) -> bool:
        """Whether the headline rests on it."""
        return not self.under

    @property
    def condition(self) -> str:
        """The budget that both have."""
        return budget_text(*self.budget)

    def mean_text(self, contender: str) -> str:
        """'18.2 [15.1, 21.3]', over seeds."""
        return interval_text(self.row, self.by_seed[self.sides.index(contender)])


def interval_text(row: MeasureRow, values: Sequence[float]) -> str:
    """Mean and 95 % t-interval as a reader sees them; a dash without a value."""
    if not values:
        return NONE
    found = seed_interval(values, row.metric)
    bounds = "" if found.low is None or found.high is None else f" [{row.text(found.low)}, {row.text(found.high)}]"
    return f"{row.text(found.mean)}{bounds}"


def compared(title: str, sides: tuple[str, str], verdict: Verdict) -> ContrastVerdict:
    """A verdict of two contenders as that of a contrast."""
    return ContrastVerdict(**{each.name: getattr(verdict, each.name) for each in fields(Verdict)}, title=title, sides=sides)


def key_of(title: str, measure: str, under: Mapping[str, Any]) -> Key:
    """A contrast among all findings."""
    return NAMED, title, measure, content_hash(dict(under))[:8] if under else ""


def named_contrasts(run: Run, rows: Sequence[MeasureRow]) -> list[NamedContrast]:
    """Every contrast that the run names, the headline's first, then under every further condition; none without the primary measure."""
    row = next((row for row in rows if row.subject == "trained" and row.name.partition("@")[0] == run.primary), None)
    if row is None:
        return []
    of_main = {content_hash(cell.axes): cell.contender for cell in run.cells if not cell.further}
    found, others = [], list[NamedContrast]()
    for title, (first, second) in run.contrasts.items():
        pair = tuple(of_main.get(content_hash(axes)) for axes in (first, second))
        if pair[0] is not None and pair[1] is not None:
            found.append(_contrast(run, row, title, (pair[0], pair[1]), {}))
        further = [_beyond(run, axes) for axes in (first, second)]
        for key, (under, contender) in further[0].items():
            if key in further[1]:
                others.append(_contrast(run, row, title, (contender, further[1][key][1]), under))
    return found + others


def _beyond(run: Run, axes: Mapping[str, Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """Further contenders that fix all of these axes: what they fix beside, by its hash, and whose label it is."""
    found = {}
    for cell in run.cells:
        if cell.further and all(key in cell.axes and cell.axes[key] == value for key, value in axes.items()):
            under = {key: value for key, value in cell.axes.items() if key not in axes}
            found[content_hash(under)] = under, cell.contender
    return found


def _contrast(run: Run, row: MeasureRow, title: str, sides: tuple[str, str], under: dict[str, Any]) -> NamedContrast:
    lines = run.measurements
    own = lines[(lines["name"] == row.name) & (lines["subject"] == "trained") & lines["contender"].isin(sides)]
    values = {name: values_of(run, name, row.name) for name in sides}
    missing = {name: why for name in sides if (why := run.missing(name, row.name))}
    incomparable = why_not_comparable(run, own, row.metric)
    verdict = who_leads(run, row.name, values, better=row.better, missing=missing, incomparable=incomparable)
    return NamedContrast(
        title=title,
        under=under,
        budget=_budget(run, sides[0]),
        sides=sides,
        row=row,
        by_seed=(tuple(values[sides[0]]), tuple(values[sides[1]])),
        missing=missing,
        verdict=compared(title, sides, verdict),
    )


def values_of(run: Run, contender: str, name: str) -> list[float]:
    """A contender's valid trained values of a measurement, one a seed."""
    lines = run.measurements
    own = lines[(lines["name"] == name) & (lines["subject"] == "trained") & (lines["contender"] == contender)]
    return own.loc[own["invalid"].isna(), "value"].tolist()


def decided(each: NamedContrast, verdict: Verdict) -> NamedContrast:
    """The contrast with its verdict corrected."""
    assert isinstance(verdict, ContrastVerdict)
    return replace(each, verdict=verdict)


def _budget(run: Run, contender: str) -> tuple[str, float]:
    known = next((cell.record.cell.budget for cell in run.of(contender) if cell.record), None)
    return (known.axis, known.amount) if known else ("", 0.0)


def named_tables(run: Run, rows: Sequence[MeasureRow], contrasts: Sequence[NamedContrast]) -> list[Table]:
    """Two tables a condition: what each contender came to, and what the contrasts say of them."""
    made: list[Table] = []
    for place, members in enumerate(_by_condition(contrasts)):
        axis = members[0].budget[0]
        used = {table.name.removeprefix("equal-") for table in made}
        slug = (axis or "budget").replace("_", "-")
        slug = slug if slug not in used else f"{slug}-{place + 1}"
        made += [_contender_table(run, rows, members, f"equal-{slug}"), _contrast_table(members, f"named-{slug}")]
    return made


def _by_condition(contrasts: Sequence[NamedContrast]) -> list[list[NamedContrast]]:
    groups: dict[str, list[NamedContrast]] = {}
    for each in contrasts:
        groups.setdefault(content_hash([each.under, *each.budget] if each.under else []), []).append(each)
    return list(groups.values())


def _contender_table(run: Run, rows: Sequence[MeasureRow], members: Sequence[NamedContrast], name: str) -> Table:
    """All contenders that the condition has, main or further, by the leading measures of quality and by what they were given."""
    under = members[0].under
    labels = list(run.contenders) if not under else _labels_under(run, under)
    quality = [row for row in rows if row.subject == "trained" and row.metric.distance and row.metric.axis]
    first = members[0].row
    shown = [first, *(row for row in quality if row.name != first.name)][:MOST_MEASURES]
    given = [row for what in USED for row in rows if row.name == what and row.subject == "trained"]
    lines, data = [], []
    for label in labels:
        values = {row.name: values_of(run, label, row.name) for row in (*shown, *given)}
        texts = [interval_text(row, values[row.name]) for row in shown]
        texts += [row.text(statistics.fmean(values[row.name])) if values[row.name] else NONE for row in given]
        lines.append((label, *texts, str(len(values[first.name]))))
        means = {each: statistics.fmean(series) if series else None for each, series in values.items()}
        data.append({"contender": label, "seeds": len(values[first.name]), **means})
    header = ("Contender", *(row.titled() for row in (*shown, *given)), "Seeds")
    caption = f"Every contender at {members[0].condition}: mean over seeds, 95 % interval"
    return Table(name, caption, header, tuple(lines), data=pd.DataFrame(data))


def _labels_under(run: Run, under: Mapping[str, Any]) -> list[str]:
    """Further contenders that fix just this beside what the main ones fix."""
    main = [cell.axes for cell in run.cells if not cell.further]
    found = [cell.contender for cell in run.cells if cell.further for axes in main if cell.axes == {**axes, **under}]
    return list(dict.fromkeys(found))


def _contrast_table(members: Sequence[NamedContrast], name: str) -> Table:
    """One line a contrast: both means, their difference, who is better and how sure that is."""
    lines, data = [], []
    for each in members:
        verdict, row, (first, second) = each.verdict, each.row, each.sides
        p_value = NONE if verdict.corrected is None else words.p_value(verdict.corrected).removeprefix("p ").removeprefix("= ")
        series = each.by_seed
        difference = stats.welch(*series) if all(series) else None
        text = NONE if difference is None else f"{row.signed(difference.value)} {row.signed_bounds(difference)}".rstrip()
        lines.append((each.title, first, each.mean_text(first), second, each.mean_text(second), text, verdict.told, p_value))
        means = [statistics.fmean(values) if values else None for values in series]
        found = asdict(difference) if difference else dict.fromkeys(("value", "low", "high", "p_value"))
        seen: dict[str, Any] = {
            "contrast": each.title,
            "condition": each.condition,
            "measurement": row.name,
            "first": first,
            "second": second,
        }
        seen |= {"first_mean": means[0], "second_mean": means[1], "difference": found["value"], "low": found["low"], "high": found["high"]}
        judged = {"p_value": verdict.p_value, "corrected_p": verdict.corrected, "outcome": verdict.outcome, "ahead": verdict.leader}
        data.append(seen | judged | {"headline": each.main, "reason": verdict.reason})
    header = ("Contrast", "One", "Its mean", "Other", "Its mean", "One less other, 95 %", "Better", "p")
    whose = "of the headline, named before the run" if members[0].main else "of the rest of the page: they cannot turn the headline"
    caption = (
        f"The contrasts at {members[0].condition}, by {members[0].row.titled()}: tests {whose}; p is corrected for their number (Holm)"
    )
    return Table(name, caption, header, tuple(lines), data=pd.DataFrame(data))
