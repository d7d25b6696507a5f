"""Puts a report's parts together: report.html, report.md, tables/ and pictures/."""

import base64
import fnmatch
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from bench.data.files import write_files
from bench.report.grid import shape_map
from bench.report.load import Run
from bench.report.page import figures, material, paper, sheets, tables
from bench.report.page.sheets import Sheets
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.canvas import Drawing
from bench.report.render.markdown import fenced, markdown
from bench.report.render.table import Table, to_latex
from bench.report.render.table import to_markdown as table_markdown
from bench.report.verdicts import answer, best, claim_questions, compare, factorial, findings, validity, warnings
from bench.report.verdicts.answer import Answer
from bench.report.verdicts.compare import MeasureRow
from bench.report.verdicts.factorial import DesignRow
from bench.report.verdicts.spending import EXTENDED
from bench.report.verdicts.validity import Validity
from bench.report.verdicts.warnings import Alerts
from bench.shapes import visible

HERE = Path(__file__).parent
MOST_VERDICTS = 15  # rows of the table of verdicts that are not folded
MOST_WARNINGS = 2  # that are not folded
SCALING = ("foresight", "exponents", "compute", "isoflop")  # tables of a run that holds cells out, under its picture
CONTRASTS = "What was asked before the run"
# tables that stand after the curves of training, where a run has them
LATER = ("following", "flips", "tuning", "rates", "tried", "published")
MAX_ANIMATION_BYTES = 2_000_000  # of all animated sheets: base64 adds a third, and the page stays under 5 MB


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Everything the page says of one run."""

    run: Run
    prefix: str  # of ids and file names, "" where the report has one run
    alarms: list[tuple[str, str]]  # what comes before the answer, and the section that has more; "" where none has
    warnings: Alerts
    validity: Validity
    answer: Answer
    rows: list[MeasureRow]
    blocks: list[DesignRow]
    tables: dict[str, Table]
    paper: str  # LaTeX
    drawings: list[Drawing]
    contrasts: list[str]  # what those say that the matrix asks, a sentence each
    sheets: Sheets | None
    notes: list[str]  # on the sheets
    untrusted: list[str]

    @property
    def mark(self) -> str:
        """The colour of the answer: nothing is decided that a serious warning speaks against."""
        return "open" if self.answer.mark == "decided" and not self.warnings.badge else self.answer.mark.replace(" ", "-")

    @property
    def references(self) -> set[str]:
        """Floors and ceilings that any measurement has."""
        return {name for row in self.rows for name in row.references}

    @property
    def rule(self) -> str:
        """What decides, and how all else is corrected."""
        run, parts = self.run, [self.tables["claim"].caption]
        parts += [f"{run.primary_card[0].upper()}{run.primary_card[1:]}"] if run.primary_card else []
        if run.looks:
            parts.append(f"Seeds were added by rule, up to {run.looks.most} of each: all looks together spend the level once")
        if run.extensions:
            parts.append(f"Seeds were added to a finished study: its tests are held at {EXTENDED**run.extensions:g} of their level")
        return f"{'. '.join(parts)}. Of studies of equal contenders at most 5 % claim anything."

    @property
    def clips_caption(self) -> str:
        """What the first sheet shows."""
        assert self.sheets is not None
        first = self.sheets.first
        label = "caption" if first.told else "label" if first.column_labels else ""
        of = "of each shape" if self.sheets.full.column_shapes else "of each label" if label == "label" else "in order"
        known = next((record.cell.objective.known_frames for record in self.run.records), 0)
        goes_on = f" and goes on with the first {known} frames of the real clip" if known else ""
        return f"The first clips {of}, not chosen; a column {f'has one {label} and ' if label else ''}starts from one noise{goes_on}."


def chapter(run: Run, prefix: str, max_bytes: int) -> Chapter:
    """All parts of one run, each backbone at its best where that can be chosen."""
    run, choices = best.at_their_best(run)
    found, grid = findings.find(run), shape_map.read(run)
    rows, blocks, answered, alerts = found.rows, found.blocks, answer.answer(run, found), warnings.of(run, found)
    pictures, notes = sheets.draw(run, max_bytes) if run.tunes is None else (None, [])  # trials sample no clip
    made = {table.name: table for table in tables.all_tables(run, found, grid, choices)}
    return Chapter(
        run=run,
        prefix=prefix,
        warnings=alerts,
        validity=validity.check(run),
        alarms=_alarms(run, made),
        answer=answered,
        rows=rows,
        blocks=blocks,
        tables=made,
        paper=paper.to_paper(run, rows),
        contrasts=[claim_questions.contrast_said(run, each) for each in claim_questions.headline(found)],
        drawings=figures.all_figures(run, found, grid, answered.ratios, prefix),
        sheets=pictures,
        notes=notes,
        untrusted=list(run.untrusted),
    )


def _alarms(run: Run, made: dict[str, Table]) -> list[tuple[str, str]]:
    """What a reader must know before any ranking."""
    found = [(f"Unfinished: {run.unfinished}.", "")] if run.unfinished else []
    found += [(run.scaling.text, "")] if run.scaling else []
    if "failures" in made:
        found.append((f"{len(made['failures'].rows)} of {len(run.cells)} cells did not finish.", "failures"))
    if run.changed:
        text = f"{run.changed[0].upper()}{run.changed[1:]}: a study that grows until it says something is wrong too often."
        found.append((text, "protocol"))
    return found


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
        if part.paper:
            files[f"{part.prefix}paper.tex"] = part.paper
        if part.sheets:
            files[f"pictures/{part.prefix}clips.webp"] = part.sheets.first.webp
            files[f"pictures/{part.prefix}samples.webp"] = part.sheets.full.webp
            files[f"pictures/{part.prefix}samples.png"] = part.sheets.strip
    return write_files(out, files)


@functools.cache
def _template() -> jinja2.Template:
    """That of report.html, which takes a tenth of a second to compile."""
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
    environment.filters["said"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%").replace(
        " = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
    )
    return environment.get_template("page.html.jinja")


def render(chapters: Sequence[Chapter], css: str) -> str:
    """report.html."""
    return _template().render(
        chapters=chapters,
        css=Markup(css),
        Markup=Markup,
        groups=metrics.GROUPS,
        tables=tables,
        compare=compare,
        factorial=factorial,
        material=material,
        most_verdicts=MOST_VERDICTS,
        most_warnings=MOST_WARNINGS,
        scaling=[(name, TITLES[name]) for name in SCALING],
        asked=CONTRASTS,
        later={name: TITLES[name] for name in LATER},
    )


def to_markdown(chapters: Sequence[Chapter]) -> str:
    """report.md: the answer, the pictures and the tables, for a reader on GitHub; in the page's order."""
    parts = []
    for part in chapters:
        parts.append(f"# {markdown(part.run.matrix)}: {markdown(part.answer.question)}")
        parts += [f"**{markdown(text)}**" for text, _ in part.alarms]
        parts += [f"**Warning.** {markdown(alert.sentence)}" for alert in part.warnings.each]
        parts += [markdown(sentence) for sentence in part.answer.sentences]
        parts += [fenced(part.answer.command)] if part.answer.command else []
        parts += _picture(part, "ratios")
        if part.sheets:
            rows = markdown(", ".join(part.sheets.first.row_labels))
            parts += [f"![Clips, rows from the top: {rows}](pictures/{part.prefix}clips.webp)", f"Rows from the top: {rows}."]
        parts.append(f"{markdown('; '.join(part.answer.setting))}.")
        for name, table in part.tables.items():
            for figure in BEFORE.get(name, ()):
                parts += _picture(part, figure)
            if table is next((each for key, each in part.tables.items() if key.startswith("equal-")), None):
                parts += [f"## {CONTRASTS}", *map(markdown, part.contrasts)]
            if name == "measurements":
                parts.append(f"Every number as stored: [measurements.csv](tables/{part.prefix}measurements.csv).")
            else:
                asked = name.startswith(("equal-", "named-"))
                title = table.caption.partition(":")[0] if asked else TITLES.get(name, table.caption)
                parts += [f"{'###' if asked else '##'} {markdown(title)}", table_markdown(table).rstrip()]
            for figure in AFTER.get(name, ()):
                parts += _picture(part, figure)
        parts.append(fenced(part.run.command))
        parts += [markdown(part.run.watched)] if part.run.watched else []
    return "\n\n".join(parts) + "\n"


def _picture(part: Chapter, name: str) -> list[str]:
    """A figure and its caption, where the run has it."""
    return [
        f"![{markdown(drawing.title)}](pictures/{part.prefix}{drawing.name}.svg)\n\n{markdown(drawing.caption)}"
        for drawing in part.drawings
        if fnmatch.fnmatchcase(drawing.name, name)
    ]


# Table -> the figures before and after it in report.md.
BEFORE = {
    "foresight": ("scaling",),
    "physics-floors": ("physics-*",),
    "shapes": ("shapes",),
    "factorial-buckets": ("interaction",),
}
AFTER = {"verdicts": ("quality", "training"), "tuning": ("tuning",), "time": ("time",), "frames": ("frames",)}
TITLES = {
    "foresight": "What was foreseen, and what came",
    "exponents": "How losses fall with size, data and compute",
    "compute": "What compute buys",
    "isoflop": "The best size at equal compute",
    "claim": "What the answer rests on",
    "physics-floors": "Does it know more than a guess?",
    "physics": "The scores of this world",
    "flips": "Where the winner flips",
    "tuning": "Tuning",
    "rates": "Learning rates by size",
    "tried": "What else was tried",
    "published": "What others published, beside this",
    "factorial-buckets": "Backbone and data pipeline: buckets against crops",
    "factorial-own-shapes": "Backbone and data pipeline: own shapes against crops",
    "contrasts": "One policy against another under the same backbone",
    "shapes": "The shape grid",
    "envelope": "Where each contender holds",
    "shape-holes": "Holes in the shape grid",
    "ledger": "What the data pipeline keeps",
    "losses": "What is never trained on",
    "verdicts": "Who leads on each axis",
    "following": "Does it follow?",
    "comparison": "Comparison",
    "paired": "Do these samples differ?",
    "time": "Where the time went",
    "memory": "Memory of training",
    "generation": "What generating a clip takes",
    "frames": "Error by frame",
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
