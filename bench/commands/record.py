"""The command `record`: arguments to calls. Whatever is heavy is imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from bench.shapes import Refusal, parse_size

MAX_FRAMES = 1000  # of a clip, which is held in memory


def record(
    recorder: Annotated[str, typer.Argument(metavar="RECORDER", help="One that `ls` lists, for example vizdoom.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the clips: new, or one that the same command began.")],
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many; classes take turns. More go on after those that are there.")],
    seed: Annotated[int, typer.Option(min=0, help="Clip k of a seed is the same however many there are.")] = 0,
    size: Annotated[
        str | None, typer.Option(help="64 or 48x64 (height x width): scale down to cover it and crop. By default as drawn.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, max=MAX_FRAMES, help="Of a clip. By default the recorder's own number.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="That draw at once; by default one a core. No clip depends on it.")] = None,
) -> None:
    """Render CLIPS of video into a folder, lossless, for `data.source=folder`. Stop it at any time; the same command goes on."""
    import os

    from bench.data.progress import Reporter
    from bench.data.recorders.crew import record_clips
    from bench.data.recorders.reel import MANIFEST, Reel, ReelConfig
    from bench.data.recorders.table import RECORDERS
    from bench.run.extra import needs

    found = RECORDERS.find(recorder)
    height, width = parse_size(size) or (found.height, found.width)
    if height > found.height or width > found.width:
        raise Refusal(f"--size {size} is larger than what {recorder} draws; give at most {found.height}x{found.width}, height first")
    if found.extra is not None:
        needs(found.package, extra=found.extra, asked=f"record {recorder}")
    asked = ReelConfig.of(found, seed=seed, num_frames=frames or found.num_frames, height=height, width=width)
    reel = Reel(folder=out, recorder=found, asked=asked, num_clips=clips)
    with Reporter("record").live() as progress, reel.begun() as missing:
        if missing:
            record_clips(reel, missing, processes or len(os.sched_getaffinity(0)), progress)
    typer.echo(out / MANIFEST)
