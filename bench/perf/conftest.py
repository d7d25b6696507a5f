"""What the benchmarks share."""

from collections.abc import Iterator

import pytest
import torch

from bench.meters.process import keep_freed_memory


@pytest.fixture(scope="session", autouse=True)
def kept_memory() -> None:
    """As in every process that trains."""
    keep_freed_memory()


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One and two threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads of a shared machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
