"""`check` from its arguments to an exit status: which two things are compared, what is printed, what is written."""

import fnmatch
import time
from collections.abc import Callable
from pathlib import Path

from bench.data.files import write_text
from bench.data.progress import Reporter
from bench.perf.gate.exits import CheckRefused, Exit, worst
from bench.perf.gate.gate import check_revisions
from bench.perf.gate.policy import read_policy
from bench.perf.gate.quality import check_quality
from bench.perf.gate.reference import compare, measure, read_reference
from bench.perf.gate.render import to_table, write_all
from bench.perf.gate.revisions import checked_out, refuse_dirty, repository


def run(
    base: str | None,
    head: str | None,
    against: Path | None,
    save: Path | None,
    runs: tuple[Path, Path] | None,
    policy_path: Path | None,
    only: list[str],
    out: Path | None,
    echo: Callable[[str], None],
) -> Exit:
    """One of four: revision against revision, against a stored reference, storing one, or two finished runs' quality."""
    ways = {"--base REV": base, "--against FILE": against, "--save FILE": save, "--runs BASE HEAD": runs}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise CheckRefused(Exit.BAD_INPUT, f"check needs one of {', '.join(ways)}, got {' and '.join(given) or 'none'}")
    useless: dict[str, dict[str, object]] = {"--runs": {"--head": head, "--only": only, "--out": out}, "--save": {"--out": out}}
    if named := [option for option, value in useless.get(given[0].split()[0], {}).items() if value]:
        which = "it" if len(named) == 1 else "them"
        raise CheckRefused(Exit.BAD_INPUT, f"check {given[0]} has no use for {' and '.join(named)}; leave {which} out")
    policy = read_policy(policy_path)
    if runs is not None:
        verdicts = check_quality(*runs, policy)
        echo(to_table(verdicts))
        return worst([verdict.exit for verdict in verdicts])
    if against is not None:
        read_reference(against)  # before minutes are spent
    root = repository(Path.cwd())
    if head is None:
        refuse_dirty(root)
    wanted = {**({} if base is None else {"base": base}), "head": head or "HEAD"}
    with Reporter("check").live() as progress, checked_out(root, wanted) as revisions:

        def chosen(name: str) -> bool:
            return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)

        if base is not None:
            result = check_revisions(revisions, policy, chosen, progress)
        else:
            start_s = time.monotonic()
            current = measure(revisions["head"], policy, chosen, progress)
            if save is not None:
                write_text(save, current.model_dump_json(indent=1) + "\n")
                echo(f"{save}: {len(current.counters)} benchmarks of {revisions['head']}, {policy.reference.processes} processes each")
                for name, reason in current.failed.items():
                    echo(f"{name}: {reason}")
                return Exit.DOES_NOT_BUILD if current.failed else Exit.UNCHANGED
            assert against is not None
            result = compare(read_reference(against), current, policy, start_s)
    echo(to_table(result.verdicts))
    for note in result.notes:
        echo(f"note: {note}")
    for path in write_all(result, out) if out is not None else ():
        echo(str(path))
    return result.exit
