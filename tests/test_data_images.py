"""Still images to frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.media.images import EXTENSIONS, ORIENTATION, image_size, read_image
from bench.shapes import Refusal


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    """Red grows to the right, green downward."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width) * 8, np.arange(height)[:, None] * 12
    return pixels


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_reads_every_kind(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"image{extension}"
    Image.fromarray(gradient()).save(path, **({"quality": 95} if extension in (".jpg", ".jpeg", ".webp") else {}))
    assert image_size(path) == (20, 30)
    pixels = read_image(path, 20, 30, "whole")
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - gradient()).mean() <= (0 if extension in (".png", ".bmp") else 6)


@pytest.mark.parametrize(("mode", "exact"), [("L", False), ("P", False), ("RGBA", True), ("1", False), ("LA", False)])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, exact: bool) -> None:
    Image.fromarray(gradient()).convert(mode).save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png", 20, 30)
    assert pixels.shape == (20, 30, 3)
    assert (pixels == gradient()).all() == exact


def test_turns_an_image_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored turned by a quarter counter-clockwise
    Image.fromarray(np.rot90(gradient()).copy()).save(tmp_path / "phone.png", exif=exif)
    assert image_size(tmp_path / "phone.png") == (20, 30)
    assert (read_image(tmp_path / "phone.png", 20, 30, "whole") == gradient()).all()
    exif[ORIENTATION] = 3
    Image.fromarray(np.rot90(gradient(), 2).copy()).save(tmp_path / "phone.png", exif=exif)
    assert image_size(tmp_path / "phone.png") == (20, 30)
    assert (read_image(tmp_path / "phone.png", 20, 30, "whole") == gradient()).all()


def test_cover_crops_and_whole_does_not(tmp_path: Path) -> None:
    pixels = np.zeros((30, 90, 3), dtype=np.uint8)
    pixels[:, 30:60] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", 10, 10).min() > 220
    assert not read_image(tmp_path / "wide.png", 10, 30, "whole")[:, :9].any()
    assert not read_image(tmp_path / "wide.png", 10, 10, "whole")[:, :2].any()


def test_errors_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be read: cannot identify image file"):
        image_size(tmp_path / "text.png")
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        image_size(tmp_path / "gone.png")
    Image.fromarray(gradient(200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    assert image_size(tmp_path / "cut.jpg") == (200, 200)
    with pytest.raises(ValueError, match="cannot be read: image file is truncated"):
        read_image(tmp_path / "cut.jpg", 20, 20)
    Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        image_size(tmp_path / "deep.png")
    frames = [Image.fromarray(np.full((9, 9, 3), level, dtype=np.uint8)) for level in (0, 128, 255)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds 3 images; save them as a video"):
        read_image(tmp_path / "moving.webp", 9, 9)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(tmp_path / "chunk.png")
    content = (tmp_path / "chunk.png").read_bytes()
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)  # the name of a part, in the middle of the pixels
    (tmp_path / "chunk.png").write_bytes(content[:second] + b"\0\0\0\0" + content[second + 4 :])
    with pytest.raises(ValueError, match="cannot be read: broken PNG file"):
        read_image(tmp_path / "chunk.png", 9, 9)
    for most in (1000, 30_000):  # Pillow raises, then warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match=r"cannot be read: Image size .* exceeds limit"):
            image_size(tmp_path / "whole.jpg")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("word.ppm", b"P6 2 2 \xa455\n" + bytes(12)),
        ("long.ppm", b"P6 2 2 255<<<<<<<<<<<<\n" + bytes(12)),
        ("header.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x05IHDR" + bytes(20)),
        ("sizes.tif", b"II*\x00\x08\x00\x00\x00\x01\x00\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00" + bytes(4)),
    ],
)
def test_whatever_pillow_raises_of_a_broken_file_is_a_reason(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refusal, match="cannot be read"):
        read_image(tmp_path / name, 9, 9)
