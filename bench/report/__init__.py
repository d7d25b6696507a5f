"""The report: one self-contained HTML page, and the same tables as Markdown, CSV and LaTeX. The room is called: `bench.report(folder)`.

`build` reads run folders and writes files; what it writes depends on the records alone, so it can be repeated. Knows no torch.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench import CallableRoom
from bench.report.load import load_runs
from bench.shapes import Refusal

__all__ = ["build"]


def build(runs: str | Path | Sequence[str | Path], out: str | Path | None = None, *, unfinished: bool = False) -> list[Path]:
    """Write the report of a run's folder, or of several, into `out`, by default reports/<run>; the files written, the page first.

    StoreError for a folder without a run; Refusal where cells have no record, unless `unfinished` asks for what there is.
    """
    from bench.report.page import page

    found = load_runs(runs)
    if refused := [run for run in found.values() if run.unfinished and not unfinished]:
        raise Refusal(*(f"{run.matrix} is unfinished: {run.unfinished}, or report what there is with --unfinished" for run in refused))
    return page.write(list(found.values()), Path(out or Path("reports") / "-".join(folder.name for folder in found)))


called = build
sys.modules[__name__].__class__ = CallableRoom
