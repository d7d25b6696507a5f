"""Distances in batches and over ranks equal the functions, and nothing changes their precision."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.metrics.distances.accumulate import Distance, FrechetDistance, KernelDistance, StreamingFrechetDistance
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.distances.kernel import kernel_distance

METRICS = {
    "features": (FrechetDistance, frechet_distance),
    "kernel": (KernelDistance, kernel_distance),
    "streaming": (lambda: StreamingFrechetDistance(torch.full((6,), 0.5)), frechet_distance),
}


def two_sets() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 6, generator=generator), torch.randn(14, 6, generator=generator) + 1


def state(metric: Distance) -> dict[str, object]:
    """A copy of everything a metric has seen."""
    return {name: [t.clone() for t in value] if isinstance(value, list) else value.clone() for name, value in metric.metric_state.items()}


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return str(a) == str(b) and a.keys() == b.keys()


@pytest.mark.parametrize("kind", METRICS)
def test_metric_equals_the_function_in_any_batches(kind: str) -> None:
    make, distance = METRICS[kind]
    real, fake = two_sets()
    metric = make()
    for batch in fake.split(5):
        metric.update(batch, real=False)
    for batch in real.split(7):
        assert metric(batch, real=True) is None, "forward only updates: a batch has no distance"
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.shape == ()
    expected = distance(real.numpy(), fake.numpy())
    assert value.item() == (pytest.approx(expected, rel=1e-12) if kind == "streaming" else expected)
    metric.reset()
    metric.update(fake, real=False)
    with pytest.raises(ValueError, match="no real features"):
        metric.compute()
    # nothing of before the reset is left
    metric.update(real + 3, real=True)
    assert metric.compute().item() == pytest.approx(distance((real + 3).numpy(), fake.numpy()), rel=1e-12)


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (torch.zeros(4, 6, dtype=torch.float16), r"float32 \(B, D\), got torch\.float16"),
        (torch.zeros(4, 6, dtype=torch.float64), "float32"),
        (torch.zeros(4, 6, dtype=torch.int64), "float32"),
        (torch.zeros(6), r"got torch.float32 \(6,\)"),
        (np.zeros((4, 6), np.float32), "got ndarray"),
        (torch.zeros(4, 5), "holds 6 features a clip, got 5"),
        (torch.tensor([[0.0] * 6, [float("nan")] * 6]), "1 of 2 clips, first in clip 1"),
        (torch.tensor([[float("inf")] * 6, [0.0] * 6]), "1 of 2 clips, first in clip 0"),
    ],
)
def test_a_bad_batch_is_an_error_and_nothing_is_taken(kind: str, bad, said: str) -> None:
    metric = METRICS[kind][0]()
    for real, features in zip((True, False), two_sets(), strict=True):
        metric.update(features, real=real)
    before = state(metric)
    with pytest.raises(ValueError, match=said) as error:
        metric.update(bad, real=True)
    assert "\n" not in str(error.value)
    assert same(state(metric), before)
    assert metric.compute().item() == pytest.approx(METRICS[kind][1](*(s.numpy() for s in two_sets())), rel=1e-12)


@pytest.mark.parametrize("kind", METRICS)
def test_one_clip_is_too_few(kind: str) -> None:
    metric = METRICS[kind][0]()
    real, fake = two_sets()
    metric.update(real, real=True)
    metric.update(fake[:1], real=False)
    with pytest.raises(ValueError, match="1 fake clip, a distance needs at least 2"):
        metric.compute()


@pytest.mark.parametrize("kind", METRICS)
def test_an_empty_batch_adds_nothing(kind: str) -> None:
    metric = METRICS[kind][0]()
    real, fake = two_sets()
    for batch in (real, real[:0]):
        metric.update(batch, real=True)
    metric.update(fake, real=False)
    assert metric.compute().item() == pytest.approx(METRICS[kind][1](real.numpy(), fake.numpy()), rel=1e-12)


@pytest.mark.parametrize("kind", METRICS)
def test_metric_refuses_a_change_of_precision(kind: str) -> None:
    metric = METRICS[kind][0]()
    with pytest.raises(RuntimeError, match=r"float32.*float64"):
        metric.set_dtype(torch.float16)
    for real, features in zip((True, False), two_sets(), strict=True):
        metric.update(features, real=real)
    value = metric.compute()
    metric.float()  # torchmetrics ignores these for states
    metric._computed = None
    if kind != "streaming":
        assert metric.compute() == value
    metric.to(torch.float16)  # and lets this through
    metric._computed = None
    with pytest.raises(RuntimeError, match=r"became torch\.float16, they were torch\.float(32|64); do not change the dtype"):
        metric.compute()


def test_streaming_refuses_to_go_on_in_float32() -> None:
    metric = StreamingFrechetDistance(torch.zeros(6)).to(torch.float32)
    with pytest.raises(RuntimeError, match=r"shift became torch\.float32"):
        metric.update(torch.zeros(4, 6), real=True)
    assert metric.real_num == 0


def test_the_shift_is_a_finite_vector() -> None:
    for bad in (torch.zeros(2, 2), torch.tensor([1.0, float("nan")])):
        with pytest.raises(ValueError, match="shift must be a finite vector"):
            StreamingFrechetDistance(bad)


def streamed(real: np.ndarray, fake: np.ndarray, shift: np.ndarray) -> float:
    metric = StreamingFrechetDistance(torch.from_numpy(shift))
    for features, is_real in ((real, True), (fake, False)):
        for batch in torch.from_numpy(features).split(64):
            metric.update(batch, real=is_real)
    return metric.compute().item()


@pytest.mark.parametrize(("n", "d", "tolerance"), [(800, 400, 1e-9), (200, 100, 1e-9), (100, 400, 1e-6), (300, 400, 1e-6), (2, 5, 1e-6)])
@pytest.mark.parametrize("case", ["flat", "offset", "power law", "identical", "rank 3"])
def test_streaming_accuracy(n: int, d: int, tolerance: float, case: str) -> None:
    """Relative to the traces: 1e-9 for n >= 2 d and good conditioning, else 1e-6."""
    generator = np.random.default_rng(n + d)
    scale = np.arange(1, d + 1) ** -2.0 if case == "power law" else np.ones(d)
    real, fake = generator.standard_normal((n, d)) * scale, 1.3 * generator.standard_normal((n, d)) * scale + 0.2
    if case == "rank 3":
        turn = generator.standard_normal((3, d))
        real, fake = real[:, :1] * turn[:1] + generator.standard_normal((n, 3)) @ turn, generator.standard_normal((n, 3)) @ turn
    if case == "offset":
        real, fake = real + 1000, fake + 1000
    real, fake = real.astype(np.float32), fake.astype(np.float32)
    if case == "identical":
        fake = real.copy()
    shift = np.full(d, 1000.1) if case == "offset" else np.zeros(d)
    traces = sum(np.var(features.astype(np.float64), axis=0, ddof=1).sum() for features in (real, fake))
    error = abs(streamed(real, fake, shift) - frechet_distance(real, fake)) / traces
    assert error < (tolerance if case in ("flat", "offset") else 1e-6)


def test_the_shift_is_what_keeps_a_large_offset() -> None:
    generator = np.random.default_rng(0)
    real, fake = ((generator.standard_normal((100, 20)) + 3e4).astype(np.float32) for _ in range(2))
    expected = frechet_distance(real, fake)
    assert streamed(real, fake, np.full(20, 3e4)) == pytest.approx(expected, rel=1e-10)
    assert abs(streamed(real, fake, np.zeros(20)) - expected) > 1e-8


SHARDS = {0: (slice(0, 17), slice(0, 0)), 1: (slice(17, 20), slice(0, 14))}  # the first rank sees no fake clip


def rank(index: int, folder: str) -> None:
    """One of two processes: its share of the clips into every metric, values into a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    real, fake = two_sets()
    values = {}
    for kind, (make, _) in METRICS.items():
        metric = make()
        for features, shard, is_real in ((real, SHARDS[index][0], True), (fake, SHARDS[index][1], False)):
            if len(features[shard]):
                for batch in features[shard].split(4):
                    metric.update(batch, real=is_real)
        values[kind] = metric.compute().item()
        held = [len(features) for features in getattr(metric, "real_features", [])]
        assert sum(held) in (0, len(real[SHARDS[index][0]])), "after compute a rank holds its own share again"
    torn = FrechetDistance()
    torn.update(torch.zeros(3, 4 + index), real=True)
    try:
        torn.compute()
    except ValueError as error:
        values["torn"] = str(error)
    torch.distributed.destroy_process_group()
    torch.save(values, f"{folder}/{index}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of torch has no torch.distributed")
@pytest.mark.timeout(120)
def test_two_ranks_with_uneven_shards_give_the_single_process_value(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    real, fake = (features.numpy() for features in two_sets())
    for index in (0, 1):
        values = torch.load(tmp_path / f"{index}.pt", weights_only=True)
        for kind, (_, distance) in METRICS.items():
            assert values[kind] == pytest.approx(distance(real, fake), rel=1e-12), (index, kind)
        assert values["features"] == frechet_distance(real, fake)
        assert values["torn"] == "the ranks hold 4 and 5 features a clip; one metric for one extractor"
