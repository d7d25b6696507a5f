"""What identifies an extractor, and what it needs of a clip: the facts a name, a protocol block and a preflight rest on. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench import weights


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An extractor's identity. Two extractors whose manifests differ give values that do not compare."""

    name: str  # as in a metric's name: fd_<name>
    weights_sha256: str
    dim: int  # features a clip
    min_frames: int  # fewest frames a clip may have
    max_frames: int | None = None  # most; None = any number
    size: tuple[int, int] | None = None  # height and width the frames are resized to; None = as they come
    value_range: tuple[float, float] = (-1.0, 1.0)  # of a pixel as the network sees it
    resize: str = "none/1"  # how the frames reach `size`, with a version: bump it when a value changes
    shift: float = 0.0  # typical feature, subtracted before raw sums are kept
    license: str = "MIT"
    training: str = ""  # data, seed and command of an extractor that this suite trained; empty for published weights
    golden: dict[str, float] = field(default_factory=dict)  # what -> value that the network must reproduce


I3D = Manifest(
    name="i3d",
    weights_sha256=weights.source_sha256("i3d"),
    dim=400,
    min_frames=9,  # fewer leave a single frame for the last pool, which spans two
    size=(224, 224),
    resize="tf1-bilinear-224/1",  # bump when `bench.metrics.i3d.preprocess` changes a value
    golden={"Frechet distance of 16 black and 16 white clips, 30 frames of 224x224": 151.392},
)

RANDOM3D = Manifest(
    name="random3d",
    weights_sha256="df15224518ed26e250ffbabbde3539a0334ac37e1cd12b08f25737c0fbfd0dad",
    dim=128,
    min_frames=2,
    license="none: random weights",
)

# Extractors that need nothing but this package and `weights get`, by name.
MANIFESTS: dict[str, Manifest] = {manifest.name: manifest for manifest in (I3D, RANDOM3D)}
