"""Still image files to one frame each, by Pillow: turned upright, transparency dropped. What cannot be read is a Refusal(reason)."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bench.data.media.video import FitMode, window
from bench.shapes import Refusal

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
ORIENTATION = 0x0112  # the EXIF tag; its values from 5 on are quarter turns


# What Pillow raises for a broken file, of one format or another (found by mutating files), and for one of too many pixels.
BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; whatever Pillow says against them becomes a Refusal. Only Pillow is called inside."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow itself refuses only twice as many pixels
            with Image.open(path) as image:
                if (num_images := getattr(image, "n_frames", 1)) > 1:
                    raise Refusal(f"holds {num_images} images; save them as a video")
                if image.mode.startswith(("I", "F")):
                    raise Refusal(f"has more than 8 bits a channel (mode {image.mode}); save it as 8-bit RGB")
                yield image
    except Refusal:
        raise
    except BROKEN as error:
        raise Refusal(f"cannot be read: {getattr(error, 'strerror', None) or error or type(error).__name__}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Upright height and width, from the file's header. Refusal(reason) if it is not an image."""
    with _opened(path) as image:
        quarter_turned = image.getexif().get(ORIENTATION, 1) >= 5
        return (image.width, image.height) if quarter_turned else (image.height, image.width)


def read_image(path: Path, height: int, width: int, fit: FitMode = "cover") -> np.ndarray:
    """The image as (H, W, 3) uint8, scaled as a frame of a video is. Refusal(reason) where it cannot be decoded."""
    upright = _upright(path)
    box = window(upright.height, upright.width, height, width, fit)
    return np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC, box=box))


def read_whole(path: Path) -> np.ndarray:
    """The image as (H, W, 3) uint8, at its own size. Refusal(reason) where it cannot be decoded."""
    return np.asarray(_upright(path))


def _upright(path: Path) -> Image.Image:
    with _opened(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
