"""The processes that record: each draws clip after clip and writes it. Which one draws a clip does not show in it.

They do not hear the signals that stop a command, and neither do the engines that they start: each ends, and closes its engine, once the
process that started it hangs up or dies.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from PIL import Image

from bench.data.plugin import BrokenPlugin, blaming
from bench.data.progress import Progress
from bench.data.recorders.contract import ClipMaker, Recorded
from bench.data.recorders.reel import Reel
from bench.shapes import Refusal, cover_box

AT_ONCE = 8  # clips of one class that a process is told to draw
STOPPERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 30.0  # that a process may take to draw its clip and close its engine


def record_clips(reel: Reel, numbers: Sequence[int], num_processes: int, progress: Progress) -> None:
    """Draw and keep the clips of these numbers. Refusal of the recorder's; BrokenPlugin where it breaks its contract or its process."""
    by_class = sorted(numbers, key=lambda number: (reel.recorder.classes.index(reel.label(number)), number))
    jobs: deque[list[int]] = deque()
    for _, same in groupby(by_class, key=reel.label):
        clips = list(same)
        jobs += [clips[start : start + AT_ONCE] for start in range(0, len(clips), AT_ONCE)]
    done, total = 0, len(numbers)
    with _crew(reel, min(num_processes, len(jobs))) as crew:
        progress(done, total, "clips")
        waiting = set(crew)  # for what they will say
        while waiting:
            for pipe in wait(list(waiting)):
                assert isinstance(pipe, Connection)
                try:
                    word, text = pipe.recv()
                except (EOFError, ConnectionResetError) as error:
                    crew[pipe].join()
                    status = crew[pipe].exitcode
                    raise BrokenPlugin(f"recorder {reel.recorder.name!r} ended its process with status {status}; mend it") from error
                if word == "clip":
                    done += 1
                    progress(done, total, "clips")
                elif word == "refused":
                    raise Refusal(text)
                elif word == "failed":
                    raise RuntimeError(text)
                elif jobs:
                    pipe.send(jobs.popleft())
                else:
                    waiting.remove(pipe)


@contextlib.contextmanager
def _crew(reel: Reel, num_processes: int) -> Iterator[dict[Connection, Any]]:
    """Processes by the pipe to each. After the block they have ended."""
    context = multiprocessing.get_context("spawn")
    reel = replace(reel, folder=reel.folder.absolute())  # a recorder may work in a folder of its own
    crew: dict[Connection, Any] = {}
    resource_tracker.ensure_running()  # else the first start does it, and lets signals through again
    try:
        for _ in range(num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, reel))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPERS)  # which a child inherits, and its engine
            try:
                with blaming(f"handing recorder {reel.recorder.name!r} to a process"):
                    process.start()
                crew[ours] = process
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                theirs.close()
        yield crew
    finally:
        for pipe in crew:
            pipe.close()
        for process in crew.values():
            process.join(PATIENCE_S)
            if process.exitcode is None:
                process.kill()
                process.join()


def _work(pipe: Connection, reel: Reel) -> None:
    """One process: asks for numbers, draws their clips, and says what became of them."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # engines talk
    os.dup2(nowhere, 2)
    try:
        _draw_all(pipe, reel)
    except Exception as error:  # noqa: BLE001 told where there is a console; a bug of ours with its traceback
        told = ("refused", str(error)) if isinstance(error, (Refusal, OSError)) else ("failed", traceback.format_exc())
        pipe.send(told)  # fails where nobody asks any more


def _draw_all(pipe: Connection, reel: Reel) -> None:
    """Until the pipe is closed. The camera stays open as long as the class is the same."""
    name, opened = reel.recorder.name, ""
    with contextlib.ExitStack() as stack:
        while True:
            pipe.send(("ready", ""))
            for number in pipe.recv():
                with blaming(f"recorder {name!r}, at clip {reel.key(number)},"):
                    if (label := reel.label(number)) != opened:
                        stack.close()
                        camera = stack.enter_context(reel.recorder.open(label))
                        opened = label
                    clip = _checked(camera, reel, number)
                reel.keep(number, clip)
                pipe.send(("clip", ""))


def _checked(camera: ClipMaker, reel: Reel, number: int) -> Recorded:
    """A clip of the size that is asked for. BrokenPlugin where it is not what its recorder promises."""
    asked, recorder = reel.asked, reel.recorder
    clip = camera(reel.seed(number), asked.num_frames)
    promised = (asked.num_frames, recorder.height, recorder.width, 3)
    if clip.frames.shape != promised or clip.frames.dtype != np.uint8:
        raise BrokenPlugin(
            f"recorder {recorder.name!r} drew {clip.frames.dtype} {clip.frames.shape}, it promises uint8 {promised}; mend it"
        )
    if bool(clip.state) != recorder.has_state:
        raise BrokenPlugin(f"recorder {recorder.name!r} told state {sorted(clip.state)}, its has_state is {recorder.has_state}; mend it")
    return replace(clip, frames=scaled(clip.frames, asked.height, asked.width))


def scaled(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 -> of `height` x `width`, never larger: means over areas, cropped around the centre to their aspect."""
    if frames.shape[1:3] == (height, width):
        return frames
    box = cover_box(frames.shape[1], frames.shape[2], height, width)
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX, box=box)) for frame in frames])
