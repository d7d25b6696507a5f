"""paper.tex: a run as one small table that a column of an article takes as it is, by `\\input{paper.tex}`."""

import statistics
import textwrap
from collections.abc import Sequence

from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render import words
from bench.report.render.budget import budget_text
from bench.report.render.table import NONE, escape_latex
from bench.report.verdicts import compare
from bench.report.verdicts.compare import Entry, MeasureRow
from bench.report.verdicts.ratios import shown_rows

MOST_ROWS = 10
MOST_ABREAST = 3  # contenders as columns; of more, each is a row and these are the measures beside it
HEAD_WIDTH = 14  # characters of a head of a column
RULES = ("toprule", "midrule", "bottomrule")  # of booktabs; lines of LaTeX itself where an article has no booktabs


def to_paper(run: Run, rows: Sequence[MeasureRow]) -> str:
    """The table; "" of a run without two contenders that have values."""
    shown = _shown(run, rows)
    if len(run.contenders) < 2 or not shown:
        return ""
    if len(run.contenders) <= MOST_ABREAST:
        header = ["", *map(escape_latex, run.contenders)]
        lines = [[escape_latex(_title(row)), *(_value(row, entry) for entry in row.entries)] for row in shown[:MOST_ROWS]]
    else:
        shown = shown[:MOST_ABREAST]
        header = ["", *(stack(_title(row)) for row in shown)]
        order = sorted(range(len(run.contenders)), key=lambda place: _rank(shown[0], shown[0].entries[place]))[:MOST_ROWS]
        lines = [[escape_latex(run.contenders[place]), *(_value(row, row.entries[place]) for row in shown)] for place in order]
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            *(rf"\providecommand{{\{rule}}}{{\hline}}" for rule in RULES),
            rf"\caption{{{escape_latex(_caption(run, shown))}}}",
            rf"\label{{tab:{''.join(char for char in run.matrix if char.isalnum() or char == '-')}}}",
            rf"\centering\{'footnotesize' if len(header) < 4 else 'scriptsize'}\setlength{{\tabcolsep}}{{3pt}}",
            rf"\begin{{tabular}}{{@{{}}l{'r' * (len(header) - 1)}@{{}}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _shown(run: Run, rows: Sequence[MeasureRow]) -> list[MeasureRow]:
    """What an article says of a contender: the distances that stand for quality, then the axes of the page's picture."""
    quality = [row for row in compare.leading(run, rows) if row.verdict]
    others = [row for row in shown_rows(run, rows).values() if row not in quality]
    return [*quality, *others]


def _title(row: MeasureRow) -> str:
    """'FVD', 'Training rate [clip/s]', with the direction that is better."""
    title = row.metric.plain.axis or metrics.find(row.name.partition("@")[0]).title
    unit = f" [{row.unit}]" if row.unit else ""
    return f"{title}{unit} {'↓' if row.better == 'lower' else '↑'}"


def stack(title: str) -> str:
    """A head of a column in lines."""
    lines = map(escape_latex, textwrap.wrap(title, HEAD_WIDTH, break_long_words=False))
    return r"\shortstack[r]{" + r"\\".join(lines) + "}"


def _value(row: MeasureRow, entry: Entry) -> str:
    """Mean and half of its interval; in bold who leads."""
    if entry.interval is None:
        return escape_latex(NONE)
    text = row.text(entry.interval.mean)
    if entry.interval.high is not None and len({value for _, value in entry.by_seed}) > 1:
        low, mean, high = entry.interval.low, entry.interval.mean, entry.interval.high
        half = max(high - mean, mean - (mean if low is None else low))  # of a share's, which ends where a share does, the longer one
        text += f" ± {metrics.number(half / row.divisor, 2)}"
    return rf"\textbf{{{escape_latex(text)}}}" if row.carried_by(entry) else escape_latex(text)


def _rank(row: MeasureRow, entry: Entry) -> float:
    """Smaller is better; a contender without a value is last."""
    values = [value for _, value in entry.by_seed]
    if not values:
        return float("inf")
    return statistics.fmean(values) * (1 if row.better == "lower" else -1)


def _caption(run: Run, shown: Sequence[MeasureRow]) -> str:
    """Seeds, n, data and budget, and what the signs mean."""
    seeds = sorted({len({cell.seed for cell in run.of(name)}) for name in run.contenders})
    several = max(seeds) > 1
    n = sorted({num for row in shown if row.metric.distance and (num := metrics.num_clips(row.name))})
    parts = [f"{run.matrix}: {' to '.join(words.number_of(num, 'seed') for num in dict.fromkeys([seeds[0], seeds[-1]]))} each"]
    parts += [f"distances of n = {', '.join(map(str, n))} clips"] if n else []
    if run.records:
        cell = run.records[0].cell
        parts += [cell.data.source, budget_text(cell.budget.axis, cell.budget.amount)]
    signs = "Mean ± half its 95 % interval over seeds; bold: leads." if several else "One run each, so no interval; bold: exact, and leads."
    more = f" The best {MOST_ROWS} of {len(run.contenders)}." if len(run.contenders) > MOST_ROWS else ""
    return f"{'; '.join(parts)}. {signs}{more}"
