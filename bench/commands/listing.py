"""What `ls` and `validate` print. Knows no torch."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.backbone import import_plugin, known_modules
from bench.data.files import StoreError
from bench.data.frozen import flatten
from bench.data.physics.table import WORLDS
from bench.data.recorders.table import RECORDERS
from bench.data.source import describe, sources
from bench.metrics.distances.table import distances
from bench.metrics.extractors.manifest import FRAME, MANIFESTS
from bench.metrics.pixels.table import pixel_measures
from bench.metrics.protocol import CANONICAL_EXTRACTOR
from bench.records.store import RUN, latest, read_run, run_folders
from bench.report.load import load_run
from bench.report.verdicts import validity
from bench.shapes import Refusal, visible
from bench.study import matrix as matrices
from bench.study.cell import differences
from bench.study.contrasts import told
from bench.study.matrix import Study


def print_study(study: Study) -> None:
    """The resolved cells of a study and, for every pair of rivals, the fields that differ."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(study.name)}[/]: {escape(visible(study.matrix.description))}")
    for title, sides in study.contrasts.items():
        console.print(f"  asks {told({title: sides})}", markup=False)
    flat = [flatten(named.cell.model_dump(mode="json")) for named in study.cells]
    shared = {key: value for key, value in flat[0].items() if all(other.get(key, ...) == value for other in flat)}
    console.print("\n[bold]all cells[/]")
    for key, value in shared.items():
        console.print(f"  {key} = {value}", markup=False)
    for named, fields in zip(study.cells, flat, strict=True):
        console.print(f"\n[bold]{escape(named.name)}[/]  fingerprint {named.cell.fingerprint()[:8]}")
        for key, value in fields.items():
            if key not in shared:
                console.print(f"  {key} = {value}", markup=False)
    for first, second in study.rivals():
        console.print(f"\n[bold]{escape(first.name)} against {escape(second.name)}[/]")
        for key, a, b in differences(first.cell, second.cell):
            console.print(f"  {key}: {a} | {b}", markup=False)
    console.print(f"\n{len(study.cells)} cells, valid")


def is_run(what: str) -> bool:
    """Whether an argument names a folder, of a run, and no matrix."""
    return (Path(what) / RUN).is_file() or (Path(what).is_dir() and what not in matrices.shipped())


def print_validity(folder: Path) -> bool:
    """Whether a finished run may be cited: "valid", or every reason why not. StoreError where its snapshot cannot be read."""
    run = load_run(folder)
    found = validity.check(run)
    notes = [answer.detail for answer in found.answers[:1] if answer.detail]
    console = Console(highlight=False, soft_wrap=True)
    for line in ["; ".join(["valid", *notes])] if found.valid else found.lines:
        console.print(visible(line), markup=False)
    return found.valid


def print_all(results: Path) -> None:
    """Matrices, backbones, data sources, physics worlds, recorders, metrics and runs."""
    console = Console(highlight=False)
    _print_table(console, "matrices", [(name, _description(name)) for name in matrices.shipped()])
    _print_table(console, "backbones", [(f"{name}:", _backbones(name)) for name in known_modules()])
    _print_table(console, "data", [(name, describe(name)) for name in sources()])
    _print_table(console, "physics worlds", [(name, WORLDS.find(name).says) for name in WORLDS.names()])
    _print_table(console, "recorders", [(name, _recorder(name)) for name in RECORDERS.names()])
    extractors = sorted(MANIFESTS, key=lambda name: name != CANONICAL_EXTRACTOR)
    named = [(kind, name) for kind in distances().values() for name in (*extractors, *([FRAME.name] if kind.over_frames else []))]
    metrics = [(kind.name(name, CANONICAL_EXTRACTOR), f"{kind.title} of {name} features") for kind, name in named]
    metrics += [(value.name, value.title) for measure in pixel_measures() for value in measure.values]
    _print_table(console, "metrics", metrics)
    _print_table(console, "runs", [_run_line(folder) for folder in run_folders(results)] or [(f"none in {results}", "")])


def _backbones(module: str) -> str:
    try:
        return ", ".join(import_plugin(module).BACKBONES) or "a folder or a hub name behind the colon"
    except (Refusal, ModuleNotFoundError, AttributeError, TypeError) as error:  # one that is broken hides no other
        return str(error)


def _recorder(name: str) -> str:
    try:
        return RECORDERS.find(name).records
    except Refusal as error:
        return str(error)


def _description(name: str) -> str:
    try:
        return matrices.load_study(name).matrix.description
    except Refusal as error:
        return str(error)


def _run_line(folder: Path) -> tuple[str, str]:
    try:
        run = read_run(folder)
        records = [latest(folder / cell.folder) for cell in run.cells]
    except (StoreError, OSError) as error:
        return str(folder), str(error)
    states = ", ".join(f"{cell.name}: {record.status if record else 'not run'}" for cell, record in zip(run.cells, records, strict=True))
    return str(folder), states


def _print_table(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    console.print(f"\n[bold]{title}[/]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        table.add_row(*(escape(visible(text)) for text in row))  # names may hold square brackets
    console.print(table)
