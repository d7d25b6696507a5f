"""Video files to frames, by PyAV: any container and codec its FFmpeg reads (mp4, mov, mkv, webm, avi, gif, ...).

A frame is turned upright by the file's rotation, scaled by Pillow's bicubic filter (antialiased when it shrinks) until it
covers height x width, and cropped around the centre; or, where its own aspect is kept, scaled whole. Frames are counted as
stored: a variable frame rate is not resampled, and pixels count as square. What cannot be read is a Refusal whose text is the reason.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from bench.shapes import Refusal, Shape, cover_box

EXTENSIONS = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm")
# FFmpeg's readers of files that hold their frames themselves. Others follow the addresses that a file names, such as playlists.
READERS = "asf,avi,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rawvideo,wav,wtv,yuv4mpegpipe"
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 2**27  # of a frame, about 9,000 x 10,000: beyond it Pillow expects an attack
FPS_RANGE = (1e-3, 1e4)  # beyond it a rate is a damaged header
FitMode = Literal["cover", "whole"]  # crop what is too long; or show all, stretched where the aspect differs


@contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream; whatever FFmpeg says against them becomes a Refusal."""
    try:
        # "file:" and no other protocol, whatever the name begins with.
        options = {"format_whitelist": READERS, "protocol_whitelist": "file"}
        with av.open(f"file:{path}", metadata_errors="ignore", options=options) as container:
            if not container.streams.video:
                raise Refusal("has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise Refusal("has a codec that FFmpeg does not know")
            if stream.width * stream.height > MAX_PIXELS:
                raise Refusal(f"says that its frames are {stream.height}x{stream.width}; at most {MAX_PIXELS} pixels are read")
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # where frames are larger than the header says
            yield container, stream
    except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not among READERS
        raise Refusal("cannot be read: it is a list of other files, or of a format that holds no video") from error
    except (av.error.FFmpegError, OSError) as error:
        raise Refusal(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def probe(path: Path) -> tuple[int, float]:
    """Number of frames, and frames per second, without decoding. Refusal(reason) if it is not a video.

    Frames are counted in packets, which a few codecs (VP8, packed MPEG-4) do not keep exactly; `count_frames` is exact.
    """
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise Refusal("has no frame rate")
        if not FPS_RANGE[0] <= rate <= FPS_RANGE[1]:
            raise Refusal(f"says that it runs at {float(rate):g} frames per second; mend its header")
        num_frames = sum(1 for packet in container.demux(stream) if packet.size)
        if not num_frames or not stream.width or not stream.height:
            raise Refusal("has no frames")
        return num_frames, float(rate)


def count_frames(path: Path) -> int:
    """Frames that can be decoded, by decoding all of them. Refusal(reason) when one cannot."""
    return sum(1 for _ in _decoded(path))


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of the first frame, turned by the file's rotation: only a decoded frame says it. Refusal(reason)."""
    for frame in _decoded(path):
        return (frame.width, frame.height) if round(frame.rotation / 90) % 2 else (frame.height, frame.width)
    raise Refusal("has no frames")


def within_area(height: int, width: int, area: int) -> tuple[int, int]:
    """The largest height and width of this aspect, to the rounding of a pixel, that have at most `area` pixels, and never more than given.

    >>> within_area(272, 640, 64 * 64), within_area(20, 30, 64 * 64)
    ((41, 98), (20, 30))
    """
    if height * width <= area:
        return height, width
    return math.isqrt(area * height // width), math.isqrt(area * width // height)


def iter_frames(path: Path, indices: Iterable[int], height: int, width: int, fit: FitMode = "cover") -> Iterator[tuple[int, np.ndarray]]:
    """(index, frame (H, W, 3) uint8) for each of the increasing `indices`, in one pass from the file's first frame.

    Refusal(reason) when the file ends, or cannot be decoded, before the last of them.
    """
    reformatter = VideoReformatter()  # one for the file: setting up a conversion takes longer than a small frame
    wanted = iter(indices)
    target = next(wanted, None)
    num_frames = 0
    for index, frame in enumerate(_decoded(path) if target is not None else ()):
        num_frames = index + 1
        if index == target:
            try:
                rgb = reformatter.reformat(frame, format="rgb24")
            except av.error.FFmpegError as error:
                raise Refusal(f"has a frame that is no picture, {index}: {error.strerror}") from error
            yield index, _fitted(rgb, frame.rotation, height, width, fit)
            if (target := next(wanted, None)) is None:
                return
    if target is not None:
        raise Refusal(f"ends after {num_frames} frames, frame {target} is needed")


def _decoded(path: Path) -> Iterator[av.VideoFrame]:
    """Every frame of the file. Refusal(reason) where decoding stops."""
    num_frames = 0
    with _opened(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                yield frame
                num_frames += 1
        except av.error.FFmpegError as error:
            raise Refusal(f"cannot be decoded after frame {num_frames}: {error.strerror}") from error


def read_frames(path: Path, start: int, num_frames: int, stride: int, height: int, width: int) -> np.ndarray:
    """Frames start, start + stride, ...: (T, H, W, 3) uint8. Refusal(reason) when the file does not have them."""
    clip = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    for row, (_, frame) in enumerate(iter_frames(path, range(start, start + num_frames * stride, stride), height, width)):
        clip[row] = frame
    return clip


def middle_clip(path: Path, shape: Shape, stride: int) -> tuple[np.ndarray, float]:
    """The clip (T, H, W, 3) uint8 of (T, H, W) in the middle of the file, every `stride`-th frame, and its frames per second.

    Refusal(reason).
    """
    num_frames, fps = probe(path)
    start = middle(num_frames, shape[0], stride)
    return read_frames(path, start, shape[0], stride, *shape[1:]), fps / stride


def middle(num_frames: int, wanted: int, stride: int) -> int:
    """First frame of the clip in the middle of `num_frames`. Refusal(reason) where it does not fit."""
    span = (wanted - 1) * stride + 1
    if num_frames < span:
        raise Refusal(f"has {num_frames} frames, a clip needs {span}")
    return (num_frames - span) // 2


def _fitted(frame: av.VideoFrame, rotation: float, height: int, width: int, fit: FitMode) -> np.ndarray:
    """Decoded rgb24 frame of any size -> (H, W, 3) uint8; `rotation` in degrees counter-clockwise, as np.rot90 turns."""
    pixels = np.rot90(frame.to_ndarray(), round(rotation / 90) % 4)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    box = window(image.height, image.width, height, width, fit)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def window(height: int, width: int, to_height: int, to_width: int, fit: FitMode) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of what is shown of a frame that is scaled to `to_height` x `to_width`."""
    return cover_box(height, width, to_height, to_width) if fit == "cover" else (0.0, 0.0, float(width), float(height))
