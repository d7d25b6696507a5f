"""What identifies an extractor, and what it needs of a clip: the facts a name, a protocol block and a preflight rest on. No torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.dataclasses import dataclass

from bench.data.frozen import Count
from bench.metrics.weights import table as weights
from bench.shapes import Refusal

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Manifest:
    """An extractor's identity. Two extractors whose manifests differ give values that do not compare."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # as in a metric's name, and in names of files
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]  # of the published file; empty while it is not known
    dim: Count  # features a clip
    min_frames: Count = 1  # fewest frames a clip may have
    max_frames: Count | None = None  # most; None = any number
    size: tuple[int, int] | None = None  # height and width the frames are resized to; None = as they come
    value_range: tuple[float, float] = (-1.0, 1.0)  # of a pixel as the network sees it
    resize: str = "none/1"  # how the frames reach `size`, with a version: bump it when a value changes
    shift: float = 0.0  # typical feature, subtracted before raw sums are kept
    license: str = "MIT"
    training: str = ""  # data, seed and command of an extractor that this suite trained; empty for published weights
    golden: dict[str, float] = Field(default_factory=dict)  # what the network must reproduce; words of bench/metrics/extractors/golden.py
    code_sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the modules of a "module:factory", else empty
    aliases: tuple[Sha256, ...] = ()  # SHA-256 of other published files that hold the same network

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < self.min_frames:
            raise Refusal(f"clips must have {self.min_frames} to {self.max_frames} frames, which none has")
        if not self.value_range[0] < self.value_range[1]:
            raise Refusal(f"value_range must go from black up to white, got {self.value_range}")

    def takes(self, num_frames: int) -> bool:
        """Whether clips of so many frames are long and short enough."""
        return self.min_frames <= num_frames <= (self.max_frames or num_frames)

    def check_frames(self, num_frames: int, given: str = "") -> None:
        """Refusal where clips have too few or too many; `given`: what says so, as "--num-frames "."""
        if not self.takes(num_frames):
            most = "" if self.max_frames is None else f" and at most {self.max_frames}"
            raise Refusal(f"extractor {self.name!r} needs at least {self.min_frames}{most} frames a clip, got {given}{num_frames}")


# StyleGAN-V's TorchScript file, which universome/fvd-comparison shows to equal TensorFlow's network.
STYLEGAN_V_SHA256 = weights.source_sha256("i3d_torchscript")

I3D = Manifest(
    name="i3d",
    weights_sha256=weights.source_sha256("i3d"),
    dim=400,
    min_frames=9,  # fewer leave a single frame for the last pool, which spans two
    size=(224, 224),
    resize="tf1-bilinear-224/1",  # bump when `bench.metrics.extractors.i3d.preprocess` changes a value
    # One clip, as every process checks it; that black and white clips are the published 151.392 apart is a test's business.
    golden={"rms checkerboard 9x32x32": 3.7347209},
    aliases=(STYLEGAN_V_SHA256,),
)

# The canonical weights as two other tools run them. Their values are not FVD and are not called so.
# StyleGAN-V resizes so.
I3D_HALF_PIXEL = replace(
    I3D, name="i3d_half-pixel", resize="half-pixel-bilinear-224/1", golden={"rms checkerboard 9x32x32": 4.1033213}, aliases=()
)
I3D_EPS = replace(I3D_HALF_PIXEL, name="i3d_eps1e-5", golden={"rms checkerboard 9x32x32": 4.1100423})  # VideoGPT's and cd-fvd's

VIDEOMAE = Manifest(
    name="videomae",
    weights_sha256=weights.source_sha256("videomae"),
    dim=1408,
    min_frames=2,  # trained at 16; positions are interpolated to other even numbers, as cd-fvd does
    size=(224, 224),
    value_range=(0.0, 1.0),
    resize="half-pixel-bilinear-224/1",
    license="Apache-2.0, as its hub page says",
)

VJEPA = Manifest(
    name="vjepa",
    weights_sha256="",  # its publisher gives none: the one recorded at first use takes its place when it is loaded
    dim=1280,
    min_frames=2,  # trained at 16
    size=(224, 224),
    value_range=(0.0, 1.0),
    resize="half-pixel-bilinear-224+imagenet/1",
    license="CC-BY-NC-4.0",
)

RANDOM3D = Manifest(
    name="random3d",
    weights_sha256="df15224518ed26e250ffbabbde3539a0334ac37e1cd12b08f25737c0fbfd0dad",
    dim=128,
    min_frames=2,
    license="none: random weights",
)

FRAME_MEAN = Manifest(
    name="frame_mean",
    weights_sha256="0b1ff9d98afe16f3cba69d499e599d86d85a4fdd257ace2dc3246f5a8715e5cb",
    dim=128,
    min_frames=1,
    license="none: random weights",
)

# Written by bench/metrics/extractors/motion_training.py.
_MOTION = json.loads(Path(__file__).with_name("motion.json").read_text(encoding="utf-8"))
MOTION = Manifest(
    name="motion",
    weights_sha256=_MOTION["weights_sha256"],
    dim=_MOTION["dim"],
    min_frames=4,  # fewer have no turn whose neighbours are turns of the same clip
    size=(32, 32),
    resize="bilinear-antialias-32/1",  # bump when `bench.metrics.extractors.motion.resize` changes a value
    training=_MOTION["training"],
    golden=_MOTION["golden"],
)

# The same weights, a part of them: what the encoder of frames says of one frame, knowing no other.
FRAME = replace(MOTION, name="frame", dim=48, min_frames=1)

# Extractors that need nothing but this package and `weights get`, by name.
MANIFESTS: dict[str, Manifest] = {
    manifest.name: manifest for manifest in (I3D, I3D_HALF_PIXEL, I3D_EPS, RANDOM3D, FRAME_MEAN, MOTION, VIDEOMAE, VJEPA)
}
