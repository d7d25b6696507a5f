"""The archive's command: every committed report again, and before that a finished run into the archive."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.shapes import Refusal, lines_of

FinishedRuns = Annotated[
    list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders of finished runs, as results/quick, to archive first.")
]


def main(runs: FinishedRuns = None) -> None:
    """Make every report of results/reference again, in reports/reference. Run it in a checkout's root."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `report` does, before anything loads that library
    from bench.report import archive

    try:
        for run in runs or ():
            kept, left_out = archive.keep(run, archive.ARCHIVE)
            typer.echo(f"{kept}: without {', '.join(left_out) or 'nothing'}")
        for page in archive.make_reports(archive.ARCHIVE, archive.REPORTS):
            typer.echo(page)
    except (Refusal, OSError) as error:
        raise SystemExit("\n".join(f"error: {line}" for line in lines_of(error))) from None


if __name__ == "__main__":
    typer.run(main)
