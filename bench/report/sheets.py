"""Sheets of clips to look at: one animated WebP (all rows in step) and one still film strip, real and reconstructed beside generated.

Columns keep their place: the k-th generated clip has the same label and the same noise for every contender; a real clip
stands in a column of its own label where there is one. Pixels are enlarged by a whole factor, never smoothed.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.report.load import Run, Sheet, load_sheet

CLIP_SIZE = 92  # pixels of the longer side of a shown clip, about
MAX_CLIPS = 10  # columns
STRIP_CLIPS, STRIP_FRAMES = 2, 10  # clips a row and frames a clip of the still
MAX_UNTRAINED = 4  # contenders up to which their untrained clips are shown too
GAP = 4
BACKGROUND = (128, 128, 128)  # between clips; the same in light and dark mode


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The sheets of one run."""

    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]  # () = no classes
    webp: bytes
    strip: bytes  # PNG, for a file
    strip_webp: bytes  # the same for the page, smaller
    width: int
    height: int
    strip_width: int
    strip_height: int
    fps: float
    num_frames: int
    labels_match: bool  # whether the real clips stand in columns of their own label


def draw(run: Run, max_bytes: int) -> tuple[Picture | None, list[str]]:
    """The sheets of a run, or None, the animation within `max_bytes`; and a note for each contender without clips."""
    sheets: dict[str, tuple[int, Sheet]] = {}
    notes = []
    for contender in run.contenders:
        reasons = []
        for cell in run.of(contender):
            sheet = load_sheet(cell)
            if isinstance(sheet, Sheet):
                sheets[contender] = (cell.seed, sheet)
                break
            reasons.append(f"seed {cell.seed}: {sheet}")
        else:
            notes.append(f"{contender} has no clips to show ({'; '.join(reasons)}).")
    if not sheets:
        return None, notes

    first = next(iter(sheets.values()))[1]
    num_columns = min(MAX_CLIPS, *(min(len(sheet.real), len(sheet.generated)) for _, sheet in sheets.values()))
    num_common = min(len(sheet.generated) for _, sheet in sheets.values())
    columns = spread(first.labels_generated[:num_common], num_columns)
    wanted = first.labels_generated[columns]
    real = matching(first.labels_real, wanted)
    rows: list[tuple[str, np.ndarray]] = [("Real", first.real[real]), ("Reconstructed", first.reconstruction[real])]
    for contender, (seed, sheet) in sheets.items():
        rows.append((f"{contender}, seed {seed}", sheet.generated[columns]))
        if (sheet.labels_generated[columns] != wanted).any():
            notes.append(f"{contender} was sampled with other labels than the columns say.")
    for contender, (_, sheet) in sheets.items() if len(sheets) <= MAX_UNTRAINED else ():
        if sheet.untrained is not None and len(sheet.untrained) > max(columns):
            rows.append((f"{contender}, untrained", sheet.untrained[columns]))

    names = first.label_names
    known = len(names) > 0 and all(0 <= label < len(names) for label in wanted)
    webp, (width, height) = _animation([clips for _, clips in rows], first.fps, max_bytes)
    strip = film_strip(rows)
    picture = Picture(
        row_labels=tuple(label for label, _ in rows),
        column_labels=tuple(names[int(label)] for label in wanted) if known else (),
        webp=webp,
        strip=_encode(strip, "PNG", optimize=True),
        strip_webp=_encode(strip, "WEBP", quality=80, method=4),
        width=width,
        height=height,
        strip_width=strip.width,
        strip_height=strip.height,
        fps=first.fps,
        num_frames=first.generated.shape[1],
        labels_match=bool((first.labels_real[real] == wanted).all()),
    )
    return picture, notes


def gallery(samples: Path, num_columns: int = 8, max_bytes: int = 2_000_000) -> Path:
    """An animated picture beside a file of samples, of its first clips in rows: people would rather look."""
    with np.load(samples, allow_pickle=False) as arrays:
        clips, fps = arrays["frames"][: num_columns**2], float(arrays["fps"])
    rows = [clips[start : start + num_columns] for start in range(0, len(clips), num_columns)]
    path = samples.with_suffix(".webp")
    path.write_bytes(_animation(rows, fps, max_bytes)[0])
    return path


def spread(labels: np.ndarray, num: int) -> list[int]:
    """Indices of `num` clips with the labels in turn, so that no class fills the sheet; within a label in order.

    >>> spread(np.array([0, 0, 0, 1, 2, 1]), 4)
    [0, 3, 4, 1]
    """
    queues = {label: [i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels.tolist()))}
    chosen: list[int] = []
    while len(chosen) < num and any(queues.values()):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:num]


def matching(labels: np.ndarray, wanted: Sequence[int] | np.ndarray) -> list[int]:
    """For each wanted label a clip that has it, none twice; where there is none, the next unused one.

    >>> matching(np.array([1, 0, 1]), [0, 2, 1])
    [1, 2, 0]
    """
    free = list(range(len(labels)))
    chosen: list[int | None] = []
    for label in wanted:
        found = next((i for i in free if labels[i] == label), None)
        if found is not None:
            free.remove(found)
        chosen.append(found)
    return [free.pop(0) if i is None else i for i in chosen]


def _scaled_size(height: int, width: int, target: int) -> tuple[int, int]:
    """(height, width) of a shown clip: a whole multiple near the target, or shrunk to it."""
    longest = max(height, width)
    if longest <= target * 1.25:
        factor = max(1, round(target / longest))
        return height * factor, width * factor
    return max(1, round(height * target / longest)), max(1, round(width * target / longest))


def _enlarge(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Frame (H, W, 3) at (height, width); nearest when enlarging by a whole factor."""
    image = Image.fromarray(frame)
    whole = size[0] >= frame.shape[0]
    return image.resize((size[1], size[0]), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def _animation(rows: Sequence[np.ndarray], fps: float, max_bytes: int) -> tuple[bytes, tuple[int, int]]:
    """Rows of clips (k, T, H, W, 3) as one animated WebP, made smaller until it fits."""
    for target, quality in ((CLIP_SIZE, 82), (CLIP_SIZE, 60), (72, 50), (56, 40), (48, 20), (32, 10)):
        frames = _grid(rows, target)
        duration = [max(20, round(1000 / fps)) if fps > 0 else 125] * len(frames)
        duration[-1] *= 4  # rest at the end, or the loop reads as a jump
        buffer = io.BytesIO()
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=quality, method=4)
        if buffer.tell() <= max_bytes:
            break
    return buffer.getvalue(), frames[0].size


def _grid(rows: Sequence[np.ndarray], target: int) -> list[Image.Image]:
    """One image a frame; every clip in a box of the same size, shorter clips rest on their last frame."""
    sizes = [_scaled_size(clips.shape[2], clips.shape[3], target) for clips in rows]
    box_h, box_w = max(height for height, _ in sizes), max(width for _, width in sizes)
    num_columns = max(len(clips) for clips in rows)
    frames = []
    for t in range(max(clips.shape[1] for clips in rows)):
        canvas = Image.new("RGB", (num_columns * (box_w + GAP) - GAP, len(rows) * (box_h + GAP) - GAP), BACKGROUND)
        for y, (clips, size) in enumerate(zip(rows, sizes, strict=True)):
            for x, clip in enumerate(clips):
                at = (x * (box_w + GAP) + (box_w - size[1]) // 2, y * (box_h + GAP) + (box_h - size[0]) // 2)
                canvas.paste(_enlarge(clip[min(t, len(clip) - 1)], size), at)
        frames.append(canvas)
    return frames


def film_strip(rows: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """A still: the frames of the first clips of every row from left to right, the row's label above; time runs to the right."""
    font = ImageFont.truetype(_font_path(), 14)
    small = CLIP_SIZE * 3 // 4
    sizes = [_scaled_size(clips.shape[2], clips.shape[3], small) for _, clips in rows]
    num_clips = min(STRIP_CLIPS, min(len(clips) for _, clips in rows))
    picked = [np.unique(np.linspace(0, clips.shape[1] - 1, min(clips.shape[1], STRIP_FRAMES)).astype(int)) for _, clips in rows]
    box_w = max(width for _, width in sizes)
    block = max(map(len, picked)) * (box_w + 2) + 14
    heights = [24 + height + 6 for height, _ in sizes]
    image = Image.new("RGB", (num_clips * block - 14 + 16, sum(heights) + 8), "white")
    pen = ImageDraw.Draw(image)
    y = 4
    for (label, clips), size, frames, height in zip(rows, sizes, picked, heights, strict=True):
        pen.text((8, y + 2), label, fill=(40, 40, 40), font=font)
        for k in range(num_clips):
            for place, t in enumerate(frames):
                image.paste(_enlarge(clips[k, t], size), (8 + k * block + place * (box_w + 2), y + 24))
        y += height
    return image


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _font_path() -> str:
    """The font matplotlib brings: text in a picture must not depend on the machine."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
