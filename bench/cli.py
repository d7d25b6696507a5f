"""The command line: arguments to calls, nothing else. Whatever is heavy is imported inside the command that needs it."""

import io
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from bench.commands.arguments import EXIT_BAD_INPUT, EXIT_CELL_FAILED, EXIT_STOPPED, RESULTS, MatrixName, Overrides, Results
from bench.commands.record import record
from bench.commands.untrained import audit, battery, profile, score
from bench.commands.weights import weights
from bench.shapes import Refusal, lines_of

app = typer.Typer(
    help="Should a video diffusion model be a U-Net or a DiT? Measures both on the same data under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(weights, name="weights")


@app.command()
def run(
    matrix: MatrixName,
    overrides: Overrides = None,
    results: Results = RESULTS,
    until_decided: Annotated[bool, typer.Option("--until-decided", help="Add seeds until the headline is carried or hopeless.")] = False,
    hours: Annotated[float | None, typer.Option(min=0, help="Of --until-decided: add no seed that would end later.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(min=0, help="Scale MATRIX down until its expected time fits.")] = None,
    on: Annotated[str, typer.Option("--on", metavar="LAUNCHER", help="Where cells run: local, slurm or ray.")] = "local",
    devices: Annotated[
        str | None, typer.Option(metavar="0,1|cpu,cpu", help="Of local: a cell at once on each. By default every GPU, or one CPU.")
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="Tell how it goes to tensorboard, wandb or jsonl (a file a cell); repeat it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--with", metavar="KEY=VALUE|FILE", help="Of slurm and ray: an option, or a .yaml file of them.")
    ] = None,
) -> None:
    """Train, sample and measure every cell of MATRIX that is not finished yet. Stop it at any time; the same command goes on."""
    from rich.console import Console

    from bench.data.progress import say
    from bench.report.render.console import summary
    from bench.run.extra import check_trackers
    from bench.run.launch import run_all
    from bench.run.launchers.table import launcher
    from bench.study.matrix import load_study

    if devices is not None and on != "local":
        raise Refusal(f"--devices {devices} is of this machine, and --on {on} chooses its own; leave it out, or give --with gpus=1")
    if settings and on == "local":
        raise Refusal(f"--with {settings[0]} is of slurm and ray; on this machine there is --devices")
    if hours is not None and not until_decided:
        raise Refusal(f"--hours {hours:g} is of --until-decided; give both, or neither")
    if budget_minutes is not None and until_decided:
        raise Refusal(f"--budget-minutes {budget_minutes:g} makes a study small, --until-decided makes it grow; give one of the two")
    console = Console(highlight=False, soft_wrap=True)
    check_trackers(track or ())
    study, command = load_study(matrix, overrides), "python -m bench " + shlex.join(sys.argv[1:])
    study = study.model_copy(update={"track": tuple(dict.fromkeys(track or ()))})
    where = launcher(on, settings or [], {"devices": devices} if devices is not None else {})
    if until_decided:
        from bench.commands.decide import run_until_decided  # and with it the report's rules

        records = run_until_decided(study, results, say, command, hours, where)
    elif study.matrix.forecast is not None:
        from bench.commands.foresee import run_foreseen  # and with it the fit of the report

        records = run_foreseen(study, results, say, command, budget_minutes, where)
    else:
        records = run_all(study, results, say, command, budget_minutes, where)
    console.print(summary(records))
    failures = [failure for record in records for failure in record.failures()]
    for failure in failures:
        console.print(failure, markup=False)
    console.print(f"report: python -m bench report {shlex.quote(str(results / records[0].matrix))}", markup=False)
    raise typer.Exit(EXIT_CELL_FAILED if failures else 0)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs, or names of matrices in the results folder.")],
    results: Results = RESULTS,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the report; reports/<run> by default.")] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Report what there is where cells have no record yet.")] = False,
) -> None:
    """Write the report of finished runs: one page, and its tables as Markdown, CSV and LaTeX. What failed is a result and is shown."""
    # Its products are small, and threads that wait for each other by spinning made it ten times as long on a busy machine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from bench.report import build

    folders = [Path(name) if Path(name).is_dir() else results / name for name in runs]
    for path in build(folders, out, unfinished=unfinished):
        typer.echo(path)


@app.command()
def sample(
    cell: Annotated[Path, typer.Argument(help="Folder of a finished cell.")],
    num_clips: Annotated[int, typer.Option("--num-clips", "-n", min=1, help="How many clips.")] = 16,
    shape: Annotated[
        str | None, typer.Option(metavar="TxHxW", help="Frames, height, width of every clip, in pixels. By default as scored.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", metavar="TEXT", help="What is to be seen; repeat it, and clips take them in turn.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="A text file of prompts, one a line.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write, .npz; more-samples.npz in the cell's folder by default.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Make more clips from a finished cell's weights; they go on after those of its record. Also writes a picture of them."""
    from bench.commands.prompts import read_prompts
    from bench.records.store import latest
    from bench.report.page.sheets import gallery
    from bench.run.launch import sample_cell
    from bench.shapes import parse_shape

    record = latest(cell)
    if record is None or record.status != "ok" or not record.cell.evaluation.num_samples:
        raise Refusal(f"no finished cell with samples in {cell}; `python -m bench ls` lists runs")
    if not cell.resolve().is_relative_to(results.resolve()):
        raise Refusal(f"cell {cell} is not inside the results folder {results}; name its results folder with --results")
    path = out or cell / "more-samples.npz"
    if path.suffix != ".npz":
        raise Refusal(f"--out {path} must end in .npz")
    texts = read_prompts(prompt or (), prompts)
    sample_cell(record, cell, results, num_clips, parse_shape(shape, "--shape") if shape else None, path, texts)
    typer.echo(path)
    typer.echo(gallery(path))


app.command()(score)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run's folder; or a score.json or the folder that holds it.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another of the same.")],
) -> None:
    """Two runs of one matrix, A before and B after, or two scores, side by side; refused, with what differs, unless measured alike."""
    from bench.commands.compare import comparison

    typer.echo(comparison(first, second), nl=False)


app.command()(battery)


@app.command()
def check(
    base: Annotated[str | None, typer.Option(help="Revision to compare with: both are measured here, their steps in turn.")] = None,
    head: Annotated[str | None, typer.Option(help="Revision to judge. By default HEAD, and then the work tree must be clean.")] = None,
    against: Annotated[Path | None, typer.Option(help="Instead, compare with numbers stored on this machine; coarser.")] = None,
    save: Annotated[Path | None, typer.Option(help="Instead, store the numbers of HEAD in this file.")] = None,
    runs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="BASE HEAD", help="Instead, compare quality in the records of two finished runs, by the policy's `quality`."),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML file of limits; see bench/perf/gate/policy.yaml.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Benchmarks to take, for example 'train/*'; repeat it for several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for check.md, check.json, junit.xml, base.json and head.json.")] = None,
) -> None:
    """Is this revision slower than BASE, or does it hold more? Times are judged by evidence, counters exactly; made for shared CI machines.

    Exit status: 0 no regression, 1 regressed, 2 bad arguments, 3 too noisy to tell, 10 dirty work tree, 11 unknown revision, 12 does not
    build, 13 a benchmark is missing on one side, 14 no reference, 15 reference of another machine, 16 another suite.
    """
    from bench.perf.gate.command import run as run_check
    from bench.perf.gate.exits import CheckRefused

    try:
        status = run_check(base, head, against, save, runs, policy, only or [], out, typer.echo)
    except CheckRefused as refused:
        typer.echo(f"error: {refused}", err=True)
        raise typer.Exit(int(refused.exit)) from refused
    raise typer.Exit(int(status))


for command in (profile, audit, record):
    app.command()(command)


@app.command()
def validate(
    what: Annotated[str, typer.Argument(metavar="MATRIX|RUN", help="Name of a shipped matrix, a .yaml file, or a finished run's folder.")],
    overrides: Overrides = None,
    results: Results = RESULTS,
) -> None:
    """Check all of MATRIX that `run` checks, and print its cells and rivals; or whether a finished RUN may be cited, and why not."""
    from bench.commands.listing import is_run, print_study, print_validity
    from bench.run.expected.fit import planned
    from bench.run.launch import check_study, ready
    from bench.study.matrix import load_study

    if is_run(what):
        if overrides:
            raise Refusal(f"override {overrides[0]!r} is for a matrix, and {what} is a finished run")
        raise typer.Exit(0 if print_validity(Path(what)) else EXIT_CELL_FAILED)
    study = ready(load_study(what, overrides), results, typer.echo)
    check_study(study, results)
    print_study(study)
    planned(study, results.resolve(), typer.echo, None)


@app.command(name="ls")
def list_all(results: Results = RESULTS) -> None:
    """List matrices, backbones, data sources, recorders, metrics and runs."""
    from bench.commands.listing import print_all

    print_all(results)


def main() -> NoReturn:
    """Entry point: every expected error is one line on standard error and an exit status of its own."""
    from bench.data.sealed import show_in_one_line
    from bench.run.job import TRACEBACK
    from bench.run.process import Refused, Stopped
    from bench.run.threads import CALM

    show_in_one_line()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no arrows is no reason to fail
    for number in (signal.SIGTERM, signal.SIGHUP):  # of schedulers and of a terminal that is closed: as Ctrl-C
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)
    for name, value in CALM.items():  # read when torch is loaded, which no command has done yet
        os.environ.setdefault(name, value)
    try:
        app(standalone_mode=True)
    except Stopped as stopped:
        typer.echo(str(stopped), err=True)
        sys.exit(EXIT_STOPPED)
    except Refused:  # its process has said why
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(EXIT_STOPPED)
    except (Refusal, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        for line in lines_of(error):
            typer.echo(f"error: {line}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(0)
