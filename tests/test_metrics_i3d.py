"""I3D against published values and a plain forward of the same network, and the TF1 resize against arithmetic by hand."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F

from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors import golden, table
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.i3d import I3D, load_i3d, max_pool_same, preprocess, same_pads
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.extractors.resize import resize_tf1
from bench.metrics.extractors.table import Extractor, load_extractor
from bench.metrics.weights import table as weights
from bench.perf.controls import plain_i3d

BLACK_WHITE_30 = 151.392  # FVD of black against white clips, 30 frames: published, from the TensorFlow network


@pytest.fixture(scope="module")
def tensors() -> Mapping[str, np.ndarray]:
    """The converted weights. Their absence may skip a developer's run, never one that is meant to gate."""
    try:
        return safetensors.numpy.load_file(weights.files("i3d")[0])
    except weights.WeightsError as error:
        if os.environ.get("CI") or os.environ.get("UNET_VS_DIT_REQUIRE_I3D"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def network(tensors: Mapping[str, np.ndarray]) -> I3D:
    return I3D(tensors).eval()


@pytest.fixture(scope="module")
def i3d(tensors: Mapping[str, np.ndarray]) -> Extractor:
    return load_extractor("i3d")


def black_white(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    black = np.zeros((2, num_frames, 64, 64, 3), np.uint8)
    return black, black + np.uint8(255)


def random_frames(n: int, num_frames: int, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.i3d
def test_black_against_white_is_the_published_fvd(i3d: Extractor) -> None:
    black, white = (extract(i3d, frames) for frames in black_white(30))
    assert frechet_distance(black, white) == pytest.approx(BLACK_WHITE_30, abs=2e-3)


@pytest.mark.i3d
@pytest.mark.usefixtures("i3d")
def test_a_network_gives_its_known_outputs_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "measure", lambda *asked: pytest.fail("asked again"))
    load_extractor("i3d")
    monkeypatch.undo()
    monkeypatch.setattr(table, "_reproduced", set())
    monkeypatch.setattr(I3D, "forward", lambda network, clips: torch.ones(len(clips), 400))
    with pytest.raises(ValueError, match=r"extractor 'i3d' is not what its manifest says: rms checkerboard 9x32x32 is 1, claimed 3.73472"):
        load_extractor("i3d")


@pytest.mark.i3d
def test_batch_norm_eps_of_torch_misses_the_published_fvd(tensors: Mapping[str, np.ndarray]) -> None:
    """The checkpoint that many papers use has eps 1e-5, torch's default: 0.24 % off, far outside the golden's tolerance."""
    network = load_i3d(eps=1e-5)
    black, white = (network(preprocess(torch.from_numpy(frames[:1]))) for frames in black_white(30))
    assert (black - white).square().sum().item() / BLACK_WHITE_30 == pytest.approx(1.0024, abs=2e-4)


@pytest.mark.i3d
@pytest.mark.parametrize("name", ["i3d", "i3d_half-pixel", "i3d_eps1e-5"])
def test_golden_values_of_the_manifests(tensors: Mapping[str, np.ndarray], name: str) -> None:
    extractor = load_extractor(name)
    assert extractor.manifest.golden
    golden.check(name, extractor.manifest.golden, extractor.features, extractor.device)
    if name == "i3d_eps1e-5":
        for other, claimed in (("i3d", r"3\.734"), ("i3d_half-pixel", r"4\.103")):
            with pytest.raises(ValueError, match=rf"is 4\.110.*claimed {claimed}"):
                golden.check(name, MANIFESTS[other].golden, extractor.features, extractor.device)


@pytest.mark.i3d
def test_variants_differ_in_resize_and_epsilon(i3d: Extractor) -> None:
    frames = random_frames(2, 9)
    canonical, half, eps = (extract(load_extractor(name), frames) for name in ("i3d", "i3d_half-pixel", "i3d_eps1e-5"))
    clips = F.interpolate(torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2).float(), size=(224, 224), mode="bilinear")
    clips = (2 * clips / 255 - 1).unflatten(0, (2, 9)).transpose(1, 2)
    scale = np.abs(canonical).max()
    np.testing.assert_allclose(load_i3d()(clips).numpy() / scale, half / scale, atol=1e-5)
    np.testing.assert_allclose(load_i3d(eps=1e-5)(clips).numpy() / scale, eps / scale, atol=1e-5)
    assert np.abs(canonical - half).max() > 1e-2 * scale and np.abs(half - eps).max() > 1e-4 * scale


@pytest.mark.i3d
@pytest.mark.parametrize("num_frames", [9, 10, 15])
def test_fast_forward_equals_the_plain_one(tensors: Mapping[str, np.ndarray], network: I3D, num_frames: int) -> None:
    """Odd and even sizes on every level, so that no asymmetric padding hides."""
    clips = preprocess(torch.from_numpy(random_frames(2, num_frames)))
    expected = plain_i3d(tensors, clips)
    assert expected.std() > 0.1
    torch.testing.assert_close(network(clips), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.i3d
def test_batch_size_changes_nothing(i3d: Extractor) -> None:
    frames = random_frames(3, 9)
    together = extract(dataclasses.replace(i3d, batch_size=3), frames)
    scale = np.abs(together).max()
    for batch_size in (1, 2):
        np.testing.assert_allclose(extract(dataclasses.replace(i3d, batch_size=batch_size), frames) / scale, together / scale, atol=1e-5)


@pytest.mark.i3d
def test_precision_of_the_process_does_not_reach_the_features(network: I3D) -> None:
    clips = preprocess(torch.from_numpy(random_frames(2, 9)))
    expected = network(clips)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        reduced = network(clips)
        assert torch.get_float32_matmul_precision() == "medium", "the process's own choice was not restored"
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = network(clips)
    assert torch.equal(reduced, expected) and torch.equal(cast, expected) and cast.dtype == torch.float32


@pytest.mark.i3d
def test_clips_that_are_refused(i3d: Extractor) -> None:
    with pytest.raises(ValueError, match="at least 9 frames a clip, got 8"):
        extract(i3d, random_frames(1, 8))


def test_missing_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path))
    with pytest.raises(weights.WeightsError, match="python -m bench weights get i3d"):
        load_extractor("i3d")


def test_resize_by_hand() -> None:
    image = torch.tensor([[0.0, 100.0], [200.0, 300.0]])[None, :, :, None]
    # Output i reads input i / 2, and past the last pixel there is only the last pixel.
    expected = [[0, 50, 100, 100], [100, 150, 200, 200], [200, 250, 300, 300], [200, 250, 300, 300]]
    assert resize_tf1(image, 4, 4)[0, :, :, 0].tolist() == expected
    # Shrinking reads single pixels, without antialiasing; height and width go their own ways.
    ramp = torch.arange(24.0).view(1, 4, 6, 1)
    assert resize_tf1(ramp, 2, 3)[0, :, :, 0].tolist() == [[0, 2, 4], [12, 14, 16]]
    assert resize_tf1(ramp, 4, 3)[0, 1, :, 0].tolist() == [6, 8, 10]


@pytest.mark.parametrize(("height", "width"), [(24, 31), (224, 100), (300, 256)])
def test_resize_matches_the_definition(height: int, width: int) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (height, width))

    def line(values: np.ndarray, position: float) -> np.ndarray:
        low = int(position)
        return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (position - low)

    rows = np.stack([line(image, i * height / 224) for i in range(224)])
    expected = np.stack([line(rows.T, i * width / 224) for i in range(224)]).T
    got = resize_tf1(torch.from_numpy(image).float()[None, :, :, None], 224, 224)[0, :, :, 0]
    np.testing.assert_allclose(got.numpy(), expected, atol=5e-3)


def test_preprocess_keeps_axes_apart_and_spans_minus_one_to_one() -> None:
    frames = torch.zeros(2, 3, 10, 12, 3, dtype=torch.uint8)
    frames[1, 2, :, :, 0] = 255
    frames[0, 1, :, :, 2] = 51
    clips = preprocess(frames)
    assert clips.shape == (2, 3, 3, 224, 224) and clips.is_contiguous(memory_format=torch.channels_last_3d)
    assert (clips[1, 0, 2] == 1).all() and (clips[1, 1:] == -1).all()
    torch.testing.assert_close(clips[0, 2, 1], torch.full((224, 224), -0.6))


def test_preprocess_does_not_touch_frames_of_the_right_size() -> None:
    frames = torch.full((1, 1, 224, 224, 3), 7, dtype=torch.uint8)
    preprocess(frames)
    assert (frames == 7).all()


def test_same_pads_are_tensorflows() -> None:
    assert same_pads(224, 7, 2) == (2, 3)
    assert same_pads(9, 7, 2) == (3, 3)
    assert same_pads(112, 3, 2) == (0, 1)
    assert same_pads(5, 3, 2) == (1, 1)
    assert same_pads(28, 3, 1) == (1, 1)
    assert same_pads(4, 2, 2) == (0, 0)
    assert same_pads(3, 2, 2) == (0, 1)


@pytest.mark.parametrize("size", [(5, 7, 8), (4, 6, 9), (1, 3, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_max_pool_equals_explicit_padding(size: tuple[int, int, int], kernel, stride) -> None:
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    pads = [p for axis in reversed(list(zip(size, kernel, stride, strict=True))) for p in same_pads(*axis)]
    expected = F.max_pool3d(F.pad(x, pads, value=-torch.inf), kernel, stride)
    assert torch.equal(max_pool_same(x, kernel, stride), expected)
