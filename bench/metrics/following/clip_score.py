"""CLIP score: how near frames are to their caption for a CLIP network of transformers, which is asked for by its folder or its hub name.

As torchmetrics defines it (arXiv:2104.08718): 100 times the cosine between the embeddings of frame and caption, here its mean over a clip's
frames and over clips, and nothing below 0. Beside it what clips reach under one another's captions: a network scores any text.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from bench.data.files import sha256_texts
from bench.data.ragged import Frames
from bench.metrics.following.values import CLIP_SCORE
from bench.metrics.physics.scoring import INTERVAL, mean_interval
from bench.metrics.weights.cache import sha256_file
from bench.records.record import REAL, Measurement
from bench.shapes import Refusal

VERSION = 1  # in the protocol; raise it with any change of a value
RESIZE = "shorter side to the network's size, bicubic with antialiasing, centre crop; 1"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own images, where a folder says no other
FRAMES_AT_ONCE = 64
CHANCE = "the real test clips under one another's captions, all pairs"


@dataclass(frozen=True, kw_only=True)
class ClipNetwork:
    """Frames and captions as points on one sphere."""

    name: str  # as it was asked for
    network: Any  # transformers' CLIPModel
    tokenizer: Any
    mean: Tensor  # (3, 1, 1)
    std: Tensor
    weights_sha256: str  # of the file of weights; of several, of their hashes
    settings_sha256: str  # of the hashes of all other files that are read, the tokenizer's among them

    @torch.no_grad()
    def frames(self, clip: np.ndarray) -> Tensor:
        """Clip (T, H, W, 3) uint8 -> (D,) mean of its frames' embeddings, each of length 1; float64."""
        parts = []
        for start in range(0, len(clip), FRAMES_AT_ONCE):
            pixels = torch.from_numpy(np.array(clip[start : start + FRAMES_AT_ONCE])).movedim(-1, 1).float() / 255  # (F, 3, H, W)
            pooled = self.network.vision_model(pixel_values=self._seen(pixels)).pooler_output
            parts.append(functional.normalize(self.network.visual_projection(pooled), dim=-1))
        return torch.cat(parts).double().mean(dim=0).cpu()

    @torch.no_grad()
    def captions(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D) embeddings of length 1; float64. What is longer than the network reads is cut off."""
        most = self.network.config.text_config.max_position_embeddings
        device, rows = self.mean.device, []
        for text in texts:  # one by one: padding changes the last bits
            tokens = self.tokenizer([text], truncation=True, max_length=most, return_tensors="pt")
            inputs = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask")}
            rows.append(functional.normalize(self.network.text_projection(self.network.text_model(**inputs).pooler_output), dim=-1))
        return torch.cat(rows).double().cpu()

    def _seen(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W) in [0, 1] -> (F, 3, S, S) as the network sees them."""
        side, (height, width) = self.network.config.vision_config.image_size, frames.shape[-2:]
        scale = side / min(height, width)
        size = (max(side, round(height * scale)), max(side, round(width * scale)))
        frames = functional.interpolate(frames, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        return (frames[..., top : top + side, left : left + side].to(self.mean.device) - self.mean) / self.std


@functools.lru_cache(maxsize=1)
def load_clip_network(name: str, device: torch.device) -> ClipNetwork:
    """The network of a folder or a hub name. Refusal for one that is not there, no CLIP, or a pickle, which can run code."""
    from transformers import CLIPModel, CLIPTokenizer

    folder = _folder(name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        unsafe = next((path.name for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))), None)
        found = f"has {unsafe} alone, a pickle, which can run code; convert it" if unsafe else "has no *.safetensors; put the weights there"
        raise Refusal(f"evaluation.clip_score {name!r} {found}, as model.safetensors")
    if (kind := _json(name, folder / "config.json").get("model_type")) != "clip":
        raise Refusal(f"evaluation.clip_score {name!r} holds a network of the kind {kind!r}; give one of the kind 'clip'")
    try:
        with _quiet():
            network, told = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _unloadable(name, error) from error
    if missing := sorted(told["missing_keys"]):
        raise Refusal(f"evaluation.clip_score {name!r} lacks {len(missing)} weights of its network, {missing[0]} among them; get it whole")
    stored = folder / "preprocessor_config.json"
    facts = _json(name, stored) if stored.is_file() else {}
    mean, std = (torch.tensor(facts.get(key, own), device=device)[:, None, None] for key, own in (("image_mean", MEAN), ("image_std", STD)))
    hashes = [sha256_file(path, "") for path in weights]
    settings = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt")]
    return ClipNetwork(
        name=name,
        network=network.float().eval().to(device),
        tokenizer=tokenizer,
        mean=mean,
        std=std,
        weights_sha256=hashes[0] if len(hashes) == 1 else sha256_texts(hashes),
        settings_sha256=sha256_texts([f"{path.name} {sha256_file(path, '')}" for path in settings]),
    )


def _folder(name: str) -> Path:
    """Where the files of a network are: its own folder, or the hub's cache, which is filled."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.txt"]))
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:
        raise Refusal(
            f"evaluation.clip_score {name!r} is no folder here, and no hub gives it: {_line(error)}; give the folder of a CLIP"
        ) from error


def _json(name: str, path: Path) -> dict[str, Any]:
    """A file of a network's folder. Refusal for one that is no JSON object."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise _unloadable(name, error) from error


def _unloadable(name: str, error: Exception) -> Refusal:
    return Refusal(f"evaluation.clip_score {name!r} cannot be loaded as a CLIP of transformers: {_line(error)}; get it anew")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers prints neither a bar nor which of the weights it does not need."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def measurements(
    captions: Sequence[str], clips: Mapping[str, Frames], network: ClipNetwork, source: str, versions: Mapping[str, str]
) -> list[Measurement]:
    """The score of every subject's clips, which are of these captions in this order; `REAL` are the clips that the captions are of.

    Clips whose caption is "" are left out. `source`: identity of the real clips. `versions`: of the packages that compute.
    """
    told = [place for place, caption in enumerate(captions) if caption]
    texts = network.captions([captions[place] for place in told])  # (n, D)
    protocol = {
        "measure": CLIP_SCORE.name,
        "version": VERSION,
        "model": network.name,
        "weights_sha256": network.weights_sha256,
        "settings_sha256": network.settings_sha256,
        "resize": RESIZE,
        "clips": source,
        "captions_sha256": sha256_texts([captions[place] for place in told]),
        "num_clips": len(told),
        "versions": dict(versions),
    }
    seen = {subject: torch.stack([network.frames(np.asarray(frames[place])) for place in told]) for subject, frames in clips.items()}
    chance = _of_others(seen[REAL], texts)
    return [_measured(subject, 100 * (own * texts).sum(dim=1), chance, protocol) for subject, own in seen.items()]


def _of_others(seen: Tensor, texts: Tensor) -> float | None:
    """The score of every clip (n, D) under the captions of all others (n, D); None of a single one."""
    num = len(texts)
    if num < 2:
        return None
    every, own = float(seen.sum(dim=0) @ texts.sum(dim=0)), float((seen * texts).sum())
    return max(100 * (every - own) / (num * (num - 1)), 0.0)


def _measured(subject: str, scores: Tensor, chance: float | None, protocol: dict[str, Any]) -> Measurement:
    low, high = mean_interval(scores.numpy())
    return Measurement(
        name=CLIP_SCORE.name,
        subject=subject,
        value=max(float(scores.mean()), 0.0),
        unit=CLIP_SCORE.unit,
        better=CLIP_SCORE.better,
        low=low,
        high=high,
        interval=INTERVAL if low is not None else "none: a single clip has a caption",
        floor=chance,
        floor_source=CHANCE if chance is not None else "none: a single clip has a caption",
        protocol=protocol,
    )
