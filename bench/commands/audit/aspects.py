"""Videos of one shape each -> a folder of clips of many, real and mixed data: `python -m bench.commands.audit.aspects SOURCE OUT`.

Every video is cut into takes of several lengths with a gap between them, and every take is cropped to each of five aspects; of
each there is also the first frame of one aspect as an image. All lie in one folder, so that nothing becomes a class:

    bikes-0-16x9.mkv  bikes-0-1x1.mkv ...  bikes-0-16x9.png  bikes-1-16x9.mkv ...

What shows one take is one scene, and belongs into one group of a `folder` source ("bikes-0-*": bikes-0), or splits share scenes.
Pixels are exact (ffv1 in RGB): the clips differ from their source only by the crop and by one resizing.
"""

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from bench.commands.score.windows import cover
from bench.data.media.inventory import look_through
from bench.data.media.video import EXTENSIONS, count_frames, iter_frames, probe, upright_size
from bench.shapes import Refusal

ASPECTS = ((16, 9), (1, 1), (9, 16), (21, 9), (4, 3))  # width : height
TAKE_FRAMES = (48, 16, 32, 24)  # lengths of takes, in turn
GAP_FRAMES = 12  # between two takes, so that no clip continues another
MIN_TAKE_FRAMES = 8  # of what is left at the end
VIDEO, IMAGE = ".mkv", ".png"
LONGER_SIDE = 256  # pixels, at most; nothing is enlarged


def takes(num_frames: int) -> list[range]:
    """Frames of each take of a video.

    >>> takes(100), takes(5)
    ([range(0, 48), range(60, 76), range(88, 100)], [])
    """
    found: list[range] = []
    start = 0
    while num_frames - start >= MIN_TAKE_FRAMES:
        found.append(range(start, min(start + TAKE_FRAMES[len(found) % len(TAKE_FRAMES)], num_frames)))
        start = found[-1].stop + GAP_FRAMES
    return found


def cropped_size(height: int, width: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the largest window of `aspect` in a frame, scaled down until its longer side is at most LONGER_SIDE.

    >>> cropped_size(272, 640, (16, 9)), cropped_size(272, 640, (9, 16))
    ((144, 256), (256, 144))
    """
    scale = min(width / aspect[0], height / aspect[1], LONGER_SIDE / max(aspect))
    return max(1, round(aspect[1] * scale)), max(1, round(aspect[0] * scale))


def write_aspects(source: Path, out: Path) -> tuple[int, int]:
    """Cuts every video below `source` into files in `out`; numbers of videos and of images. Refusal where there is none to cut."""
    videos = {name: path for name, path in look_through(source)[0].items() if path.suffix.lower() in EXTENSIONS}
    if not videos:
        raise Refusal(f"no video in {source}: looked in it and its subfolders for {', '.join(EXTENSIONS)}")
    out.mkdir(parents=True, exist_ok=True)
    stems: dict[str, str] = {}
    written: list[Path] = []
    for name, path in videos.items():
        stem = str(Path(name).with_suffix("")).replace("/", "_")
        if (other := stems.setdefault(stem, name)) != name:
            raise Refusal(f"{name} and {other} would have the same names, {stem}-...; rename one")
        try:
            written += _cut(path, out, stem)
        except Refusal as error:
            raise Refusal(f"{name} {error}") from error
    if not written:
        raise Refusal(f"no video in {source} has the {MIN_TAKE_FRAMES} frames of a take; add longer ones")
    if strangers := sorted(set(out.iterdir()) - set(written)):
        raise Refusal(f"{out} also holds {strangers[0].name}, which would become part of the data; empty the folder, or name another")
    return sum(path.suffix == VIDEO for path in written), sum(path.suffix == IMAGE for path in written)


def _cut(path: Path, out: Path, stem: str) -> list[Path]:
    """Writes all takes of one video, in one pass; the files."""
    height, width = upright_size(path)
    rate = Fraction(probe(path)[1]).limit_denominator(1001)
    found = takes(count_frames(path))
    sizes = {f"{aspect[0]}x{aspect[1]}": cropped_size(height, width, aspect) for aspect in ASPECTS}
    frames = iter_frames(path, [index for take in found for index in take], height, width, "whole")
    written = []
    for number, take in enumerate(found):
        paths = {aspect: out / f"{stem}-{number}-{aspect}{VIDEO}" for aspect in sizes}
        still = list(sizes)[number % len(sizes)]
        written += [*paths.values(), paths[still].with_suffix(IMAGE)]
        with contextlib.ExitStack() as stack:
            add = {aspect: stack.enter_context(_exact(paths[aspect], rate, *size)) for aspect, size in sizes.items()}
            for index, frame in itertools.islice(frames, len(take)):
                for aspect, size in sizes.items():
                    pixels = cover(frame, *size)  # (H, W, 3) uint8
                    add[aspect](pixels)
                    if index == take.start and aspect == still:
                        Image.fromarray(pixels).save(paths[aspect].with_suffix(IMAGE))
    return written


@contextlib.contextmanager
def _exact(path: Path, rate: Fraction, height: int, width: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A video file that gives back every pixel, and is the same to the last byte whenever it is written; what adds a frame (H, W, 3)."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:  # no random identity
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        yield lambda pixels: container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())


def main(arguments: list[str] | None = None) -> None:
    """The command; an error is one line."""
    parser = argparse.ArgumentParser(prog="python -m bench.commands.audit.aspects", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("source", type=Path, help="folder of videos")
    parser.add_argument("out", type=Path, help="folder to write, new or empty")
    options = parser.parse_args(arguments)
    try:
        num_videos, num_images = write_aspects(options.source, options.out)
    except Refusal as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{num_videos} videos and {num_images} images in {options.out}")


if __name__ == "__main__":
    main()
