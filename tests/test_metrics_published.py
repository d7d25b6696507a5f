"""Other tools' choices, rebuilt here by hand from what their sources say, against the module that emulates them."""

import os
from collections.abc import Callable
from itertools import islice
from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from bench.commands.score.collection import CollectionItem, Opened
from bench.commands.score.published import (
    MAX_CLIPS,
    PROTOCOLS,
    CdFvdRule,
    StyleganVRule,
    distance_over_n,
    find_protocol,
    scaled_and_cropped,
    square_lanczos,
)
from bench.commands.score.windows import SeededCut
from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.i3d import preprocess
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.extractors.resize import resize_half_pixel
from bench.metrics.extractors.table import load_extractor
from bench.metrics.weights import table as weights


def never() -> Opened:
    raise AssertionError("opened")


def items(num: int, kind: Literal["video", "frames", "array"] = "video") -> list[CollectionItem]:
    return [CollectionItem(name=f"v{index:04}", kind=kind, label=None, files=(), open=never) for index in range(num)]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def features(n: int, d: int, seed: int, mean: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(n, d)) @ generator.normal(size=(d, d)) + mean).astype(np.float32)


def bilinear_by_hand(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W) -> (size, size): output i lies at (i + 1/2) H / size - 1/2 of the input, held at the edges."""

    def axis(old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, None)
        lower = np.minimum(np.floor(place).astype(int), old - 1)
        return lower, np.minimum(lower + 1, old - 1), place - lower

    (top, bottom, down), (left, right, across) = axis(image.shape[0]), axis(image.shape[1])
    upper = image[top][:, left] * (1 - across) + image[top][:, right] * across
    under = image[bottom][:, left] * (1 - across) + image[bottom][:, right] * across
    return upper * (1 - down[:, None]) + under * down[:, None]


@pytest.mark.parametrize(("height", "width"), [(32, 48), (300, 230), (224, 224)])
def test_resize_has_half_pixel_centres_and_is_not_tensorflows(height: int, width: int) -> None:
    frames = noise(2, 3, height, width, 3)
    clips = preprocess(torch.from_numpy(frames), resize_half_pixel)
    assert clips.shape == (2, 3, 3, 224, 224)
    by_hand = bilinear_by_hand(frames[1, 2, :, :, 0].astype(np.float64), 224) * 2 / 255 - 1
    np.testing.assert_allclose(clips[1, 0, 2].numpy(), by_hand, atol=2e-4)
    differs = (clips - preprocess(torch.from_numpy(frames))).abs().max()
    assert differs < 1e-6 if height == 224 else differs > 0.1


@pytest.mark.parametrize("real_first", [True, False])
def test_distance_is_the_formula_of_both_tools(real_first: bool) -> None:
    real, fake = features(300, 6, 0), features(500, 6, 1, mean=0.5)
    value, exact = distance_over_n(real, fake, real_first=real_first)
    mean_r, mean_f = real.astype(np.float64).mean(0), fake.astype(np.float64).mean(0)
    cov_r, cov_f = np.cov(real.astype(np.float64), rowvar=False, bias=True), np.cov(fake.astype(np.float64), rowvar=False, bias=True)
    by_hand = ((mean_r - mean_f) ** 2).sum() + np.trace(cov_r) + np.trace(cov_f) - 2 * np.trace(scipy.linalg.sqrtm(cov_r @ cov_f)).real
    assert value == pytest.approx(by_hand, rel=1e-9) and exact == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("n", [20, 200])
def test_exact_root_is_the_canonical_distance_over_n(n: int) -> None:
    """|m|^2 + (n - 1) / n of the rest: more clips than features, and fewer, where the tools' own root may be anything."""
    real, fake = features(n, 50, 0), features(n, 50, 1)
    apart = float(np.square(real.astype(np.float64).mean(0) - fake.astype(np.float64).mean(0)).sum())
    expected = apart + (n - 1) / n * (frechet_distance(real, fake) - apart)
    value, exact = distance_over_n(real, fake, real_first=True)
    assert exact == pytest.approx(expected, rel=1e-9)
    assert exact < frechet_distance(real, fake) * (1 - 0.5 / n)
    if n > 50:
        assert value == pytest.approx(expected, rel=1e-6)


def test_a_root_that_fails_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    real = features(20, 3, 0)
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda matrix: np.full_like(matrix, np.nan))
    value, exact = distance_over_n(real, real, real_first=True)
    assert value is None and exact == pytest.approx(0, abs=1e-9)


def starts(rule: StyleganVRule | CdFvdRule, num_frames: int, kind: Literal["video", "frames", "array"] = "video") -> set[int]:
    return {rule.windows(item, turn, num_frames)[0].start for item in items(200, kind) for turn in range(2)}


def stylegan_v(of: Literal["real", "generated"] = "real", num_frames: int = 4, stride: int = 3) -> StyleganVRule:
    return StyleganVRule(of=of, num_frames=num_frames, stride=stride, size=None, seed=0)


def cd_fvd(num_frames: int = 4, stride: int = 1, again: bool = True, resolution: int = 16) -> CdFvdRule:
    return CdFvdRule(again=again, num_frames=num_frames, stride=stride, resolution=resolution, seed=0)


def test_stylegan_v_cuts_real_clips_anywhere_and_generated_ones_at_the_start() -> None:
    assert starts(stylegan_v(), 14) == {0, 1, 2, 3, 4}  # up to 14 - 12 + 3 - 1, whose last frame is 13
    assert starts(stylegan_v("generated"), 14) == {0}
    window = list(stylegan_v().windows(items(1)[0], 0, 12)[0])
    assert np.diff(window).tolist() == [3, 3, 3] and window[-1] < 12
    with pytest.raises(ValueError, match=r"has 11 frames, StyleGAN-V needs frames x stride = 12"):
        stylegan_v().windows(items(1)[0], 0, 11)


def test_stylegan_v_takes_the_first_in_order_of_name_once() -> None:
    drawn = [item.name for item, _ in stylegan_v().draws(items(5)[::-1])]
    assert drawn == ["v0000", "v0001", "v0002", "v0003", "v0004"]
    protocol = find_protocol("stylegan-v")
    assert (protocol.limit("real", None), protocol.limit("generated", None), protocol.limit("real", 7)) == (MAX_CLIPS, MAX_CLIPS, 7)
    frames = noise(2, 8, 8, 3)
    assert stylegan_v().fit(items(1)[0], frames) is frames


def test_cd_fvd_cuts_by_kind() -> None:
    assert starts(cd_fvd(), 6) == {0, 1, 2}
    assert list(cd_fvd(num_frames=9, stride=2).windows(items(1)[0], 0, 9)[0]) == [0, 2, 4, 6, 8]  # fewer frames, not a longer window
    assert starts(cd_fvd(stride=2), 10, "frames") == {0, 1, 2}
    with pytest.raises(ValueError, match="needs more than frames x stride = 8 of a folder"):
        cd_fvd(stride=2).windows(items(1, "frames")[0], 0, 8)
    with pytest.raises(ValueError, match="has 3 frames, cd-fvd needs 4"):
        cd_fvd().windows(items(1)[0], 0, 3)
    assert cd_fvd().windows(items(1, "array")[0], 0, 30) == [range(30)]


def test_cd_fvd_goes_through_generated_clips_again_and_again() -> None:
    drawn = list(islice(cd_fvd().draws(items(4)), 10))
    turns = [[item.name for item, turn in drawn if turn == k] for k in range(3)]
    assert sorted(turns[0]) == sorted(turns[1]) == [f"v000{k}" for k in range(4)] and turns[0] != turns[1] and len(turns[2]) == 2
    assert [item.name for item, _ in islice(cd_fvd().draws(items(3, "array")), 7)] == [f"v000{k}" for k in (0, 1, 2, 0, 1, 2, 0)]
    assert len(list(cd_fvd(again=False).draws(items(4)))) == 4
    protocol = find_protocol("cd-fvd")
    assert (protocol.limit("real", None), protocol.limit("generated", None)) == (None, MAX_CLIPS)
    cut = SeededCut(num_frames=16)
    assert not protocol.rule("real", cut, None).describe()["again"] and protocol.rule("generated", cut, 2048).describe()["again"]


def test_cd_fvd_cuts_off_fractions() -> None:
    """Columns of 10 and 11 at half the size are 10.5: the tool keeps 10 where rounding would make some 11."""
    frames = np.tile(np.array([10, 11], np.uint8)[None, None, :, None], (2, 32, 16, 3))
    assert set(np.unique(scaled_and_cropped(frames, 16)[:, :, 2:-2])) == {10}
    kept = noise(2, 16, 16, 3)
    np.testing.assert_array_equal(scaled_and_cropped(kept, 16), kept)  # x / 255 * 255 loses no level


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (33, 50)])
def test_cd_fvd_scales_the_shorter_side_and_crops_the_centre(height: int, width: int) -> None:
    smooth = np.asarray(Image.fromarray(noise(4, 5, 3)).resize((width, height), Image.Resampling.BICUBIC))
    scaled = scaled_and_cropped(smooth[None], 16)[0].astype(int)
    long = int(np.ceil(max(height, width) * 16 / min(height, width)))
    by_pillow = np.asarray(Image.fromarray(smooth).resize((16, long) if height > width else (long, 16), Image.Resampling.BILINEAR)).astype(
        int
    )
    edge = (long - 16) // 2
    cropped = by_pillow[edge : edge + 16] if height > width else by_pillow[:, edge : edge + 16]
    assert scaled.shape == (16, 16, 3) and np.abs(scaled - cropped).max() <= 1 and (scaled <= cropped).mean() > 0.99


def test_cd_fvd_crops_folders_of_frames_to_squares_first() -> None:
    frames = noise(2, 20, 31, 3)
    expected = Image.fromarray(frames[1]).crop((5, 0, 25, 20)).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(square_lanczos(frames, 16)[1], np.asarray(expected))


def test_each_kind_has_its_own_way_to_the_resolution() -> None:
    frames = noise(2, 20, 31, 3)
    fitted = {kind: cd_fvd().fit(items(1, kind)[0], frames) for kind in ("video", "frames", "array")}
    np.testing.assert_array_equal(fitted["video"], scaled_and_cropped(frames, 16))
    np.testing.assert_array_equal(fitted["frames"], square_lanczos(frames, 16))
    assert fitted["array"] is frames


def test_wrong_names_and_sizes() -> None:
    with pytest.raises(ValueError, match=r"unknown protocol 'cdfvd' \(did you mean 'cd-fvd'\?\); there are stylegan-v, cd-fvd"):
        find_protocol("cdfvd")
    with pytest.raises(ValueError, match="cd-fvd crops to a square, got --size 16x32"):
        find_protocol("cd-fvd").rule("real", SeededCut(num_frames=16, size=(16, 32)), None)
    for protocol in PROTOCOLS.values():
        assert "fvd" not in protocol.extractor and protocol.choices["source"]
        assert MANIFESTS[protocol.extractor].resize == "half-pixel-bilinear-224/1"


@pytest.fixture(scope="module")
def needs_i3d() -> None:
    """Their absence may skip a developer's run, never one that is meant to gate."""
    try:
        weights.files("i3d")
    except weights.WeightsError as error:
        if os.environ.get("CI") or os.environ.get("UNET_VS_DIT_REQUIRE_I3D"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.mark.i3d
def test_without_a_resize_only_epsilon_is_left(needs_i3d: None) -> None:
    frames = noise(1, 9, 224, 224, 3)
    canonical = extract(load_extractor("i3d"), frames)
    found: Callable[[str], np.ndarray] = lambda name: extract(load_extractor(PROTOCOLS[name].extractor), frames)  # noqa: E731
    np.testing.assert_allclose(found("stylegan-v"), canonical, atol=1e-3)
    other = np.abs(found("cd-fvd") - canonical).max() / np.abs(canonical).max()
    assert 1e-3 < other < 0.2
