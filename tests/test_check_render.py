"""The forms of a result, from one with every kind of verdict."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.perf.gate.exits import Exit
from bench.perf.gate.render import to_junit, to_markdown, to_table, write_all
from bench.perf.gate.result import BenchmarkVerdict, CheckResult, Compared, Counter
from bench.records.environment import read_environment

VERDICTS = (
    BenchmarkVerdict(
        name="slow", outcome="regressed", exit=Exit.REGRESSED, reason="8.0% slower | <b>", detect=0.05, ratio=1.08, low=1.06, high=1.10,
        num_pairs=4, base_s=0.02, head_s=0.0216, parts={"forward": (0.01, 0.0116), "rest": (0.01, 0.01)},
        counters=(Counter(name="operators", base=10, head=11, outcome="regressed"),),
    ),
    BenchmarkVerdict(
        name="same", outcome="unchanged", exit=Exit.UNCHANGED, reason="", ratio=1.0, low=0.99, high=1.01, num_pairs=4, base_s=0.02,
        head_s=0.02,
    ),
    BenchmarkVerdict(name="noisy", outcome="inconclusive", exit=Exit.INCONCLUSIVE, reason="too noisy",
        ratio=1.02, low=0.9, high=1.2, num_pairs=12),
    BenchmarkVerdict(name="gone", outcome="not comparable", exit=Exit.LACKS_BENCHMARK, reason="head lacks this benchmark"),
)  # fmt: skip
ROUNDS = {"slow": {"base_s": [0.02, 0.021], "head_s": [0.0215, 0.0217]}, "same": {"base_s": [0.02] * 2, "head_s": [0.02] * 2}}


@pytest.fixture(scope="module")
def result() -> CheckResult:
    return CheckResult(
        base=Compared(name="main", commit="a" * 40), head=Compared(name="HEAD", commit="b" * 40), started_at="2026-01-01T00:00:00+00:00",
        seconds=12.5, environment=read_environment(), suite_version=1, policy={}, verdicts=VERDICTS, pairs=({"rounds": ROUNDS},) * 2,
    )  # fmt: skip


def test_markdown_is_a_table_that_text_cannot_break(result: CheckResult) -> None:
    lines = to_markdown(result).splitlines()
    assert lines[0] == "## Performance: slower, or holds more"
    table = [line for line in lines if line.startswith("|")]
    assert "| ❌ regressed | slow | 20.00 ms | 21.60 ms | 1.080 [1.060, 1.100] | 4 | 8.0% slower \\| &lt;b> |" in table
    assert "| base | 10.00 | 10.00 |" in table
    assert "| head | 11.60 | 10.00 |" in table
    assert any("not comparable | gone" in line for line in table)


def test_the_console_has_a_line_a_benchmark(result: CheckResult) -> None:
    lines = to_table(result.verdicts).splitlines()
    assert [line.split()[0] for line in lines] == ["regressed", "unchanged", "inconclusive", "not"]
    assert "+8.0%" in lines[0]


def test_junit_fails_for_a_regression_and_errs_for_what_could_not_be_judged(result: CheckResult) -> None:
    suite = ElementTree.fromstring(to_junit(result))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "1", "2")
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds == {"slow": ["failure"], "same": [], "noisy": ["error"], "gone": ["error"]}
    assert suite[0][0].get("message") == "8.0% slower | <b>"


def test_pytest_benchmark_reads_both_sides(result: CheckResult, tmp_path: Path) -> None:
    names = {path.name for path in write_all(result, tmp_path)}
    assert names == {"check.md", "check.json", "junit.xml", "base.json", "head.json"}
    head = json.loads((tmp_path / "head.json").read_text())
    slow = next(benchmark for benchmark in head["benchmarks"] if benchmark["name"] == "slow")
    assert slow["stats"]["data"] == [0.0215, 0.0217] * 2
    assert slow["stats"]["median"] == pytest.approx(0.0216)
    assert slow["extra_info"] == {"operators": 11}
    command = [
        sys.executable,
        "-c",
        "from pytest_benchmark.cli import main; main()",
        "compare",
        "base.json",
        "head.json",
        "--columns=median",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "slow" in done.stdout


def test_the_json_is_the_result(result: CheckResult, tmp_path: Path) -> None:
    write_all(result, tmp_path)
    assert CheckResult.model_validate_json((tmp_path / "check.json").read_text()) == result
    assert result.exit == Exit.REGRESSED
