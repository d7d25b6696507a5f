"""A table of Markdown, as GitHub draws it, and text that cannot become markup."""

import html
import re
from collections.abc import Iterable, Sequence

from bench.shapes import visible


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], figures: Sequence[int] = ()) -> str:
    """The table without a last line end. Cells are Markdown already; a bar in one does not end it. Columns `figures` are set to the right.

    >>> print(markdown_table(["name", "value"], [["a|b", "1"]], figures=[1]))
    | name | value |
    |---|---:|
    | a\\|b | 1 |
    """
    rule = "".join("---:|" if place in figures else "---|" for place in range(len(header)))
    return "\n".join([_line(header), f"|{rule}", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    escaped = (re.sub(r"(?<!\\)[|]", r"\\|", cell) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def markdown(text: str) -> str:
    """Text from a record as one line of Markdown, without any markup of its own."""
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", html.escape(visible(" ".join(text.split())), quote=False))


def fenced(text: str) -> str:
    """Text from a record as a block of code, which nothing in it ends."""
    return f"```\n{visible(text.replace('```', ''))}\n```"
