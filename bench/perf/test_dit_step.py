"""A training step of the patch transformer on a CPU: against diffusers' network of the same sizes, and bfloat16 against float32.

A step is forward, mean squared error and backward. All ratios are of pairs that alternate within one run, on one thread.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.backbone import load_backbone
from bench.meters.flops import count_flops
from bench.meters.storage import StorageMeter
from bench.perf.speed import of_pairs
from bench.shapes import LatentSpec, Shape
from dit.kernels.linear import product, takes_onednn

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=10)
PEAK_SIZE = 2048  # side of the matrices whose product is the measured peak
# fmt: off
SIZES: dict[str, tuple[int, int, int, Shape, int, int]] = {
    #     depth  hidden  heads  latents       batch  rounds
    "XS": (   6,    128,     4, (1, 16, 16),     16,     25),
    "S":  (  12,    384,     6, (1, 32, 32),      4,      9),
    "B":  (  12,    768,    12, (1, 32, 32),      4,      5),
}
# fmt: on


class Diffusers(nn.Module):
    """`DiTTransformer2DModel` behind our call. Equal to ours to rounding when the weights are: tests/test_dit_model.py shows it."""

    def __init__(self, size: str) -> None:
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        super().__init__()
        depth, width, heads, (_, side, _), _, _ = SIZES[size]
        self.network = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=SPEC.latent_channels,
            num_layers=depth,
            sample_size=side,
            patch_size=2,
            num_embeds_ada_norm=SPEC.num_labels,
            norm_eps=1e-6,
        ).eval()  # its label dropout draws
        for block in self.network.transformer_blocks[1:]:
            block.norm1.emb = self.network.transformer_blocks[0].norm1.emb  # one embedder, as DiT has

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        images = torch.stack(latents).squeeze(2)
        return list(self.network(images, 1000 * timesteps, class_labels=labels).sample.unsqueeze(2))


def backbone(size: str) -> Any:
    return load_backbone(f"dit:DiT-{size}/2-sincos", SPEC)


def step_of(model: nn.Module, size: str, *, bfloat16: bool = False) -> Callable[[], None]:
    """One training step on one batch. Weights are random: those of a new model leave most gradients zero."""
    *_, shape, batch_size, _ = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    latents, targets = torch.randn(2, batch_size, SPEC.latent_channels, *shape, generator=generator).unbind()
    timesteps, labels = torch.rand(batch_size, generator=generator), torch.arange(batch_size) % SPEC.num_labels

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            predictions = model(list(latents), timesteps, labels)
        F.mse_loss(torch.stack(predictions).float(), targets).backward()

    return step


def timed(call: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    call()
    return time.perf_counter() - start_s


def peak_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    with StorageMeter(list(model.parameters())) as meter:
        step()
    return meter.peak_bytes


def alternate(benchmark: Any, size: str, ours: Callable[[], Any], others: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Of every round, (time of each other / time of ours). Others run before ours."""
    times: dict[str, list[float]] = {name: [] for name in ("ours", *others)}

    def run_others() -> None:
        for name, call in others.items():
            times[name].append(timed(call))

    benchmark.pedantic(lambda: times["ours"].append(timed(ours)), setup=run_others, rounds=SIZES[size][-1], warmup_rounds=1)
    pairs = {name: [other / own for other, own in zip(times[name], times["ours"], strict=True)][1:] for name in others}  # less the warm-up
    benchmark.extra_info.update(size=size, times_s=times, torch=torch.__version__)
    return pairs


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", ["XS", "S"])
def test_step_against_diffusers(benchmark: Any, size: str) -> None:
    ours, theirs = backbone(size), Diffusers(size)
    our_step, their_step = step_of(ours, size), step_of(theirs, size)
    ratios = alternate(benchmark, size, our_step, {"diffusers": their_step})["diffusers"]
    row = {"table": "rivals", "case": f"DiT-{size}/2", "against": "diffusers' DiTTransformer2DModel", "threads": 1, **of_pairs(ratios)}
    row |= {"peak_bytes": peak_bytes(ours, our_step), "diffusers_peak_bytes": peak_bytes(theirs, their_step)}
    benchmark.extra_info["rows"] = [row]


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", ["S", "B"])
def test_step_in_bfloat16_against_float32(benchmark: Any, size: str) -> None:
    model = backbone(size)
    float32, bfloat16 = step_of(model, size), step_of(model, size, bfloat16=True)
    ratios = alternate(benchmark, size, bfloat16, {"float32": float32})["float32"]
    benchmark.extra_info["rows"] = [
        {"table": "precision", "case": f"DiT-{size}/2", "width": SIZES[size][1], "threads": 1, **of_pairs(ratios)}
    ]


@pytest.mark.perf
@pytest.mark.usefixtures("one_thread")
def test_share_of_the_matrix_product_peak(benchmark: Any) -> None:
    """The peak is torch's own float32 product. Where oneDNN's is faster, ours takes that one, and the share may pass 1."""
    size = "S"
    *_, shape, batch_size, _ = SIZES[size]
    step_flops = 3 * batch_size * count_flops(f"dit:DiT-{size}/2-sincos", SPEC, shape)  # backward costs two forwards
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE).unbind()
    products = {"torch": lambda: torch.mm(left, right)}
    if takes_onednn(left):
        products["oneDNN"] = lambda: product(left, right)
    ratios = alternate(benchmark, size, step_of(backbone(size), size), products)
    rows = []
    for name, pairs in ratios.items():
        shares = of_pairs([ratio * step_flops / (2 * PEAK_SIZE**3) for ratio in pairs])
        rows.append({"table": "peak", "case": f"DiT-{size}/2, float32", "product": name, "side": PEAK_SIZE, "threads": 1, **shares})
    benchmark.extra_info.update(step_flops=step_flops, rows=rows)
