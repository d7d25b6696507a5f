"""Extraction in batches, what it refuses, and a cache that never returns features of something else."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.metrics.distances.frechet import frechet_distance
from bench.metrics.extractors import features as features_module
from bench.metrics.extractors.features import cached_features, extract, hash_frames
from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.extractors.table import EXTRACTORS, Extractor, load_extractor


@pytest.fixture(scope="module")
def random3d() -> Extractor:
    return load_extractor("random3d")


def with_manifest(extractor: Extractor, **changes: object) -> Extractor:
    return dataclasses.replace(extractor, manifest=dataclasses.replace(extractor.manifest, **changes))


def clips(n: int = 5, num_frames: int = 4, height: int = 12, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, num_frames, height, width, 3), dtype=np.uint8)


def drifting(n: int, seed: int) -> np.ndarray:
    """Smooth clips (n, 8, 16, 16, 3) of a blob that moves."""
    generator = np.random.default_rng(seed)
    start, speed = generator.uniform(3, 12, (2, n, 1, 1, 1)), generator.uniform(-1, 1, (2, n, 1, 1, 1))
    t, y, x = np.meshgrid(np.arange(8), np.arange(16), np.arange(16), indexing="ij")
    squared = (y - start[0] - speed[0] * t) ** 2 + (x - start[1] - speed[1] * t) ** 2
    return np.repeat((255 * np.exp(-squared / 8)).astype(np.uint8)[..., None], 3, axis=-1)


def test_table_and_protocol_agree(random3d: Extractor) -> None:
    assert set(EXTRACTORS) == set(MANIFESTS)
    assert all(name == manifest.name for name, manifest in MANIFESTS.items())
    assert random3d.dim == MANIFESTS["random3d"].dim and extract(random3d, clips()).shape == (5, 128)


def test_random3d_is_one_fixed_network(random3d: Extractor) -> None:
    assert random3d.manifest.weights_sha256 == "df15224518ed26e250ffbabbde3539a0334ac37e1cd12b08f25737c0fbfd0dad"


def test_batch_size_and_memory_map_change_nothing(random3d: Extractor, tmp_path: Path) -> None:
    frames = clips(7)
    whole = extract(random3d, frames)
    assert whole.dtype == np.float32
    np.save(tmp_path / "frames.npy", frames)
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    for batch_size in (1, 2, 3, 7, 100):
        np.testing.assert_allclose(extract(dataclasses.replace(random3d, batch_size=batch_size), mapped), whole, rtol=1e-5, atol=1e-6)


def test_progress_counts_clips(random3d: Extractor) -> None:
    seen: list[tuple[int, int]] = []
    extract(dataclasses.replace(random3d, batch_size=2), clips(5), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (clips().astype(np.float32) / 255, "must be uint8 in 0..255, got float32; multiply by 255 and round"),
        (clips().astype(np.int64), "got int64"),
        (clips()[0], r"expected \(any, any, any, any, 3\)"),
        (clips().transpose(0, 4, 1, 2, 3), r"expected \(any, any, any, any, 3\)"),
        (clips(num_frames=1), "needs at least 2 frames a clip, got 1"),
        (clips()[:0], "empty axis"),
    ],
)
def test_frames_that_are_refused(random3d: Extractor, frames: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        extract(random3d, frames)


def test_features_that_are_not_finite_are_an_error(random3d: Extractor) -> None:
    def poison(frames: torch.Tensor) -> torch.Tensor:
        return torch.where(frames.flatten(1)[:, :1] == 7, torch.nan, torch.zeros(len(frames), 128))

    frames = np.zeros((5, 2, 4, 4, 3), np.uint8)
    frames[3] = 7
    with pytest.raises(ValueError, match="1 clips, first for clip 3"):
        extract(dataclasses.replace(random3d, features=poison), frames)


def test_unknown_extractor() -> None:
    with pytest.raises(ValueError, match="did you mean 'random3d'"):
        load_extractor("random3")


def test_random3d_sees_noise_and_time(random3d: Extractor) -> None:
    """A control must at least tell noise and a shuffle of frames from the floor, or a test that uses it tests nothing."""
    real, other = drifting(64, 0), drifting(64, 1)
    noise = np.random.default_rng(2).normal(0, 25, other.shape)
    noisy = np.clip(other + noise, 0, 255).astype(np.uint8)
    shuffled = other[:, np.random.default_rng(3).permutation(8)]
    reference, *rest = (extract(random3d, frames) for frames in (real, other, noisy, shuffled))
    floor, noise_distance, shuffle_distance = (frechet_distance(reference, features) for features in rest)
    assert noise_distance > 3 * floor
    assert shuffle_distance > 1.2 * floor


def test_cache_returns_the_same_features_without_computing(random3d: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clips()
    first = cached_features(random3d, frames, None, tmp_path)
    monkeypatch.setattr(features_module, "extract", None)
    np.testing.assert_array_equal(cached_features(random3d, frames, None, tmp_path), first)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_cache_key_holds_all_that_determines_the_features(random3d: Extractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = clips()
    cached_features(random3d, frames, None, tmp_path)
    changed = frames.copy()
    changed[-1, -1, -1, -1, -1] ^= 1
    cached_features(random3d, changed, None, tmp_path)
    cached_features(random3d, frames[:4], None, tmp_path)
    cached_features(random3d, frames, "one list", tmp_path)
    cached_features(random3d, frames[:4], "one list", tmp_path)
    cached_features(random3d, frames, "another list", tmp_path)
    cached_features(with_manifest(random3d, weights_sha256="0" * 64), frames, None, tmp_path)
    cached_features(with_manifest(random3d, resize="none/2"), frames, None, tmp_path)
    cached_features(with_manifest(random3d, name="other"), frames, None, tmp_path)
    cached_features(with_manifest(random3d, value_range=(0.0, 1.0)), frames, None, tmp_path)
    cached_features(with_manifest(random3d, size=(12, 10)), frames, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 11
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    cached_features(random3d, frames, None, tmp_path)
    on_a_gpu = dataclasses.replace(random3d, device=torch.device("cuda"))
    monkeypatch.setattr(features_module, "extract", lambda *_: np.zeros((5, 128), np.float32))
    cached_features(on_a_gpu, frames, None, tmp_path)
    assert len(list(tmp_path.iterdir())) == 13


@pytest.mark.parametrize("damage", ["flip", "truncate", "another file"])
def test_damaged_cache_is_computed_again_with_a_warning(random3d: Extractor, tmp_path: Path, damage: str) -> None:
    frames = clips()
    first = cached_features(random3d, frames, None, tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    elif damage == "truncate":
        content = content[:-8]
    else:
        cached_features(random3d, clips(seed=1), None, tmp_path)
        (other,) = set(tmp_path.iterdir()) - {file}
        content = bytearray(other.read_bytes())
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="computed again"):
        again = cached_features(random3d, frames, None, tmp_path)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(cached_features(random3d, frames, None, tmp_path), first)


def test_features_are_exact_whatever_the_process_has_chosen() -> None:
    site = torch.backends.cuda.matmul
    chosen, site.fp32_precision = site.fp32_precision, "tf32"

    @exact_float32()
    def product(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, str]:
        return a @ b, site.fp32_precision

    a, b = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, precision = product(a, b)
        assert torch.equal(found, a @ b) and found.is_inference()
        assert (precision, site.fp32_precision) == ("ieee", "tf32")
    finally:
        site.fp32_precision = chosen


def test_hash_of_frames_sees_shape() -> None:
    frames = clips(2)
    assert hash_frames(frames) != hash_frames(frames.reshape(2, 4, 10, 12, 3))
    assert hash_frames(frames[:, ::2]) == hash_frames(frames[:, ::2].copy())
