"""Distances in batches and over ranks equal the functions, and nothing changes their precision."""

import pytest
import torch

from bench.metrics.accumulate import FrechetDistance, KernelDistance
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance


def test_metric_equals_the_function_in_any_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(20, 6, generator=generator), torch.randn(14, 6, generator=generator) + 1
    metric = FrechetDistance()
    for batch in fake.split(5):
        metric.update(batch, real=False)
    for batch in real.split(7):
        assert metric(batch, real=True) is None, "forward only updates: a batch has no distance"
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.item() == frechet_distance(real.numpy(), fake.numpy())
    metric.reset()
    metric.update(fake, real=False)
    with pytest.raises(ValueError, match="no real features"):
        metric.compute()


def test_metric_refuses_a_change_of_precision() -> None:
    metric = FrechetDistance()
    with pytest.raises(ValueError, match="float32"):
        metric.update(torch.zeros(4, 3, dtype=torch.float16), real=True)
    with pytest.raises(ValueError, match=r"\(B, D\)"):
        metric.update(torch.zeros(3), real=True)
    with pytest.raises(RuntimeError, match="float32"):
        metric.set_dtype(torch.float16)
    metric.update(torch.zeros(4, 3), real=True)
    metric.update(torch.zeros(4, 3), real=False)
    metric.real_features = [features.half() for features in metric.real_features]
    metric._computed = None
    with pytest.raises(RuntimeError, match=r"real features became torch\.float16"):
        metric.compute()


def test_kernel_metric_equals_the_function() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(20, 6, generator=generator), torch.randn(14, 6, generator=generator) + 1
    metric = KernelDistance()
    metric.update(real, real=True)
    for batch in fake.split(5):
        metric(batch, real=False)
    assert metric.compute().item() == kernel_distance(real.numpy(), fake.numpy())
