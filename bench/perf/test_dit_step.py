"""A training step of the patch transformer on one thread: against diffusers' network of the same sizes, and bfloat16 against float32."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.meters.flops import count_flops
from bench.perf.turns import SPEC, RandomClips, alternate, dit, peak_bytes, randomised, report, seconds, step_s
from bench.shapes import Shape
from dit import SIZES  # depth, hidden, heads
from dit.kernels.linear import product, takes_onednn

PEAK_SIZE = 2048  # side of the matrices whose product is the measured peak
# size -> latents, batch, rounds
CASES: dict[str, tuple[Shape, int, int]] = {"XS": ((1, 16, 16), 16, 25), "S": ((1, 32, 32), 4, 9), "B": ((1, 32, 32), 4, 5)}

pytestmark = [pytest.mark.perf, pytest.mark.usefixtures("one_thread")]


class DiffusersDiT(nn.Module):
    """`DiTTransformer2DModel` behind our call. Equal to ours to rounding when the weights are: tests/test_dit_model.py shows it."""

    def __init__(self, size: str) -> None:
        from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

        super().__init__()
        depth, width, heads = SIZES[size]
        self.network = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            in_channels=SPEC.latent_channels,
            num_layers=depth,
            sample_size=CASES[size][0][1],
            patch_size=2,
            num_embeds_ada_norm=SPEC.num_labels,
            norm_eps=1e-6,
        ).eval()  # fmt: skip  its label dropout draws
        for block in self.network.transformer_blocks[1:]:
            block.norm1.emb = self.network.transformer_blocks[0].norm1.emb  # one embedder, as DiT has

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        images = torch.stack(latents).squeeze(2)
        return list(self.network(images, 1000 * timesteps, class_labels=labels).sample.unsqueeze(2))


def batch_of(size: str, half: torch.dtype | None = None) -> RandomClips:
    shape, batch_size, _ = CASES[size]
    return RandomClips([shape] * batch_size, half=half)


@pytest.mark.parametrize("size", ["XS", "S"])
def test_step_against_diffusers(benchmark: Any, size: str) -> None:
    ours, theirs, batch = dit(f"{size}/2-sincos"), randomised(DiffusersDiT(size)), batch_of(size)
    peer = "diffusers' DiTTransformer2DModel"
    ratios = alternate(benchmark, CASES[size][-1], {"ours": partial(step_s, ours, batch), peer: partial(step_s, theirs, batch)})
    peaks = {"peak_bytes": peak_bytes(ours, batch), "diffusers_peak_bytes": peak_bytes(theirs, batch)}
    report(benchmark, "rivals", f"DiT-{size}/2", ratios, threads=1, **peaks)


@pytest.mark.parametrize("size", ["S", "B"])
def test_step_in_bfloat16_against_float32(benchmark: Any, size: str) -> None:
    model = dit(f"{size}/2-sincos")
    calls = {str(half): partial(step_s, model, batch_of(size, half)) for half in (torch.bfloat16, None)}
    ratios = alternate(benchmark, CASES[size][-1], calls)
    report(benchmark, "precision", f"DiT-{size}/2", {"float32": ratios["None"]}, width=SIZES[size][1], threads=1)


def test_share_of_the_matrix_product_peak(benchmark: Any) -> None:
    """The peak is torch's own float32 product. Where oneDNN's is faster, ours takes that one, and the share may pass 1."""
    size = "S"
    shape, batch_size, rounds = CASES[size]
    share = 3 * batch_size * count_flops(f"dit:DiT-{size}/2-sincos", SPEC, shape) / (2 * PEAK_SIZE**3)  # backward costs two forwards
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE).unbind()
    products = {"torch's product": lambda: torch.mm(left, right)}
    if takes_onednn(left):
        products["oneDNN's product"] = lambda: product(left, right)
    calls = {"step": partial(step_s, dit(f"{size}/2-sincos"), batch_of(size))}
    calls |= {name: partial(seconds, multiply) for name, multiply in products.items()}
    ratios = alternate(benchmark, rounds, calls)
    shares = {name: [ratio * share for ratio in pairs] for name, pairs in ratios.items()}
    report(benchmark, "peak", f"DiT-{size}/2, float32", shares, side=PEAK_SIZE, threads=1)
