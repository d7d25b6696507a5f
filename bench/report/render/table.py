"""One table of a report: what the page shows as text, and beside it the same rows unrounded, in SI units and bytes."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench.report.render import catalogue as metrics

NONE = metrics.DASH


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table as text, with the cells that stand out, and its unrounded form."""

    name: str  # file name
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column) of best values
    data: pd.DataFrame | None = field(default=None, compare=False)  # for the CSV; None = the text itself

    @property
    def frame(self) -> pd.DataFrame:
        """What the CSV holds."""
        return self.data if self.data is not None else pd.DataFrame(list(self.rows), columns=list(self.header))


def plain(value: Any) -> str:
    """Any JSON value as a cell of a table."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return str(value)
