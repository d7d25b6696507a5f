"""The command line's process: signals and terminals."""

import os
import signal
import subprocess
import sys

import pytest

STUB = "import time, bench.cli; bench.cli.app = lambda **options: print('{said}', flush=True) or time.sleep({sleep}); bench.cli.main()"


def started(said: str, sleep: float, **environment: str) -> "subprocess.Popen[str]":
    """A process in which `main` runs a command that says something and sleeps."""
    words = [sys.executable, "-c", STUB.format(said=said, sleep=sleep)]
    env = {**os.environ, **environment}

    def hears() -> None:  # also where the tests run under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, errors="replace", preexec_fn=hears)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_stops_a_command_as_ctrl_c_does(number: signal.Signals) -> None:
    process = started("up", 60)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "stopped\n")
    assert process.returncode == 130


def test_a_terminal_that_knows_only_ascii_is_no_failure() -> None:
    process = started("val loss \\u2193", 0, PYTHONIOENCODING="ascii")
    assert process.communicate(timeout=60) == ("val loss ?\n", "")
    assert process.returncode == 0
