"""What files hold, told by decoding them and by counting packets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_video import ENCODERS, moving_bar, write_video

from bench.data.media import inventory
from bench.data.media.inventory import Media, decoded, find_files, probed


@pytest.mark.parametrize("extension", ENCODERS)
def test_both_ways_agree_on_a_video(tmp_path: Path, extension: str) -> None:
    path = write_video(tmp_path / f"clip{extension}", moving_bar())
    assert decoded(path) == probed(path)
    assert (probed(path).num_frames, probed(path).height, probed(path).width, probed(path).is_image) == (7, 32, 48, False)


def test_an_image_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "still.PNG"
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(path)
    assert decoded(path) == probed(path) == Media(num_frames=1, fps=1.0, height=20, width=30, is_image=True)


def test_only_decoding_finds_what_is_broken_inside(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert probed(tmp_path / "cut.jpg").height == 200
    with pytest.raises(ValueError, match="truncated"):
        decoded(tmp_path / "cut.jpg")


def test_probing_decodes_one_frame_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mkv", moving_bar())
    monkeypatch.setattr(inventory, "count_frames", lambda path: pytest.fail("decoded all of it"))
    assert probed(path).num_frames == 7


def test_files_are_found_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/c.txt", "a/.hidden", ".cache/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(find_files(tmp_path)) == ["a/c.txt", "b.mp4"]
    with pytest.raises(ValueError, match="is not a folder"):
        find_files(tmp_path / "missing")
