"""A recorder without an engine, and what may go wrong with one.

FAKE_FAULT names a fault of some clips, with FAKE_ALWAYS of all; FAKE_PIDS a folder of files by process, which say whether it was closed.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.data.recorders.contract import ClipMaker, Recorded, Recorder
from bench.shapes import Refusal

HEIGHT, WIDTH = 20, 28


@contextlib.contextmanager
def opened(label: str) -> Iterator[ClipMaker]:
    """Noise of the seed, and the class in one corner. Works in a folder of its own, as engines do."""
    folder = os.environ.get("FAKE_PIDS")
    if folder:
        (Path(folder) / str(os.getpid())).touch()

    def camera(seed: int, num_frames: int) -> Recorded:
        fault = os.environ.get("FAKE_FAULT", "") if seed % 3 == 0 or "FAKE_ALWAYS" in os.environ else ""
        if fault == "raises":
            raise RuntimeError("no film left")
        if fault == "exits":
            os._exit(7)
        if fault == "refuses":
            raise Refusal("fake: too dark")
        if fault == "slow":
            time.sleep(0.2)
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 256, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
        frames[:, 0, 0] = len(label)
        state = {"position": rng.normal(size=(num_frames, 2)), "kind": np.array([label])}
        if fault == "shape":
            return Recorded(frames=frames[:, 1:], state=state)
        return Recorded(frames=frames, state={} if fault == "state" else state)

    try:
        with contextlib.chdir("/"):
            yield camera
    finally:
        if folder:
            (Path(folder) / str(os.getpid())).write_text("closed")


FAKE = Recorder(
    name="fake",
    version=1,
    records="noise",
    licence="none",
    notice="nobody",
    package="numpy",
    classes=("dark", "bright", "grey"),
    height=HEIGHT,
    width=WIDTH,
    num_frames=4,
    fps=8.75,
    has_state=True,
    open=opened,
)
