"""The measured peak: of real products, by whichever library is faster."""

import pytest
import torch

from bench.meters import peak

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peak.SIDES, "cpu", 256)
    peak.matmul_peak.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_a_rate_of_this_machine(dtype: torch.dtype) -> None:
    assert 1e8 < peak.matmul_peak(CPU, dtype) < 1e14


def test_both_libraries_give_the_product() -> None:
    first, second = torch.randn(3, 5), torch.randn(4, 5)
    torch.testing.assert_close(peak.by_convolution(first, second), first @ second.T)


def test_the_faster_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that takes no time is the peak, wherever it stands in the list."""

    def slow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            torch.mm(first, second)
        return first

    monkeypatch.setitem(peak.PRODUCTS, "cpu", (slow,))
    slowest = peak.matmul_peak(CPU, torch.float32)
    for products in ((slow, torch.mm), (torch.mm, slow)):
        monkeypatch.setitem(peak.PRODUCTS, "cpu", products)
        peak.matmul_peak.cache_clear()
        assert peak.matmul_peak(CPU, torch.float32) > 3 * slowest
