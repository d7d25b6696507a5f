"""Tables of where the numbers come from: what differs, what is shared, protocols, self-checks, failures, machines, cells, raw values."""

from typing import Any

from bench.data.frozen import flatten
from bench.report.load import Run, config_fields
from bench.report.render.table import NONE, Table, plain


def difference_table(run: Run) -> Table:
    """Every field in which the contenders' cells differ."""
    lines = [(key, *(plain(values.get(name)) for name in run.contenders)) for key, values in config_fields(run)[1]]
    caption = "What differs between the contenders, the seed left out"
    return Table("differences", caption, ("Field of the cell", *run.contenders), tuple(lines))


def setting_table(run: Run) -> Table:
    """Every field of the cells that all contenders share."""
    lines = tuple((key, plain(value)) for key, value in config_fields(run)[0])
    return Table("settings", "What all contenders share, in full", ("Field of the cell", "Value"), lines)


def protocol_table(run: Run) -> Table:
    """The protocol block of every quality metric, one column a protocol."""
    blocks: dict[str, dict[str, Any]] = {}
    users: dict[str, dict[str, None]] = {}
    for record in run.records:
        for measurement in record.measurements:
            if measurement.protocol_fingerprint and measurement.protocol is not None:
                blocks.setdefault(measurement.protocol_fingerprint, flatten(measurement.protocol))
                users.setdefault(measurement.protocol_fingerprint, {})[measurement.name] = None
    keys = list(dict.fromkeys(key for block in blocks.values() for key in block))
    lines = [("used by", *map(", ".join, users.values()))] if blocks else []
    lines += [(key, *(plain(block.get(key)) for block in blocks.values())) for key in keys]
    return Table("protocol", "Only values of one protocol are compared", ("Protocol", *(name[:8] for name in blocks)), tuple(lines))


def canary_table(run: Run) -> Table:
    """The self-checks that ran with the cells, and those that ran with some cells of a backbone and not with others."""
    lines, absent = [], []
    ran: dict[str, dict[str, None]] = {}  # backbone -> names of the self-checks of any of its cells
    for record in run.records:
        lines += [(each.name, record.name, "passed" if each.passed else "FAILED", each.detail) for each in record.canaries]
        ran.setdefault(record.cell.backbone, {}).update(dict.fromkeys(canary.name for canary in record.canaries))
    for record in run.records:
        own = {canary.name for canary in record.canaries}
        missing = [name for name in ran[record.cell.backbone] if name not in own] if record.status == "ok" else []
        absent += [(name, record.name, "did not run", "") for name in missing]
    rows = (*sorted(lines, key=lambda line: (line[2] == "passed", line)), *absent)
    return Table("canaries", "Self-checks that ran with the cells", ("Canary", "Cell", "Result", "Detail"), rows)


def failure_table(run: Run) -> Table:
    """Cells without a finished record."""
    lines = [
        (cell.name, cell.status, cell.reason or "no reason was given", cell.record.ended_at if cell.record else NONE)
        for cell in run.cells
        if cell.status != "ok"
    ]
    return Table("failures", "A failure is a result: these cells did not finish", ("Cell", "Status", "Reason", "Ended"), tuple(lines))


def environment_table(run: Run) -> Table:
    """Machine and versions; one column for each that differs."""
    seen: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for record in run.records:
        environment = record.environment.model_dump()
        block = flatten(environment | {"gpus": ", ".join(environment["gpus"]) or "none", "commits": ", ".join(record.commits)})
        block["memory_bytes"] = f"{environment['memory_bytes'] / 2**30:.1f} GiB"
        seen.setdefault(repr(block), (block, []))[1].append(record.name)
    titles = {key: key.removeprefix("packages.").replace("memory_bytes", "memory") for block, _ in seen.values() for key in block}
    lines = [(title, *(plain(block.get(key)) for block, _ in seen.values())) for key, title in titles.items()]
    header = ("Environment", *(f"{len(cells)} cells" if len(seen) == 1 else ", ".join(cells) for _, cells in seen.values()))
    return Table("environment", "Where and with what the cells ran", header, tuple(lines))


def cell_table(run: Run) -> Table:
    """Every cell with its fingerprint."""
    lines = [
        (cell.name, str(cell.seed), cell.status, str(cell.record.attempt) if cell.record else NONE, cell.fingerprint[:16], cell.path.name)
        for cell in run.cells
    ]
    return Table("cells", "Cells of the run", ("Cell", "Seed", "Status", "Attempt", "Fingerprint", "Folder"), tuple(lines))


def measurement_table(run: Run) -> Table:
    """Every number of every record, as stored."""
    table = run.measurements
    lines = tuple(tuple(plain(value) for value in line) for line in table.itertuples(index=False))
    return Table("measurements", "Every number, as stored", tuple(table.columns), lines, data=table)
