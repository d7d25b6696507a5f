"""The U-Net's train step on a CPU: ours against plain diffusers with the same weights, as ratios within one run, round by round."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn

from bench.backbone import find_factory
from bench.meters.storage import StorageMeter
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec

ROUNDS = 7  # of one step of each contender
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    #           backbone             changes                             latents (B, C, T, H, W)
    "64, 128": ("baselines:UNet-S", {"block_channels": (64, 128)}, (4, 4, 8, 16, 16)),
    "XS": ("baselines:UNet-XS", {}, (12, 4, 10, 6, 6)),
}


class Positions(nn.Module):
    """Adds a sinusoid of the frame index to sequences of frames."""

    def __init__(self, width: int):
        super().__init__()
        self.encode = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, sequences: Tensor) -> Tensor:
        """(B H W, T, D) -> same."""
        return sequences + self.encode(torch.arange(sequences.shape[1])).to(sequences.dtype)


def plain_unet(ours: Any, *, dropout: bool) -> UNet3DConditionModel:
    """diffusers' model with the configuration, first temporal transformer, frame positions and weights of `ours`, and its own forward.

    With `dropout`, the 0.1 that diffusers hard-codes in temporal convolutions.
    """
    plain = UNet3DConditionModel.from_config(ours.config)
    plain.transformer_in = TransformerTemporalModel.from_config(ours.transformer_in.config)
    for module in plain.modules():
        if isinstance(module, TransformerTemporalModel):
            module.proj_in = nn.Sequential(module.proj_in, Positions(module.proj_in.out_features))
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    plain.load_state_dict(ours.state_dict())
    return plain.train()


def train_steps(model: Any, rivals: dict[str, nn.Module], shape: tuple[int, ...]) -> dict[str, Callable[[], Tensor]]:
    """Contender -> forward, mean square and backward on the same inputs; returns the loss."""
    generator = torch.Generator().manual_seed(0)
    latents, timesteps = torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator)
    labels = torch.arange(shape[0]) % SPEC.num_labels

    def step(network: nn.Module, predict: Callable[[], Tensor]) -> Tensor:
        model.zero_grad(set_to_none=True)
        network.zero_grad(set_to_none=True)
        loss = predict().square().mean()
        loss.backward()
        return loss.detach()

    def predict_plain(network: nn.Module) -> Tensor:
        context, label = model.conditioning(len(latents), labels)
        return network(latents, 1000 * timesteps, context, timestep_cond=label, return_dict=False)[0]

    steps = {whose: functools.partial(step, rival, functools.partial(predict_plain, rival)) for whose, rival in rivals.items()}
    return steps | {"ours": lambda: step(model, lambda: torch.stack(model(list(latents), timesteps, labels)))}


def timed(step: Callable[[], Tensor]) -> tuple[float, float]:
    """(wall clock, time of all threads) of one step, in seconds. The second is steadier where other work shares the cores."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start_s, time.process_time() - start_cpu_s


def storage_peak_bytes(network: nn.Module, step: Callable[[], Tensor]) -> int:
    """Of one step, weights and gradients among it."""
    network.zero_grad(set_to_none=True)
    with StorageMeter(list(network.parameters())) as meter:
        step()
    return meter.peak_bytes


@pytest.mark.perf
@pytest.mark.parametrize("case", CASES)
def test_unet_train_step_against_plain_diffusers(benchmark, case: str, threads: int) -> None:
    name, changes, shape = CASES[case]
    factory: Any = find_factory(name)
    torch.manual_seed(0)
    ours = dataclasses.replace(factory, **changes)(SPEC).train()
    networks = {"plain": plain_unet(ours.unet, dropout=False), "shipped": plain_unet(ours.unet, dropout=True), "ours": ours}
    steps = train_steps(ours, {whose: networks[whose] for whose in ("plain", "shipped")}, shape)
    torch.testing.assert_close(steps["ours"](), steps["plain"](), rtol=1e-4, atol=0)
    peaks = {whose: storage_peak_bytes(networks[whose], step) for whose, step in steps.items()}
    times: dict[str, list[tuple[float, float]]] = {whose: [] for whose in steps}

    def rivals() -> None:
        for whose in ("plain", "shipped"):
            times[whose].append(timed(steps[whose]))

    benchmark.pedantic(
        lambda: times["ours"].append(timed(steps["ours"])),
        setup=rivals,  # before every round, so that all see the same machine
        rounds=ROUNDS,
    )
    rows = []
    for whose, against in (("plain", "diffusers' UNet3DConditionModel, dropout 0"), ("shipped", "the same with its dropout of 0.1")):
        ratios = [theirs[0] / own[0] for theirs, own in zip(times[whose], times["ours"], strict=True)]
        row = {"table": "rivals", "case": f"UNet ({case})", "against": against, "threads": threads, **of_pairs(ratios)}
        rows.append(row | {"peak_bytes": peaks["ours"], "diffusers_peak_bytes": peaks[whose]})
    benchmark.extra_info.update(rows=rows, times=times, torch=torch.__version__)
