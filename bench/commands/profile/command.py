"""`profile` from its arguments to what is printed and written."""

import re
from pathlib import Path

import psutil
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bench.backbone import canonical_name
from bench.commands.profile.cards import GPUCard, find_card
from bench.commands.profile.figures import all_figures
from bench.commands.profile.result import ProfileResult, Target
from bench.commands.profile.study import DTYPES, ProfileStudy, Progress, Request
from bench.commands.profile.tables import ProfileTable, all_tables, heading, to_markdown
from bench.data.files import write_text
from bench.meters.peak import matmul_peak
from bench.meters.process import device_name, keep_freed_memory, use_exact_float32
from bench.shapes import LatentSpec, Refusal, parse_shape
from bench.training.predict import code_path
from bench.training.step import StepPoint


def run(
    names: list[str],
    *,
    latents: str,
    batch_size: int,
    precision: str,
    device: str,
    card: str | None,
    cross: bool,
    channels: int,
    num_labels: int,
    draws: bool,
    progress: Progress,
) -> ProfileResult:
    """The profile. Refusal, in one line, for what cannot be done."""
    names = [canonical_name(name) for name in names]
    if len(set(names)) < len(names):
        raise Refusal(f"a backbone is named twice in {', '.join(names)}; name each once")
    if cross and len(names) < 2:
        raise Refusal(f"--cross compares the first two backbones, got only {names[0]}; name another")
    if precision not in DTYPES:
        raise Refusal(f"unknown precision {precision!r}; use one of {', '.join(DTYPES)}")
    point = StepPoint(batch_size=batch_size, shape=parse_shape(latents, "--latents"))
    here = pick_device(device)
    use_exact_float32()
    keep_freed_memory()
    target = find_target(here, device, find_card(card) if card is not None else None, precision)
    spec = LatentSpec(latent_channels=channels, spatial_stride=8, temporal_stride=1, num_labels=num_labels)
    request = Request(names=tuple(names), spec=spec, point=point, precision=precision, cross=cross, frontier=draws)
    return ProfileStudy(request, target, here, _card_of(here).usable_bytes, progress).run()


def pick_device(device: str) -> torch.device:
    """The device that is here to measure on: a CPU where CUDA was asked for and there is none."""
    if device not in ("auto", "cpu", "cuda"):
        raise Refusal(f"unknown device {device!r}; use auto, cpu or cuda")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def find_target(here: torch.device, device: str, card: GPUCard | None, precision: str) -> Target:
    """What the profile is about: the card where one is named, else the device."""
    is_here = card is None and not (device == "cuda" and here.type == "cpu")
    if card is not None and here.type == "cuda":
        is_here = _plain(card.name) in _plain(torch.cuda.get_device_name(here))
    if card is None and is_here:
        card = _card_of(here)
    if card is not None and card.peaks.get("fp32") and card.peaks[precision] is None:
        raise Refusal(f"card {card.name} has no units for {precision}; use --precision fp32")
    return Target(
        name=card.name if card is not None else "a CUDA device",
        is_here=is_here,
        memory_bytes=card.memory_bytes if card is not None else None,
        usable_bytes=card.usable_bytes if card is not None else None,
        published_flops=card.peaks[precision] if card is not None else None,
        matmul_flops=matmul_peak(here, DTYPES[precision]) if is_here else None,
        predicted_as=code_path(here.type if is_here else "cuda"),
    )


def show(result: ProfileResult, console: Console) -> None:
    """Print the tables."""
    console.print(heading(result), markup=False)
    for table in all_tables(result):
        console.print()
        console.print(_rich(table))
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
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _rich(table: ProfileTable) -> RichTable:
    drawn = RichTable(title=escape(table.title), title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(table.header):
        drawn.add_column(escape(name), justify="left" if place == 0 else "right", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn


def _card_of(here: torch.device) -> GPUCard:
    """The device that is here, as a card."""
    memory_bytes = psutil.virtual_memory().total
    if here.type == "cuda":
        memory_bytes = torch.cuda.get_device_properties(here).total_memory
    return GPUCard(name=device_name(here), memory_bytes=memory_bytes, peaks={"bf16": None, "fp32": None})


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()
