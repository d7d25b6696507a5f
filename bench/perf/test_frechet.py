"""The Frechet distance inside resampling loops against the formulas of torchmetrics and torch-fidelity, same covariances, one run."""

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from bench.metrics.distances.frechet import fast_root_trace, frechet_distance
from bench.perf.turns import alternate, report

ROUNDS = {400: 15, 2048: 3}

Moments = tuple[np.ndarray, np.ndarray]


def ours(a: Moments, b: Moments) -> float:
    """The route of `FrechetSubsets` from moments on."""
    root_trace = fast_root_trace(a[1], b[1])
    assert root_trace is not None
    return float(np.square(a[0] - b[0]).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * root_trace)


def torchmetrics_formula(a: Moments, b: Moments) -> float:
    return float(_compute_fid(*(torch.from_numpy(array) for array in (*a, *b))))


def torch_fidelity_formula(a: Moments, b: Moments) -> float:
    """Real part of the roots of the eigenvalues of the unsymmetric product, in NumPy."""
    roots = np.sqrt(np.linalg.eigvals(a[1] @ b[1]).astype(complex))
    return float(np.square(a[0] - b[0]).sum() + np.trace(a[1]) + np.trace(b[1]) - 2 * roots.real.sum())


FORMULAS = {"ours": ours, "torchmetrics": torchmetrics_formula, "torch-fidelity": torch_fidelity_formula}


@pytest.mark.perf
@pytest.mark.parametrize("d", ROUNDS)
def test_fast_route(benchmark: Any, d: int) -> None:
    generator = np.random.default_rng(0)
    scale = np.arange(1, d + 1.0) ** -0.5
    sets = generator.standard_normal((2 * d, d)) * scale, 1.2 * generator.standard_normal((2 * d, d)) * scale + 0.1
    moments = [(features.mean(axis=0), np.cov(features, rowvar=False)) for features in sets]
    exact = frechet_distance(*sets)
    traces = sum(np.trace(covariance) for _, covariance in moments)

    def formula_s(formula: Callable[[Moments, Moments], float]) -> float:
        start_s = time.perf_counter()
        value = formula(moments[0], moments[1])
        taken_s = time.perf_counter() - start_s
        assert abs(value - exact) < 1e-6 * traces
        return taken_s

    gc.collect()
    ratios = alternate(benchmark, ROUNDS[d], {name: partial(formula_s, formula) for name, formula in FORMULAS.items()})
    report(benchmark, "frechet", f"{d} features", ratios)
