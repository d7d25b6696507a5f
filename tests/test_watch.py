"""Who is to blame: what a job was at when its process ended without a word, or when its time was up."""

import subprocess
import sys
import time

import pytest

from bench.run.watch import Ended, Watch, the_end, watched

JOB = """
import os, sys, time
from bench.run.watch import opened
watch = opened(sys.argv[1])
with watch.over(["before"], "a check that is through", 60.0):
    pass
with watch.over(["a", "b"], "a check", 0.2):
    {at}
watch.end("done")
"""


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("time.sleep(60)", "a check ran over timeout_s = 0.2"),
        ("os._exit(0)", "a check ended with status 0 before it was done (a plug-in that exits?)"),
        ("os._exit(130)", "a check ended with status 130; what it printed says why"),
        ("os.kill(os.getpid(), 11)", "a check was ended by signal SIGSEGV"),
        ("pass", ""),
    ],
)
def test_a_process_that_ends_or_hangs_is_told_of(at: str, reason: str) -> None:
    started_s = time.monotonic()
    with watched() as file:
        words = [sys.executable, "-c", JOB.format(at=at), str(file.fileno())]
        ended = the_end(subprocess.run(words, pass_fds=[file.fileno()], check=False, timeout=60).returncode, file)
    assert time.monotonic() - started_s < 50
    if reason:
        assert (ended.word, ended.cells, ended.reason) == ("", ("a", "b"), reason)
        assert ended.timed_out == ("sleep" in at) == ('File "<string>", line 8' in ended.where)
    else:
        assert (ended.word, ended.cells) == ("done", ())


def test_without_a_file_nothing_is_limited() -> None:
    with Watch().over(["a"], "a check", 0.001):
        time.sleep(0.1)
    assert Ended(code=-35).reason == "its process was ended by signal 35"  # a real-time one, which has no name
    assert Ended(code=-9).reason == "its process was ended by signal SIGKILL (out of memory?)"
