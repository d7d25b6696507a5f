"""What files hold, told by decoding them and by counting packets."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_video import ENCODERS, moving_bar, write_video

from bench.data.media import inventory
from bench.data.media.inventory import Media, content_of, decoded, look_through, probed


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
    assert list(look_through(tmp_path)[0]) == ["a/c.txt", "b.mp4"]
    with pytest.raises(ValueError, match="is not a folder"):
        look_through(tmp_path / "missing")


def test_what_is_no_file_is_named_and_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "named.mp4").mkdir(parents=True)
    (root / "good.mp4").write_text("")
    os.mkfifo(root / "pipe.mp4")
    os.mknod(root / "socket.mp4", stat.S_IFSOCK | 0o600)
    for name, target in (("device.mp4", "/dev/zero"), ("nothing.mp4", "gone"), ("loop", "."), ("linked.mp4", "good.mp4")):
        (root / name).symlink_to(target)
    (root / os.fsdecode(b"caf\xe9.mp4")).write_text("")
    (root / os.fsdecode(b"caf\xe9s")).mkdir()
    (root / os.fsdecode(b"caf\xe9s") / "a.mp4").write_text("")
    files, left_out = look_through(root)
    assert list(files) == ["good.mp4", "linked.mp4"]
    assert {entry.name: entry.reason for entry in left_out} == {
        "caf\\xe9.mp4": "has a name that is not UTF-8; rename it",
        "caf\\xe9s": "has a name that is not UTF-8; rename it",
        "device.mp4": "is a device, no regular file",
        "loop": "is a link to a folder, which is not followed",
        "named.mp4": "is an empty folder",
        "nothing.mp4": "is a link to nothing",
        "pipe.mp4": "is a pipe, no regular file",
        "socket.mp4": "is a socket, no regular file",
    }


def test_a_file_that_cannot_be_read_has_a_content_of_its_own(tmp_path: Path) -> None:
    assert content_of(tmp_path / "gone.mp4") == "cannot be read: No such file or directory"
