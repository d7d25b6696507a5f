"""`audit` from what is audited to what is printed and written. Loads torch only for backbones."""

from pathlib import Path

from rich.console import Console

from bench.commands.audit.account import accounts, clips_found
from bench.commands.audit.result import AuditResult, StepCost
from bench.commands.audit.subject import Audited
from bench.data.files import write_files
from bench.data.source import Progress
from bench.records.environment import commit, read_environment
from bench.shapes import visible

NUMBER, SPACE = 10, 2  # characters of the narrowest column of numbers; between two columns


def run(subject: Audited, progress: Progress) -> AuditResult:
    """The audit. Refusal, in one line, for what cannot be done."""
    clips = clips_found(subject)
    found = accounts(subject)
    costs: list[StepCost] = []
    peak = device = num_threads = None
    if subject.backbones:
        import torch

        from bench.commands.audit import costs as counting
        from bench.meters.peak import matmul_peak
        from bench.meters.process import device_name, find_here, use_exact_float32

        here = find_here(subject.device)
        use_exact_float32()
        peak = matmul_peak(here, counting.DTYPES[subject.precision])
        costs = counting.costs(subject, found, clips.num_pixels, peak, progress)
        device, num_threads = device_name(here), torch.get_num_threads()
    return AuditResult(
        subject=subject.title,
        audited=subject.audited,
        mixed=subject.data.mixed,
        spec=subject.spec,
        clips=clips,
        policies=[account.policy for account in found],
        costs=costs,
        precision=subject.precision,
        matmul_flops=peak,
        notes=list(subject.notes),
        environment=read_environment(num_threads=num_threads, device=device),
        commit=commit(),
    )


def show(result: AuditResult, console: Console) -> None:
    """Print the tables."""
    from bench.commands.audit.tables import heading, sections
    from bench.report.render.console import rich_table

    console.print(visible(f"{result.subject}. {heading(result)}"), markup=False)
    for section in sections(result):
        console.print()
        if section.table is None:
            console.print(section.title, style="bold", markup=False)
        else:
            titles = max(len(row[0]) for row in section.table.rows)
            room = (console.width - titles) // (len(section.table.header) - 1) - SPACE
            console.print(rich_table(section.title, section.table.header, section.table.rows, max(NUMBER, room)))
            console.print(f"{section.table.caption}.", style="dim", markup=False)
        for line in section.lines:
            console.print(visible(line), style="dim" if section.table else None, markup=False)


def write(result: AuditResult, folder: Path) -> list[Path]:
    """audit.md, audit.json and ledger.svg; their paths."""
    from bench.commands.audit.figures import ledger_bars
    from bench.commands.audit.tables import page
    from bench.report.page.page import HERE, colour_variables
    from bench.report.render.canvas import standalone

    drawing = ledger_bars(result)
    colours = colour_variables((HERE / "page.css").read_text(encoding="utf-8"))
    texts = {
        "audit.md": page(result, [(f"{drawing.name}.svg", drawing.title, drawing.caption)]),
        "audit.json": result.model_dump_json(indent=1) + "\n",
        f"{drawing.name}.svg": standalone(drawing, colours),
    }
    return write_files(folder, texts)
