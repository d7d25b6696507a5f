"""The canonical extractor of FVD: I3D trained on Kinetics-400, as published on TF-hub, in torch. Pixels in, 400 logits out.

Inception-v1 inflated to 3-D (Carreira and Zisserman, 1705.07750), TensorFlow's "same" padding, batch norm eps 1e-3, float32.
Knows nothing of distances, sets of clips or caches.

It is the slowest part of a small study, so the forward is arranged for speed without changing what it computes:
batch norm is folded into the convolutions, the relu follows the max pool where it can (they commute), the 1x1x1 convolutions of a
mixed block that share an input are one matrix product, everything is channels-last, and wide 3x3x3 convolutions on a CPU are Winograd's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.metrics.extractors import winograd
from bench.metrics.extractors.resize import Resize, resize_tf1
from bench.metrics.weights import table as weights

SIZE = 224  # height and width the network was trained at
BATCH_NORM_EPS = 1e-3
MIXED = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def preprocess(frames: Tensor, resize: Resize = resize_tf1) -> Tensor:
    """Frames (B, T, H, W, 3) uint8 -> clips (B, 3, T, 224, 224) in [-1, 1], channels-last in memory.

    As the FVD paper's code: TF1 `resize_bilinear` on 0..255, then 2 x / 255 - 1. Another `resize` is for emulating other tools.
    """
    resized = resize(frames.flatten(0, 1).float(), SIZE, SIZE)  # (B*T, 224, 224, 3)
    scaled = (2 * resized).div_(255).sub_(1)
    return scaled.unflatten(0, frames.shape[:2]).permute(0, 4, 1, 2, 3)


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after an axis under TensorFlow's "same" rule; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def max_pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Max pool with "same" padding by -inf. `ceil_mode` supplies the odd row after, so that nothing is copied to pad it."""
    before = [same_pads(size, k, s)[0] for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.max_pool3d(x, kernel, stride, padding=before, ceil_mode=True)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inference without TF32, bfloat16 products or autocast, whatever the process has chosen: each moves FVD by percents."""
    sites = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.conv,  # type: ignore[attr-defined]
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
    )
    with torch.inference_mode(), ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        for site in sites:
            stack.callback(setattr, site, "fp32_precision", site.fp32_precision)
            site.fp32_precision = "ieee"
        yield


class Convolution(nn.Module):
    """A convolution with its batch norm folded in: y = (W / sigma) * x + (shift - mean / sigma), sigma = sqrt(var + eps). No relu."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.pointwise = weight.shape[2:].numel() == 1
        layout = weight.flatten(1) if self.pointwise else weight.contiguous(memory_format=torch.channels_last_3d)
        self.register_buffer("weight", layout)  # (O, I) or (O, I, T, H, W)
        self.register_buffer("bias", bias)  # (O,)
        self.wide = weight.shape[2:] == (3, 3, 3) and weight.shape[1] >= winograd.MIN_CHANNELS
        if self.wide:
            for size in winograd.TILES:
                self.register_buffer(f"tiles_{size}", winograd.transform(weight, size))  # (size + 2, O, I, 1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.pointwise:
            return F.linear(x.permute(0, 2, 3, 4, 1), self.weight, self.bias).permute(0, 4, 1, 2, 3)
        if self.wide and x.device.type == "cpu" and x.shape[2] >= winograd.MIN_FRAMES:
            return winograd.convolve_3x3x3(x, self.get_buffer(f"tiles_{winograd.tile_frames(x.shape[2])}"), self.bias)
        return winograd.convolve(x, self.weight, self.bias, (1, 1, 1))  # "same" for 3x3x3 at stride 1


class Mixed(nn.Module):
    """Inception block: 1x1 | 1x1 then 3x3 | 1x1 then 3x3 | max pool then 1x1, joined over channels."""

    def __init__(self, fold: Callable[..., Convolution], name: str):
        super().__init__()
        heads = [f"{name}/Branch_{branch}/Conv3d_0a_1x1" for branch in range(3)]
        self.heads, self.widths = fold(*heads), [len(fold(head).bias) for head in heads]
        self.branch_1 = fold(f"{name}/Branch_1/Conv3d_0b_3x3")
        self.branch_2 = fold(f"{name}/Branch_2/Conv3d_0b_3x3")
        self.branch_3 = fold(f"{name}/Branch_3/Conv3d_0b_1x1")

    def forward(self, x: Tensor) -> Tensor:
        branch_0, narrow_1, narrow_2 = self.heads(x).relu_().split(self.widths, dim=1)
        pooled = F.max_pool3d(x, 3, stride=1, padding=1)
        return torch.cat([branch_0, self.branch_1(narrow_1), self.branch_2(narrow_2), self.branch_3(pooled)], dim=1).relu_()


def folded(tensors: Mapping[str, np.ndarray], eps: float, *units: str) -> Convolution:
    """A convolution out of the converted weights of I3D; several units with one kernel size and one input are merged into one."""
    weights, biases = [], []
    for unit in units:
        weight, shift, mean, var = (torch.from_numpy(tensors[f"{unit}.{leaf}"]).double() for leaf in ("weight", "shift", "mean", "var"))
        gain = (var + eps).rsqrt()
        weights.append((weight * gain.view(-1, 1, 1, 1, 1)).float())
        biases.append((shift - mean * gain).float())
    return Convolution(torch.cat(weights), torch.cat(biases))


class I3D(nn.Module):
    """Clips (B, 3, T, 224, 224) in [-1, 1] -> logits (B, 400), the mean over time of the logits of every two frames."""

    logits_weight: Tensor
    logits_bias: Tensor

    def __init__(self, tensors: Mapping[str, np.ndarray], eps: float = BATCH_NORM_EPS):
        super().__init__()
        fold = partial(folded, tensors, eps)
        self.stem = fold("Conv3d_1a_7x7")
        self.reduce = fold("Conv3d_2b_1x1")
        self.widen = fold("Conv3d_2c_3x3")
        self.mixed = nn.ModuleDict({name: Mixed(fold, f"Mixed_{name}") for name in MIXED})
        self.register_buffer("logits_weight", torch.from_numpy(tensors["Logits/Conv3d_0c_1x1.weight"]).flatten(1))  # (400, 1024)
        self.register_buffer("logits_bias", torch.from_numpy(tensors["Logits/Conv3d_0c_1x1.bias"]))

    @exact_float32()
    def forward(self, clips: Tensor) -> Tensor:
        pads = [pad for size in reversed(clips.shape[2:]) for pad in same_pads(size, 7, 2)]
        x = F.pad(clips.contiguous(memory_format=torch.channels_last_3d), pads)
        x = F.conv3d(x, self.stem.weight, self.stem.bias, stride=2)  # (B, 64, T/2, 112, 112)
        x = max_pool_same(x, (1, 3, 3), (1, 2, 2)).relu_()  # (B, 64, T/2, 56, 56)
        x = self.reduce(x).relu_()
        x = max_pool_same(self.widen(x), (1, 3, 3), (1, 2, 2)).relu_()  # (B, 192, T/2, 28, 28)
        for name in ("3b", "3c"):
            x = self.mixed[name](x)
        x = max_pool_same(x, (3, 3, 3), (2, 2, 2))  # (B, 480, T/4, 14, 14)
        for name in ("4b", "4c", "4d", "4e", "4f"):
            x = self.mixed[name](x)
        x = max_pool_same(x, (2, 2, 2), (2, 2, 2))  # (B, 832, T/8, 7, 7)
        for name in ("5b", "5c"):
            x = self.mixed[name](x)  # (B, 1024, T/8, 7, 7)
        frames = x.mean((3, 4))  # (B, 1024, T/8)
        # A 2x7x7 average at stride 1, a linear layer, a mean over time: all linear, so the mean can come first.
        pooled = (frames[:, :, 1:] + frames[:, :, :-1]).mean(2) / 2  # (B, 1024)
        return F.linear(pooled, self.logits_weight, self.logits_bias)  # (B, 400)


def load_i3d(device: str | torch.device = "cpu", *, eps: float = BATCH_NORM_EPS) -> I3D:
    """The network with its verified weights. WeightsError naming the command that gets them, where they are missing or damaged.

    FVD is defined with the default `eps`; another one is for the test that shows what it costs.
    """
    return I3D(safetensors.numpy.load_file(weights.files("i3d")[0]), eps).to(device).eval()
