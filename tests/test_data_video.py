"""Video files to frames. Also makes the tiny files that the other tests of video sources read."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from bench.data.media import video
from bench.data.media.video import count_frames, iter_frames, probe, read_frames, upright_size, within_area
from bench.shapes import Refusal

ENCODERS = {  # extension -> codec, pixel format, mean absolute error in levels that its compression may cost
    ".mkv": ("ffv1", "bgr0", 0),
    ".mp4": ("libx264", "yuv420p", 6),
    ".mov": ("libx264", "yuv420p", 6),
    ".avi": ("mpeg4", "yuv420p", 8),
    ".webm": ("libvpx-vp9", "yuv420p", 8),
    ".gif": ("gif", "rgb8", 24),
}


def write_video(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    """Frames (T, H, W, 3) uint8 -> a video file, by the encoder of the extension. `.mkv` is exact."""
    codec, pixel_format, _ = ENCODERS[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "10"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


def counting_frames(num_frames: int, height: int = 16, width: int = 16, first: int = 0) -> np.ndarray:
    """Grey frames (T, H, W, 3) whose level says which frame they are: first, first + 1, ..."""
    levels = (first + np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def moving_bar(num_frames: int = 7, height: int = 32, width: int = 48) -> np.ndarray:
    """A red bar that moves down over blue, 4 rows a frame."""
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    frames[..., 2] = 180
    for t in range(num_frames):
        frames[t, 4 * t : 4 * t + 4] = (200, 0, 0)
    return frames


@pytest.mark.parametrize("extension", ENCODERS)
def test_reads_every_container(tmp_path: Path, extension: str) -> None:
    frames = moving_bar()
    path = write_video(tmp_path / f"clip{extension}", frames)
    num_frames, fps = probe(path)
    assert (num_frames, *upright_size(path)) == (7, 32, 48)
    assert fps == pytest.approx(10, rel=0.01)
    assert count_frames(path) == 7
    clip = read_frames(path, 0, 7, 1, 32, 48)
    error = np.abs(clip.astype(int) - frames).mean()
    assert error <= ENCODERS[extension][2], error


def test_reads_the_frames_asked_for(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", counting_frames(30))
    clip = read_frames(path, 4, 5, 3, 8, 12)
    assert clip.shape == (5, 8, 12, 3) and clip.dtype == np.uint8
    assert clip[:, 0, 0, 0].tolist() == [4, 7, 10, 13, 16]
    assert [index for index, _ in iter_frames(path, [0, 29], 8, 8)] == [0, 29]
    assert list(iter_frames(path, [], 8, 8)) == []


def test_resize_covers_then_crops_the_centre(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 96, 3), dtype=np.uint8)
    frames[:, :, 32:64] = 255  # the middle third of a wide frame is all that a square crop may see
    path = write_video(tmp_path / "wide.mkv", frames)
    assert read_frames(path, 0, 2, 1, 8, 8).min() > 220  # the filter reaches one pixel over the edge
    assert not read_frames(path, 0, 2, 1, 8, 24)[:, :, :6].any()  # the same aspect: nothing is cropped
    tall = write_video(tmp_path / "tall.mkv", frames.transpose(0, 2, 1, 3).copy())
    assert read_frames(tall, 0, 2, 1, 8, 8).min() > 220


def test_turns_a_file_upright(tmp_path: Path) -> None:
    frames = np.zeros((3, 32, 48, 3), dtype=np.uint8)
    frames[:, :16] = 255  # the upper half, which a quarter turn clockwise takes to the right
    path = write_video(tmp_path / "phone.mp4", frames)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # after version, flags, times, track, duration, layer, volume
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    path.write_bytes(content)
    clip = read_frames(path, 0, 3, 1, 48, 32)
    assert clip[:, :, 20:].min() > 220 and clip[:, :, :12].max() < 35
    assert upright_size(path) == (48, 32)


def test_a_frame_that_is_shown_whole_loses_nothing(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 96, 3), dtype=np.uint8)
    frames[:, :, :12] = frames[:, :, -12:] = 255
    path = write_video(tmp_path / "wide.mkv", frames)
    assert upright_size(path) == (32, 96)
    for height, width in ((32, 96), (16, 48), (8, 23), (9, 8)):  # aspects that are off by less than a pixel, and by much
        _, whole = next(iter_frames(path, [0], height, width, "whole"))
        assert whole.shape == (height, width, 3) and whole[:, 0].min() > 220 and whole[:, -1].min() > 220
    assert not read_frames(path, 0, 1, 1, 9, 8)[0].any()


@pytest.mark.parametrize(("height", "width"), [(272, 640), (640, 272), (33, 32), (1080, 1920), (9, 4000), (1000, 999)])
@pytest.mark.parametrize("area", [64 * 64, 24 * 40, 97])
def test_within_area_keeps_the_aspect_to_the_pixel(height: int, width: int, area: int) -> None:
    small = within_area(height, width, area)
    scale = min(1, area / (height * width)) ** 0.5
    assert small[0] * small[1] <= area
    assert 0 <= height * scale - small[0] < 1 + 1e-9 and 0 <= width * scale - small[1] < 1 + 1e-9
    assert within_area(height, width, height * width) == (height, width) == within_area(height, width, 10**9)


def test_a_list_of_other_files_is_not_followed(tmp_path: Path) -> None:
    write_video(tmp_path / "other.mp4", moving_bar())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(Refusal, match="is a list of other files"):
        probe(tmp_path / "list.mp4")
    named = tmp_path / "concat:other.mp4"  # not a word to FFmpeg, but the file of that name
    named.write_bytes(write_video(tmp_path / "short.mp4", moving_bar(3)).read_bytes())
    assert count_frames(named) == 3


def test_absurd_headers_are_refused_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.avi", moving_bar())
    content = path.read_bytes()
    path.write_bytes(content.replace(content[content.index(b"vids") + 4 :][:4], b"QQQQ"))
    with pytest.raises(Refusal, match="has a codec that FFmpeg does not know"):
        probe(path)
    path = write_video(tmp_path / "clip.mkv", moving_bar())
    monkeypatch.setattr(video, "FPS_RANGE", (1e-3, 9.0))
    with pytest.raises(Refusal, match="says that it runs at 10 frames per second"):
        probe(path)
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 47)
    for look in (probe, count_frames, upright_size):
        with pytest.raises(Refusal, match=r"says that its frames are 32x48; at most 1504 pixels are read"):
            look(path)


def test_errors_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video" * 50)
    with pytest.raises(ValueError, match="Invalid data"):
        probe(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="No such file"):
        count_frames(tmp_path / "gone.mp4")
    path = write_video(tmp_path / "clip.mkv", counting_frames(6))
    with pytest.raises(ValueError, match="ends after 6 frames, frame 6 is needed"):
        read_frames(path, 2, 5, 1, 8, 8)
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(ValueError, match="has no video stream"):
        probe(tmp_path / "sound.avi")
