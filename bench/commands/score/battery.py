"""The command `battery`: an extractor through every corruption, on the battery's own clips or anybody's, and its report card on disk."""

from __future__ import annotations

from pathlib import Path

from bench.commands.score import card as card_report
from bench.commands.score.collection import find_collection
from bench.commands.score.pair import find_device
from bench.commands.score.windows import ReadSet, SeededCut, cached_set
from bench.data.progress import Progress
from bench.metrics.battery import battery
from bench.metrics.distances.interval import NUM_GROUPS
from bench.metrics.extractors.table import load_extractor
from bench.metrics.weights.cache import cache_folder
from bench.shapes import Refusal

MIN_CLIPS = 4 * NUM_GROUPS  # of a folder: two sets of two clips a jackknife group


def run_battery(
    extractor: str,
    clips: Path | None,
    out: Path,
    *,
    num_clips: int | None = None,
    num_frames: int = battery.NUM_FRAMES,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total, what: None,
) -> tuple[bool, str]:
    """Whether `extractor` passes, and the verdict in words; the card is written into `out`. `clips`: None = moving shapes made for it."""
    where = find_device(device)
    if clips is None:
        network = load_extractor(extractor, where)
        side = battery.SIZE if size is None else size[0]
        if size is not None and size[0] != size[1]:
            raise Refusal(f"the battery's own clips are square, got --size {size[0]}x{size[1]}; give one number")
        chosen = battery.world_clips(side, num_clips or battery.NUM_CLIPS, num_frames)
    else:
        read = read_clips(clips, num_clips, num_frames, size, progress)  # before the network: too few are found in a moment
        network = load_extractor(extractor, where)
        chosen = battery.given_clips(read.frames[:], num_frames=num_frames, name=f"{clips.name} {read.digest}")
    card = battery.run(network, chosen, cache=cache_folder() / "battery", progress=progress)
    card_report.write(card, out, chosen.source)
    return card.passed, card_report.verdict(card)


def read_clips(path: Path, num_clips: int | None, num_frames: int, size: tuple[int, int] | None, progress: Progress) -> ReadSet:
    """Two sets of clips of a folder, twice as long where there are enough of those, so that double speed can be tried."""
    collection, cache = find_collection(path), cache_folder() / "score"
    limit = 2 * (num_clips or battery.NUM_CLIPS)
    needed = MIN_CLIPS if num_clips is None else limit
    if (num_items := len(collection.items)) < needed:  # one clip an item
        raise Refusal(f"the battery needs {needed} clips of {num_frames} frames, two sets, {path} gives {num_items} at most")
    for length in (2 * num_frames - 1, num_frames):
        try:
            read = cached_set(collection, SeededCut(num_frames=length, size=size), limit, progress, cache)
        except Refusal:
            if length == num_frames:
                raise
            continue
        if len(read) >= (limit if length > num_frames else needed):
            return read
    raise Refusal(f"the battery needs {needed} clips of {num_frames} frames, two sets, {path} gives {len(read)}")
