"""The report: one self-contained HTML page, and the same tables as Markdown, CSV and LaTeX. Knows no torch.

`build` reads run folders and writes files; what it writes depends on the records alone, so it can be repeated.
"""

from collections.abc import Sequence
from pathlib import Path

from bench.report.load import load_run
from bench.shapes import Refusal

__all__ = ["build"]


def build(run_folders: Sequence[Path], out: Path, *, unfinished: bool = False) -> list[Path]:
    """Write the report of one or several runs into `out`; the files written, the page first.

    StoreError for a folder without a run; Refusal where cells have no record, unless `unfinished` asks for what there is.
    """
    from bench.report.page import page

    if not run_folders:
        raise Refusal("a report needs at least one run folder, got none; name one, such as results/quick")
    runs = [load_run(Path(folder)) for folder in run_folders]
    if refused := [run for run in runs if run.unfinished and not unfinished]:
        raise Refusal(*(f"{run.matrix} is unfinished: {run.unfinished}, or report what there is with --unfinished" for run in refused))
    return page.write(runs, out)
