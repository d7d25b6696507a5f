"""Records and `run.json`: what `ls`, `report`, `sample` and a resumed `run` read of a results folder that others wrote."""

import contextlib
import functools
import io
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from random import Random

from bench.commands.listing import print_all
from bench.data.files import StoreError
from bench.records.record import SCHEMA_VERSION
from bench.records.store import RUN, latest, next_attempt, read_run, run_folders, write_record
from bench.report import build
from bench.report.load import load_run
from bench.report.page import page as _page  # noqa: F401  what it imports writes caches of its own
from bench.shapes import Refusal
from tests import report_factory
from tests.fuzz.case import SPECIAL, Case, Domain, Finding, packed, place
from tests.fuzz.damage import WORDS, damaged_bytes, damaged_json

SMALL = (2, 10, 10)  # of the clips in sheets


@functools.cache
def base() -> dict[str, bytes]:
    """Relative name -> content of two finished runs, "invented" and "healthy"."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for matrix in ("invented", "healthy"):
            made = [report_factory.record(backbone, 0, matrix=matrix) for backbone in report_factory.MEANS]
            run = report_factory.write_run(results, made, matrix=matrix, sheets=False)
            for cell in read_run(run).cells:
                report_factory.sheet(run / cell.folder, 0, 1, num=2, size=SMALL)
        found = {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(results.rglob("*")) if path.is_file()}
        folders = [cell.folder for cell in read_run(results / "invented").cells]
    for k, folder in enumerate(folders):  # by names that no fingerprint is part of: cases are stored
        found = {name.replace(folder, f"cell{k}"): content.replace(folder.encode(), b"cell%d" % k) for name, content in found.items()}
    return found


def draw(rng: Random) -> Case:
    """One or two files of the run "invented" damaged, or others put beside them."""
    mine = [name for name in base() if name.startswith("invented/")]
    files = {}
    for _ in range(rng.choice((1, 1, 2))):
        name, kind = rng.choice(mine), rng.randrange(20)
        damaged = damaged_bytes(rng, base()[name]) if name.endswith("npz") else damaged_json(rng, base()[name])
        if kind < 16:
            files[name] = packed(damaged)
        elif kind == 16:
            files[name] = rng.choice(SPECIAL)
        elif kind == 17:
            number = rng.choice(("²", "2", "02", "-1", "9" * 30, "", "x", "1.tmp", "٣", "2.5", " 3"))
            files[f"{name.rpartition('/')[0] or 'invented'}/attempt-{number}.json"] = rng.choice((packed(damaged), rng.choice(SPECIAL)))
        elif kind == 18:
            word = "".join(letter for letter in rng.choice(WORDS) if letter not in "/\0\ud800")[:40] or "x"
            files[f"{word}/{RUN}" if word.strip(".") else f"x/{RUN}"] = rng.choice((packed(damaged), rng.choice(SPECIAL)))
        else:
            files[f"invented/{rng.choice(('.lock', 'x', '.x.tmp', 'traceback.txt'))}"] = rng.choice(SPECIAL)
    asked = rng.choices(("read", "ls", "report"), (120, 4, 2))[0]
    return {"files": files, "asked": asked}


def attempt(case: Case, folder: Path) -> None:
    """Both runs, one of them damaged."""
    results = folder / "results"
    for name, content in base().items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(content)
    place(results, case["files"])
    if case["asked"] == "ls":
        listing = io.StringIO()
        with contextlib.redirect_stdout(listing):
            print_all(results)
        if "healthy" not in listing.getvalue():
            raise Finding("a damaged run hides another from ls")
        return
    for run in run_folders(results):
        with contextlib.suppress(StoreError):
            read_run(run)
    if case["asked"] == "report":
        report(results, folder / "report")
        return
    read(results)


def read(results: Path) -> None:
    """What a report and a resumed run read, cell by cell."""
    try:
        run = load_run(results / "invented")
    except StoreError as error:
        if "invented" not in str(error):
            raise Finding("a refusal does not name the run", error) from error
        raise
    refused: list[StoreError] = []
    for cell in run.cells:
        if not cell.path.resolve().is_relative_to(results.resolve()):
            raise Finding("a cell outside the run", cell.path)
        try:
            record = latest(cell.path)
        except StoreError as error:
            if "attempt-" not in str(error):
                raise Finding("a refusal does not name the record", error) from error
            refused.append(error)
            record = None
        if record is not None and record.schema_version != SCHEMA_VERSION:
            raise Finding("a record of another schema is read")
        number = next_attempt(cell.path)
        good = report_factory.record("dit:DiT-XS/2", 0, attempt=number)
        write_record(cell.path, good)
        found = latest(cell.path)
        if found is None or found.attempt != number:
            raise Finding("a new attempt is not the latest", cell.path)
    if refused:
        raise refused[0]


def report(results: Path, out: Path) -> None:
    """A report of both runs: whole files that others can read, or none."""
    out.mkdir()
    (out / "report.md").symlink_to(out.parent.with_name(f"{out.parent.name}.outside"))  # what leads out of a folder is not followed
    try:
        written = build([results / "invented"], out)
    except Refusal:
        if [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]:
            raise Finding("a refused report leaves files", list(out.rglob("*"))) from None
        raise
    for path in written:
        if path.suffix in (".html", ".md", ".csv", ".tex", ".svg"):
            text = path.read_text(encoding="utf-8")
            if control := [letter for letter in text if ord(letter) < 32 and letter not in "\n\t\r"]:
                raise Finding(f"a control character in {path.suffix}", control)
            if path.suffix == ".svg":
                try:
                    ElementTree.fromstring(text)
                except ElementTree.ParseError as error:
                    raise Finding("a picture is not XML", path, error) from error
            if "<script>alert" in text and path.suffix == ".html":
                raise Finding("markup of a record is the page's")
    if left := list(out.rglob(".*")):
        raise Finding("a report leaves temporary files", left)


DOMAINS = (Domain(name="records", share=16, draw=draw, attempt=attempt),)
