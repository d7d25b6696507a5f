"""Which frames and steps of a rigid clip count, and means over them. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.data.physics.rigid import frame_units
from bench.metrics.physics.contract import Stage

SLACK = 0.02  # units: a body that lies on the frame's edge is inside


@dataclass(frozen=True, kw_only=True)
class ScoredFrames:
    """Frames after the known ones in which the truth has all bodies wholly inside, and what leads to them; each (N, T) bool."""

    frames: np.ndarray
    steps: np.ndarray  # to this frame from the one before, be it a known one
    turns: np.ndarray  # to this frame over the two before


def counted(stage: Stage) -> ScoredFrames:
    """By the truth alone, so of every subject the same."""
    size = np.array(frame_units(stage.config.height, stage.config.width))
    places, radius = true_places(stage), stage.truth["radius"][..., None]
    inside = (np.minimum(places, size - places) >= radius - SLACK).all(axis=(2, 3))  # (N, T)
    frames = inside & (np.arange(inside.shape[1]) >= stage.known)
    steps, turns = np.zeros_like(frames), np.zeros_like(frames)
    steps[:, 1:] = frames[:, 1:] & inside[:, :-1]
    turns[:, 2:] = steps[:, 2:] & inside[:, :-2]
    return ScoredFrames(frames=frames, steps=steps, turns=turns)


def true_places(stage: Stage) -> np.ndarray:
    """(N, T, K, 2) units."""
    return np.stack([stage.truth["x"], stage.truth["y"]], axis=-1)


def change(values: np.ndarray) -> np.ndarray:
    """Values (N, T, ...) -> by how much each differs from that of the frame before; 0 in the first."""
    return np.diff(values, axis=1, prepend=values[:, :1])


def mean(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values (N, T) or (N, T, K) -> (N,) mean over bodies and the chosen frames (N, T); NaN in a clip without any."""
    over_bodies = values.reshape(*chosen.shape, -1).mean(axis=2)
    num = chosen.sum(axis=1)
    return np.where(num > 0, np.where(chosen, over_bodies, 0).sum(axis=1) / np.maximum(num, 1), np.nan)


def largest(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values (N, T) -> (N,) the largest of the chosen frames (N, T); NaN in a clip without any."""
    return np.where(chosen.any(axis=1), np.where(chosen, values, -np.inf).max(axis=1), np.nan)
