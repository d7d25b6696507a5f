"""A score as Markdown, and as files. Knows no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench.commands.score.record import FILE, GENERATED, PublishedValue, Score, ScoredSet
from bench.data.files import write_files
from bench.metrics.extractors.manifest import FRAME
from bench.metrics.protocol import INFINITE, compare_or_raise, read_name
from bench.records.record import REAL, Measurement
from bench.report.render.catalogue import DASH, number
from bench.report.render.markdown import fenced, markdown, markdown_table
from bench.report.verdicts.stats import MIN_FLOORS
from bench.shapes import Refusal

MAX_LISTED = 20  # of what was left out; the JSON has all


def check_folder(folder: Path) -> None:
    """Refusal unless files can be written there: said before minutes of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise Refusal(f"--out {folder} cannot be made: {error.strerror}; choose another folder") from error
    if not writable:
        raise Refusal(f"--out {folder} cannot be written; choose another folder")


def write(score: Score, folder: Path) -> list[Path]:
    """`score.json` and `score.md` in `folder`, whole or not at all."""
    return write_files(folder, {FILE: to_json(score), "score.md": to_markdown(score)})


def to_json(score: Score) -> str:
    return score.model_dump_json(indent=1, ensure_ascii=True) + "\n"  # names of files may hold what moves a cursor


def to_markdown(score: Score) -> str:
    """The whole score: distances first, what was left out and the protocols last."""
    clips = f"{score.n} clips of {score.num_frames} frames of {score.height}x{score.width} in each set"
    parts = [
        f"# {markdown(score.generated.path)} against {markdown(score.real.path)}",
        f"{clips}; {_rule(score)}. Lower is better for distances, higher for shares.",
        _distances(score),
        "\n".join(f"- {line}" for line in [*map(markdown, score.notes), *_remarks(score)]),
        _shares(score),
        _pixels(score),
        _groups(score, "class"),
        _groups(score, "shape"),
        *(_published(value) for value in score.published),
        _left_out("REAL", score.real),
        _left_out("GENERATED", score.generated),
        _protocols(score),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rule(score: Score) -> str:
    rule = score.rule
    stride = f", every {rule['stride']}th frame" if rule["stride"] > 1 else ""
    starts = {
        "random": f"one clip an item, its start drawn with seed {rule['seed']}",
        "first": "one clip an item, from its first frame",
        "disjoint": "all clips an item holds, one after the other",
    }
    return f"{starts[rule['start']]}{stride}; frames {rule['size']}"


def _distances(score: Score) -> str:
    known = {found.name: found for found in score.measurements if found.subject == GENERATED}
    rows = []
    for found in score.distances:
        stem, _, size = found.name.partition("@")
        limit = known.get(f"{stem}{INFINITE}@{size or score.n}")
        floor = DASH if found.floor is None else number(found.floor)
        floors = DASH if not found.floor or found.floor <= 0 else f"{found.value / found.floor:.1f}"
        rows.append([f"`{found.name}`", _with_interval(found), floor, floors, DASH if limit is None else _with_interval(limit)])
    return markdown_table(["distance", "value [95 %]", "floor, real against real", "floors", "at infinite n [95 %]"], rows)


def _with_interval(found: Measurement) -> str:
    return number(found.value) + ("" if found.low is None or found.high is None else f" [{number(found.low)}, {number(found.high)}]")


def _remarks(score: Score) -> list[str]:
    """What must be said beside the numbers; the same for several distances, said once."""
    remarks: dict[str, list[str]] = {}
    for found in score.distances:
        kind, extractor = read_name(found.name) or (None, "")
        assert kind is not None and found.protocol is not None
        said = [f"floor {found.floor_source}"]
        if found.low is None:
            said.append(f"interval {found.interval}")
        if "@" in found.name:
            said.append(f"n = {score.n} is below what a headline needs")
        if kind.infinite_n is not None and extractor != FRAME.name and score.n < (needed := kind.infinite_n_clips(found.protocol["dim"])):
            said.append(f"at infinite n: none below {needed} clips, for {found.protocol['dim']} features")
        if kind.bias != "none" and found.floor and found.floor > 0 and found.value < MIN_FLOORS * found.floor:
            said.append(f"below {MIN_FLOORS} floors: mostly the bias of a small n")
        for remark in said:
            remarks.setdefault(remark, []).append(f"`{found.name}`")
    return [f"{', '.join(names)}: {markdown(remark)}" for remark, names in remarks.items()]


def _shares(score: Score) -> str:
    found = [measurement for measurement in score.measurements if "num_neighbours" in (measurement.protocol or {})]
    rows = [[f"`{share.name}`", f"{100 * share.value:.1f} %"] for share in found]
    return "## Diversity\n\n" + markdown_table(["share", "value"], rows) if rows else ""


def _pixels(score: Score) -> str:
    """Of measures of pixels, with the floor where there are real clips to spare."""
    found = [measurement for measurement in score.measurements if "measure" in (measurement.protocol or {})]
    floors = {measurement.name: number(measurement.value) for measurement in found if measurement.subject == REAL}
    own = [measurement for measurement in found if measurement.subject == GENERATED]
    rows = [[f"`{measurement.name}`", _with_interval(measurement), floors.get(measurement.name, DASH)] for measurement in own]
    return "## By pixels\n\n" + markdown_table(["measure", "value [95 %]", "real clips"], rows) if rows else ""


def _groups(score: Score, by: str) -> str:
    """A table of the groups with enough clips; the others by name."""
    groups = [group for group in score.groups if group.by == by]
    if not groups:
        return ""
    enough, few = [group for group in groups if group.values], [group for group in groups if not group.values]
    title = {"class": "## By class", "shape": "## By shape, frames x height x width as they came"}[by]
    parts = [title]
    if enough:
        stems = [name.partition("@")[0] for name in enough[0].values]
        rows = [[markdown(group.name), str(group.n), *(number(value) for value in group.values.values())] for group in enough]
        parts.append(markdown_table([by, "n of each", *(f"`{stem}@n`" for stem in stems)], rows))
    if few:
        named = ", ".join(f"{markdown(group.name)} ({group.num_real} and {group.num_generated})" for group in few[:MAX_LISTED])
        more = f" and {len(few) - MAX_LISTED} more" if len(few) > MAX_LISTED else ""
        parts.append(f"Too few clips for a number, real and generated: {named}{more}.")
    return "\n\n".join(parts)


def _published(value: PublishedValue) -> str:
    """Another tool's value, the canonical one, and why they differ."""
    found = value.measurement
    rows = [[f"`{found.name}`", found.invalid or number(found.value, 4)]]
    rows.append(["the same with an exact matrix root", number(value.exact_root, 4)])
    if value.canonical_name and value.canonical_value is not None:
        rows.append([f"`{value.canonical_name}`, canonical", number(value.canonical_value, 4)])
    counts = []
    for what, num, distinct in (("real", value.n_real, value.distinct_real), ("generated", value.n_fake, value.distinct_fake)):
        counts.append(f"{num} {what} clips" + (f", {distinct} of them different" if distinct != num else ""))
    skipped = f"; {len(value.skipped)} items left out" if value.skipped else ""
    choices = "\n".join(f"- {markdown(name)}: {markdown(choice)}" for name, choice in value.choices.items())
    values = markdown_table(["value", "Fréchet distance"], rows)
    return f"## As {value.tool} measures it\n\n{values}\n\n{'; '.join(counts)}{skipped}.\n\n{choices}"


def _left_out(argument: str, side: ScoredSet) -> str:
    """What a folder held that gave no clip, named with its reason."""
    if not side.skipped:
        return ""
    listed = "\n".join(f"- {markdown(entry.name)} {markdown(entry.reason)}" for entry in side.skipped[:MAX_LISTED])
    more = f"\n- and {len(side.skipped) - MAX_LISTED} more, see {FILE}" if len(side.skipped) > MAX_LISTED else ""
    return f"## Left out of {argument}\n\n{len(side.skipped)} left out, {side.num_read} clips read.\n\n{listed}{more}"


def _protocols(score: Score) -> str:
    """Every protocol, folded."""
    every = [*score.measurements, *(value.measurement for value in score.published)]
    folded = []
    for mark, block in {found.protocol_fingerprint: found.protocol for found in every}.items():
        names = dict.fromkeys(found.name for found in every if found.protocol_fingerprint == mark)
        folded.append(f"{', '.join(names)}: {mark}\n{json.dumps(block, indent=1)}")
    inside = "\n\n".join(folded)
    return f"<details><summary>Protocols</summary>\n\n{fenced(inside)}\n\n</details>"


def comparison(first: Score, second: Score) -> str:
    """Distances of two scores side by side. Refusal, with what differs, where a distance of both has two protocols."""
    theirs = {found.name.partition("@")[0]: found for found in second.distances}
    both = [(found, other) for found in first.distances if (other := theirs.get(found.name.partition("@")[0])) is not None]
    if not both:
        raise Refusal("the two scores have no distance in common; score both with the same --extractor")
    rows = []
    for ours, other in both:
        compare_or_raise(ours.protocol or {}, other.protocol or {})
        rows.append([f"`{ours.name}`", _with_interval(ours), _with_interval(other), number(ours.value - other.value)])
    return markdown_table(["distance", markdown(first.generated.path), markdown(second.generated.path), "difference"], rows) + "\n"
