"""Start-up of the command line: what a user waits for before anything happens."""

import subprocess
import sys

import pytest


@pytest.mark.perf
@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["validate", "quick"]], ids=lambda arguments: arguments[0])
def test_start_up(benchmark, arguments: list[str]) -> None:
    def start() -> None:
        subprocess.run([sys.executable, "-m", "bench", *arguments], check=True, capture_output=True)

    benchmark.pedantic(start, rounds=5, iterations=1, warmup_rounds=1)
