"""What a matrix says of the autoencoder that all contenders share, and where it is cached. Knows no torch."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.data.frozen import Count, Frozen, Grown, Seed, content_hash

CODE_VERSION = 1  # raise it when the same configuration starts to give other latents


class TrainedAutoencoder(Frozen):
    """A small `AutoencoderTiny` trained on the data set's own training frames, once, for all contenders."""

    kind: Literal["trained"]
    latent_channels: int = Field(4, ge=1, le=4096)  # C of the latents
    spatial_stride: Literal[2, 4, 8] = 4  # pixels per latent voxel; the first factor of 2 is a pixel unshuffle
    width: int = Field(64, ge=8, le=4096)  # channels of every convolution
    num_steps: Count  # optimiser steps
    batch_size: int = Field(64, ge=1, le=10**6)  # frames
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False)  # at its height, of one cycle of AdamW
    seed: Seed = 0  # of its weights and frames, not of a run: all runs share it


class PretrainedAutoencoder(Grown):
    """A diffusers autoencoder from a folder or a hub: any of images, applied frame by frame, or one of videos (video_autoencoder.py)."""

    added = ("subfolder", "statistics")

    kind: Literal["pretrained"]
    name: str  # folder, or hub name such as "stabilityai/sd-vae-ft-mse"
    class_name: str = "AutoencoderKL"  # the diffusers class
    revision: str | None = None  # hub commit; a hub name without one follows its main branch
    subfolder: str | None = None  # of a pipeline, such as vae
    statistics: Literal["measured", "own"] = "measured"  # scale of latents: unit variance on training clips, or its pipeline's


Autoencoder = Annotated[TrainedAutoencoder | PretrainedAutoencoder, Field(discriminator="kind")]


def autoencoder_folder(config: Autoencoder, clips_digest: str, cache: Path) -> Path:
    """Where the autoencoder of these clips is, or will be, cached: under all that determines it."""
    identity = {
        "config": config.model_dump(mode="json"),
        "files": _folder_hash(config),
        "clips": clips_digest,
        "code": CODE_VERSION,
        "diffusers": importlib.metadata.version("diffusers"),
    }
    return cache / "autoencoder" / content_hash(identity)[:16]


def _folder_hash(config: Autoencoder) -> str | None:
    """Hash of the files of a pretrained autoencoder in a local folder, which may change under its name; None for any other."""
    if not isinstance(config, PretrainedAutoencoder) or not Path(config.name).is_dir():
        return None
    folder = Path(config.name, config.subfolder or "")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
