"""A check as people and machines read it: Markdown for a pull request, JUnit, JSON, and pytest-benchmark's own files."""

import importlib.metadata
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data.files import write_files
from bench.perf.gate.exits import Exit
from bench.perf.gate.result import BenchmarkVerdict, CheckResult
from bench.report.render.markdown import markdown_table

SIGNS = {"regressed": "❌", "unchanged": "✅", "improved": "🚀", "inconclusive": "❔", "not comparable": "⚠️"}
HEADER = ("", "benchmark", "step, base", "step, head", "head / base", "pairs", "why")
METHOD = (
    "Two workers, one for each revision, alternate single steps on one thread of one processor; a pair of fresh workers is one sample, a "
    "benchmark is done when its verdict is clear."
)
HEADLINES = {
    Exit.REGRESSED: "slower, or holds more",
    Exit.DOES_NOT_BUILD: "a benchmark failed",
    Exit.ANOTHER_SUITE: "not comparable: a benchmark's definition changed",
    Exit.LACKS_BENCHMARK: "not comparable: a benchmark is missing on one side",
    Exit.INCONCLUSIVE: "inconclusive: this machine is too noisy",
    Exit.UNCHANGED: "no regression",
}


def write_all(result: CheckResult, folder: Path) -> list[Path]:
    """Write every form into `folder`."""
    texts = {
        "check.md": to_markdown(result),
        "check.json": result.model_dump_json(indent=1) + "\n",
        "junit.xml": to_junit(result),
        **{f"{role}.json": json.dumps(to_pytest_benchmark(result, role), indent=1) + "\n" for role in ("base", "head")},
    }
    return write_files(folder, texts)


def to_markdown(result: CheckResult) -> str:
    """For a pull request's comment or a job's summary."""
    environment = result.environment
    lines = [
        f"## Performance: {HEADLINES[result.exit]}",
        "",
        f"`{result.head.name}` ({result.head.commit[:9]}) against `{result.base.name}` ({result.base.commit[:9]}).",
        "",
        markdown_table(HEADER, map(_row, result.verdicts), figures=range(2, 6)),
        "",
    ]
    for verdict in result.verdicts:
        if verdict.outcome == "regressed" and verdict.parts:
            rows = [
                [role, *(f"{1000 * parts[side]:.2f}" for parts in verdict.parts.values())] for side, role in enumerate(("base", "head"))
            ]
            table = markdown_table(["", *verdict.parts], rows, figures=range(1, 1 + len(verdict.parts)))
            lines += [f"Where `{verdict.name}` spends its step, in milliseconds:", "", table, ""]
    detects = sorted({verdict.detect for verdict in result.verdicts if verdict.detect is not None})
    caught = " or ".join(f"{detect:.0%}" for detect in detects)
    lines += [
        f"{METHOD} The smallest slow-down to catch is {caught or 'not reached'}; counters must be equal.",
        f"{result.seconds:.0f} s on {', '.join([environment.cpu, f'{environment.num_cpus} CPUs', *environment.gpus])}, "
        f"torch {environment.packages.get('torch', '?')}.",
        *(f"Note: {note}." for note in result.notes),
        "",
    ]
    return "\n".join(lines)


def to_table(verdicts: Sequence[BenchmarkVerdict]) -> str:
    """For a console: a line a benchmark."""
    width = max(len(verdict.name) for verdict in verdicts)
    lines = []
    for verdict in verdicts:
        ratio = "" if verdict.ratio is None else f"{verdict.ratio - 1:+.1%}"
        lines.append(f"{verdict.outcome:<14}  {verdict.name:<{width}}  {ratio:>7}  {verdict.reason}".rstrip())
    return "\n".join(lines)


def to_junit(result: CheckResult) -> str:
    """One test case a benchmark: a regression is a failure; what could not be judged is an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="unet-vs-dit check",
        tests=str(len(result.verdicts)),
        failures=str(sum(verdict.exit == Exit.REGRESSED for verdict in result.verdicts)),
        errors=str(sum(verdict.exit not in (Exit.REGRESSED, Exit.UNCHANGED) for verdict in result.verdicts)),
        time=f"{result.seconds:.3f}",
    )
    for verdict in result.verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="check", name=verdict.name, time=f"{verdict.head_s or 0:.6f}")
        if verdict.exit != Exit.UNCHANGED:
            kind = "failure" if verdict.exit == Exit.REGRESSED else "error"
            ElementTree.SubElement(case, kind, type=verdict.outcome, message=verdict.reason)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def to_pytest_benchmark(result: CheckResult, role: str) -> dict[str, Any]:
    """A file as `--benchmark-json` writes it, times of all pairs together, for `pytest-benchmark compare base.json head.json`."""
    from pytest_benchmark.stats import Stats

    environment, side = result.environment, getattr(result, role)
    benchmarks = []
    for verdict in result.verdicts:
        times_s = [s for pair in result.pairs for s in pair["rounds"].get(verdict.name, {}).get(f"{role}_s", [])]
        if not times_s:
            continue
        stats = Stats()
        for seconds in times_s:
            stats.update(seconds)
        benchmarks.append(
            {
                "group": None,
                "name": verdict.name,
                "fullname": f"bench/perf/{verdict.name}",
                "params": None,
                "param": None,
                "extra_info": {counter.name: getattr(counter, role) for counter in verdict.counters},
                "options": {"timer": "perf_counter", "warmup": True, "disable_gc": True, "min_rounds": len(times_s)},
                "stats": {**stats.as_dict(), "iterations": 1, "data": times_s},
            }
        )
    return {
        "machine_info": {
            "node": "",
            "machine": environment.machine,
            "system": environment.system,
            "python_version": environment.python,
            "cpu": {"brand_raw": environment.cpu, "count": environment.num_cpus, "id": environment.cpu_id},
            "gpus": environment.gpus,
            "packages": environment.packages,
        },
        "commit_info": {"id": side.commit, "dirty": False, "branch": side.name, "time": None},
        "benchmarks": benchmarks,
        "datetime": result.started_at,
        "version": importlib.metadata.version("pytest-benchmark"),
    }


def _row(verdict: BenchmarkVerdict) -> list[str]:
    ratio = "" if verdict.ratio is None else f"{verdict.ratio:.3f} [{verdict.low:.3f}, {verdict.high:.3f}]"
    base, head = ("" if seconds is None else f"{1000 * seconds:.2f} ms" for seconds in (verdict.base_s, verdict.head_s))
    sign = f"{SIGNS[verdict.outcome]} {verdict.outcome}"
    return [sign, verdict.name, base, head, ratio, str(verdict.num_pairs or ""), verdict.reason.replace("<", "&lt;")]
