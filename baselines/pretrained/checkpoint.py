"""A checkpoint in diffusers' layout: its folder, here or on a hub, its configuration, which files hold weights, their hash. No torch."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.shapes import Refusal

DENOISERS = ("transformer", "unet")  # folders of a pipeline in which the network is that makes clips of noise
WEIGHTS = "diffusion_pytorch_model"  # how diffusers calls files of weights
RENAMED = ("LatteT2V",)  # names that classes had before diffusers took them in
# Of a hub, in the order in which they are asked for: what is safest to read, in full precision.
FETCHED = ((f"{WEIGHTS}*.safetensors", f"{WEIGHTS}.safetensors.index*.json"), (f"{WEIGHTS}*.bin", f"{WEIGHTS}.bin.index*.json"))
CHUNK_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The denoiser of a pipeline, and what of the pipeline must be known to ask it."""

    name: str  # as it was asked for
    folder: Path  # of the pipeline
    part: str  # folder of the denoiser in it
    config: dict[str, Any]  # of the denoiser
    scheduler: dict[str, Any]
    autoencoder: dict[str, Any]  # its configuration; empty without one
    index: dict[str, Any]  # model_index.json: part -> (library, class)

    @property
    def class_name(self) -> str:
        """The class of the denoiser, by its configuration and, where that has an older word for it, by the pipeline's."""
        own = str(self.config.get("_class_name"))
        if own == "Transformer2DModel" and self.config.get("norm_type") == "ada_norm_zero":
            return "DiTTransformer2DModel"  # what diffusers calls DiT since it has classes for each
        library, listed = self.index[self.part]
        return str(listed) if own in RENAMED and library == "diffusers" else own

    def weight_files(self) -> list[Path]:
        """Files of the denoiser's weights, safetensors before others; those of a hub are fetched. Refusal where there are none."""
        found = _weights_in(self.folder / self.part)
        for patterns in FETCHED if not Path(self.name).is_dir() else ():
            found = found or _weights_in(_fetched(self.name, tuple(f"{self.part}/{pattern}" for pattern in patterns)) / self.part)
        if not found:
            raise Refusal(f"{self.name}: {self.part}/ has no {WEIGHTS}.safetensors; save it by diffusers' save_pretrained")
        return found

    def digest(self, *, weights: bool) -> str:
        """Hash of what decides its predictions: configurations, and the weights themselves unless only its architecture is meant."""
        parts = [json.dumps(each, sort_keys=True) for each in (self.config, self.scheduler if weights else {}, self.autoencoder)]
        files = [_file_digest(path, *_stamp(path)) for path in self.weight_files()] if weights else []
        return hashlib.sha256("\n".join([*parts, *files]).encode()).hexdigest()


def open_checkpoint(name: str) -> Checkpoint:
    """The checkpoint of a folder or a hub name, "org/name" or "org/name@revision". Refusal where it is not there, or no pipeline."""
    folder = Path(name) if Path(name).is_dir() else _fetched(name, ("*.json",))
    index = _read(folder / "model_index.json", name)
    there = [part for part in DENOISERS if index.get(part, [None])[0] is not None]
    if len(there) != 1 or (index.get("transformer_2") or [None])[0] is not None:
        raise Refusal(
            f"{name}: a pipeline of one denoiser is needed, {' or '.join(DENOISERS)}; model_index.json has "
            f"{', '.join(part for part in index if not part.startswith('_')) or 'no parts'}"
        )
    vae = folder / "vae" / "config.json"
    return Checkpoint(
        name=name,
        folder=folder,
        part=there[0],
        config=_read(folder / there[0] / "config.json", name),
        scheduler=_read(folder / "scheduler" / "scheduler_config.json", name),
        autoencoder=_read(vae, name) if vae.is_file() else {},
        index=index,
    )


def _read(path: Path, name: str) -> dict[str, Any]:
    """A JSON object. Refusal where the file is not there or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Refusal(f"{name}: {path} is missing; a pipeline's folder in diffusers' layout has it, see docs/public-weights.md") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Refusal(f"{name}: {path} cannot be read ({' '.join(str(error).split())[:200]}); save the pipeline again") from error
    if not isinstance(content, dict):
        raise Refusal(f"{name}: {path} holds no JSON object; save the pipeline again")
    return content


def _weights_in(folder: Path) -> list[Path]:
    """Files of weights in a folder: of an index its parts, in the safest format that is there."""
    for suffix in ("safetensors", "bin"):
        for index in sorted(folder.glob(f"{WEIGHTS}.{suffix}.index*.json"), key=lambda path: len(path.name)):  # full precision first
            names = sorted(set(_read(index, str(folder)).get("weight_map", {}).values()))
            if odd := [name for name in names if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file()]:
                raise Refusal(f"{index} names {odd[0]!r}, which is no file beside it; get the checkpoint again")
            return [folder / name for name in names]
        plain = folder / f"{WEIGHTS}.{suffix}"
        if plain.is_file():
            return [plain]
        if variants := sorted(folder.glob(f"{WEIGHTS}.*.{suffix}")):
            return variants[:1]
    return []


@functools.cache
def _fetched(name: str, patterns: tuple[str, ...]) -> Path:
    """Folder of a hub's files, in its own cache: those of the patterns. Refusal where they cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if name.startswith(("/", ".", "~")):
        raise Refusal(f"there is no folder {name}; name one with the weights of a model, or a hub name, such as org/model")
    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns), ignore_patterns=["*.fp16.*"]))
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Refusal(f"{name} is no folder here, and as a hub name it cannot be had ({reason}); get it first, or name a folder") from error


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file's content, cheap to ask."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
