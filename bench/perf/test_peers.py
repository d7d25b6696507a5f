"""A training step of the patch transformer against those of libraries that people use instead, at equal size and on the same clips.

vit-pytorch's NaViT packs images of any size, with a mask of the whole pack or as nested tensors. It has no conditioning on time, no
shift, scale and gate in its blocks, and predicts one class an image: less to do than ours. diffusers' Latte takes clips of one shape, and
its attention is factorised, within frames in one block and along time in the next: fewer multiplications than ours, which is joint.
`tox -e peers` installs what this needs; without it these are skipped.
"""

import importlib.util
import statistics
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.meters.flops import flops_of
from bench.perf.mix import mixed_packs, num_tokens
from bench.perf.test_packing import BUDGET, ROUNDS
from bench.perf.turns import CPU, SPEC, Calls, RandomClips, Ratios, alternate, dit, report, step_s
from bench.shapes import Shape, shape_text
from dit import SIZES  # depth, hidden, heads

MODULES = ["na_vit", "na_vit_nested_tensor"]  # of vit-pytorch: a mask of the whole pack, and nested tensors
VIDEO: Shape = (8, 16, 16)  # latents of each clip given to Latte
TEXT_WIDTH = 8  # of a token of text that it asks for
LARGEST = 64  # cells of a side that NaViT learns positions for


def vit_pytorch(module: str) -> ModuleType:
    """One file of vit-pytorch. Its package imports torchvision, which does not import beside torch's CPU build; this file does not."""
    pytest.importorskip("einops")
    package = importlib.util.find_spec("vit_pytorch")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("vit-pytorch is not installed; use `tox -e peers`")
    path = Path(package.submodule_search_locations[0]) / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"vit_pytorch_{module}", path)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


class NaViT(nn.Module):
    """vit-pytorch's, behind our call: one-frame clips in, one row of logits a clip out."""

    def __init__(self, module: str, size: str) -> None:
        super().__init__()
        depth, width, heads = SIZES[size]
        self.nested = "nested" in module
        no_dropping = {"token_dropout_prob": 0.0} if self.nested else {}
        self.network = vit_pytorch(module).NaViT(
            image_size=LARGEST, patch_size=2, num_classes=SPEC.num_labels, dim=width, depth=depth, heads=heads, dim_head=width // heads,
            mlp_dim=4 * width, channels=SPEC.latent_channels, **no_dropping,
        )  # fmt: skip

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        images = [clip.squeeze(1) for clip in latents]
        return list(self.network(images if self.nested else [images]))


class Latte(nn.Module):
    """diffusers' `LatteTransformer3DModel` behind our call: as many blocks of ours, half of them in space and half in time."""

    def __init__(self, size: str) -> None:
        from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel

        super().__init__()
        depth, width, heads = SIZES[size]
        frames, side, _ = VIDEO
        self.network = LatteTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=4, num_layers=depth // 2,
            attention_bias=True, sample_size=side, patch_size=2, activation_fn="gelu-approximate", norm_type="ada_norm_single",
            norm_elementwise_affine=False, norm_eps=1e-6, video_length=frames, caption_channels=TEXT_WIDTH,
        )  # fmt: skip

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
        no_text = timesteps.new_zeros(len(latents), 1, TEXT_WIDTH)  # it has no cross-attention to read it with
        clips = torch.stack(latents)
        return list(self.network(clips, timestep=1000 * timesteps, encoder_hidden_states=no_text, return_dict=False)[0])


def report_peer(benchmark: Any, case: str, ratios: Ratios, tokens: float, **fields: Any) -> None:
    """With the tokens per second of both, medians; `tokens` of a step on average."""
    (peer,) = ratios
    rates = {
        f"{name}_tokens_per_s": tokens / statistics.median(benchmark.extra_info["times_s"][key])
        for name, key in (("our", "ours"), ("their", peer))
    }
    report(benchmark, "peers", case, ratios, **fields, **rates)


def against_navit(benchmark: Any, size: str, module: str, packs: list[list[Shape]], device: torch.device = CPU, **fields: Any) -> None:
    """A step of each pack of images against vit-pytorch's."""
    theirs, ours = NaViT(module, size).to(device), dit(f"{size}/2", device)
    peer = "vit-pytorch's NaViT" + (", nested tensors" if "nested" in module else "")

    def calls(number: int) -> Calls:
        mine, other = (RandomClips(packs[number], device) for _ in range(2))
        other.targets = [F.one_hot(label, SPEC.num_labels).float() for label in other.labels]
        return {"ours": partial(step_s, ours, mine), peer: partial(step_s, theirs, other)}

    ratios = alternate(benchmark, len(packs), calls, warm=device.type == "cuda")
    tokens = statistics.fmean(sum(map(num_tokens, pack)) for pack in packs)
    report_peer(benchmark, f"DiT-{size}/2, images of any size", ratios, tokens, **fields)


def against_latte(benchmark: Any, size: str, num_clips: int, rounds: int, device: torch.device = CPU, **fields: Any) -> None:
    """A step of clips of one shape against diffusers'."""
    theirs, ours = Latte(size).to(device), dit(f"{size}/2", device)
    batch = RandomClips([VIDEO] * num_clips, device)
    calls: Calls = {"ours": partial(step_s, ours, batch), "diffusers' LatteTransformer3DModel": partial(step_s, theirs, batch)}
    ratios = alternate(benchmark, rounds, calls, warm=device.type == "cuda")
    with torch.device("meta"):
        models: list[Any] = [dit(f"{size}/2", torch.device("meta")), Latte(size)]
        flops = [flops_of(model, SPEC, VIDEO) for model in models]
    case = f"DiT-{size}/2, {num_clips} clips of {shape_text(VIDEO)}"
    report_peer(benchmark, case, ratios, batch.num_tokens, **fields, our_flops_over_theirs=flops[0] / flops[1])


@pytest.mark.perf
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("size", ROUNDS)
def test_packed_images_against_vit_pytorch(benchmark: Any, size: str, module: str, threads: int) -> None:
    against_navit(benchmark, size, module, mixed_packs(ROUNDS[size], BUDGET, max_frames=1), threads=threads)


@pytest.mark.perf
@pytest.mark.parametrize("size", ROUNDS)
def test_equal_clips_against_latte(benchmark: Any, size: str, threads: int) -> None:
    against_latte(benchmark, size, 4, ROUNDS[size], threads=threads)
