"""The question and its answer in sentences, from the verdicts alone. Claims nothing a verdict does not carry."""

import math
from collections.abc import Sequence
from typing import Any

from bench.report import compare, metrics
from bench.report.compare import Row
from bench.report.load import Run
from bench.stats import MIN_SEEDS, Verdict

QUESTIONS = {"backbone": "Which backbone should a video diffusion model have, for this data, this budget and this machine?"}
DEFAULT_QUESTION = "How do the contenders compare on this data, this budget and this machine?"


def question(run: Run) -> str:
    """What the matrix asks."""
    return QUESTIONS.get(str(run.claim), DEFAULT_QUESTION)


def setting(run: Run) -> str:
    """What was run, in one sentence."""
    done = sum(cell.status == "ok" for cell in run.cells)
    parts = [f"{' and '.join(_list(run.contenders))}, {_seeds_text(run)} each"]
    configs = [cell.config for cell in run.cells if cell.record]
    if configs:
        data, budget = configs[0].get("data") or {}, configs[0].get("budget") or {}
        if data.get("num_frames"):
            size = f"{data.get('width')}{metrics.TIMES}{data.get('height')}"
            parts.append(f"{data.get('source', 'clips')}, clips of {data['num_frames']} frames of {size}")
        if amount := next(((key, value) for key, value in budget.items() if value is not None), None):
            parts.append(f"budget {budget_text(*amount)}")
    machines = list(dict.fromkeys(machine_text(record.environment) for record in run.records))
    if machines:
        parts.append(f"on {' / '.join(machines)}")
    return f"{'; '.join(parts)}. {done} of {len(run.cells)} cells finished."


def budget_text(axis: str, amount: float) -> str:
    """A budget as a reader says it."""
    metric = metrics.find(metrics.BUDGETS.get(axis, axis))
    if metric.scale == "flops":
        divisor, unit = metrics.scale_of(metric, amount, "")
        return f"{metrics.number(amount / divisor)} training {unit}"
    words = {"steps": "training steps", "samples": "training clips", "seconds": "seconds of training"}
    return f"{metrics.count(amount)} {words.get(axis, axis)}"


def machine_text(environment: Any) -> str:
    """The device a cell ran on, and its threads."""
    device = environment.device if environment.device and environment.device != "cpu" else environment.cpu
    threads = environment.num_threads
    return f"{device} ({threads} thread{'s' if threads != 1 else ''})" if threads and environment.device in (None, "cpu") else device


def answer(run: Run, rows: Sequence[Row]) -> tuple[str, list[tuple[str, str]]]:
    """(headline, [(group, sentence)]). The headline is about quality; every group of axes gets its say in a sentence."""
    if len(run.contenders) < 2:
        return "Nothing to compare", [("", f"The run has {run.contenders[0] if run.contenders else 'no cells'} and nothing beside it.")]
    failed = {name: canaries for name in run.contenders if (canaries := run.untrusted(name))}
    if failed:
        which = "; ".join(f"{name}: {', '.join(canaries)}" for name, canaries in failed.items())
        return "No verdict: a canary failed", [
            ("", f"Self-checks failed ({which}). The numbers below are shown; none of them is to be believed.")
        ]

    judged = compare.axes(rows)
    leading = compare.leading(rows)
    first = leading[0] if leading else None
    headline = "Quality: not measured"
    sentences = []
    if first is not None and first.verdict is not None:
        headline = _headline(first.verdict, [row.verdict for row in judged if row.metric.group == "quality" and row.verdict])
    sentences += [("Quality", _distance(row, row.verdict)) for row in leading if row.verdict is not None]
    for group in ("quality", "speed", "memory", "cost"):
        members = [row for row in judged if row.metric.group == group and row not in leading]
        if text := _group(members):
            sentences.append((metrics.GROUPS[group] if group != "quality" or first is None else "Other quality measures", text))
    if min(_seed_counts(run)) < MIN_SEEDS:
        rule = f"{_seeds_text(run)} cannot carry a claim about a value that varies with the seed; {MIN_SEEDS} can."
        sentences.append(("Rule", f"{rule} Counts are exact and may lead without."))
    return headline, sentences


def _seed_counts(run: Run) -> list[int]:
    return [len({cell.seed for cell in run.of(name)}) for name in run.contenders]


def _seeds_text(run: Run) -> str:
    least, most = min(_seed_counts(run), default=0), max(_seed_counts(run), default=0)
    return f"{least} to {most} seeds" if least != most else f"{most} seed{'s' if most != 1 else ''}"


def _headline(verdict: Verdict, quality: Sequence[Verdict]) -> str:
    """On the primary distance, unless another quality measure carries another leader."""
    if verdict.carried and any(other.carried and other.leader != verdict.leader for other in quality):
        return "Quality: split, the measures disagree"
    if verdict.carried:
        return f"Quality: {verdict.leader} leads"
    return f"Quality: {'inconclusive' if verdict.outcome in ('inconclusive', 'tie') else verdict.outcome}"


def _distance(row: Row, verdict: Verdict) -> str:
    """A leading distance in words, each mean with its interval."""
    means = []
    for entry in row.entries:
        if entry.interval:
            low, high = entry.interval.low, entry.interval.high
            if low is None or high is None:
                low, high = entry.clips_low, entry.clips_high
            bounds = f" [{row.text(low)}, {row.text(high)}]" if low is not None and high is not None else ""
            means.append(f"{entry.contender} {row.text(entry.interval.mean)}{bounds}")
    if "real" in row.references:
        means.append(f"real against real {row.text(row.references['real'][1])}")
    outcome = f"{verdict.leader} leads" if verdict.carried else verdict.outcome[0].upper() + verdict.outcome[1:]
    reason = "; ".join([verdict.reason, *row.caveats])
    return f"{row.metric.title}: {', '.join(means)}; {row.better} is better. {outcome}: {reason}."


def _group(rows: Sequence[Row]) -> str:
    """One sentence on a group of axes: who leads which, who is merely ahead."""
    leads: dict[str, list[str]] = {}
    ahead: dict[str, list[str]] = {}
    for row in rows:
        verdict = row.verdict
        if verdict is None or verdict.leader is None or verdict.outcome == "tie":
            continue
        (leads if verdict.carried else ahead).setdefault(verdict.leader, []).append(_phrase(row, verdict))
    parts = [f"{name} leads on {' and '.join(_list(what))}" for name, what in leads.items()]
    parts += [f"inconclusive, with {name} ahead, on {' and '.join(_list(what))}" for name, what in ahead.items()]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text and text.startswith("inconclusive") else f"{text}." if text else ""


def _phrase(row: Row, verdict: Verdict) -> str:
    assert verdict.leader is not None and verdict.rival is not None
    title = row.metric.title[0].lower() + row.metric.title[1:] if row.metric.title[1:2].islower() else row.metric.title
    ratio = ratio_text(row, verdict)
    exact = ", exact" if verdict.outcome == "exact" else ""
    return f"{title} ({ratio}{exact})" if ratio else title


def ratio_text(row: Row, verdict: Verdict) -> str:
    """Leader's mean / rival's mean, where both are positive."""
    if verdict.leader is None or verdict.rival is None:
        return ""
    leader, rival = row.entry(verdict.leader).interval, row.entry(verdict.rival).interval
    if leader is None or rival is None or min(leader.mean, rival.mean) <= 0 or not math.isfinite(leader.mean / rival.mean):
        return ""
    ratio = leader.mean / rival.mean
    return f"{ratio:.3f}{metrics.TIMES}" if abs(ratio - 1) < 0.1 else f"{ratio:.2f}{metrics.TIMES}"


def _list(names: Sequence[str]) -> list[str]:
    """['a', 'b', 'c'] -> ['a, b', 'c'], to be joined by ' and '."""
    return [", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names)
