"""Clips to latents: items are the pixels they say, and the cache is keyed by all that decides them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import bench.data.latents.latents as latents_module
from bench.commands.score.windows import cover
from bench.data.latents.autoencoder import FrameAutoencoder, decode_clips, encode_clips, load_autoencoder
from bench.data.latents.config import TrainedAutoencoder
from bench.data.latents.latents import LatentSet, _shards, cached_latents, fitted_clips, is_whole, item_pixels
from bench.data.policy.contract import Item, Rules
from bench.data.policy.fitting import Fitted, fit
from bench.data.policy.table import POLICIES
from bench.data.ragged import Ragged
from bench.data.sealed import DamagedCache
from bench.data.shards import Sharded
from bench.data.source import Clips, load_clips, load_config
from bench.shapes import Refusal, Shape
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
CONFIG = TrainedAutoencoder(kind="trained", num_steps=3, width=8, batch_size=4)
WORLD = {"source": "worlds", "num_frames": 4, "height": 16, "width": 16, "num_train": 12, "num_val": 4, "num_test": 4}
SHAPES = [[4, 16, 16], [4, 16, 36], [1, 24, 16]]


def quiet(done: int, total: int, what: str) -> None:
    return None


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return load_clips(tiny_cell().data, tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return load_clips(load_config({**WORLD, "shapes": SHAPES}), tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def stage(mixed: Clips, tmp_path_factory: pytest.TempPathFactory) -> FrameAutoencoder:
    return load_autoencoder(CONFIG, mixed, tmp_path_factory.mktemp("stage"), CPU, quiet)


def rules(policy: str, one_shape: Shape = (4, 16, 16)) -> Rules:
    return Rules(fit=POLICIES.find(policy).fit, nothing="", one_shape=one_shape, multiple=8, max_pixels=10**9)


def test_latents_have_unit_variance_and_decode(clips: Clips, tmp_path: Path) -> None:
    stage = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    whole = fit(clips.splits["train"].shapes, rules("pack"))
    latents = cached_latents(stage, clips.splits["train"].frames, whole, clips.digest, "train", tmp_path, quiet)
    assert isinstance(latents, np.ndarray) and latents.shape == (8, 4, 4, 4, 4)
    assert stage.spec(4).latent_shape((4, 16, 16)) == latents.shape[2:]
    assert_close(torch.from_numpy(latents.std(axis=(0, 2, 3, 4))), torch.ones(4), atol=1e-3, rtol=0)
    assert_close(torch.from_numpy(latents.mean(axis=(0, 2, 3, 4))), torch.zeros(4), atol=1e-3, rtol=0)
    decoded = decode_clips(stage, [torch.from_numpy(np.array(latents[0]))])
    assert isinstance(decoded, np.ndarray) and decoded.shape == (1, 4, 16, 16, 3)
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("policy", ["crop", "bucket", "pack", "pad"])
def test_latents_of_items_are_those_of_their_pixels(mixed: Clips, stage: FrameAutoencoder, tmp_path: Path, policy: str) -> None:
    frames = mixed.splits["train"].frames
    fitted = fit(mixed.splits["train"].shapes, rules(policy))
    latents = cached_latents(stage, frames, fitted, mixed.digest, "train", tmp_path, quiet)
    assert isinstance(latents, Ragged) and len(latents) == len(fitted.items) == 12
    for item, own in zip(fitted.items, latents, strict=True):
        expected = encode_clips(stage, item_pixels(frames, item)[None])[0]
        assert_close(torch.from_numpy(np.array(own)), expected, atol=1e-5, rtol=1e-5)
    again = cached_latents(stage, frames, fitted, mixed.digest, "train", tmp_path, lambda *_: pytest.fail("not from the cache"))
    assert all(np.array_equal(a, b) for a, b in zip(latents, again, strict=True))


def test_policies_do_not_share_latents(mixed: Clips, stage: FrameAutoencoder, tmp_path: Path) -> None:
    frames, shapes = mixed.splits["train"].frames, mixed.splits["train"].shapes
    for policy in ("crop", "pack"):
        cached_latents(stage, frames, fit(shapes, rules(policy)), mixed.digest, "train", tmp_path, quiet)
    assert len(list((tmp_path / "latents").iterdir())) == 2


def test_pixels_of_an_item() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (5, 20, 36, 3), dtype=np.uint8)
    frames = clip[None]
    native = item_pixels(frames, Item(0, 0, (2, 2, 34, 18), (5, 16, 32)))
    assert np.array_equal(native, clip[:, 2:18, 2:34])  # a window as it is, not scaled
    (first, *_), (scaled,) = (fit([(5, 20, 36)], rules("crop", shape)).items
                              for shape in ((2, 16, 16), (5, 8, 16)))  # fmt: skip
    assert np.array_equal(item_pixels(frames, first), np.stack([cover(frame, 16, 16) for frame in clip[:2]]))
    assert item_pixels(frames, scaled).shape == (5, 8, 16, 3)
    second = fit([(5, 20, 36)], rules("crop", (2, 16, 16))).items[1]
    assert np.array_equal(item_pixels(frames, second), np.stack([cover(frame, 16, 16) for frame in clip[2:4]]))


def test_whole_clips_are_not_copied(clips: Clips, mixed: Clips) -> None:
    frames, shapes = clips.splits["val"].frames, clips.splits["val"].shapes
    whole = fit(shapes, rules("pack"))
    assert is_whole(frames, whole) and is_whole(frames, fit(shapes, rules("crop")))
    assert np.shares_memory(np.asarray(fitted_clips(frames, whole, 2)), frames)
    part = Fitted(items=whole.items[:2], lost=(), shapes=whole.shapes)
    assert not is_whole(frames, part)
    cut = fit(mixed.splits["val"].shapes, rules("pack"))
    assert not is_whole(mixed.splits["val"].frames, cut)  # 36 pixels are not a multiple of 8
    assert {clip.shape for clip in fitted_clips(mixed.splits["val"].frames, cut, 4)} == {(4, 16, 16, 3), (4, 16, 32, 3), (1, 24, 16, 3)}


def test_shapes_of_a_set() -> None:
    uniform = LatentSet(latents=np.zeros((2, 4, 3, 2, 5), np.float32), labels=None, null_label=0)
    ragged = LatentSet(latents=Ragged(np.zeros(8 + 24, np.float32), [(4, 1, 2, 1), (4, 3, 2, 1)]), labels=None, null_label=0)
    assert (len(uniform), uniform.shapes) == (2, ((3, 2, 5), (3, 2, 5)))
    assert (len(ragged), ragged.shapes) == (2, ((1, 2, 1), (3, 2, 1)))


def test_edited_latents_are_noticed_and_made_again(clips: Clips, stage: FrameAutoencoder, tmp_path: Path) -> None:
    whole = fit(clips.splits["val"].shapes, rules("pack"))
    given = (stage, clips.splits["val"].frames, whole, clips.digest, "val", tmp_path, quiet)
    before = np.array(cached_latents(*given))
    (path,) = (tmp_path / "latents").glob("*/latents.npy")
    edited = np.load(path, mmap_mode="r+")
    edited[0, 0, 0, 0, 0] = np.nan
    edited.flush()
    with pytest.warns(DamagedCache, match="cached latents of val are damaged and are made again: .*latents.npy is not what was written"):
        assert np.array_equal(cached_latents(*given), before)


def test_an_autoencoder_that_gives_nan_is_named_before_anything_trains(
    clips: Clips, stage: FrameAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(clips.splits["val"].shapes, rules("pack"))
    monkeypatch.setattr(latents_module, "encode_clips", lambda network, pixels: encode_clips(network, pixels) * float("nan"))
    with pytest.raises(Refusal, match="gives NaN or infinite latents for val clip 0"):
        cached_latents(stage, clips.splits["val"].frames, whole, clips.digest, "val", tmp_path, quiet)
    assert not list((tmp_path / "latents").iterdir())


@pytest.mark.parametrize("of_one_shape", [True, False])
def test_latents_in_shards_are_those_of_one_file(
    clips: Clips, mixed: Clips, stage: FrameAutoencoder, tmp_path: Path, of_one_shape: bool
) -> None:
    source = clips if of_one_shape else mixed
    given = source.splits["train"].frames, fit(source.splits["train"].shapes, rules("pack")), source.digest, "train"
    whole = cached_latents(stage, *given, tmp_path / "whole", quiet)
    shards = cached_latents(stage, *given, tmp_path / "shards", quiet, shard_bytes=3000)
    assert isinstance(shards, Sharded if of_one_shape else Ragged)
    paths = sorted((tmp_path / "shards").rglob("shard-*.npy"))
    assert len(paths) > 3 and [path.name for path in paths] == [f"shard-{index:05d}.npy" for index in range(len(paths))]
    assert max(path.stat().st_size for path in paths) <= max(3000, 4 * max(latents.size for latents in whole)) + 128
    assert len(whole) == len(shards)
    for one, other in zip(whole, shards, strict=True):
        assert_close(torch.from_numpy(other), torch.from_numpy(np.array(one)), atol=1e-5, rtol=1e-5)  # other clips share its batch
    sets = [LatentSet(latents=latents, labels=None, null_label=0) for latents in (whole, shards)]
    assert sets[0].shapes == sets[1].shapes and len(sets[0]) == len(sets[1])
    again = cached_latents(stage, *given, tmp_path / "shards", lambda *_: pytest.fail("not from the cache"), shard_bytes=3000)
    assert all(np.array_equal(a, b) for a, b in zip(shards, again, strict=True))


def test_shards_end_where_batches_of_the_autoencoder_do(
    clips: Clips, stage: FrameAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents_module, "clips_at_once", lambda shape: 2)
    given = clips.splits["train"].frames, fit(clips.splits["train"].shapes, rules("pack")), clips.digest, "train"
    whole = cached_latents(stage, *given, tmp_path / "whole", quiet)
    shards = cached_latents(stage, *given, tmp_path / "shards", quiet, shard_bytes=3 * 4 * whole[0].size)  # three fit, two go together
    assert [len(np.load(path)) for path in sorted((tmp_path / "shards").rglob("shard-*.npy"))] == [2, 2, 2, 2]
    assert np.array_equal(shards[:], whole)  # bit for bit


def test_encoding_that_was_stopped_goes_on_with_its_shard(clips: Clips, stage: FrameAutoencoder, tmp_path: Path) -> None:
    given = clips.splits["train"].frames, fit(clips.splits["train"].shapes, rules("pack")), clips.digest, "train", tmp_path

    def stop_after(num: int) -> Callable[[int, int, str], None]:
        def progress(done: int, total: int, what: str) -> None:
            assert (total, what) == (8, "latents of train")
            seen.append(done)
            if done == num:
                raise KeyboardInterrupt

        return progress

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        cached_latents(stage, *given, stop_after(3), shard_bytes=1)
    assert not list(tmp_path.glob("latents/[!.]*")) and len(list(tmp_path.rglob("shard-*.npy"))) == 2
    found = cached_latents(stage, *given, stop_after(-1), shard_bytes=1)
    assert seen == [1, 2, 3, 3, 4, 5, 6, 7, 8] and len(found) == 8


def test_a_damaged_shard_is_named_and_encoded_again_alone(clips: Clips, stage: FrameAutoencoder, tmp_path: Path) -> None:
    given = clips.splits["train"].frames, fit(clips.splits["train"].shapes, rules("pack")), clips.digest, "train", tmp_path
    before = cached_latents(stage, *given, quiet, shard_bytes=1)[:]
    (path,) = tmp_path.rglob("shard-00005.npy")
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    seen: list[int] = []
    with pytest.warns(
        DamagedCache, match=r"cached latents of train are damaged and are made again: .*/shard-00005.npy is not what was written"
    ):
        after = cached_latents(stage, *given, lambda done, total, what: seen.append(done), shard_bytes=1)
    assert np.array_equal(after[:], before) and seen == [6]


def test_a_large_file_of_older_versions_is_still_read(clips: Clips, stage: FrameAutoencoder, tmp_path: Path) -> None:
    given = clips.splits["train"].frames, fit(clips.splits["train"].shapes, rules("pack")), clips.digest, "train", tmp_path
    whole = cached_latents(stage, *given, quiet)
    found = cached_latents(stage, *given, lambda *_: pytest.fail("not from the cache"), shard_bytes=1)
    assert isinstance(found, np.memmap) and np.array_equal(found, whole)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, [1, 1, 1, 1, 1]), (10, [1, 1, 1, 2]), (12, [2, 2, 1]), (1000, [5])],
)
def test_items_of_many_shapes_share_a_file_up_to_its_size(most: int, expected: list[int]) -> None:
    shapes: list[Shape] = [(4, 16, 16), (1, 16, 16), (4, 16, 16), (1, 16, 16), (1, 16, 16)]
    found = _shards(fit(shapes, rules("pack")), {(4, 16, 16): 8, (1, 16, 16): 4}, most)
    assert [len(items) for items in found] == expected and [place for items in found for place in items] == list(range(5))
