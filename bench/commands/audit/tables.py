"""An audit as tables, for the console and for Markdown, and in lines: what is lost by name, and what to change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.backbone import short_name
from bench.commands.audit.result import AuditResult, ShapeCount, SizeRange, StepCost
from bench.data.policy.ledger import EPOCHS, PIXELS, ROOM, SUBJECT, Ledger
from bench.report.render.catalogue import DASH, TIMES, commit_text, flops_text, number, seconds_text
from bench.report.render.markdown import markdown
from bench.report.render.table import Table, to_markdown
from bench.shapes import shape_text

MOST_LISTED = 5  # names of a kind; the JSON has all
VOXELS = 1000  # latent voxels whose cost is shown


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, a table where there is one, and what is said below it."""

    title: str
    table: Table | None
    lines: tuple[str, ...] = ()


def sections(result: AuditResult) -> list[Section]:
    """All there is to say, in the page's order."""
    return [clips(result), policies(result), *([costs(result)] if result.costs else []), losses(result)]


def page(result: AuditResult, pictures: Sequence[tuple[str, str, str]]) -> str:
    """The audit as Markdown; `pictures` are (file name, title, caption). No name can become markup."""
    parts = [f"# Audit of {markdown(result.subject)}", markdown(heading(result))]
    parts += [f"![{markdown(title)}]({name})\n\n{markdown(caption)}" for name, title, caption in pictures]
    for section in sections(result):
        parts.append(f"## {markdown(section.title)}")
        if section.table is not None:
            parts.append(to_markdown(section.table).rstrip())
        if section.lines:
            parts.append("\n".join(f"- {markdown(line)}" for line in section.lines))
    parts.append(f"Made by commit {commit_text(result.commit)}.")
    return "\n\n".join(parts) + "\n"


def heading(result: AuditResult) -> str:
    """What was audited, in a sentence."""
    voxel = shape_text((result.spec.temporal_stride, result.spec.spatial_stride, result.spec.spatial_stride))
    multiples = " or ".join(str(each) for each in sorted({policy.batching.side_multiple for policy in result.policies}))
    text = f"Audited: {result.audited}. A latent voxel is {voxel} pixels (T x H x W)"
    return f"{text}; heights and widths are cut to multiples of {multiples}." if result.mixed else f"{text}."


def clips(result: AuditResult) -> Section:
    """The clips as they come."""
    found = result.clips
    measures: tuple[tuple[str, SizeRange, Callable[[float], str]], ...] = (
        ("frames", found.num_frames, _plain),
        ("seconds", found.num_frames, lambda value: number(value / found.fps)),
        ("width / height", found.aspect, number),
        ("pixels of a frame", found.area, _plain),
    )
    rows = tuple((title, text(values.least), text(values.median), text(values.most)) for title, values, text in measures)
    caption = f"{found.num_clips:,} clips of {len(found.shapes):,} distinct shapes"
    table = Table("clips", caption, ("of a clip", "least", "median", "most"), rows)
    lines = [f"shapes (frames x height x width): {_counts(found.shapes)}", *found.notes]
    lines += [f"{count:,} {reason}" for reason, count in found.lost.items()]
    lines += [f"{entry.name} gives no clip: {entry.reason}" for entry in found.skipped[:MOST_LISTED]]
    lines += [f"and {len(found.skipped) - MOST_LISTED:,} more"] if len(found.skipped) > MOST_LISTED else []
    return Section(title="Clips as they come", table=table, lines=tuple(lines))


def policies(result: AuditResult) -> Section:
    """Both accounts and what they are made of, a column for each policy."""
    ledgers = [policy.ledger for policy in result.policies]
    rows: list[tuple[str, ...]] = []

    def add(title: str, value: Callable[[Ledger], str | None]) -> None:
        texts = [value(ledger) if ledger else None for ledger in ledgers]
        if any(text is not None for text in texts):
            rows.append((title, *(text or DASH for text in texts)))

    for kind, title in PIXELS.items():
        if any(ledger and getattr(ledger.pixels, kind) for ledger in ledgers):
            add(f"pixels: {title}", lambda ledger, kind=kind: _share(getattr(ledger.pixels, kind)))  # type: ignore[misc]
    add("frames used", lambda ledger: _share(ledger.frames_used))
    add("clips used", lambda ledger: _share(ledger.clips_used))
    add(SUBJECT["subject_kept"], lambda ledger: _share(ledger.subject_kept))
    add(SUBJECT["subject_whole"], lambda ledger: _share(ledger.subject_whole))
    for kind, title in ROOM.items():
        add(f"batches: {title}", lambda ledger, kind=kind: _share(getattr(ledger.room, kind)))  # type: ignore[misc]
    add("items to train on", lambda ledger: f"{ledger.num_items:,}")
    add("distinct shapes of items", lambda ledger: f"{ledger.num_shapes:,}")
    add("latent voxels of an item", lambda ledger: _three(*ledger.voxels_per_item))
    add("steps an epoch", lambda ledger: number(ledger.steps_per_epoch))
    if any(ledger and ledger.stills for ledger in ledgers):
        add("steps that show still images", lambda ledger: _share(ledger.stills))
        add("still images an epoch", lambda ledger: number(ledger.stills_per_epoch))
    lines = [f"{policy.name}: items of {_counts(policy.items)}" for policy in result.policies if policy.ledger]
    lines += [f"{policy.name} cannot be done: {policy.refused}" for policy in result.policies if policy.refused]
    table = Table(
        name="policies",
        caption=f"Shares of all clips' pixels, frames and number, and of the latent voxels that batches hold; means over {EPOCHS} epochs. "
        "What nothing is lost to is left out",
        header=("", *(policy.name for policy in result.policies)),
        rows=tuple(rows),
    )
    return Section(title="What each policy uses", table=table, lines=tuple(lines))


def costs(result: AuditResult) -> Section:
    """A row for each backbone under each policy."""
    assert result.matmul_flops is not None
    header = ("backbone", "policy", "tokens\nof an item", "steps\nan epoch", "forward", "training\nstep", f"{VOXELS:,}\nused voxels")
    backbones = {cost.backbone for cost in result.costs}
    short = len({short_name(name) for name in backbones}) == len(backbones)
    steps = {policy.name: number(policy.ledger.steps_per_epoch) for policy in result.policies if policy.ledger}
    machine = result.environment.device if result.environment.device not in (None, "cpu") else "this CPU"
    rows = tuple((short_name(cost.backbone) if short else cost.backbone, *_cost(cost, steps)) for cost in result.costs)
    caption = f"Means over the batches of {EPOCHS} epochs, padding included. Forward is of a step, counted; times are lower bounds"
    lines = (
        f"times: 3 {TIMES} forward FLOPs at the {result.precision} peak of {machine}, {number(result.matmul_flops / 1e12)} TFLOP/s, "
        "measured by a matrix product; a real step takes longer",
        "used voxels: the clips' own pixels that a step uses, in latent voxels, no padding, not enlarged, so that policies compare",
        *(f"{cost.backbone} cannot do {cost.policy}: {cost.refused}" for cost in result.costs if cost.refused),
        *result.notes,
    )
    table = Table("costs", caption, header, rows)
    return Section(title="What a training step costs", table=table, lines=lines)


def losses(result: AuditResult) -> Section:
    """Clips and buckets that are lost, by name."""
    lines = [f"{policy.name}: {loss}" for policy in result.policies if policy.ledger for loss in policy.ledger.losses]
    return Section(title="Lost whole, and what to change", table=None, lines=tuple(lines) or ("no clip and no bucket is lost",))


def _cost(cost: StepCost, steps: dict[str, str]) -> tuple[str, ...]:
    """A row, without the backbone."""
    if cost.num_tokens is None or cost.forward_flops is None or cost.least_step_time_s is None or cost.least_time_per_used_voxel_s is None:
        return (cost.policy, "cannot", *[DASH] * 4)
    return (
        cost.policy,
        _three(cost.num_tokens.least, cost.num_tokens.median, cost.num_tokens.most),
        steps[cost.policy],
        flops_text(cost.forward_flops),
        seconds_text(cost.least_step_time_s),
        seconds_text(VOXELS * cost.least_time_per_used_voxel_s),
    )


def _counts(counts: Sequence[ShapeCount]) -> str:
    """'16x41x98 (20), 16x48x85 (9) and 3 more'."""
    text = ", ".join(f"{shape_text(entry.shape)} ({entry.num:,})" for entry in counts[:MOST_LISTED])
    return text + (f" and {len(counts) - MOST_LISTED:,} more" if len(counts) > MOST_LISTED else "")


def _three(least: float, median: float, most: float) -> str:
    """'64 / 256 / 256': one number where they are the same."""
    return " / ".join(map(_plain, (least, median, most))) if least < most else _plain(most)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else number(value)


def _share(share: float | None) -> str | None:
    """'0' only where it is nothing."""
    return None if share is None else "0" if share == 0 else "<0.1%" if share < 0.001 else f"{share:.1%}"
