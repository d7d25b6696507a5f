"""Resident memory of one phase."""

import torch

from bench.meters.memory import PhaseMemory


def test_phase_memory_forgets_the_past() -> None:
    big = torch.ones(60_000_000)
    del big
    memory = PhaseMemory(torch.device("cpu"))
    memory.start()
    before = memory.peaks()["peak_rss_bytes"]
    block = torch.ones(40_000_000)
    after = memory.peaks()["peak_rss_bytes"]
    assert after - before > 120_000_000
    assert len(block) == 40_000_000
