"""One table of a report: what the page shows as text, and beside it the same rows unrounded, in SI units and bytes.

Markdown and LaTeX show what the page shows; the CSV holds the unrounded rows.
"""

import re
from collections.abc import Sequence
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


def stacked(table: Table, columns: Sequence[int], title: str) -> Table:
    """The table with these columns below each other, a line a value and whose it is: as narrow with eight as with two. Its CSV stays wide.

    >>> stacked(Table("t", "", ("size", "a", "b", "c"), (("x", "1", "2", "1"),)), (1, 2, 3), "of").rows
    (('x', 'a, c', '1'), ('', 'b', '2'))
    """
    lines: list[tuple[str, ...]] = []
    bold = set()
    others = [place for place in range(1, len(table.header)) if place not in columns]
    for place, row in enumerate(table.rows):
        users: dict[tuple[str, bool], list[str]] = {}
        for column in columns:
            users.setdefault((row[column], (place, column) in table.bold), []).append(table.header[column])
        for number, ((text, best), names) in enumerate(users.items()):
            whose = "all" if len(users) == 1 else ", ".join(names)
            bold |= {(len(lines), 2)} if best else set()
            lines.append(("" if number else row[0], whose, text, *("" if number else row[other] for other in others)))
    header = (table.header[0], title, "Value", *(table.header[other] for other in others))
    wide = table.data if table.data is not None else pd.DataFrame(list(table.rows), columns=list(table.header))
    return Table(table.name, table.caption, header, tuple(lines), bold=frozenset(bold), data=wide)


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
    styler = frame.style.hide(axis="index").format(escape_latex).apply(lambda _: weights, axis=None)
    styler = styler.format_index(lambda column: escape_latex(table.header[int(str(column))]), axis="columns")
    return styler.to_latex(
        hrules=True, column_format="l" * len(table.header), caption=escape_latex(table.caption), label=f"tab:{table.name}"
    )


def escape_latex(text: Any) -> str:
    return "".join(_LATEX.get(char, char) for char in visible(" ".join(str(text).split())))
