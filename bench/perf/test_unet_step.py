"""The U-Net's train step on a CPU: ours against plain diffusers with the same weights."""

import functools
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from torch import Tensor, nn

from bench.backbone import load_backbone
from bench.perf.turns import SPEC, RandomClips, alternate, peak_bytes, report, step_s
from bench.shapes import Shape

ROUNDS = 7
RIVALS = {"diffusers' UNet3DConditionModel, dropout 0": False, "the same with its dropout of 0.1": True}
CASES: dict[str, tuple[str, Shape, int]] = {
    #           backbone                                      latents      batch
    "64, 128": ("baselines:UNet-S{block_channels: [64, 128]}", (8, 16, 16), 4),
    "XS": ("baselines:UNet-XS", (10, 6, 6), 12),
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


class DiffusersUNet(nn.Module):
    """`plain_unet` behind our call."""

    def __init__(self, ours: Any, *, dropout: bool) -> None:
        super().__init__()
        self.network, self.conditioning = plain_unet(ours.unet, dropout=dropout), ours.conditioning

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        context, label = self.conditioning(len(latents), labels)
        return list(self.network(torch.stack(latents), 1000 * timesteps, context, timestep_cond=label, return_dict=False)[0])


@pytest.mark.perf
@pytest.mark.parametrize("case", CASES)
def test_unet_train_step_against_plain_diffusers(benchmark, case: str, threads: int) -> None:
    name, shape, batch_size = CASES[case]
    torch.manual_seed(0)
    ours: Any = load_backbone(name, SPEC)
    networks = {"ours": ours.train(), **{rival: DiffusersUNet(ours, dropout=dropout) for rival, dropout in RIVALS.items()}}
    batch = RandomClips([shape] * batch_size)
    plain, _ = RIVALS
    torch.testing.assert_close(batch.loss(ours), batch.loss(networks[plain]), rtol=1e-4, atol=0)
    peaks = {whose: peak_bytes(network, batch) for whose, network in networks.items()}
    ratios = alternate(benchmark, ROUNDS, {whose: functools.partial(step_s, network, batch) for whose, network in networks.items()})
    for rival, pairs in ratios.items():
        fields = {"threads": threads, "peak_bytes": peaks["ours"], "diffusers_peak_bytes": peaks[rival]}
        report(benchmark, "rivals", f"UNet ({case})", {rival: pairs}, **fields)
