"""From clips to the latents that are trained on: items of a policy cut out of clips, encoded once, and cached."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.clips import reserve
from bench.data.frozen import content_hash
from bench.data.latents.autoencoder import FrameAutoencoder, clips_at_once, encode_clips
from bench.data.policy.contract import Item
from bench.data.policy.fitting import Fitted
from bench.data.progress import Progress
from bench.data.ragged import Frames, Ragged, clip_shapes, in_batches, stacked
from bench.data.sealed import kept_or_made
from bench.shapes import Refusal, Shape


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Items of a split as backbones see them."""

    latents: np.ndarray | Ragged  # (N, C, T, H, W) float32, memory-mapped; or N of (C, T, H, W)
    labels: np.ndarray | None  # (N,) int64, None without classes
    null_label: int

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Latent (T, H, W) of each item."""
        if isinstance(self.latents, Ragged):
            return tuple((shape[1], shape[2], shape[3]) for shape in self.latents.shapes)
        return ((self.latents.shape[2], self.latents.shape[3], self.latents.shape[4]),) * len(self.latents)


def item_pixels(frames: Frames, item: Item) -> np.ndarray:
    """Pixels of an item, (T, H, W, 3) uint8: its window as it is, or scaled by Pillow's antialiased bicubic filter."""
    num_frames, height, width = item.shape
    clip = frames[item.clip][item.first_frame : item.first_frame + num_frames]
    left, top, right, bottom = item.box
    if (bottom - top, right - left) == (height, width) and left == int(left) and top == int(top):
        return np.asarray(clip[:, int(top) : int(bottom), int(left) : int(right)])
    scaled = [
        Image.fromarray(np.ascontiguousarray(frame)).resize((width, height), Image.Resampling.BICUBIC, box=item.box) for frame in clip
    ]
    return np.stack([np.asarray(image) for image in scaled])


def fitted_clips(frames: Frames, fitted: Fitted, num: int) -> Frames:
    """Pixels of the first `num` items of a split."""
    if is_whole(frames, fitted):
        return frames[:num]
    return stacked((item_pixels(frames, item) for item in fitted.items[:num]), num)


def is_whole(frames: Frames, fitted: Fitted) -> bool:
    """Whether the items are the clips themselves, each once and whole."""
    shapes = clip_shapes(frames)
    return len(fitted.items) == len(shapes) and all(
        item == Item(clip, 0, (0.0, 0.0, float(shape[2]), float(shape[1])), shape)
        for clip, (item, shape) in enumerate(zip(fitted.items, shapes, strict=True))
    )


def cached_latents(
    autoencoder: FrameAutoencoder, frames: Frames, fitted: Fitted, clips_digest: str, split: str, cache: Path, progress: Progress
) -> np.ndarray | Ragged:
    """Latents of a split's items, memory-mapped: (N, C, T, H, W) float32 where all have one shape, else N of (C, T, H, W).

    Refusal where the autoencoder gives NaN.
    """
    identity = {"autoencoder": autoencoder.key, "clips": clips_digest, "split": split}
    if not is_whole(frames, fitted):  # items that are the clips themselves are found under the key of the clips
        identity["items"] = content_hash([[item.clip, item.first_frame, item.box, item.shape] for item in fitted.items])
    folder = cache / "latents" / content_hash(identity)[:16]
    spec = autoencoder.spec(0)
    shapes = [(spec.latent_channels, *spec.latent_shape(item.shape)) for item in fitted.items]
    uniform = len(set(shapes)) == 1

    def make(temp: Path) -> None:
        file_shape = (len(shapes), *shapes[0]) if uniform else (sum(map(math.prod, shapes)),)
        flat = np.lib.format.open_memmap(temp / "latents.npy", mode="w+", dtype=np.float32, shape=file_shape)
        reserve(temp / "latents.npy")
        target: np.ndarray | Ragged = flat if uniform else Ragged(flat, shapes)
        done = 0
        for chunk in in_batches([item.shape for item in fitted.items], clips_at_once):
            pixels = np.stack([item_pixels(frames, fitted.items[index]) for index in chunk])
            for index, latents in zip(chunk, encode_clips(autoencoder, pixels).numpy(), strict=True):
                if not np.isfinite(latents).all():
                    where = f"{split} clip {fitted.items[index].clip}"
                    raise Refusal(f"the autoencoder gives NaN or infinite latents for {where}; train it at a lower rate or name another")
                target[index][...] = latents
            done += len(chunk)
            progress(done, len(shapes), f"latents of {split}")
        flat.flush()

    kept_or_made(folder, f"latents of {split}", make)
    stored = np.load(folder / "latents.npy", mmap_mode="r")
    return stored if uniform else Ragged(stored, shapes)
