"""The clips of a cell to look at, read from its folder: never repaired, and never half.

A sheet that is missing or damaged is the reason for it, in words, and the page goes on without.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.data.media.arrays import read_npz
from bench.report.load import CellResult
from bench.shapes import Refusal, Shape, check_shape, visible

MAX_FRAMES, MAX_FPS = 1024, 1e4  # of a clip that is drawn


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Clips of one cell to look at, uint8 (k, T, H, W, 3)."""

    real: np.ndarray
    reconstruction: np.ndarray
    generated: np.ndarray
    untrained: np.ndarray | None
    labels_real: np.ndarray  # (k,)
    labels_generated: np.ndarray  # (k,)
    label_names: tuple[str, ...]
    told: tuple[str, ...]  # caption that the k-th generated clip was told, which the k-th real one has; () = none was told any
    fps: float
    shapes: tuple[Shape, ...] | None  # (T, H, W) of the k-th clip of every kind inside its grey frame; None = all fill it

    def clip(self, clips: np.ndarray, k: int) -> np.ndarray:
        """The k-th of `clips` without the frame of grey that made all one shape, (T, H, W, 3)."""
        framed = clips[k]
        if self.shapes is None:
            return framed
        num_frames, height, width = self.shapes[k]
        top, left = (framed.shape[1] - height) // 2, (framed.shape[2] - width) // 2
        return framed[:num_frames, top : top + height, left : left + width]


def load_sheet(cell: CellResult) -> Sheet | str:
    """A cell's clips to look at, or why there are none."""
    path = cell.artefact("sheet")
    if path is None:
        return "the record names no sheet of clips" if cell.record else cell.status
    try:
        arrays = read_npz(path)
        real, generated = _check_clips("real", arrays["real"]), _check_clips("generated", arrays["generated"])
        check_shape("reconstruction", arrays["reconstruction"], real.shape)
        untrained = _check_clips("untrained", arrays["untrained"]) if "untrained" in arrays else None
        if untrained is not None:
            check_shape("untrained", untrained, (None, *generated.shape[1:]))
        names = cell.record.data.label_names if cell.record and cell.record.data else ()
        return Sheet(
            real=real,
            reconstruction=_check_clips("reconstruction", arrays["reconstruction"]),
            generated=generated,
            untrained=untrained,
            labels_real=_check_labels("labels_real", arrays["labels_real"], len(real), names),
            labels_generated=_check_labels("labels_generated", arrays["labels_generated"], len(generated), names),
            label_names=names,
            told=_captions(arrays["told"], min(len(real), len(generated))) if "told" in arrays else (),
            fps=_check_rate(arrays["fps"]),
            shapes=_own_shapes(arrays["shapes"], real.shape, generated.shape) if "shapes" in arrays else None,
        )
    except FileNotFoundError:
        return f"{path.name} is missing"
    except KeyError as error:
        return f"{path.name} cannot be read (it has no array {error})"
    except Refusal as error:
        return f"{path.name} cannot be read ({error})"


def _own_shapes(stored: np.ndarray, *framed: tuple[int, ...]) -> tuple[Shape, ...]:
    """(T, H, W) of each clip inside the frames of its sets, each (k, T, H, W, 3). Refusal where one does not fit."""
    check_shape("shapes", stored, (max(frame[0] for frame in framed), 3))
    if stored.dtype.kind not in "iu" or (stored < 1).any() or any((stored > frame[1:4]).any() for frame in framed):
        raise Refusal(f"shapes are {stored.dtype} {stored.tolist()}, expected integers from 1 to the size of the sheet's clips")
    return tuple((int(t), int(h), int(w)) for t, h, w in stored)


def _check_clips(name: str, clips: np.ndarray) -> np.ndarray:
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape:
        raise Refusal(f"{name} is {clips.dtype} {clips.shape}, expected uint8 (k, T, H, W, 3)")
    if clips.shape[1] > MAX_FRAMES:
        raise Refusal(f"{name} has clips of {clips.shape[1]} frames, at most {MAX_FRAMES} are drawn")
    return clips


def _check_labels(name: str, labels: np.ndarray, num: int, names: Sequence[str]) -> np.ndarray:
    check_shape(name, labels, (num,))
    if labels.dtype.kind not in "iu":
        raise Refusal(f"{name} are {labels.dtype}, expected places among the label names")
    if names and not 0 <= labels.min() <= labels.max() < len(names):
        raise Refusal(f"{name} are from {labels.min()} to {labels.max()}, there are {len(names)} label names")
    return labels


def _captions(told: np.ndarray, num: int) -> tuple[str, ...]:
    if told.dtype.kind != "U" or told.ndim != 1 or len(told) < num:
        raise Refusal(f"told is {told.dtype} {told.shape}, expected a text for each of {num} clips")
    return tuple(visible(str(caption)) for caption in told)


def _check_rate(fps: np.ndarray) -> float:
    if fps.shape or fps.dtype.kind not in "iuf" or not 0 < fps <= MAX_FPS:
        raise Refusal(f"fps is {fps}, expected one number up to {MAX_FPS:g}")
    return max(float(fps), 1 / MAX_FPS)
