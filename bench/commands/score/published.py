"""Values as two widely used tools measure them, so that their users can compare with what they have: StyleGAN-V's script and cd-fvd.

Facts read from their sources; the code is our own. Each choice below names its file.

StyleGAN-V (github.com/universome/stylegan-v, src/scripts/calc_metrics_for_dataset.py, fvd2048_16f):
- one clip a video, the first 2048 videos in order of name (metric_main.py, training/dataset.py)
- videos shorter than frames x stride are left out
- real clips start anywhere that frames x stride fit, drawn anew in every run; generated clips start at frame 0 (frechet_video_distance.py)
- frames as stored; the TorchScript detector scales to [-1, 1] and resizes to 224x224. It is said to match TensorFlow "up to the
  upsampling operation": taken here as half-pixel bilinear (align_corners=False), not antialiased. Its weights and epsilon 1e-3 are
  those of the canonical network
- sums in float64, covariance over n; scipy's sqrtm of generated x real, real part (metric_utils.py, frechet_video_distance.py)

cd-fvd (github.com/songweige/content-debiased-fvd, cdfvd/fvd.py, model "i3d"):
- videos: a random window of `frames` consecutive frames of each, of which every stride-th is kept (data_utils.py), so a stride above 1
  makes clips shorter
- shorter side to the resolution (256) by antialiased bilinear, centre crop, then x 255 cut off to whole numbers, not rounded (fvd.py)
- folders of frames: longer than frames x stride, a random start, every stride-th; centre crop to a square, Lanczos to the resolution
- arrays: all frames, in order, as they are
- all real clips, once (n_real "full"); 2048 generated ones, going through them again and again, each time with other windows (n_fake)
- half-pixel bilinear to 224x224, not antialiased (third_party/i3d/utils.py); batch norm epsilon 1e-5 (third_party/i3d/pytorch_i3d.py)
- sums in float64, covariance over n; sqrtm of real x generated, real part (metric_utils.py, fvd.py)

What cannot be had: their random draws (other generators, unseeded in the first), and cd-fvd's taking the next video twice where one is too
short (it is left out here).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from PIL import Image

from bench.commands.score.collection import CollectionItem
from bench.commands.score.windows import Rule, SeededCut, fraction
from bench.metrics.distances.frechet import Features, check_features
from bench.metrics.extractors.manifest import I3D_EPS, I3D_HALF_PIXEL
from bench.shapes import Refusal, did_you_mean

MAX_CLIPS = 2048  # of StyleGAN-V's two sets and cd-fvd's generated one
CD_FVD_RESOLUTION = 256  # default of load_videos in cdfvd/fvd.py; its README says 128


@dataclass(frozen=True, kw_only=True)
class StyleganVRule(Rule):
    """Which clips StyleGAN-V's script takes of a set. A size is for folders that were not brought to one before, as its users do."""

    key, told = "stylegan-v/1", ("of", "num_frames", "stride", "size", "seed")
    of: str  # real, generated

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        for item in sorted(items, key=lambda item: item.name):
            yield item, 0

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        covered = self.num_frames * self.stride
        if num_frames < covered:
            raise Refusal(f"has {num_frames} frames, StyleGAN-V needs frames x stride = {covered}")
        choices = num_frames - covered + self.stride  # its randint includes the upper end
        start = int(fraction(self.seed, "stylegan-v", item.name) * choices) if self.of == "real" else 0
        return [range(start, start + covered, self.stride)]


@dataclass(frozen=True, kw_only=True)
class CdFvdRule(Rule):
    """Which clips cd-fvd takes of a set; with `again`, in as many turns as it needs."""

    key, told = "cd-fvd/1", ("again", "num_frames", "stride", "resolution", "seed")
    again: bool
    resolution: int  # pixels of a side

    def draws(self, items: Sequence[CollectionItem]) -> Iterator[tuple[CollectionItem, int]]:
        shuffles = not all(item.kind == "array" for item in items)
        for turn in count() if self.again else (0,):
            places = [fraction(self.seed, f"cd-fvd order {turn}", item.name) if shuffles else 0.0 for item in items]
            for _, item in sorted(zip(places, items, strict=True), key=lambda placed: placed[0]):
                yield item, turn

    def windows(self, item: CollectionItem, turn: int, num_frames: int) -> list[range]:
        place = fraction(self.seed, f"cd-fvd start {turn}", item.name)
        if item.kind == "array":
            return [range(num_frames)]
        if item.kind == "video":
            if num_frames < self.num_frames:
                raise Refusal(f"has {num_frames} frames, cd-fvd needs {self.num_frames}")
            start = int(place * (num_frames - self.num_frames + 1))
            return [range(start, start + self.num_frames, self.stride)]
        covered = self.num_frames * self.stride
        if num_frames <= covered:
            raise Refusal(f"has {num_frames} frames, cd-fvd needs more than frames x stride = {covered} of a folder")
        start = int(place * (num_frames - covered + 1))
        return [range(start, start + covered, self.stride)]

    def fit(self, item: CollectionItem, frames: np.ndarray) -> np.ndarray:
        if item.kind == "array":
            return frames
        return scaled_and_cropped(frames, self.resolution) if item.kind == "video" else square_lanczos(frames, self.resolution)


def scaled_and_cropped(frames: np.ndarray, resolution: int) -> np.ndarray:
    """cd-fvd's videos: (T, H, W, 3) uint8 -> (T, R, R, 3): shorter side to R, centre crop, all in floats; whole numbers by cutting off."""
    height, width = frames.shape[1:3]
    scale = resolution / min(height, width)
    size = (resolution, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), resolution)
    images = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 255
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    cropped = images[:, :, top : top + resolution, left : left + resolution]
    return (cropped * 255).clamp_(0, 255).byte().permute(0, 2, 3, 1).numpy()


def square_lanczos(frames: np.ndarray, resolution: int) -> np.ndarray:
    """cd-fvd's folders of frames: (T, H, W, 3) uint8 -> (T, R, R, 3): centre crop to a square, Pillow's Lanczos."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(frames[:, top : top + side, left : left + side])
    return np.stack([np.asarray(Image.fromarray(frame).resize((resolution, resolution), Image.Resampling.LANCZOS)) for frame in square])


@dataclass(frozen=True, kw_only=True)
class Published:
    """A tool's choices."""

    name: str  # as the option says it
    extractor: str  # the canonical weights behind the tool's resize and with its epsilon
    real_first: bool  # order of the covariances' product
    choices: dict[str, str]

    def rule(self, of: str, cut: SeededCut, limit: int | None) -> Rule:
        """How the tool cuts clips where this suite cuts them by `cut`. Refusal for a size it cannot have."""
        common: dict[str, Any] = {"num_frames": cut.num_frames, "stride": cut.stride, "seed": cut.seed}
        if self.name == "stylegan-v":
            return StyleganVRule(of=of, size=cut.size, **common)
        height, width = cut.size or (CD_FVD_RESOLUTION, CD_FVD_RESOLUTION)
        if height != width:
            raise Refusal(f"cd-fvd crops to a square, got --size {height}x{width}; give one number")
        return CdFvdRule(again=limit is not None, resolution=height, **common)

    def limit(self, of: str, asked: int | None) -> int | None:
        """Clips of a set; None = all."""
        return asked or (None if self.name == "cd-fvd" and of == "real" else MAX_CLIPS)


_COMMON = {
    "resize": "half-pixel bilinear to 224x224, no antialiasing",
    "covariance": "sums in float64, over n",
    "root": "scipy.linalg.sqrtm, real part",
}
PROTOCOLS: dict[str, Published] = {
    "stylegan-v": Published(
        name="stylegan-v",
        extractor=I3D_HALF_PIXEL.name,
        real_first=False,
        choices=_COMMON
        | {
            "real clips": f"the first {MAX_CLIPS}, or -n, in order of name, one each, random start",
            "generated clips": f"the first {MAX_CLIPS}, or -n, in order of name, one each, from frame 0",
            "frames": "as stored",
            "batch norm epsilon": "1e-3",
            "source": "universome/stylegan-v, src/metrics and src/training/dataset.py",
        },
    ),
    "cd-fvd": Published(
        name="cd-fvd",
        extractor=I3D_EPS.name,
        real_first=True,
        choices=_COMMON
        | {
            "real clips": "all, or -n, one each, random start",
            "generated clips": f"again and again until there are {MAX_CLIPS}, or -n, random start",
            "frames": f"shorter side to {CD_FVD_RESOLUTION} or --size by antialiased bilinear, centre crop, cut off to whole numbers",
            "batch norm epsilon": "1e-5",
            "source": "songweige/content-debiased-fvd, cdfvd/fvd.py and cdfvd/utils",
        },
    ),
}


def find_protocol(name: str) -> Published:
    """The tool's choices. Refusal for an unknown one."""
    if name not in PROTOCOLS:
        raise Refusal(f"unknown protocol {name!r}{did_you_mean(name, list(PROTOCOLS))}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def distance_over_n(real: Features, fake: Features, *, real_first: bool) -> tuple[float | None, float]:
    """Frechet distance with covariances over n from raw sums: by sqrtm, as both tools do (None where it fails), and by an exact root."""
    real, fake = check_features(real, fake)
    # Mean (d,) and covariance (d, d) over n, from raw sums as the tools keep them.
    mean_r, mean_f = (features.sum(axis=0) / len(features) for features in (real, fake))
    cov_r, cov_f = (x.T @ x / len(x) - np.outer(mean, mean) for x, mean in ((real, mean_r), (fake, mean_f)))
    apart = float(np.square(mean_r - mean_f).sum())
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # "matrix is singular": it is, below n = d, and the tools do not look
        try:
            root = scipy.linalg.sqrtm(cov_r @ cov_f if real_first else cov_f @ cov_r)
            value = apart + float(np.real(np.trace(cov_r + cov_f - 2 * root)))
        except (np.linalg.LinAlgError, ValueError):
            value = math.nan
    roots = [(features - mean) / math.sqrt(len(features)) for features, mean in ((real, mean_r), (fake, mean_f))]
    small = [np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root for root in roots]
    exact = apart + sum(float(np.square(root).sum()) for root in small) - 2 * float(scipy.linalg.svdvals(small[0] @ small[1].T).sum())
    return (value if math.isfinite(value) else None), exact
