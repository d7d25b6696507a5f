"""Clips to video files from which every pixel comes back as it was: FFV1 in Matroska. The same clip gives the same bytes."""

import io
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags

SUFFIX = ".mkv"


def encode(frames: np.ndarray, fps: float) -> bytes:
    """The file of a clip (T, H, W, 3) uint8. One thread and no slices: their number would show in the bytes."""
    content = io.BytesIO()
    with av.open(content, "w", format="matroska", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001), options={"level": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"  # of what the codec takes, RGB in eight bits
        stream.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return content.getvalue()
