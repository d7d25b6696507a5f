"""Puts a report's parts together: report.html, report.md, tables/ and pictures/."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from bench.data.files import write_files
from bench.report.grid import shape_map
from bench.report.load import Run
from bench.report.page import figures, material, sheets, tables
from bench.report.page.sheets import Picture
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import Drawing
from bench.report.render.markdown import fenced, markdown
from bench.report.render.table import Table, to_latex
from bench.report.render.table import to_markdown as table_markdown
from bench.report.verdicts import answer, compare, factorial, findings, warnings
from bench.report.verdicts.answer import Answer
from bench.report.verdicts.claims import LEVELS
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import DesignRow
from bench.report.verdicts.stats import LARGE
from bench.report.verdicts.warnings import Alerts
from bench.shapes import visible

HERE = Path(__file__).parent
MAX_ANIMATION_BYTES = 2_000_000  # of all animated sheets: base64 adds a third, and the page stays under 5 MB


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Everything the page says of one run."""

    run: Run
    prefix: str  # of ids and file names, "" where the report has one run
    warnings: Alerts
    answer: Answer
    rows: list[MeasureRow]
    blocks: list[DesignRow]
    tables: dict[str, Table]
    drawings: list[Drawing]
    picture: Picture | None
    picture_notes: list[str]
    untrusted: list[str]


def chapter(run: Run, prefix: str, max_bytes: int) -> Chapter:
    """All parts of one run."""
    found, grid = findings.find(run), shape_map.read(run)
    rows, blocks = found.rows, found.blocks
    picture, notes = sheets.draw(run, max_bytes)
    return Chapter(
        run=run,
        prefix=prefix,
        warnings=warnings.of(run, found),
        answer=answer.answer(run, found, grid),
        rows=rows,
        blocks=blocks,
        tables={table.name: table for table in tables.all_tables(run, found, grid)},
        drawings=figures.all_figures(run, rows, blocks, grid, prefix),
        picture=picture,
        picture_notes=notes,
        untrusted=list(run.untrusted),
    )


def write(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write the whole report; the files written, the page first."""
    names = [run.matrix for run in runs]
    chapters = []
    for place, run in enumerate(runs):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", run.matrix).strip("-.") or "run"
        prefix = f"{slug}-" if names.count(run.matrix) == 1 else f"{slug}-{place + 1}-"
        chapters.append(chapter(run, prefix if len(runs) > 1 else "", MAX_ANIMATION_BYTES // len(runs)))
    css = (HERE / "page.css").read_text(encoding="utf-8")
    files: dict[str, str | bytes] = {"report.html": render(chapters, css), "report.md": to_markdown(chapters)}
    for part in chapters:
        for table in part.tables.values():
            stem = f"tables/{part.prefix}{table.name}"
            files[f"{stem}.md"] = table_markdown(table)
            files[f"{stem}.csv"] = table.to_csv()
            files[f"{stem}.tex"] = to_latex(table)
        for drawing in part.drawings:
            files[f"pictures/{part.prefix}{drawing.name}.svg"] = canvas.standalone(drawing, colour_variables(css))
        if part.picture:
            files[f"pictures/{part.prefix}samples.webp"] = part.picture.webp
            files[f"pictures/{part.prefix}samples.png"] = part.picture.strip
    return write_files(out, files)


def render(chapters: Sequence[Chapter], css: str) -> str:
    """report.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not of Markup, which is ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda content, kind: f"data:{kind};base64,{base64.b64encode(content).decode()}"
    environment.filters["unbroken"] = lambda text: text.replace(", ", ",\N{NO-BREAK SPACE}")
    return environment.get_template("page.html.jinja").render(
        chapters=chapters,
        css=Markup(css),
        Markup=Markup,
        groups=metrics.GROUPS,
        tables=tables,
        compare=compare,
        factorial=factorial,
        levels=LEVELS,
        large=LARGE,
        material=material,
    )


def to_markdown(chapters: Sequence[Chapter]) -> str:
    """report.md: the answer, the pictures and the tables, for a reader on GitHub."""
    parts = []
    for part in chapters:
        parts.append(f"# {markdown(part.run.matrix)}: {markdown(part.answer.question)}")
        parts += [f"**Unfinished: {markdown(part.run.unfinished)}.**"] if part.run.unfinished else []
        parts += [f"**Warning.** {markdown(alert.sentence)}" for alert in part.warnings.each]
        parts.append(f"**{markdown(part.answer.headline)}**")
        parts += [f"**{label}.** {markdown(text)}" if label else markdown(text) for label, text in part.answer.sentences]
        parts.append(markdown(part.answer.setting))
        if part.picture:
            rows = markdown(", ".join(part.picture.row_labels))
            parts += [f"![Clips, rows from the top: {rows}](pictures/{part.prefix}samples.webp)", f"Rows from the top: {rows}."]
        parts += _picture(part, "interaction")
        for name, table in part.tables.items():
            for figure in BEFORE.get(name, ()):
                parts += _picture(part, figure)
            if name == "measurements":
                parts.append(f"Every number as stored: [measurements.csv](tables/{part.prefix}measurements.csv).")
            else:
                parts += [f"## {markdown(TITLES[name])}", table_markdown(table).rstrip()]
            for figure in AFTER.get(name, ()):
                parts += _picture(part, figure)
        parts.append(fenced(part.run.command))
    return "\n\n".join(parts) + "\n"


def _picture(part: Chapter, name: str) -> list[str]:
    """A figure and its caption, where the run has it."""
    return [
        f"![{markdown(drawing.title)}](pictures/{part.prefix}{drawing.name}.svg)\n\n{markdown(drawing.caption)}"
        for drawing in part.drawings
        if drawing.name == name
    ]


# Table -> the figures before and after it in report.md.
BEFORE = {"shapes": ("shapes",)}
AFTER = {"comparison": ("training", "quality", "time")}
TITLES = {
    "claim": "What the headline rests on",
    "factorial-buckets": "Backbone and data pipeline: buckets against crops",
    "factorial-own-shapes": "Backbone and data pipeline: own shapes against crops",
    "shapes": "The shape grid",
    "envelope": "Where each contender holds",
    "shape-holes": "Holes in the shape grid",
    "ledger": "What the data pipeline keeps",
    "losses": "What is never trained on",
    "verdicts": "Who leads on each axis",
    "comparison": "Comparison",
    "paired": "Do these samples differ?",
    "time": "Where the time went",
    "differences": "What differs",
    "mismatch": "How well the contenders are matched",
    "data": "The data",
    "left-out": "Files left out",
    "unused": "In no split",
    "settings": "Settings",
    "validity": "May this run be cited?",
    "protocol": "Protocol of the distances",
    "canaries": "Canaries",
    "failures": "Failed cells",
    "environment": "Environment",
    "cells": "Cells",
}


def colour_variables(css: str) -> str:
    """The part of the style sheet that defines the colours, light and dark."""
    found = re.search(r"/\* colours \*/(.*?)/\* end of colours \*/", css, re.DOTALL)
    assert found, "page.css marks its colours by comments"
    return " ".join(found[1].split())
