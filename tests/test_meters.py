"""Meters: known values, and the same number every time."""

import time

import pytest
import torch
from torch import nn

from bench.meters import PhaseMemory, StepTimer, StopWatch, StorageMeter, count_flops, optimizer_state
from bench.shapes import LatentSpec
from tests.tiny import SPEC

CPU = torch.device("cpu")


def test_storage_peak_by_hand() -> None:
    kept = torch.zeros(1000)  # 4000 bytes
    with StorageMeter(kept) as meter:
        a = kept + 1  # 8000
        b = a * 2  # 12000, the peak
        del a  # 8000
        view = b.view(10, 100)  # no storage of its own
        c = view[0] + 1  # 8400
        del b, view, c
    assert (meter.peak_bytes, meter.alive_bytes) == (12000, 4000)


def test_one_extra_tensor_kept_alive_is_seen() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def peak(leak: bool) -> int:
        kept = []
        with StorageMeter(list(model.parameters())) as meter:
            for _ in range(2):
                x = torch.ones(8, 64)
                model(x).sum().backward()
                if leak:
                    kept.append(torch.ones(8, 64))
                model.zero_grad(set_to_none=True)
        return meter.peak_bytes

    assert [peak(False) for _ in range(5)] == [peak(False)] * 5
    assert peak(True) > peak(False)


def test_gradients_and_optimizer_state_are_followed() -> None:
    model = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    state = optimizer_state(optimizer)
    assert sum(tensor.numel() for tensor in state) == 2 * 10_000 + 1
    with StorageMeter(list(model.parameters()), state) as meter:
        model.zero_grad(set_to_none=True)
        model(torch.ones(1, 100)).sum().backward()
    assert meter.peak_bytes >= 4 * 40_000


def test_step_timer_keeps_raw_times() -> None:
    timer = StepTimer(CPU)
    for duration_s in (0.01, 0.03):
        with timer.step():
            time.sleep(duration_s)
    times = timer.read()
    assert len(times) == 2
    assert times[0] >= 0.01
    assert times[1] >= 0.03
    assert timer.read() == []


def test_stop_watch_leaves_pauses_out() -> None:
    watch = StopWatch(CPU, elapsed_s=100.0)
    time.sleep(0.1)
    with watch.pause():
        inside_s = watch.elapsed_s()
        time.sleep(0.5)
        assert watch.elapsed_s() == inside_s
    assert 100.1 <= inside_s <= watch.elapsed_s() < 100.5


def test_phase_memory_forgets_the_past() -> None:
    big = torch.ones(60_000_000)
    del big
    memory = PhaseMemory(CPU)
    memory.start()
    before = memory.peaks()["peak_rss_bytes"]
    block = torch.ones(40_000_000)
    after = memory.peaks()["peak_rss_bytes"]
    assert after - before > 120_000_000
    assert len(block) == 40_000_000


def test_flops_of_a_known_network(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneMatrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4, bias=False)

        def forward(self, latents: list[torch.Tensor], timesteps: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
            return [self.mix(clip.movedim(0, -1)).movedim(-1, 0) for clip in latents]

    monkeypatch.setattr("bench.meters.load_backbone", lambda name, spec: OneMatrix())
    assert count_flops("x:y", SPEC, (2, 3, 5)) == 2 * 30 * 4 * 4  # multiply and add, for each of 30 cells


def test_attention_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyAttention(nn.Module):
        def forward(self, latents: list[torch.Tensor], timesteps: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
            tokens = latents[0].flatten(1).T[None, None]  # (1, 1, N, 4)
            return [nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)]

    monkeypatch.setattr("bench.meters.load_backbone", lambda name, spec: OnlyAttention())
    assert count_flops("x:y", SPEC, (2, 3, 5)) == 2 * (2 * 30 * 30 * 4)  # scores and their sum of values


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("dit:DiT-S/8-sincos", 0.36), ("dit:DiT-S/4-sincos", 1.41), ("dit:DiT-S/2-sincos", 6.06), ("dit:DiT-B/8-sincos", 1.42),
        ("dit:DiT-B/4-sincos", 5.56), ("dit:DiT-B/2-sincos", 23.01), ("dit:DiT-XL/2-sincos", 118.64),
    ],
)  # fmt: skip
def test_flops_are_twice_the_papers_multiply_adds(name: str, gflops: float) -> None:
    """Table 4 of the DiT paper (2212.09748), one 32x32 latent image; ours has half the output channels, which is 0.2 % at S/8."""
    spec = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=1000)
    assert count_flops(name, spec, (1, 32, 32)) / 2e9 == pytest.approx(gflops, rel=0.01)


@pytest.mark.parametrize("name", ["dit:DiT-XS/2", "baselines:UNet-XS"])
def test_flops_without_classes(name: str) -> None:
    spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)
    assert count_flops(name, spec, (3, 4, 4)) > 0
