"""A GPU that is steps behind its host, without one: time as the clocks of torch would tell it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.meters import clock


class LateDevice:
    """A GPU that is behind its host: work is handed over in no time, and done when its time has come. Stands in for torch's clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.host_s = self.done_s = 0.0  # the host's clock; when the device is through with all that it was given
        monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: self.host_s))
        monkeypatch.setattr(torch.cuda, "Event", self.event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.wait(self.done_s))

    def work(self, seconds: float) -> None:
        self.done_s = max(self.host_s, self.done_s) + seconds

    def wait(self, until_s: float) -> None:
        self.host_s = max(self.host_s, until_s)

    def event(self, enable_timing: bool) -> Any:
        made = SimpleNamespace()

        def record() -> None:
            made.at_s = max(self.host_s, self.done_s)

        made.record, made.synchronize = record, lambda: self.wait(made.at_s)
        made.elapsed_time = lambda other: 1000 * (other.at_s - made.at_s)
        return made
