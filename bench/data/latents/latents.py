"""From clips to the latents that are trained on: items of a policy cut out of clips, encoded once, and cached."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.frozen import content_hash
from bench.data.latents.autoencoder import encode_clips
from bench.data.latents.networks import FrameAutoencoder, clips_at_once
from bench.data.policy.contract import Item
from bench.data.policy.fitting import Alike, Fitted
from bench.data.progress import Progress
from bench.data.ragged import Frames, Ragged, clip_shapes, in_batches, stacked
from bench.data.repeated import Repeated
from bench.data.sealed import kept_or_made_in_parts
from bench.data.shards import Sharded
from bench.shapes import Refusal, Shape

SHARD_BYTES = 2**28  # of a file: what a stop may cost, and what encoding holds in memory
ONE_FILE = "latents.npy"  # of a set that needs no more

Latents = np.ndarray | Ragged | Sharded


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Items of a split as backbones see them."""

    latents: Latents  # (N, C, T, H, W) float32, or N of (C, T, H, W)
    labels: np.ndarray | None  # (N,) int64, None without classes
    null_label: int
    captions: np.ndarray | None = None  # (N,) int64, places in a table of captions; None without text
    empty_caption: int = 0  # the place of the empty one

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shapes(self) -> Sequence[Shape]:
        """Latent (T, H, W) of each item."""
        if isinstance(self.latents, Ragged):
            return tuple((shape[1], shape[2], shape[3]) for shape in self.latents.shapes)
        return Repeated((self.latents.shape[2], self.latents.shape[3], self.latents.shape[4]), len(self.latents))


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
    if isinstance(items := fitted.items, Alike):
        items, shapes = items.first, shapes[:1]  # the others are as the first is
    return len(items) == len(shapes) and all(
        item == Item(clip, 0, (0.0, 0.0, float(shape[2]), float(shape[1])), shape)
        for clip, (item, shape) in enumerate(zip(items, shapes, strict=True))
    )


def cached_latents(
    autoencoder: FrameAutoencoder,
    frames: Frames,
    fitted: Fitted,
    clips_digest: str,
    split: str,
    cache: Path,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> Latents:
    """Latents of a split's items: (N, C, T, H, W) float32 where all have one shape, else N of (C, T, H, W). Read when they are used.

    In one file, memory-mapped, or in several where one would have more than `shard_bytes`; encoding that was stopped goes on with the file
    it had begun. Refusal where the autoencoder gives NaN.
    """
    identity = {"autoencoder": autoencoder.key, "clips": clips_digest, "split": split}
    if not is_whole(frames, fitted):  # items that are the clips themselves are found under the key of the clips
        identity["items"] = content_hash([[item.clip, item.first_frame, item.box, item.shape] for item in fitted.items])
    folder = cache / "latents" / content_hash(identity)[:16]
    spec = autoencoder.spec(0)
    latent_shapes = {shape: (spec.latent_channels, *spec.latent_shape(shape)) for shape in fitted.shapes}
    uniform = len(set(latent_shapes.values())) == 1
    shards = _shards(fitted, {shape: 4 * math.prod(latents) for shape, latents in latent_shapes.items()}, shard_bytes)
    names = [ONE_FILE] if len(shards) == 1 else [f"shard-{index:05d}.npy" for index in range(len(shards))]

    def make(index: int, path: Path) -> None:
        items = [fitted.items[place] for place in shards[index]]
        shapes = [latent_shapes[item.shape] for item in items]
        flat = np.empty((len(items), *shapes[0]) if uniform else (sum(map(math.prod, shapes)),), np.float32)
        target: np.ndarray | Ragged = flat if uniform else Ragged(flat, shapes)
        done = shards[index].start
        for chunk in in_batches([item.shape for item in items], clips_at_once):
            pixels = np.stack([item_pixels(frames, items[place]) for place in chunk])
            for place, latents in zip(chunk, encode_clips(autoencoder, pixels).numpy(), strict=True):
                if not np.isfinite(latents).all():
                    where = f"{split} clip {items[place].clip}"
                    raise Refusal(f"the autoencoder gives NaN or infinite latents for {where}; train it at a lower rate or name another")
                target[place][...] = latents
            done += len(chunk)
            progress(done, len(fitted.items), f"latents of {split}")
        with path.open("wb") as file:
            np.save(file, flat)

    kept_or_made_in_parts(folder, f"latents of {split}", names, make)
    one_shape = next(iter(latent_shapes.values()))
    flat: np.ndarray | Sharded
    if (folder / ONE_FILE).is_file():
        flat = np.load(folder / ONE_FILE, mmap_mode="r")
    elif uniform:
        flat = Sharded([folder / name for name in names], [len(items) for items in shards], one_shape, np.float32)
    else:
        counts = [sum(math.prod(latent_shapes[fitted.items[place].shape]) for place in items) for items in shards]
        flat = Sharded([folder / name for name in names], counts, (), np.float32)
    return flat if uniform else Ragged(flat, [latent_shapes[item.shape] for item in fitted.items])


def _shards(fitted: Fitted, item_bytes: Mapping[Shape, int], most: int) -> list[range]:
    """Consecutive items that share a file of up to `most` bytes, and of one at least.

    Of one shape as many as are encoded together, a few times over: then no latent depends on where files end.
    """
    if len(item_bytes) == 1:
        ((shape, num_bytes),) = item_bytes.items()
        together = clips_at_once(shape)
        num = max(1, most // num_bytes)
        num = num // together * together or num
        return [range(first, min(first + num, len(fitted.items))) for first in range(0, len(fitted.items), num)]
    shards, first, total = [], 0, 0
    for place, item in enumerate(fitted.items):
        if place > first and total + item_bytes[item.shape] > most:
            shards.append(range(first, place))
            first, total = place, 0
        total += item_bytes[item.shape]
    return [*shards, range(first, len(fitted.items))]
