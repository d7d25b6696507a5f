"""`profile` from its arguments to what is printed and written."""

from dataclasses import replace
from pathlib import Path

import psutil
import torch
from rich.console import Console

from bench.backbone import canonical_name
from bench.commands.profile.cards import GPUCard, find_card, plain
from bench.commands.profile.figures import all_figures
from bench.commands.profile.measure import Request
from bench.commands.profile.result import ProfileResult, Target
from bench.commands.profile.study import DTYPES, ProfileStudy
from bench.commands.profile.tables import all_tables, heading, to_markdown
from bench.data.files import write_files
from bench.data.progress import Progress
from bench.meters.peak import matmul_peak
from bench.meters.process import device_name, find_here, keep_freed_memory, use_exact_float32
from bench.report.render.console import rich_table
from bench.shapes import Refusal
from bench.training.predict import code_path


def run(
    request: Request, *, device: str, card: str | None, fits: bool = False, cross: bool = False, draws: bool = False, progress: Progress
) -> ProfileResult:
    """The profile; `fits`: the largest steps too, and with `draws` at other sizes, for a picture. Refusal for what cannot be done."""
    names = tuple(canonical_name(name) for name in request.names)
    if len(set(names)) < len(names):
        raise Refusal(f"a backbone is named twice in {', '.join(names)}; name each once")
    if cross and len(names) < 2:
        raise Refusal(f"--cross compares the first two backbones, got only {names[0]}; name another")
    if request.precision not in DTYPES:
        raise Refusal(f"unknown precision {request.precision!r}; use one of {', '.join(DTYPES)}")
    if device not in ("auto", "cpu", "cuda"):
        raise Refusal(f"unknown device {device!r}; use auto, cpu or cuda")
    here = find_here(device)
    use_exact_float32()
    keep_freed_memory()
    target = find_target(here, device, find_card(card) if card is not None else None, request.precision)
    if fits and target.usable_bytes is None:
        raise Refusal(f"--fits asks what fits {target.name}, whose memory is not known here; name a card with --card")
    usable_bytes = _card_of(here).usable_bytes
    return ProfileStudy(replace(request, names=names), target, here, usable_bytes, progress).run(fits=fits, crosses=cross, draws=draws)


def find_target(here: torch.device, device: str, card: GPUCard | None, precision: str) -> Target:
    """What the profile is about: the card where one is named, else the device."""
    is_here = not (device == "cuda" and here.type == "cpu")
    if card is not None:
        is_here = here.type == "cuda" and plain(card.name) in plain(torch.cuda.get_device_name(here))
    elif is_here:
        card = _card_of(here)
    if card is not None and card.peaks["fp32"] and card.peaks[precision] is None:
        raise Refusal(f"card {card.name} has no units for {precision}; use --precision fp32")
    return Target(
        name=card.name if card else "a CUDA device",
        is_here=is_here,
        memory_bytes=card.memory_bytes if card else None,
        usable_bytes=card.usable_bytes if card else None,
        published_flops=card.peaks[precision] if card else None,
        matmul_flops=matmul_peak(here, DTYPES[precision]) if is_here else None,
        predicted_as=code_path(here.type if is_here else "cuda"),
    )


def show(result: ProfileResult, console: Console) -> None:
    """Print the tables."""
    console.print(heading(result), markup=False)
    for table in all_tables(result):
        console.print()
        console.print(rich_table(table.title, table.header, table.rows))
        for note in table.notes:
            console.print(note, style="dim", markup=False)


def write(result: ProfileResult, folder: Path) -> list[Path]:
    """profile.md, profile.json and the pictures; their paths."""
    figures = all_figures(result)
    texts = {
        "profile.md": to_markdown(result, all_tables(result), [(name, caption) for name, (_, caption) in figures.items()]),
        "profile.json": result.model_dump_json(indent=1) + "\n",
        **{name: svg for name, (svg, _) in figures.items()},
    }
    return write_files(folder, texts)


def _card_of(here: torch.device) -> GPUCard:
    """The device that is here, as a card."""
    is_gpu = here.type == "cuda"
    memory_bytes = torch.cuda.get_device_properties(here).total_memory if is_gpu else psutil.virtual_memory().total
    return GPUCard(name=device_name(here), memory_bytes=memory_bytes, peaks={"bf16": None, "fp32": None})
