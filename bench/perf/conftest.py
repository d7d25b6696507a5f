"""What the benchmarks share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch

from bench.backbone import PRODUCTS
from bench.meters.process import keep_freed_memory
from bench.run.measure.products import use_products


@pytest.fixture(scope="session", autouse=True)
def kept_memory() -> None:
    """As in every process that trains."""
    keep_freed_memory()


@pytest.fixture(autouse=True)
def chosen_products(tmp_path: Path) -> Iterator[None]:
    """The libraries of products that a study takes, in this process."""
    with mock.patch.dict(PRODUCTS):
        use_products("speed", tmp_path, torch.device("cpu"))
        yield


@contextmanager
def threads_of(num: int, results: Path) -> Iterator[None]:
    """Threads of torch, and the libraries of products that a study of so many takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    use_products("speed", results, torch.device("cpu"))
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, tmp_path: Path, chosen_products: None) -> Iterator[int]:
    """One and two threads of torch."""
    with threads_of(request.param, tmp_path):
        yield request.param


@pytest.fixture
def one_thread(tmp_path: Path, chosen_products: None) -> Iterator[None]:
    """Two threads of a shared machine wait for each other."""
    with threads_of(1, tmp_path):
        yield
