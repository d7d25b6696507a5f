"""What a run's verdict owes to the number of solver steps: `python -m bench.perf.evidence.solver_steps results/next-patch`.

The kept weights of every cell make the scored clips again, from the same noise, in fewer and in more steps, and the measure that was
named to decide judges them. Asked after a run and tested by nothing: it says whether a contender was held back by its sampler. Writes
reports/calibration/steps-<run>.csv, a row a cell and number of steps.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from bench.data.files import write_text
from bench.data.latents.autoencoder import decode_clips
from bench.data.progress import Reporter
from bench.report.load import CellResult, load_run
from bench.run.checks import judge_of
from bench.run.measure.quality import Quality
from bench.run.samples import finished_backbone, sample_scored
from bench.run.stages import reference_set
from bench.shapes import Refusal, lines_of

DEVICE = torch.device("cpu")


def rows_of(run: Path, primary: str, found: CellResult, steps: Sequence[int], progress: Reporter) -> Iterator[dict[str, object]]:
    """One for each number of steps: how far a cell's clips are from the test clips, made in so many from the noise of its scored ones.

    Refusal where its weights are gone or of other data, and for a `primary` that is no distance.
    """
    if (judge := judge_of(primary)) is None:
        raise Refusal(f"{primary} is no distance between clips, which this tries; name a run whose `primary` is one, such as fd_motion")
    if found.record is None:
        raise Refusal(f"{found.path} has no record; finish the cell with `python -m bench run {run.name}` first")
    cell, results = found.record.cell, run.parent.resolve()
    training, backbone = finished_backbone(cell, found.path, run.name, results, DEVICE, progress)
    quality = Quality(cell, reference_set(cell, training, results, DEVICE, progress), DEVICE, progress, results)
    for done, num_steps in enumerate(steps):
        progress(done, len(steps), f"{found.name} in {num_steps} steps")
        asked = cell.model_copy(update={"sampler": cell.sampler.model_copy(update={"num_steps": num_steps})})
        latents, _ = sample_scored(asked, backbone, training, DEVICE, progress)
        judged = quality.by_one(judge, decode_clips(training.autoencoder, latents))
        (one,) = (each for each in judged if each.name.split("@")[0] == primary.split("@")[0])
        yield {"contender": found.contender, "seed": found.seed, "num_steps": num_steps, "name": one.name, "value": one.value}


def numbers(text: str) -> list[int]:
    """'3,12' -> [3, 12]. Refusal for what is no list of positive numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise Refusal(f"--steps is {text!r}; give whole numbers above 0, such as 3,6,12,25")
    return [int(part) for part in parts]


def main(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run, as results/next-patch.")],
    steps: Annotated[str, typer.Option(help="Numbers of solver steps; of each unit where clips are made unit by unit.")] = "3,6,12,25,50",
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("reports/calibration"),
) -> None:
    """Sample and score every cell of RUN again in each number of steps."""
    try:
        run, asked = load_run(folder), numbers(steps)
        if run.primary is None:
            raise Refusal(f"{folder} names no measure that decides; run a matrix with `primary`")
        with Reporter("steps").live() as progress:
            rows = [row for cell in run.cells for row in rows_of(folder, run.primary, cell, asked, progress)]
    except (Refusal, OSError) as error:
        raise SystemExit("\n".join(f"error: {line}" for line in lines_of(error))) from None
    path = out / f"steps-{run.matrix}.csv"
    write_text(path, pd.DataFrame(rows).to_csv(index=False))
    typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
