"""How far clips show what they were told, as a table: seen and unseen combinations, contenders side by side, then what to read them by."""

import statistics

import pandas as pd

from bench.metrics.following.values import CLIP_SCORE, FOLLOWING, UNSEEN
from bench.records.record import Measurement
from bench.report.load import Run
from bench.report.render import catalogue as metrics
from bench.report.render.table import NONE, Table
from bench.report.verdicts.compare import seed_interval

BESIDE = {"chance": "Blind guess", "real": "Real clips, read", "reconstruction": "Autoencoder"}


def following_table(run: Run) -> Table:
    """One line a measure; no line where no samples were told captions."""
    lines, data = [], []
    for value in (*FOLLOWING, CLIP_SCORE):
        found = {contender: _values(run, value.name, contender) for contender in run.contenders}
        if not any(found.values()):
            continue
        metric = metrics.find(value.name)
        texts = {contender: _text(metric, [m.value for m in own]) for contender, own in found.items()}
        every = [m for own in found.values() for m in own]
        levels = {"chance": [m.floor for m in every if m.floor is not None]}
        levels |= {subject: [m.value for c in run.contenders for m in _values(run, value.name, c, subject)] for subject in list(BESIDE)[1:]}
        beside = {name: statistics.fmean(own) if own else None for name, own in levels.items()}
        num_clips = max(m.protocol["num_clips"] if m.protocol else 0 for m in every)
        trained = NONE if value is CLIP_SCORE else "no" if value.name.endswith(UNSEEN) else "yes"
        what = metric.title.removesuffix(", combinations never trained on")
        lines.append((what, trained, *texts.values(), *(_number(metric, level) for level in beside.values()), f"{num_clips}"))
        raw: dict[str, object] = {"measurement": value.name, "num_clips": num_clips}
        for contender, own in found.items():
            raw[f"{contender} mean"] = statistics.fmean(m.value for m in own) if own else None
            raw[f"{contender} values"] = " ".join(repr(m.value) for m in own)
        data.append(raw | beside)
    caption = (
        "Mean over seeds with its 95 % interval. Beside it the same of the real test clips under one another's captions, which is what a "
        "model gets that does not listen, of the real clips as they are read under their own, and of those through the autoencoder, above "
        "which no backbone can be told to be"
    )
    header = ("Measure", "Combination trained on", *run.contenders, *BESIDE.values(), "Clips")
    return Table("following", caption, header, tuple(lines), data=pd.DataFrame(data))


def _values(run: Run, name: str, contender: str, subject: str = "trained") -> list[Measurement]:
    """One a seed."""
    found = [cell.record.measurement(name, subject) for cell in run.of(contender) if cell.record]
    return [each for each in found if each is not None and each.invalid is None]


def _text(metric: metrics.Metric, values: list[float]) -> str:
    """'92 % [88 %, 96 %]'."""
    if not values:
        return NONE
    found = seed_interval(values, metric)
    text = _number(metric, found.mean)
    return text if found.low is None or found.high is None else f"{text} [{_number(metric, found.low)}, {_number(metric, found.high)}]"


def _number(metric: metrics.Metric, value: float | None) -> str:
    if value is None:
        return NONE
    text = f"{100 * value:.1f} %" if metric.scale == "fraction" else metrics.number(value)
    return text.replace("-", metrics.MINUS)
