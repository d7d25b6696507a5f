"""A profile as tables, for the console and for Markdown. Each number says how it was found: measured, counted, predicted, or a bound."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.commands.profile.cards import RESERVED_BYTES, RESERVED_SHARE
from bench.commands.profile.cross import QUANTITIES, ratio
from bench.commands.profile.fit import CLOSE
from bench.commands.profile.result import Contender, Cross, Crossing, Phase, ProfileResult
from bench.report.render.catalogue import DASH, commit_text, flops_text, number, seconds_text
from bench.report.render.markdown import markdown_table

GIB = 2**30
TOP_MODULES = 6
KINDS = ("weights", "gradients", "optimiser", "average", "activations", "inputs", "buffers")
LIMITS = {"memory": "", "backbone": ", its limit", "search": " or more"}
AXIS_TITLES = {"batch": "largest batch", "frames": "most latent frames, batch 1", "size": "largest height = width, batch 1"}


@dataclass(frozen=True, kw_only=True)
class ProfileTable:
    """A table and what is said of it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()


def all_tables(result: ProfileResult) -> list[ProfileTable]:
    """Costs, memory by module, what fits, and the crossing."""
    tables = [costs(result), modules(result)]
    if any(contender.fits for contender in result.contenders):
        tables.append(fits(result))
    if any(contender.frontier for contender in result.contenders):
        tables.append(frontier(result))
    if result.cross is not None:
        tables += [crossing(result.cross), *(cross_grid(result.cross, quantity) for quantity in QUANTITIES)]
    return [table for table in tables if table.rows]


def to_markdown(result: ProfileResult, tables: list[ProfileTable], pictures: list[tuple[str, str]]) -> str:
    """The profile as a page; `pictures` are (file name, caption)."""
    lines = [f"# Profile: {', '.join(contender.name for contender in result.contenders)}", "", heading(result), ""]
    for table in tables:
        lines += [f"## {table.title}", ""]
        lines += [markdown_table(table.header, table.rows, figures=range(1, len(table.header))), ""]
        lines += [line for note in table.notes for line in (note, "")]
    for name, caption in pictures:
        lines += [f"![{name.partition('.')[0]}]({name})", "", caption, ""]
    environment = result.environment
    machine = [environment.cpu, f"{environment.num_cpus} CPUs", f"torch's threads: {environment.num_threads}", *environment.gpus]
    lines.append(f"Made by commit {commit_text(result.commit)} on {', '.join(machine)}, torch {environment.packages.get('torch', '?')}.")
    return "\n".join(lines) + "\n"


def heading(result: ProfileResult) -> str:
    """What was profiled and on what, in a sentence or two."""
    target = result.target
    shape = "x".join(map(str, result.shape))
    text = f"Batch {result.batch_size} of latents {result.channels}x{shape} (C x T x H x W), {result.precision}, "
    text += f"{'measured on' if target.is_here else 'predicted for'} {target.name}"
    if target.memory_bytes is not None and target.usable_bytes is not None:
        text += f": {target.memory_bytes / GIB:.1f} GiB, of which {target.usable_bytes / GIB:.1f} are usable"
    text += "."
    if target.predicted_as == "cpu" and not (target.is_here and target.name == "cpu"):
        text += " This torch has no CUDA, so predictions run the CPU's code of the same step: a backbone may choose other kernels on a GPU."
    return text


def costs(result: ProfileResult) -> ProfileTable:
    """Parameters, FLOPs, time and memory, a row each."""
    rows: list[tuple[str, ...]] = []

    def add(title: str, how: str, value: Callable[[Contender], str | None]) -> None:
        values = [value(contender) for contender in result.contenders]
        if any(values):
            rows.append((title, *(text or DASH for text in values), how))

    add("parameters", "counted", lambda c: f"{c.num_params:,}")
    add("tokens of a clip", "counted", lambda c: f"{c.tokens_per_clip:,}")
    add("FLOPs of a clip, forward", "counted", lambda c: flops_text(c.flops_per_clip))
    for name in result.contenders[0].phases:

        def add_phase(title: str, how: str, value: Callable[[Phase], str | None], name: str = name) -> None:
            add(f"{name}: {title}", how, lambda contender: value(contender.phases[name]))

        add_phase("FLOPs of a step", "counted, 3 x forward" if name == "training" else "counted", lambda p: flops_text(p.step_flops))
        add_phase("time of a step", "at least", lambda p: _if(p.least_step_time_s, seconds_text))
        add_phase("time of a step", "measured", lambda p: seconds_text(p.timing.mean_s) if p.timing else None)
        for part in ("forward", "backward", "optimiser"):
            add_phase(f"... {part}", "measured", functools.partial(_part, part=part))
        add_phase("clips/s", "measured", lambda p: _rate(p, result.batch_size))
        add_phase("latent frames/s", "measured", lambda p: _rate(p, result.batch_size * result.shape[0]))
        add(
            f"{name}: tokens/s",
            "measured",
            lambda c, name=name: _rate(c.phases[name], result.batch_size * c.tokens_per_clip),  # type: ignore[misc]
        )
        add_phase("TFLOP/s", "measured", lambda p: number(p.step_flops / p.timing.mean_s / 1e12) if p.timing else None)
        if result.target.matmul_flops:
            peak = result.target.matmul_flops
            how = f"measured, of {number(peak / 1e12)} TFLOP/s"
            add_phase("MFU", how, functools.partial(_mfu, peak=peak))
        add_phase("peak storage", "measured", lambda p: _bytes(p.measured.num_bytes) if p.measured else None)
        add_phase("peak storage", "predicted", lambda p: _bytes(p.predicted.num_bytes))
        for kind in KINDS:
            how = "measured" if any(c.phases[name].measured for c in result.contenders) else "predicted"
            add_phase(f"... {kind}", how, functools.partial(_kind, kind=kind))
        add_phase("peak allocated", "measured", lambda p: _if(p.allocated_bytes, _bytes))
        add_phase("peak reserved", "measured", lambda p: _if(p.reserved_bytes, _bytes))
        add_phase("not measured", "why", lambda p: p.not_measured)
    notes = [
        "Peak storage: tensors alive at once, with the optimiser's state in place. A sampling step is one evaluation without guidance."
    ]
    if result.target.published_flops and not result.target.is_here:
        notes.append(
            f"At least: FLOPs over the dense {result.precision} rate of {result.target.name} that its maker publishes, "
            f"{number(result.target.published_flops / 1e12)} TFLOP/s; a real step takes longer."
        )
    return ProfileTable(title="Costs", header=("", *_names(result), ""), rows=rows, notes=tuple(notes))


def modules(result: ProfileResult) -> ProfileTable:
    """The parts of each backbone that hold most at the peak of a training step."""
    columns = []
    for contender in result.contenders:
        phase = contender.phases["training"]
        memory = phase.measured or phase.predicted
        top = list(memory.by_module.items())[:TOP_MODULES]
        columns.append([f"{name} {_bytes(num_bytes)}" for name, num_bytes in top] + [""] * (TOP_MODULES - len(top)))
    rows = [(str(place + 1), *cells) for place, cells in enumerate(zip(*columns, strict=True))]
    how = "measured" if result.contenders[0].phases["training"].measured else "predicted"
    note = "A part's weights, their gradients, and what was born in its forward; (no module) is the rest: optimiser, average, backward."
    return ProfileTable(title=f"Where the memory of a training step is, {how}", header=("", *_names(result)), rows=rows, notes=(note,))


def fits(result: ProfileResult) -> ProfileTable:
    """The largest step of each kind that fits."""
    rows = []
    for place, first in enumerate(result.contenders[0].fits):
        values = []
        for contender in result.contenders:
            fit = contender.fits[place]
            if not fit.value:
                values.append(f"nothing: the least needs {_bytes(fit.num_bytes)}")
            else:
                values.append(f"{fit.value:,}{LIMITS[fit.limited_by]} ({_bytes(fit.num_bytes)})")
        rows.append((f"{first.phase}: {AXIS_TITLES[first.axis]}", *values, "predicted"))
    note = (
        f"By predicted peak against the memory less a reserve of {RESERVED_BYTES / GIB:g} GiB (context, kernels, workspaces) and "
        f"{RESERVED_SHARE:.0%} of the rest (rounding and gaps of the allocator). The largest to within {CLOSE:.1%} of that memory. "
        "Sizes in latent voxels."
    )
    return ProfileTable(title=f"What fits {result.target.name}", header=("", *_names(result), ""), rows=rows, notes=(note,))


def frontier(result: ProfileResult) -> ProfileTable:
    """Most frames at each size."""
    lines = [dict(contender.frontier) for contender in result.contenders]
    sizes = sorted({size for line in lines for size in line})
    rows = [(f"{size} x {size}", *(f"{line[size]:,}" if size in line else DASH for line in lines), "predicted") for size in sizes]
    title = f"Most latent frames of a training step at batch 1 that fit {result.target.name}"
    return ProfileTable(title=title, header=("height x width", *_names(result), ""), rows=rows)


def crossing(cross: Cross) -> ProfileTable:
    """Where the ratio passes 1, in words."""
    rows: list[tuple[str, ...]] = []
    for each in cross.crossings:
        held = f"{each.held} latent frames" if each.along == "size" else f"{each.held} x {each.held}"
        rows.append((_quantity(cross, each.quantity), each.along, held, _where(each, cross.names), f"{each.first:.2f} to {each.last:.2f}"))
    note = f"Ratios are {cross.names[0]} / {cross.names[1]}, a training step at batch 1; interpolated between points in logarithms."
    header = ("cost", "as it grows", "with", "crosses 1", "ratio from first to last")
    return ProfileTable(title="Where they cross", header=header, rows=rows, notes=(note,))


def cross_grid(cross: Cross, quantity: str) -> ProfileTable:
    """The ratios themselves."""
    values = {point.shape: ratio(point, quantity) for point in cross.points}
    sizes = sorted({size for _, size, _ in values})
    frames = sorted({num_frames for num_frames, _, _ in values})
    rows = []
    for num_frames in frames:
        found = [values.get((num_frames, size, size)) for size in sizes]
        rows.append((str(num_frames), *(DASH if value is None else f"{value:.2f}" for value in found)))
    if not any(value is not None for value in values.values()):
        rows = []
    title = f"{cross.names[0]} / {cross.names[1]}: {_quantity(cross, quantity)}"
    return ProfileTable(title=title, header=("latent frames", *(f"{size}x{size}" for size in sizes)), rows=rows)


def _quantity(cross: Cross, quantity: str) -> str:
    return QUANTITIES[quantity] + (f" on {cross.measured_on}" if quantity == "step_time_s" else "")


def _where(each: Crossing, names: tuple[str, str]) -> str:
    """'at 41: UNet-S is dearer below' or why not."""
    unit = "latent voxels a side" if each.along == "size" else "latent frames"
    if not each.at:
        dearer = names[0] if each.first > 1 else names[1]
        return f"does not cross from {each.span[0]} to {each.span[1]}: {dearer} costs more throughout"
    places = " and ".join(f"{at:.3g}" for at in each.at)
    return f"at {places} {unit}: {names[0] if each.first > 1 else names[1]} costs more below"


def _names(result: ProfileResult) -> list[str]:
    return [contender.name for contender in result.contenders]


def _part(phase: Phase, part: str) -> str | None:
    if phase.timing is None or part not in phase.timing.parts_s or len(phase.timing.parts_s) < 2:
        return None
    return seconds_text(phase.timing.part_s(part))


def _kind(phase: Phase, kind: str) -> str | None:
    return _if((phase.measured or phase.predicted).split.get(kind), _bytes)


def _mfu(phase: Phase, peak: float) -> str | None:
    return f"{phase.step_flops / phase.timing.mean_s / peak:.1%}" if phase.timing else None


def _if(value: Any, text: Callable[[Any], str]) -> str | None:
    return text(value) if value else None


def _rate(phase: Phase, per_step: int) -> str | None:
    return None if phase.timing is None else number(per_step * phase.timing.num_steps / phase.timing.steady_s)


def _bytes(num_bytes: int) -> str:
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if num_bytes >= unit:
            return f"{number(num_bytes / unit)} {name}"
    return f"{number(num_bytes / 1024)} KiB"
