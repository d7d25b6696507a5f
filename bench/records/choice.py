"""What a run of trials comes to: for each contender and budget, the choice among its records. Knows no torch."""

from collections.abc import Sequence

from bench.data.frozen import flatten
from bench.records.record import Record
from bench.shapes import Refusal
from bench.study.budget import Budget
from bench.study.cell import Cell
from bench.study.trials import Point, choose, contender_of
from bench.study.tune import Tune, Tuning, TuningTrial


def chosen(records: Sequence[Record], tune: Tune) -> list[tuple[Record, Tuning]]:
    """For each contender and budget of a run of trials a record at the full budget and the choice. Refusal for a trial without a result."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.status not in ("ok", "diverged", "oom"):
            raise Refusal(f"trial {record.name} of {record.matrix} {record.status}: {record.reason}; run the same command to try it again")
        groups.setdefault(group_of(record.cell, tune), []).append(record)
    found = []
    for own in groups.values():
        trials: dict[str, tuple[Point, Budget, list[tuple[int, float | None]]]] = {}
        protocols = set()
        for record in own:
            loss = record.measurement("val_loss") if record.status == "ok" else None
            protocols |= {loss.protocol_fingerprint} if loss else set()
            fields = flatten(record.cell.model_dump(mode="json"))
            point = {name: fields[name] for name in tune.grid}
            key = f"{point} {record.cell.budget}"
            trials.setdefault(key, (point, record.cell.budget, []))[2].append((record.cell.seed, loss.value if loss else None))
        if len(protocols) > 1:
            name = own[0].cell.backbone
            raise Refusal(f"{own[0].matrix}: validation losses of {name} are of different protocols; tune other fields")
        made = [TuningTrial(point=point, budget=budget, losses=tuple(losses)) for point, budget, losses in trials.values()]
        most = max(own, key=lambda record: record.cell.budget.amount)
        found.append((most, choose(made, tune.by, most.matrix)))
    return found


def group_of(cell: Cell, tune: Tune) -> str:
    """What trials share that are chosen among: contender and budget; of successive halving the axis of the budget alone."""
    budget = "" if tune.budget else cell.budget.axis if tune.halving else str(cell.budget)
    return f"{contender_of(cell, tune.grid)} {budget}"
