"""Sheets of clips to look at: a small one, real beside every contender, one of all rows (animated WebP, rows in step), and a still.

Columns keep their place: the k-th generated clip has the same label and the same noise for every contender; a real clip
stands in a column of its own label where there is one. SheetClips of several shapes are in proportion to one another, those of a shape
side by side, the real clip of a column of the same shape. Pixels are enlarged by a whole factor, never smoothed.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.data.clips import labels_in_turn
from bench.data.files import write_bytes
from bench.records.artefacts import load_frames
from bench.report.grid.shape_map import shape_text
from bench.report.load import Run
from bench.report.sheet import Sheet, load_sheet
from bench.shapes import visible

CLIP_SIZE = 92  # pixels of the longer side of a shown clip, about
FIRST_CLIPS, MAX_CLIPS = 6, 10  # columns, of the small sheet and of the whole one
FIRST_SHARE = 0.4  # of the bytes, for the small one
STRIP_CLIPS, STRIP_FRAMES = 2, 10  # clips a row and frames a clip of the still
MAX_UNTRAINED = 4  # contenders up to which their untrained clips are shown too
MAX_CAPTION = 64  # letters of what is told over a column
GAP = 4
BACKGROUND = (128, 128, 128)  # between clips; the same in light and dark mode

SheetClips = Sequence[np.ndarray]  # of a row, (T, H, W, 3) each


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One animated sheet."""

    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]  # captions that were told, or else classes; () = neither
    column_shapes: tuple[str, ...]  # () = all of one
    column_widths: tuple[int, ...]  # pixels
    webp: bytes
    size: tuple[int, int]  # width and height in pixels
    labels_match: bool  # whether the real clips stand in columns of their own label
    told: bool  # whether labels are captions


@dataclass(frozen=True, kw_only=True)
class Sheets:
    """The sheets of one run."""

    first: Picture  # real and every contender, a few columns
    full: Picture  # reconstructed and untrained too
    strip: bytes  # PNG, for a file
    strip_webp: bytes  # the same for the page, smaller
    strip_size: tuple[int, int]
    fps: float
    num_frames: int


def draw(run: Run, max_bytes: int) -> tuple[Sheets | None, list[str]]:
    """The sheets of a run, or None, the animations within `max_bytes`; and a note for each contender without clips."""
    found: dict[str, tuple[int, Sheet]] = {}
    notes = []
    for contender in run.contenders:
        reasons = []
        for cell in run.of(contender):
            if isinstance(sheet := load_sheet(cell), Sheet):
                found[contender] = (cell.seed, sheet)
                break
            reasons.append(f"seed {cell.seed}: {sheet}")
        else:
            notes.append(f"{contender} has no clips to show ({'; '.join(reasons)}).")
    if not found:
        return None, notes
    first, _, _ = _sheet(found, FIRST_CLIPS, round(FIRST_SHARE * max_bytes), whole=False)
    full, rows, more = _sheet(found, MAX_CLIPS, round((1 - FIRST_SHARE) * max_bytes), whole=True)
    strip, sheet = film_strip(rows), next(iter(found.values()))[1]
    made = Sheets(
        first=first,
        full=full,
        strip=_encode(strip, "PNG", optimize=True),
        strip_webp=_encode(strip, "WEBP", quality=80, method=4),
        strip_size=strip.size,
        fps=sheet.fps,
        num_frames=sheet.generated.shape[1],
    )
    return made, notes + more


def _sheet(
    found: dict[str, tuple[int, Sheet]], num: int, max_bytes: int, *, whole: bool
) -> tuple[Picture, list[tuple[str, SheetClips]], list[str]]:
    """A sheet of at most so many columns, its rows, and what must be said of them; a whole one has more than real and trained clips."""
    first = next(iter(found.values()))[1]
    num_columns = min(num, *(min(len(sheet.real), len(sheet.generated)) for _, sheet in found.values()))
    num_common = min(len(sheet.generated) for _, sheet in found.values())
    num_common = min(num_common, len(first.real)) if first.shapes or first.told else num_common
    columns = _columns(first, num_common, num_columns)
    wanted = first.labels_generated[columns]
    # Of several shapes the k-th real clip has that of the k-th other; where captions were told, the caption of the k-th other.
    real = columns if first.shapes or first.told else matching(first.labels_real, wanted)
    rows: list[tuple[str, SheetClips]] = [("Real", [first.clip(first.real, k) for k in real])]
    rows += [("Reconstructed", [first.clip(first.reconstruction, k) for k in real])] if whole else []
    notes = []
    for contender, (seed, sheet) in found.items():
        rows.append((f"{contender}, seed {seed}" if whole else contender, [sheet.clip(sheet.generated, k) for k in columns]))
        others = first.told and sheet.told and sheet.told != first.told
        if others or (sheet.labels_generated[columns] != wanted).any():
            notes.append(f"{contender} was sampled with other {'captions' if others else 'labels'} than the columns say.")
    for contender, (_, sheet) in found.items() if whole and len(found) <= MAX_UNTRAINED else ():
        if sheet.untrained is not None and len(sheet.untrained) > max(columns):
            rows.append((f"{contender}, untrained", [sheet.clip(sheet.untrained, k) for k in columns]))

    classes = [first.label_names[k] for k in wanted] if first.label_names else []
    names = [_short(first.told[k]) for k in columns] if first.told else classes
    webp, widths, size = _animation([clips for _, clips in rows], first.fps, max_bytes, even=not whole)
    picture = Picture(
        row_labels=tuple(label for label, _ in rows),
        column_labels=tuple(names),
        column_shapes=tuple(shape_text(first.shapes[k]) for k in columns) if first.shapes and whole else (),
        column_widths=tuple(widths),
        webp=webp,
        size=size,
        labels_match=bool((first.labels_real[real] == wanted).all()),
        told=bool(first.told),
    )
    return picture, rows, notes


def _short(caption: str) -> str:
    """A caption as far as it has room over a column."""
    return caption if len(caption) <= MAX_CAPTION else f"{caption[: MAX_CAPTION - 1].rstrip()}…"


def _columns(sheet: Sheet, num_common: int, num: int) -> list[int]:
    """Which clips are shown: of every class in turn; where they have several shapes, of every shape in turn, and in their order."""
    if sheet.shapes is None:
        return labels_in_turn(sheet.labels_generated[:num_common], num)
    order = sorted(set(sheet.shapes[:num_common]), key=lambda shape: (shape[1] * shape[2], shape[2], shape[0]))
    places = np.array([order.index(shape) for shape in sheet.shapes[:num_common]])
    return sorted(labels_in_turn(places, num), key=lambda k: (places[k], k))


def gallery(samples: Path, num_columns: int = 8, max_bytes: int = 2_000_000) -> Path:
    """An animated picture beside a file of samples, of its first clips in rows: people would rather look."""
    clips = list(load_frames(samples)[: num_columns**2])
    with np.load(samples, allow_pickle=False) as arrays:
        fps = float(arrays["fps"])
    rows = [clips[start : start + num_columns] for start in range(0, len(clips), num_columns)]
    path = samples.with_suffix(".webp")
    write_bytes(path, _animation(rows, fps, max_bytes)[0])
    return path


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


def _scale(rows: Sequence[SheetClips], target: int, even: bool = False) -> Callable[[np.ndarray], tuple[int, int]]:
    """Clip -> (height, width) shown, one scale for all: the longest side a whole multiple near the target, or shrunk to it.

    `even`: instead every clip about as high as any other, so that those of several shapes fill a small sheet.
    """
    if even:
        return lambda clip: _scale([[clip[:, :, : clip.shape[1]]]], target)(clip)
    longest = max(max(clip.shape[1:3]) for clips in rows for clip in clips)
    if longest <= target * 1.25:
        factor = max(1, round(target / longest))
        return lambda clip: (clip.shape[1] * factor, clip.shape[2] * factor)
    return lambda clip: (max(1, round(clip.shape[1] * target / longest)), max(1, round(clip.shape[2] * target / longest)))


def _enlarge(frame: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Frame (H, W, 3) at (height, width); nearest when enlarging by a whole factor."""
    resampling = Image.Resampling.NEAREST if size[0] >= frame.shape[0] else Image.Resampling.LANCZOS
    return Image.fromarray(frame).resize((size[1], size[0]), resampling)


def _animation(rows: Sequence[SheetClips], fps: float, max_bytes: int, even: bool = False) -> tuple[bytes, list[int], tuple[int, int]]:
    """Rows of clips as one animated WebP, made smaller until it fits; the widths of its columns, its size."""
    for target, quality in ((CLIP_SIZE, 82), (CLIP_SIZE, 60), (72, 50), (56, 40), (48, 20), (32, 10)):
        frames, widths = _grid(rows, target, even)
        duration = [max(20, round(1000 / fps)) if fps > 0 else 125] * len(frames)
        duration[-1] *= 4  # rest at the end, or the loop reads as a jump
        buffer = io.BytesIO()
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=quality, method=4)
        if buffer.tell() <= max_bytes:
            break
    return buffer.getvalue(), widths, frames[0].size


def _grid(rows: Sequence[SheetClips], target: int, even: bool) -> tuple[list[Image.Image], list[int]]:
    """One image a frame, and the widths of the columns: those of their widest clip. A shorter clip rests on its last frame."""
    size = _scale(rows, target, even)
    least = target if even else 0  # room for a label over an upright clip
    widths = [max(least, *(size(clips[x])[1] for clips in rows if x < len(clips))) for x in range(max(map(len, rows)))]
    heights = [max(size(clip)[0] for clip in clips) for clips in rows]
    frames = []
    for t in range(max(len(clip) for clips in rows for clip in clips)):
        canvas = Image.new("RGB", (sum(widths) + GAP * (len(widths) - 1), sum(heights) + GAP * (len(heights) - 1)), BACKGROUND)
        top = 0
        for clips, box_h in zip(rows, heights, strict=True):
            left = 0
            for clip, box_w in zip(clips, widths, strict=False):
                height, width = size(clip)
                at = (left + (box_w - width) // 2, top + (box_h - height) // 2)
                canvas.paste(_enlarge(clip[min(t, len(clip) - 1)], (height, width)), at)
                left += box_w + GAP
            top += box_h + GAP
        frames.append(canvas)
    return frames, widths


def film_strip(rows: Sequence[tuple[str, SheetClips]]) -> Image.Image:
    """A still: the frames of a few clips of every row from left to right, the row's label above; time runs to the right."""
    font = font_of(14)
    size = _scale([clips for _, clips in rows], CLIP_SIZE * 3 // 4)
    columns = _strip_columns(rows[0][1])
    blocks = [max(_picked(clips[k]).size * (size(clips[k])[1] + 2) for _, clips in rows) + 14 for k in columns]  # widths
    heights = [24 + max(size(clips[k])[0] for k in columns) + 6 for _, clips in rows]
    image = Image.new("RGB", (sum(blocks) - 14 + 16, sum(heights) + 8), "white")
    pen = ImageDraw.Draw(image)
    y = 4
    for (label, clips), height in zip(rows, heights, strict=True):
        pen.text((8, y + 2), visible(label), fill=(40, 40, 40), font=font)
        left = 8
        for k, block in zip(columns, blocks, strict=True):
            for place, t in enumerate(_picked(clips[k])):
                image.paste(_enlarge(clips[k][t], size(clips[k])), (left + place * (size(clips[k])[1] + 2), y + 24))
            left += block
        y += height
    return image


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The font matplotlib brings: text in a picture must not depend on the machine."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _picked(clip: np.ndarray) -> np.ndarray:
    """Frames of a clip that the still shows."""
    return np.unique(np.linspace(0, len(clip) - 1, min(len(clip), STRIP_FRAMES)).astype(int))


def _strip_columns(clips: SheetClips) -> list[int]:
    """Columns of the still: the first ones, of several shapes first the longest and none twice."""
    shapes = [clip.shape for clip in clips]
    firsts = sorted({shape: shapes.index(shape) for shape in reversed(shapes)}.items(), key=lambda each: (-each[0][0], each[1]))
    order = [k for _, k in firsts] + [k for k in range(len(clips)) if k not in dict(firsts).values()]
    return order[:STRIP_CLIPS]


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
