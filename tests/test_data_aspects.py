"""Cutting videos to many shapes."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_video import counting_frames, write_video

from bench.commands.audit.aspects import ASPECTS, GAP_FRAMES, LONGER_SIDE, cropped_size, main, takes, write_aspects
from bench.data.media.video import count_frames, probe, read_frames, upright_size
from bench.data.source import load_clips
from bench.data.sources.folder import Config


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_takes_have_several_lengths_and_a_gap() -> None:
    found = takes(300)
    assert [len(take) for take in found] == [48, 16, 32, 24, 48, 16, 32]
    assert all(after.start - before.stop == GAP_FRAMES for before, after in itertools.pairwise(found))
    assert takes(8) == [range(8)] and takes(7) == [] and takes(48 + GAP_FRAMES + 7) == [range(48)]


@pytest.mark.parametrize(("height", "width"), [(272, 640), (720, 1280), (144, 176), (640, 272), (9, 9)])
@pytest.mark.parametrize("aspect", ASPECTS)
def test_a_window_has_its_aspect_and_fits(height: int, width: int, aspect: tuple[int, int]) -> None:
    small = cropped_size(height, width, aspect)
    assert max(small) <= min(LONGER_SIDE, max(height, width)) and small[0] <= height and small[1] <= width
    assert abs(small[1] - small[0] * aspect[0] / aspect[1]) <= 0.5 + 0.5 * aspect[0] / aspect[1]  # each side is rounded
    assert small[0] == height or small[1] == width or max(small) == LONGER_SIDE  # as large as it can be


def test_every_video_comes_in_every_aspect(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "one.mkv", counting_frames(70, 40, 60), fps=25)
    write_video(tmp_path / "in" / "deep" / "two.mp4", counting_frames(20, 60, 30))
    assert write_aspects(tmp_path / "in", tmp_path / "out") == (15, 3)
    names = [f"{scene}-{w}x{h}.mkv" for scene in ("deep_two-0", "one-0", "one-1") for w, h in ASPECTS]
    images = ["deep_two-0-16x9.png", "one-0-16x9.png", "one-1-1x1.png"]
    assert sorted(hashes(tmp_path / "out")) == sorted(names + images)  # no folders: they would be classes
    for name, num_frames, size in (("one-0-16x9", 48, (34, 60)), ("one-1-9x16", 10, (40, 22)), ("deep_two-0-1x1", 20, (30, 30))):
        path = tmp_path / "out" / f"{name}.mkv"
        assert count_frames(path) == num_frames and upright_size(path) == size
        assert probe(path)[1] == (10 if "two" in name else 25)
    second = read_frames(tmp_path / "out" / "one-1-1x1.mkv", 0, 10, 1, 40, 40)
    assert (second == np.arange(60, 70)[:, None, None, None]).all()  # pixels are exact, and the gap is left out
    still = np.asarray(Image.open(tmp_path / "out" / "one-1-1x1.png"))
    assert still.shape == (40, 40, 3) and (still == second[0]).all()


def test_the_middle_is_kept(tmp_path: Path) -> None:
    frames = np.zeros((9, 20, 60, 3), dtype=np.uint8)
    frames[:, :, 20:40] = (255, 128, 0)
    write_video(tmp_path / "in" / "wide.mkv", frames)
    write_aspects(tmp_path / "in", tmp_path / "out")
    square = read_frames(tmp_path / "out" / "wide-0-1x1.mkv", 0, 9, 1, 20, 20)
    assert (square == (255, 128, 0)).all()


def test_the_same_files_come_out_each_time(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "one.mkv", counting_frames(10, 40, 60))
    write_aspects(tmp_path / "in", tmp_path / "out")
    first = hashes(tmp_path / "out")
    write_aspects(tmp_path / "in", tmp_path / "out")  # again, over them
    write_aspects(tmp_path / "in", tmp_path / "other")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "other") == first


def test_a_native_folder_reads_them(tmp_path: Path) -> None:
    for i in range(3):
        write_video(tmp_path / "in" / f"v{i}.mkv", counting_frames(120, 40, 60, first=40 * i))
    write_aspects(tmp_path / "in", tmp_path / "out")
    groups = {f"v{i}-{take}-*": f"video {i}, take {take}" for i in range(3) for take in range(3)}
    made = Config(
        path=tmp_path / "out", num_frames=16, height=24, width=24, num_val=4, num_test=4, groups=groups, native=True, split_by="file"
    )
    clips = load_clips(made, tmp_path)
    assert not clips.skipped and clips.label_names == ()
    assert len({shape[1:] for shape in clips.splits["train"].shapes}) >= 5 and {shape[0] for shape in clips.splits["train"].shapes} == {
        1,
        16,
    }


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(source: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / source), str(tmp_path / "out")])
        assert caught.value.code == 1
        return capsys.readouterr().err

    assert "is not a folder" in error("missing")
    (tmp_path / "empty").mkdir()
    assert f"no video in {tmp_path / 'empty'}" in error("empty")
    write_video(tmp_path / "twice" / "a.mkv", counting_frames(10))
    write_video(tmp_path / "twice" / "a.avi", counting_frames(10))
    assert "a.mkv and a.avi would have the same names, a-...; rename one" in error("twice")
    write_video(tmp_path / "short" / "a.mkv", counting_frames(7))
    assert "has the 8 frames of a take" in error("short")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_text("no video")
    assert "a.mp4 cannot be read" in error("broken")
    write_video(tmp_path / "good" / "b.mkv", counting_frames(10))
    assert "also holds a-0-16x9.mkv, which would become part of the data" in error("good")
    main([str(tmp_path / "good"), str(tmp_path / "new")])
    assert capsys.readouterr().out == f"5 videos and 1 images in {tmp_path / 'new'}\n"
