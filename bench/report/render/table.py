"""One table of a report: what the page shows as text, and beside it the same rows unrounded, in SI units and bytes.

Markdown and LaTeX show what the page shows; the CSV holds the unrounded rows.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.report.render import catalogue as metrics
from bench.report.render.markdown import markdown, markdown_table
from bench.shapes import visible

NONE = metrics.DASH
FORMULA = ("=", "+", "-", "@")
_NUMBERS = re.compile(r"\s*[-+][\d.]+(e[-+]?\d+)?(\s+[-+]?[\d.]+(e[-+]?\d+)?)*\s*")


@dataclass(frozen=True)
class Table:
    """One table as text, with the cells that stand out, and its unrounded form."""

    name: str  # file name
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column) of best values
    data: pd.DataFrame | None = field(default=None, compare=False)  # for the CSV; None = the text itself

    def to_csv(self) -> str:
        """Unrounded, SI units and bytes."""
        frame = self.data if self.data is not None else pd.DataFrame(list(self.rows), columns=list(self.header))
        frame = frame.map(_no_formula).rename(columns=lambda name: _no_formula(str(name)))
        return frame.to_csv(index=False, lineterminator="\n")


def _no_formula(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would compute is quoted, by an apostrophe before it; numbers are as they are.

    >>> _no_formula("=HYPERLINK(1)"), _no_formula("-1.5 -2e-3"), _no_formula(-3.0)
    ("'=HYPERLINK(1)", '-1.5 -2e-3', -3.0)
    """
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.lstrip().startswith(FORMULA) and not _NUMBERS.fullmatch(value) else visible(value)


def plain(value: Any) -> str:
    """Any JSON value as a cell of a table."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)


def to_markdown(table: Table) -> str:
    """A GitHub table; best values in bold. Text from records cannot become markup."""
    lines = [[markdown(text) for text in row] for row in table.rows]
    for row, column in table.bold:
        value, _, rest = lines[row][column].partition(" ")
        lines[row][column] = f"**{value}** {rest}".rstrip()
    return f"{markdown(table.caption)}.\n\n{markdown_table([markdown(text) for text in table.header], lines)}\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{char: f"\\{char}" for char in "&%$#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    metrics.TIMES: r"$\times$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    metrics.MINUS: r"$-$",
    metrics.DASH: r"--",
    "µ": r"\textmu{}",
    "[": "{[}",  # a row that starts with [ would be read as the optional argument of \\
    "]": "{]}",
}


def to_latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs} and, for the best values, nothing else."""
    frame = pd.DataFrame([list(row) for row in table.rows], columns=range(len(table.header)))
    weights = frame.map(lambda _: "")
    for row, column in table.bold:
        weights.iloc[row, column] = "textbf:--rwrap;"
    styler = frame.style.hide(axis="index").format(_latex).apply(lambda _: weights, axis=None)
    styler = styler.format_index(lambda column: _latex(table.header[int(str(column))]), axis="columns")
    return styler.to_latex(hrules=True, column_format="l" * len(table.header), caption=_latex(table.caption), label=f"tab:{table.name}")


def _latex(text: Any) -> str:
    return "".join(_LATEX.get(char, char) for char in visible(" ".join(str(text).split())))
