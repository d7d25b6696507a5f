"""Memory of one phase: resident, and of a GPU with a stand-in for its allocator and driver."""

import mmap
import os

import pytest
import torch

from bench.meters.memory import FOUND, PhaseMemory, is_out_of_memory, let_go
from tests.fake_card import CUDA, FakeCard, running

CPU = torch.device("cpu")


def touched(num_bytes: int) -> mmap.mmap:
    """Resident memory of its own: what an allocator has kept from other tests cannot stand in for it."""
    block = mmap.mmap(-1, num_bytes)
    for page in range(0, num_bytes, mmap.PAGESIZE):
        block[page] = 1
    return block


def test_phase_memory_forgets_the_past() -> None:
    touched(240_000_000).close()
    memory = PhaseMemory(CPU)
    memory.start()
    before = memory.peaks()["peak_rss_bytes"]
    block = touched(160_000_000)
    after = memory.peaks()["peak_rss_bytes"]
    assert after - before > 120_000_000
    block.close()


def test_a_gpu_tells_all_of_the_phase_and_nothing_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(monkeypatch)
    card.allocated, card.reserved, card.split, card.retries, card.ooms = 900, 950, 80, 7, 2
    memory = PhaseMemory(CUDA)
    memory.start()
    assert card.done == ["emptied", "reset"]
    card.allocated, card.reserved, card.split, card.retries, card.ooms = 600, 800, 50, 10, 3
    running(monkeypatch, {os.getpid(): 1234})
    found = memory.peaks()
    assert set(found) == set(FOUND) and found.pop("peak_rss_bytes") > 2**20
    assert found == {
        "peak_allocated_bytes": 600,
        "peak_reserved_bytes": 800,
        "peak_inactive_split_bytes": 50,
        "peak_process_bytes": 1234,
        "num_alloc_retries": 3,
        "num_ooms": 1,
    }


def test_what_the_driver_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCard(monkeypatch)
    running(monkeypatch, {os.getpid(): None})
    memory = PhaseMemory(CUDA)
    memory.start()
    assert set(FOUND) - set(memory.peaks()) == {"peak_process_bytes"}


def test_without_a_start_it_is_of_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(monkeypatch)
    card.allocated, card.ooms = 900, 1
    found = PhaseMemory(CUDA).peaks()
    assert (found["peak_allocated_bytes"], found["num_ooms"], card.done) == (900, 1, [])


def test_before_cuda_begins_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch then has no statistics."""
    FakeCard(monkeypatch)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {})
    found = PhaseMemory(CUDA).peaks()
    assert {value for name, value in found.items() if name != "peak_rss_bytes"} == {0}


def test_a_cpu_tells_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    card = FakeCard(monkeypatch)
    memory = PhaseMemory(CPU)
    memory.start()
    let_go(CPU)
    assert set(memory.peaks()) == {"peak_rss_bytes"} and card.done == []
    let_go(CUDA)
    assert card.done == ["emptied"]


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_the_end_of_memory_is_known_by_its_words(error: Exception, ended: bool) -> None:
    assert is_out_of_memory(error) == ended
