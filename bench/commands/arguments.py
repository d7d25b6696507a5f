"""Arguments that several commands take, and what their exit statuses are."""

from pathlib import Path
from typing import Annotated

import typer

MatrixName = Annotated[str, typer.Argument(metavar="MATRIX", help="Name of a shipped matrix (see `ls`) or a .yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example budget.seconds=60.")]
Results = Annotated[Path, typer.Option("--results", help="Folder of records and caches.")]
RESULTS = Path("results")

EXIT_BAD_INPUT, EXIT_CELL_FAILED, EXIT_STOPPED = 2, 1, 130
