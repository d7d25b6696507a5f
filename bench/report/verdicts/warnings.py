"""What a reader must know before any ranking: warnings that are shown only where they are true, a sentence with numbers each. No torch.

With a serious one a verdict on quality gets no green badge: the numbers may be carried, and still not say what the page asks.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.data.frozen import flatten
from bench.records.record import DISTURBED, Measurement, Record
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.verdicts import compare, faults
from bench.report.verdicts.claim_table import claim_of
from bench.report.verdicts.findings import Findings

LEARNT = 0.95  # of its start, which a validation loss must get below where no distance tells
LIMIT = 0.5  # of the distance from real to generated clips, beyond which the autoencoder's part is most of it
CHANCE = 3.0  # standard errors between two shares of clips
RATE = "optimizer.learning_rate"
MOST_NAMED = 5
MOST_APART = 2  # contenders with a sentence each on how busy the machine was


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One warning about a run."""

    name: str
    sentence: str  # plain, with numbers
    serious: bool


@dataclass(frozen=True, kw_only=True)
class Alerts:
    """All warnings about a run, the serious ones first."""

    each: tuple[Alert, ...]

    @property
    def badge(self) -> bool:
        """Whether a verdict on quality may have its green badge."""
        return not any(alert.serious for alert in self.each)


def of(run: Run, findings: Findings) -> Alerts:
    """What is to be warned of."""
    found = [Alert(name=name, sentence=sentence, serious=serious) for name, serious, look in WARNINGS for sentence in look(run, findings)]
    return Alerts(each=tuple(found))


def _records(run: Run, contender: str) -> list[Record]:
    return [cell.record for cell in run.of(contender) if cell.record and cell.status == "ok"]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _named(records: list[Record], base: str | None, subject: str) -> list[Measurement]:
    """Measurements of a name without its n."""
    return [m for record in records for m in record.measurements if m.name.partition("@")[0] == base and m.subject == subject]


# --- the warnings


def _learnt_nothing(run: Run, findings: Findings) -> Iterator[str]:
    """The trained clips are no better than the untrained ones' interval over clips; where no distance tells, the loss is near its start."""
    for contender in run.contenders:
        records = [record for record in _records(run, contender) if record.cell.budget.amount]  # others were not to learn
        trained, untrained = (_named(records, run.primary, subject) for subject in ("trained", "untrained"))
        after, start = _mean(m.value for m in trained), _mean(m.value for m in untrained)
        higher = bool(trained) and trained[0].better == "higher"
        near = _mean((m.high if higher else m.low) for m in untrained)
        if after is not None and start is not None and near is not None:
            if after <= near if higher else after >= near:
                values = f"{metrics.number(after)}, and {metrics.number(start)} before training"
                yield f"{contender} learnt nothing that its clips show: {metrics.find(trained[0].name).title} is {values}."
            continue
        points = [record.training.validation for record in records if record.training and len(record.training.validation) > 1]
        first, last = _mean(each[0].loss for each in points), _mean(each[-1].loss for each in points)
        if first is not None and last is not None and last > LEARNT * first:
            yield f"{contender} learnt nothing: its validation loss is {metrics.number(last)}, and {metrics.number(first)} before training."


def _autoencoder_limit(run: Run, findings: Findings) -> Iterator[str]:
    """Of what lies between generated and real clips, floor taken off, half or more lies between the autoencoder's clips and real ones.

    Only where the autoencoder's distance is above the floor by more than the draw of clips moves it: else it costs nothing.
    """
    leading = compare.leading(run, findings.rows)
    base = leading[0].name if leading else None
    at_limit = []
    for contender in run.contenders:
        records, parts = _records(run, contender), []
        for record in records:
            trained, ceiling, floor = (
                record.measurement(base, subject) if base else None for subject in ("trained", "reconstruction", "real")
            )
            if trained and ceiling and floor and ceiling.low is not None and ceiling.low > floor.value:
                whole, own = trained.value - floor.value, ceiling.value - floor.value
                parts += [own / whole if whole > own else 1.0] if math.isfinite(whole) and math.isfinite(own) else []
        if parts and statistics.fmean(parts) >= LIMIT:
            at_limit.append(f"{100 * statistics.fmean(parts):.0f} % for {contender}")
    if at_limit and base:
        parts_text = " and ".join(at_limit)
        yield f"The autoencoder is the limit: of the {metrics.find(base).title} above that of real clips, its own part is {parts_text}."


def _not_matched(run: Run, findings: Findings) -> Iterator[str]:
    """Rivals miss their match, or a claim about backbones asks for none; trials are of contenders that need not match, too."""
    if run.tunes:
        return
    for row, ratio, tolerance in compare.mismatches(run, findings.rows):
        if tolerance is not None and ratio - 1 > tolerance:
            apart = f"{100 * (ratio - 1):.2g} % apart in {_lower(row.metric.title)}"
            yield f"The contenders are not matched: they are {apart}, and the matrix allows {100 * tolerance:.3g} %."
    backbones = {record.cell.backbone for record in run.records}
    if run.match is None and claim_of(run.claim, bool(run.contrasts)).of_backbones and len(backbones) > 1:
        known = {row.name: ratio for row, ratio, _ in compare.mismatches(run, findings.rows)}
        sizes = [
            f"{metrics.number(known[name], 2)} times in {title}"
            for name, title in (("num_params", "parameters"), ("flops_per_clip", "FLOPs of a clip"))
            if name in known
        ]
        apart = f"; they differ {' and '.join(sizes)}" if sizes else ""
        yield f"The contenders are not matched in what they cost, and the claim is about backbones{apart}."


def _lower(title: str) -> str:
    return title if title[1:2].isupper() else title[0].lower() + title[1:]


def _not_tuned(run: Run, findings: Findings) -> Iterator[str]:
    """Every contender has the rate that the matrix gives it, or was not tuned as the others were."""
    if not run.records or run.tunes is not None:
        return
    if found := list(faults.tuning(run)):
        yield f"Rates are not tuned alike: {'; '.join(dict.fromkeys(fault.what for fault in found))}."
    elif not run.asks_tuning:
        rates = dict.fromkeys(f"{flatten(record.cell.model_dump(mode='json'))[RATE]:g}" for record in run.records)
        shared = f"all have {next(iter(rates))}" if len(rates) == 1 else f"they are {', '.join(rates)}"
        yield f"Learning rates were not tuned ({shared}): whom they suit better has an advantage."


def _copies(run: Run, findings: Findings) -> Iterator[str]:
    """More generated clips than real ones lie unusually near a training clip, by more than the draw of clips explains."""
    for contender in run.contenders:
        records = _records(run, contender)
        trained, real = (_named(records, "copy_rate", subject) for subject in ("trained", "real"))
        rate, usual = _mean(m.value for m in trained), _mean(m.value for m in real)
        nums = [num for m in trained if isinstance(num := (m.protocol or {}).get("num_clips"), int) and num > 0]
        if rate is None or usual is None or not nums:
            continue
        pooled = (rate + usual) / 2
        if rate - usual > CHANCE * math.sqrt(max(0.0, 2 * pooled * (1 - pooled)) / min(nums)):
            yield f"{100 * rate:.0f} % of {contender}'s clips look like copies of training clips; of real clips {100 * usual:.0f} % do."


def _disturbed(run: Run, findings: Findings) -> Iterator[str]:
    """Others were at work on the device while it was measured."""
    courses = {name: [record.training for record in _records(run, name) if record.training] for name in run.contenders}
    shares = {name: max((course.other_cpu_share for course in own), default=0.0) for name, own in courses.items()}
    busy = {name: share for name, share in shares.items() if share > DISTURBED}
    several = len(busy) > MOST_APART
    for names in [list(busy)] if several else [[name] for name in busy]:
        timed = any(record.cell.budget.axis == "seconds" for name in names for record in _records(run, name))
        who = f"{len(busy)} of {len(run.contenders)} contenders" if several else names[0]
        slower = f"{'each' if several else 'it'} was slower than it is, and in its seconds learnt less"
        cost = slower if timed else f"{'the speed of each' if several else 'its speed'} is that of what was left"
        yield f"Others took up to {100 * max(busy[name] for name in names):.0f} % of the processors while {who} trained: {cost}."
    for contender, own in courses.items():
        others = max((course.other_processes for course in own), default=0)
        if others:
            were = "processes were" if others > 1 else "process was"
            yield f"Up to {others} other {were} on the GPU while {contender} trained: its timings are worth nothing."


def _card_full(run: Run, findings: Findings) -> Iterator[str]:
    """The allocator waited for the device, gave its cache back and asked anew, for want of memory."""
    for contender in run.contenders:
        retries = max((int(found.value) for found in _named(_records(run, contender), "num_alloc_retries", "trained")), default=0)
        if retries:
            times = f"up to {retries} times" if retries > 1 else "once"
            yield f"The card was full while {contender} trained: its allocator emptied its cache {times}, which costs speed."


def _pretrained(run: Run, findings: Findings) -> Iterator[str]:
    """Contenders that began with weights of others: what these were trained on, and how long, is not their rivals'."""
    for contender in run.contenders:
        if begun := [record for record in _records(run, contender) if record.cell.initialise == "pretrained"]:
            here = "was not trained here" if not any(record.cell.budget.amount for record in begun) else "was only tuned here"
            yield (
                f"The weights of {contender} are public ones, and it {here}: their data and budget are not those of its rivals, so that "
                "its place tells of the checkpoint and not of the backbone."
            )


def _left_out(run: Run, findings: Findings) -> Iterator[str]:
    """Files of the data that are in no clip."""
    names = sorted({entry.name for record in run.records if record.data for entry in record.data.skipped})
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        yield f"{len(names)} file{'s' if len(names) > 1 else ''} of the data gave no clip: {', '.join(names[:MOST_NAMED])}{more}."


# (name, serious, what is said where it is true)
WARNINGS: tuple[tuple[str, bool, Callable[[Run, Findings], Iterable[str]]], ...] = (
    ("learnt nothing", True, _learnt_nothing),
    ("pretrained", True, _pretrained),
    ("autoencoder is the limit", True, _autoencoder_limit),
    ("not matched", True, _not_matched),
    ("rates not tuned", True, _not_tuned),
    ("copies", False, _copies),
    ("disturbed", False, _disturbed),
    ("card full", False, _card_full),
    ("files left out", False, _left_out),
)
