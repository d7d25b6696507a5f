"""A profile as tables, for the console and for Markdown. Each number says how it was found: measured, counted, predicted, or a bound."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.commands.profile.cards import RESERVED_BYTES, RESERVED_SHARE
from bench.commands.profile.cross import QUANTITIES, quantity_text, ratio
from bench.commands.profile.fit import CLOSE, NEAR
from bench.commands.profile.result import Contender, Cross, Crossing, LargestFit, Phase, ProfileResult
from bench.report.render.catalogue import DASH, bytes_text, commit_text, flops_text, number, seconds_text
from bench.report.render.markdown import markdown_table
from bench.shapes import shape_text

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
    text = f"Batch {result.batch_size} of latents {result.channels}x{shape_text(result.shape)} (C x T x H x W), {result.precision}, "
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
        for title, how, value in _of_phase(result, name):
            add(f"{name}: {title}", how, lambda c, name=name, value=value: value(c, c.phases[name]))  # type: ignore[misc]
    notes = [
        "Peak storage: tensors alive at once, with the optimiser's state in place. A sampling step is one evaluation without guidance."
    ]
    if result.target.published_flops and not result.target.is_here:
        notes.append(
            f"At least: FLOPs over the dense {result.precision} rate of {result.target.name} that its maker publishes, "
            f"{number(result.target.published_flops / 1e12)} TFLOP/s; a real step takes longer."
        )
    return ProfileTable(title="Costs", header=("", *_names(result), ""), rows=rows, notes=tuple(notes))


def _of_phase(result: ProfileResult, name: str) -> Iterator[tuple[str, str, Callable[[Contender, Phase], str | None]]]:
    """(title, how it was found, text of one contender's phase, None where it has none), row by row."""
    yield "FLOPs of a step", "counted, 3 x forward" if name == "training" else "counted", lambda _, p: flops_text(p.step_flops)
    yield "time of a step", "at least", lambda _, p: _if(p.least_step_time_s, seconds_text)
    yield "time of a step", "measured", lambda _, p: seconds_text(p.timing.mean_s) if p.timing else None
    for part in ("forward", "backward", "optimiser"):
        yield f"... {part}", "measured", lambda _, p, part=part: _part(p, part)  # type: ignore[misc]
    batch = result.batch_size
    yield "clips/s", "measured", lambda _, p: _rate(p, batch)
    yield "latent frames/s", "measured", lambda _, p: _rate(p, batch * result.shape[0])
    yield "tokens/s", "measured", lambda c, p: _rate(p, batch * c.tokens_per_clip)
    yield "TFLOP/s", "measured", lambda _, p: number(p.step_flops / p.timing.mean_s / 1e12) if p.timing else None
    if peak := result.target.matmul_flops:
        how = f"measured, of {number(peak / 1e12)} TFLOP/s"
        yield "MFU", how, lambda _, p: f"{p.step_flops / p.timing.mean_s / peak:.1%}" if p.timing else None
    yield "peak storage", "measured", lambda _, p: bytes_text(p.measured.num_bytes) if p.measured else None
    yield "peak storage", "predicted", lambda _, p: bytes_text(p.predicted.num_bytes)
    how = "measured" if any(c.phases[name].measured for c in result.contenders) else "predicted"
    for kind in KINDS:
        yield f"... {kind}", how, lambda _, p, kind=kind: _if((p.measured or p.predicted).split.get(kind), bytes_text)  # type: ignore[misc]
    yield "peak allocated", "measured", lambda _, p: _if(p.allocated_bytes, bytes_text)
    yield "peak reserved", "measured", lambda _, p: _if(p.reserved_bytes, bytes_text)
    yield "... beyond the allocated peak", "measured", lambda _, p: _beyond(p)
    yield "... peak in gaps of split blocks", "measured", lambda _, p: _if(p.inactive_split_bytes, bytes_text)
    yield "device memory of the process", "measured", lambda _, p: _if(p.process_bytes, bytes_text)
    yield "allocations tried again", "counted", lambda _, p: None if p.num_alloc_retries is None else str(p.num_alloc_retries)
    yield "not measured", "why", lambda _, p: p.not_measured


def modules(result: ProfileResult) -> ProfileTable:
    """The parts of each backbone that hold most at the peak of a training step."""
    columns = []
    for contender in result.contenders:
        phase = contender.phases["training"]
        memory = phase.measured or phase.predicted
        top = list(memory.by_module.items())[:TOP_MODULES]
        columns.append([f"{name} {bytes_text(num_bytes)}" for name, num_bytes in top] + [""] * (TOP_MODULES - len(top)))
    rows = [(str(place + 1), *cells) for place, cells in enumerate(zip(*columns, strict=True))]
    how = "measured" if result.contenders[0].phases["training"].measured else "predicted"
    note = "A part's weights, their gradients, and what was born in its forward; (no module) is the rest: optimiser, average, backward."
    return ProfileTable(title=f"Where the memory of a training step is, {how}", header=("", *_names(result)), rows=rows, notes=(note,))


def fits(result: ProfileResult) -> ProfileTable:
    """The largest step of each kind that fits."""
    rows = []
    for place, first in enumerate(result.contenders[0].fits):
        values = []
        for fit in (contender.fits[place] for contender in result.contenders):
            text = f"{fit.value:,}{LIMITS[fit.limited_by]} ({bytes_text(fit.num_bytes)})"
            values.append(text if fit.value else f"nothing: the least needs {bytes_text(fit.num_bytes)}")
        rows.append((f"{first.phase}: {AXIS_TITLES[first.axis]}", *values, "predicted"))
        rows += _tried(result, place)
    notes = [
        f"By predicted peak against the memory less a reserve of {RESERVED_BYTES / GIB:g} GiB (context, kernels, workspaces) and "
        f"{RESERVED_SHARE:.0%} of the rest (rounding and gaps of the allocator). The largest to within {CLOSE:.1%} of that memory. "
        "Sizes in latent voxels."
    ]
    target = result.target
    if target.memory_bytes and target.usable_bytes and any(fit.tried for contender in result.contenders for fit in contender.fits):
        notes.append(
            f"Tried: real steps of the backbone alone, from what is predicted on, to within {NEAR:.0%}. What the prediction leaves of the "
            "memory at the largest that fitted is the reserve that would have been right; "
            f"{bytes_text(target.memory_bytes - target.usable_bytes)} is taken. Retries: the allocator emptied its cache and tried again, "
            "which makes steps slow."
        )
    return ProfileTable(title=f"What fits {target.name}", header=("", *_names(result), ""), rows=rows, notes=tuple(notes))


def _tried(result: ProfileResult, place: int) -> Iterator[tuple[str, ...]]:
    """Beside what was predicted what was tried, over it, and what was left then."""
    fits = [contender.fits[place] for contender in result.contenders]
    if not any(fit.tried or fit.not_tried for fit in fits):
        return
    yield "... on the card", *map(_tried_text, fits), "tried"
    if result.target.memory_bytes is not None:
        full = [fit.tried.predicted_bytes if fit.tried and fit.tried.value and fit.tried.limited_by == "memory" else None for fit in fits]
        left = [DASH if num is None else bytes_text(max(0, result.target.memory_bytes - num)) for num in full]
        yield "... memory left there", *left, "by prediction"


def _tried_text(fit: LargestFit) -> str:
    """'43 (1.02 x predicted, 78.1 GiB reserved, retries: 2)'."""
    tried = fit.tried
    if tried is None:
        return f"not tried: {fit.not_tried}"
    if not tried.value:
        return "nothing"
    parts = [f"{tried.value / fit.value:.3g} x predicted"] if fit.value else []
    parts += [f"{bytes_text(tried.reserved_bytes)} reserved"] if tried.reserved_bytes else []
    parts += [f"retries: {tried.num_alloc_retries}"] if tried.num_alloc_retries else []
    return f"{tried.value:,}{LIMITS[tried.limited_by]}" + (f" ({', '.join(parts)})" if parts else "")


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
        ratios = f"{each.first:.2f} to {each.last:.2f}"
        rows.append((quantity_text(cross, each.quantity), each.along, held, _where(each, cross.names), ratios))
    note = f"Ratios are {cross.names[0]} / {cross.names[1]}, a training step at batch 1; interpolated between points in logarithms."
    header = ("cost", "as it grows", "with", "crosses 1", "ratio from first to last")
    return ProfileTable(title="Where they cross", header=header, rows=rows, notes=(note,))


def cross_grid(cross: Cross, quantity: str) -> ProfileTable:
    """The ratios themselves."""
    values = {point.shape: f"{value:.2f}" for point in cross.points if (value := ratio(point, quantity)) is not None}
    sizes = sorted({point.shape[1] for point in cross.points})
    frames = sorted({point.shape[0] for point in cross.points}) if values else []
    rows = [(str(num), *(values.get((num, size, size), DASH) for size in sizes)) for num in frames]
    title = f"{cross.names[0]} / {cross.names[1]}: {quantity_text(cross, quantity)}"
    return ProfileTable(title=title, header=("latent frames", *(f"{size}x{size}" for size in sizes)), rows=rows)


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


def _beyond(phase: Phase) -> str | None:
    """The part of what was reserved at most that was not allocated even then."""
    if not phase.reserved_bytes or phase.allocated_bytes is None:
        return None
    return f"{1 - phase.allocated_bytes / phase.reserved_bytes:.1%}"


def _if(value: Any, text: Callable[[Any], str]) -> str | None:
    return text(value) if value else None


def _rate(phase: Phase, per_step: int) -> str | None:
    return None if phase.timing is None else number(per_step * phase.timing.num_steps / phase.timing.steady_s)
