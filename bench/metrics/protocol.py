"""What a quality number is called and what it was measured under. Values compare only where their protocol blocks are equal. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.data.frozen import Count, Frozen, flatten
from bench.metrics.distances.table import DistanceKind, distances
from bench.metrics.extractors.manifest import MANIFESTS, Sha256
from bench.shapes import Refusal

CANONICAL_EXTRACTOR = "i3d"
MIN_HEADLINE_CLIPS = 2048  # in each set, and twice the features, from which on a distance may go without its @n
INFINITE, EXCESS_RATIO = "_infinite", "_excess_ratio"  # of the names of what is derived from a distance
DERIVED = (INFINITE, EXCESS_RATIO)


def metric_name(kind: str, extractor: str, n: int, dim: int) -> str:
    """The one name a distance has: `fvd`, `fvd@64`, `kvd@64`, `fd_random3d@64`, `kd_random3d@64`. `n` is the smaller set.

    >>> metric_name("frechet", "i3d", 64, 400), metric_name("kernel", "i3d", 2048, 400), metric_name("frechet", "random3d", 64, 128)
    ('fvd@64', 'kvd', 'fd_random3d@64')
    """
    name = distances()[kind].name(extractor, CANONICAL_EXTRACTOR)
    return name if n >= max(MIN_HEADLINE_CLIPS, 2 * dim) else f"{name}@{n}"


def read_name(name: str) -> tuple[DistanceKind, str] | None:
    """The distance and the extractor of a metric's name, None where it is no distance: the inverse of `metric_name`.

    >>> [read_name(name)[1] for name in ("fvd@64", "kd_random3d@64")], read_name("fvd_infinite@64"), read_name("val_loss")
    (['i3d', 'random3d'], None, None)
    """
    base = name.partition("@")[0]
    for kind in distances().values():
        if base == kind.canonical:
            return kind, CANONICAL_EXTRACTOR
        if base.startswith(kind.prefix) and not base.endswith(DERIVED):
            return kind, base.removeprefix(kind.prefix)
    return None


class ProtocolBlock(Frozen):
    """Everything besides the clips' pixels that moves a distance. Stored beside every such number."""

    extractor: str
    weights_sha256: Sha256  # of the published weights, of whichever of the files that hold them
    code_sha256: Sha256 | None = None  # of the modules of a network of one's own; None where weights and versions say all
    dim: Count  # features a clip
    n_real: Annotated[int, Field(ge=2)]
    n_fake: Annotated[int, Field(ge=2)]
    num_frames: Count  # of a clip, as the extractor sees it
    frame_stride: Count  # source frames from one clip frame to the next
    fps: Annotated[float, Field(gt=0)] | None  # of the clip; None where no file says it
    height: Count  # of the clip, before the extractor resizes it
    width: Count
    resize: str  # what the extractor does to reach its own size, with a version
    split: str  # which clips are real: "train", "test", ...
    clip_list_sha256: Sha256  # of the list of real clips
    sampling: str = "given"  # how clips were chosen of what there is: "all", "first", "random start, seed 0", ...
    covariance: Literal["n-1", "n"] = "n-1"  # what it divides by
    root: Literal["exact", "sqrtm"] = "exact"  # of the covariances' product: singular values, or scipy's sqrtm as other tools have it
    device: str  # "cpu" or the name of the GPU
    dtype: Literal["float32"]
    versions: dict[str, str]  # of the packages that compute
    clips: dict[str, Any] | None = None  # the rule by which clips were cut, where they were not made for the comparison

    @model_validator(mode="after")
    def check_canonical(self) -> ProtocolBlock:
        """Nothing may pass for FVD that was not measured with the published network."""
        if self.extractor == CANONICAL_EXTRACTOR:
            manifest = MANIFESTS[CANONICAL_EXTRACTOR]
            if self.weights_sha256 not in (manifest.weights_sha256, *manifest.aliases) or self.dim != manifest.dim:
                raise Refusal(
                    f"extractor 'i3d' is the published network ({manifest.dim} features, weights {manifest.weights_sha256[:12]}), "
                    f"got {self.dim} features, weights {self.weights_sha256[:12]}; give another network another name"
                )
            expected = {"resize": manifest.resize, "covariance": "n-1", "root": "exact"}
            found = {key: getattr(self, key) for key in expected}
            if other := [f"{key} {found[key]!r}, expected {value!r}" for key, value in expected.items() if found[key] != value]:
                raise Refusal(f"extractor 'i3d' gives FVD and KVD, which are not measured with {'; '.join(other)}; give it another name")
        return self

    def name(self, kind: str) -> str:
        """Metric name of a distance of this kind under this protocol."""
        return metric_name(kind, self.extractor, min(self.n_real, self.n_fake), self.dim)

    def describe(self) -> dict[str, Any]:
        """The fields that say something, as a `Measurement` keeps them."""
        return self.model_dump(mode="json", exclude_none=True)


def compare_or_raise(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Refusal listing every field in which two protocols differ, with both values."""
    left, right = flatten(dict(a)), flatten(dict(b))
    differences = [f"{key}: {left.get(key)} and {right.get(key)}" for key in sorted(left | right) if left.get(key) != right.get(key)]
    if differences:
        raise Refusal(f"these values were measured under different protocols and do not compare; {'; '.join(differences)}")
