"""Autoencoder stage: conversions, unit-variance latents, caches keyed by what determines them, any diffusers autoencoder."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bench.data.files import fresh_folder
from bench.data.latents.autoencoder import FrameAutoencoder, from_model, load_autoencoder, to_model
from bench.data.latents.config import PretrainedAutoencoder, TrainedAutoencoder
from bench.data.sealed import DamagedCache
from bench.data.source import Clips, load_clips
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
CONFIG = TrainedAutoencoder(kind="trained", num_steps=3, width=8, batch_size=4)


def quiet(done: int, total: int, what: str) -> None:
    return None


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return load_clips(tiny_cell().data, tmp_path_factory.mktemp("cache"))


def test_pixels_convert_both_ways_without_a_change() -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 4, 8, 8, 3)
    model = to_model(frames)
    assert model.shape == (1, 3, 4, 8, 8)
    assert (float(model.min()), float(model.max())) == (-1.0, 1.0)
    assert (from_model(model) == frames).all()
    assert float(model[0, 0, 0, 0, 1]) == pytest.approx(1 / 127.5 - 1)


def test_generated_pixels_are_rounded_and_clamped() -> None:
    clip = torch.tensor([-2.0, 0.9 / 127.5 - 1, 2.0]).view(1, 3, 1, 1, 1)
    assert from_model(clip).ravel().tolist() == [0, 1, 255]


def test_decoding_undoes_the_scaling_of_encoding(clips: Clips, tmp_path: Path) -> None:
    autoencoder = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    batch = to_model(clips.splits["val"].frames[:2])
    with torch.no_grad():
        expected = autoencoder.decode_frames(autoencoder.encode_frames(batch.transpose(1, 2).flatten(0, 1)))
        actual = autoencoder.decode(autoencoder.encode(batch))
    assert_close(actual.transpose(1, 2).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_frames_keep_their_place(clips: Clips, tmp_path: Path) -> None:
    """Encoding a clip is encoding its frames: nothing is swapped between clips, frames, height and width."""
    stage = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    batch = torch.randn(2, 3, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = stage.encode(batch)
        single = stage.encode(batch[1:, :, 2:3])
    assert whole.shape == (2, 4, 4, 4, 6)
    assert_close(whole[1:, :, 2:3], single, atol=1e-5, rtol=1e-5)


def test_training_helps_and_is_deterministic(clips: Clips, tmp_path: Path) -> None:
    longer = CONFIG.model_copy(update={"num_steps": 40, "learning_rate": 5e-3})
    first, again, short = (
        load_autoencoder(config, clips, tmp_path / name, CPU, quiet) for name, config in (("a", longer), ("b", longer), ("c", CONFIG))
    )
    assert first.facts["train_loss"] == again.facts["train_loss"] < short.facts["train_loss"]
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_any_number_of_steps_has_a_schedule(clips: Clips, tmp_path: Path) -> None:
    """Of 10 steps a tenth is one step, which torch's one-cycle schedule would divide by less one."""
    for num_steps in (1, 2, 9, 10, 11, 20):
        load_autoencoder(CONFIG.model_copy(update={"num_steps": num_steps}), clips, tmp_path, CPU, quiet)


def test_the_cache_is_used_and_keyed_by_everything(clips: Clips, tmp_path: Path) -> None:
    stage = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    called = []
    again = load_autoencoder(CONFIG, clips, tmp_path, CPU, lambda *arguments: called.append(arguments))
    assert again.key == stage.key
    assert not called
    assert load_autoencoder(CONFIG.model_copy(update={"seed": 1}), clips, tmp_path, CPU, quiet).key != stage.key


@pytest.mark.parametrize("damage", ["weights", "facts"])
def test_an_edited_autoencoder_is_noticed_and_made_again(clips: Clips, tmp_path: Path, damage: str) -> None:
    stage = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    (folder,) = (tmp_path / "autoencoder").iterdir()
    path = folder / "facts.json" if damage == "facts" else folder / "network" / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "weights" else content.replace(b"0.", b"1.", 1))
    with pytest.warns(DamagedCache, match=f"cached weights of the autoencoder are damaged and are made again: .*{path.name} is not what"):
        again = load_autoencoder(CONFIG, clips, tmp_path, CPU, quiet)
    assert again.key == stage.key and again.facts["shift"] == stage.facts["shift"]


def test_a_pretrained_autoencoder_from_a_folder(clips: Clips, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    network.save_pretrained(tmp_path / "vae")
    stage = load_autoencoder(PretrainedAutoencoder(kind="pretrained", name=str(tmp_path / "vae")), clips, tmp_path, CPU, quiet)
    spec = stage.spec(0)
    assert (spec.latent_channels, spec.spatial_stride) == (4, 2)
    batch = to_model(clips.splits["val"].frames[:1])
    with torch.no_grad():
        mode = network.encode(batch[:, :, 1]).latent_dist.mode()
        latents = stage.encode(batch)[:, :, 1]
    assert_close(latents / stage.scale.view(-1, 1, 1) + stage.shift.view(-1, 1, 1), mode, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"name": "/no/such/folder"}, "cannot be loaded"), ({"name": "x", "class_name": "UNet2DModel"}, "not an autoencoder of diffusers")],
)
def test_bad_pretrained_autoencoders(
    clips: Clips, tmp_path: Path, options: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=expected):
        load_autoencoder(PretrainedAutoencoder(kind="pretrained", **options), clips, tmp_path, CPU, quiet)  # type: ignore[arg-type]
    assert not list((tmp_path / "autoencoder").iterdir())


def test_dead_channels_are_an_error(clips: Clips) -> None:
    class Dead(torch.nn.Module):
        def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor]:
            return (torch.zeros(len(frames), 4, 4, 4),)

    with pytest.raises(ValueError, match="dead or broken"):
        FrameAutoencoder(Dead(), unshuffle=1).measure_statistics(clips.splits["train"], CPU)


def test_a_half_made_cache_is_never_seen(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    with pytest.raises(RuntimeError), fresh_folder(folder) as temp:
        (temp / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
