"""Resident memory of one phase."""

import mmap

import torch

from bench.meters.memory import PhaseMemory


def touched(num_bytes: int) -> mmap.mmap:
    """Resident memory of its own: what an allocator has kept from other tests cannot stand in for it."""
    block = mmap.mmap(-1, num_bytes)
    for page in range(0, num_bytes, mmap.PAGESIZE):
        block[page] = 1
    return block


def test_phase_memory_forgets_the_past() -> None:
    touched(240_000_000).close()
    memory = PhaseMemory(torch.device("cpu"))
    memory.start()
    before = memory.peaks()["peak_rss_bytes"]
    block = touched(160_000_000)
    after = memory.peaks()["peak_rss_bytes"]
    assert after - before > 120_000_000
    block.close()
