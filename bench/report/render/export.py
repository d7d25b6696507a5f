"""A table as Markdown, CSV or LaTeX.

Markdown and LaTeX show what the page shows; the CSV holds the same rows unrounded, in SI units and bytes.
"""

from typing import Any

import pandas as pd

from bench.report.render import catalogue as metrics
from bench.report.render.markdown import markdown, markdown_table
from bench.report.render.table import Table


def to_csv(table: Table) -> str:
    """Unrounded, SI units and bytes."""
    return table.frame.to_csv(index=False, lineterminator="\n")


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
    return "".join(_LATEX.get(char, char) for char in " ".join(str(text).split()))
