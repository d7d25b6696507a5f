"""Known damage to clips, in steps of strength: what a distance between clips has to notice. Knows no extractor; no torch.

Levels are nested: a stronger level keeps the draws of a weaker one and adds to them, so that a distance that does not grow with the
level cannot blame the draw. One generator a clip, from (seed, axis, index of the clip).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

DamageKind = Literal["spatial", "temporal"]
Rng = np.random.Generator
# (clip (T, H, W, 3) uint8, the clip after it, level, generator) -> damaged clip (T, H, W, 3) uint8
Damage = Callable[[np.ndarray, np.ndarray, float, Rng], np.ndarray]


@dataclass(frozen=True)
class Axis:
    """One kind of damage. Spatial: frames look wrong. Temporal: frames look right, or alike, and their sequence is wrong."""

    name: str
    kind: DamageKind
    title: str  # for a reader
    levels: tuple[float, float, float, float]  # strengths, weakest first
    unit: str  # what a level counts
    damage: Damage

    @property
    def of_clips(self) -> bool:
        """The level is the share of clips damaged, each at full strength; else every clip is damaged by level."""
        return self.unit == "of clips"

    def source_frames(self, num_frames: int) -> int:
        """Frames a source clip needs for a damaged clip of `num_frames`, of which the first are the undamaged clip."""
        return 2 * num_frames - 1 if self.damage is double_speed else num_frames

    def apply(self, clips: np.ndarray, level: float, seed: int) -> np.ndarray:
        """Source clips (N, `source_frames(T)`, H, W, 3) uint8 -> damaged clips (N, T, H, W, 3) uint8. Level 0 changes nothing."""
        damaged = np.array(clips[:, : (clips.shape[1] + 1) // 2] if self.damage is double_speed else clips)
        strength = 1.0 if self.of_clips else level
        for index in np.flatnonzero(self.chosen(len(clips), level, seed)) if self.of_clips else range(len(clips) if level else 0):
            after = clips[(index + 1) % len(clips)]
            damaged[index] = self.damage(clips[index], after, strength, clip_rng(seed, self.name, int(index)))
        return damaged

    def chosen(self, num_clips: int, level: float, seed: int) -> np.ndarray:
        """Which clips an axis `of_clips` damages at this level: (N,) bool, round(level x N) of them, all of a weaker level's among them.

        So features of damaged clips are those of all clips at level 1 where this is true, and of the undamaged ones elsewhere.
        """
        draws = np.array([clip_rng(seed, f"{self.name}/share", index).random() for index in range(num_clips)])
        return np.argsort(np.argsort(draws)) < round(level * num_clips)


def clip_rng(seed: int, stream: str, index: int) -> Rng:
    """The clip's own generator: no clip depends on how many there are."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=16).digest()))


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def portion(share: float, count: int) -> int:
    """`share` of `count` things, to the nearest, at least one where the share is not 0."""
    return max(1, int(share * count + 0.5)) if share else 0


def noise(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """White noise of standard deviation `level` x 255 on every value."""
    return to_uint8(clip + level * 255 * rng.standard_normal(clip.shape, dtype=np.float32))


def blur(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Gaussian blur within the frame, standard deviation `level` x shorter side."""
    width = level * min(clip.shape[1:3])
    return to_uint8(ndimage.gaussian_filter(clip.astype(np.float32), (0, width, width, 0), mode="nearest"))


def occluder(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """A grey rectangle, `level` of the frame's height and width, at one place for the clip; it grows around its centre."""
    damaged = clip.copy()
    spans = []
    for size, centre in zip(clip.shape[1:3], rng.uniform(0.3, 0.7, 2), strict=True):
        start = round((centre - level / 2) * size)
        spans.append(slice(max(0, start), max(0, start) + max(1, round(level * size))))
    damaged[:, spans[0], spans[1]] = 128
    return damaged


def salt_and_pepper(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """`level` of the pixels become black or white, other ones in every frame."""
    hit = rng.random(clip.shape[:3], dtype=np.float32) < level
    colour = np.where(rng.random(clip.shape[:3]) < 0.5, 0, 255).astype(np.uint8)
    return np.where(hit[..., None], colour[..., None], clip)


def elastic_clip(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Pixels are displaced by a smooth random field, `level` x shorter side in root mean square, the same in every frame."""
    offsets = smooth_field(clip.shape[1], clip.shape[2], rng) * level
    return np.stack([displaced(frame, offsets) for frame in clip])


def elastic_frame(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """As `elastic_clip` at the same level, with a field of its own in every frame: each frame is as wrong, the clip jitters."""
    return np.stack([displaced(frame, smooth_field(clip.shape[1], clip.shape[2], rng) * level) for frame in clip])


def local_swaps(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """`level` of the pairs of frames (0, 1), (2, 3), ... are swapped."""
    pairs = len(clip) // 2
    first = 2 * rng.permutation(pairs)[: portion(level, pairs)]
    return swapped(clip, first, first + 1)


def global_swaps(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """`level` of the frames change places in pairs, however far apart."""
    pairs = len(clip) // 2
    order = rng.permutation(len(clip))[: 2 * pairs].reshape(pairs, 2)[: portion(level, pairs)]
    return swapped(clip, order[:, 0], order[:, 1])


def shuffle(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """All frames in a random order, never the right one."""
    order = rng.permutation(len(clip))
    while (order == np.arange(len(clip))).all():
        order = rng.permutation(len(clip))
    return clip[order]


def freeze(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Motion stops for `level` of the steps from frame to frame, the last ones; at 1 the clip is its first frame."""
    last = len(clip) - 1 - portion(level, len(clip) - 1)
    return clip[np.minimum(np.arange(len(clip)), last)]


def reverse(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Backwards."""
    return clip[::-1]


def interleave(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Every second frame is the next clip's."""
    damaged = clip.copy()
    damaged[1::2] = after[1::2]
    return damaged


def switch(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """The second half is the next clip's."""
    half = len(clip) // 2
    return np.concatenate([clip[:half], after[half:]])


def double_speed(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Every second frame of a source clip (2 T - 1, H, W, 3)."""
    return clip[::2]


def flicker(clip: np.ndarray, after: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Every frame's brightness is multiplied by 1 + `level` x a draw of its own between -1 and 1."""
    gains = 1 + level * rng.uniform(-1, 1, len(clip))
    return to_uint8(clip * gains[:, None, None, None])


def swapped(clip: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Frames `first[k]` and `second[k]` have changed places."""
    order = np.arange(len(clip))
    order[first], order[second] = second, first
    return clip[order]


def smooth_field(height: int, width: int, rng: Rng) -> np.ndarray:
    """Displacements (2, H, W) in pixels, smooth over a tenth of the shorter side, root mean square one shorter side."""
    side = min(height, width)
    field = ndimage.gaussian_filter(rng.standard_normal((2, height, width)), (0, side / 10, side / 10), mode="nearest")
    return np.asarray(field * (side / np.sqrt(np.square(field).mean())))


def displaced(frame: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Frame (H, W, 3) whose pixel at p is the old one at p + offset (2, H, W), bilinear, edges continued."""
    places = np.indices(frame.shape[:2]) + offsets
    channels = [ndimage.map_coordinates(frame[..., c].astype(np.float32), places, order=1, mode="nearest") for c in range(3)]
    return to_uint8(np.stack(channels, axis=-1))


# The full shuffle, the whole freeze, noise of 0.05 and the two elastic axes carry judgements of their own (battery.py).
STEPS, SHARES, ELASTIC = (0.25, 0.5, 0.75, 1.0), (0.125, 0.25, 0.5, 1.0), (0.01, 0.02, 0.04, 0.08)
AXES = {axis.name: axis for axis in (
    #    name               kind        title                 levels                    a level is                damage
    Axis("noise",           "spatial",  "noise",              (0.02, 0.05, 0.1, 0.2),   "sigma, of the range",    noise),
    Axis("blur",            "spatial",  "blur",               (0.02, 0.04, 0.08, 0.16), "sigma, of shorter side", blur),
    Axis("occluder",        "spatial",  "occluder",           (0.1, 0.2, 0.4, 0.6),     "of height and width",    occluder),
    Axis("salt_and_pepper", "spatial",  "salt and pepper",    (0.005, 0.02, 0.05, 0.1), "of pixels",              salt_and_pepper),
    Axis("elastic_clip",    "spatial",  "elastic, per clip",  ELASTIC,                  "rms, of shorter side",   elastic_clip),
    Axis("elastic_frame",   "temporal", "elastic, per frame", ELASTIC,                  "rms, of shorter side",   elastic_frame),
    Axis("flicker",         "temporal", "flicker",            (0.1, 0.2, 0.4, 0.8),     "of brightness",          flicker),
    Axis("local_swaps",     "temporal", "local swaps",        STEPS,                    "of neighbour pairs",     local_swaps),
    Axis("global_swaps",    "temporal", "global swaps",       STEPS,                    "of frames",              global_swaps),
    Axis("freeze",          "temporal", "frozen tail",        STEPS,                    "of steps",               freeze),
    Axis("shuffle",         "temporal", "full shuffle",       SHARES,                   "of clips",               shuffle),
    Axis("reverse",         "temporal", "reversal",           SHARES,                   "of clips",               reverse),
    Axis("interleave",      "temporal", "two interleaved",    SHARES,                   "of clips",               interleave),
    Axis("switch",          "temporal", "switch half-way",    SHARES,                   "of clips",               switch),
    Axis("double_speed",    "temporal", "double speed",       SHARES,                   "of clips",               double_speed),
)}  # fmt: skip
