"""The video U-Net: an image U-Net until its temporal layers open, and then one that sees time."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from torch.testing import assert_close

from baselines import UNetConfig
from baselines.blocks import FramePositions
from baselines.twin import image_twin
from baselines.unet import VideoUNet
from bench.shapes import LatentSpec

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
CONFIG = UNetConfig(block_channels=(16, 32), num_res_blocks=1, head_dim=8, norm_groups=8, context_width=24)
SHAPE = (3, 4, 6)


def small_unet(spec: LatentSpec = SPEC, *, open_temporal: bool = True) -> VideoUNet:
    """A tiny model; with `open_temporal`, random weights where it starts from zeros, which would let any mistake pass."""
    torch.manual_seed(0)
    model = CONFIG(spec)
    for parameter in model.parameters() if open_temporal else ():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.15)
    return model


def batch(num_clips: int = 3, shape: tuple[int, int, int] = SHAPE) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(num_clips, 3, *shape, generator=generator)
    return list(clips), torch.rand(num_clips, generator=generator), torch.arange(num_clips) % 4


def test_one_frame_is_the_image_unet_as_shipped() -> None:
    model = small_unet(open_temporal=False)
    latents, timesteps, labels = batch(shape=(1, 4, 6))
    context, label = model.conditioning(len(latents), labels)
    expected = image_twin(model)(torch.stack(latents)[:, :, 0], 1000 * timesteps, context, timestep_cond=label).sample
    actual = torch.stack(model(latents, timesteps, labels))[:, :, 0]
    assert expected.std() > 0.1
    assert_close(actual, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("num_labels", [0, 4])
def test_the_canary_sees_a_broken_temporal_layer(num_labels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=num_labels)
    (gap,) = CONFIG.canaries(spec).values()
    state = torch.get_rng_state()
    assert gap() < 1e-5
    assert torch.equal(state, torch.get_rng_state())
    monkeypatch.setattr(VideoUNet, "_initialise", lambda model: nn.init.normal_(model.context))
    assert gap() > 1e-3


def test_frames_do_not_meet_until_the_temporal_layers_open() -> None:
    (clip,), timesteps, labels = batch(1)
    for model, meets in ((small_unet(open_temporal=False), False), (small_unet(), True)):
        altered = clip.clone()
        altered[:, 2] += 1
        first, second = (model([frames], timesteps, labels)[0][:, :2] for frames in (clip, altered))
        assert torch.allclose(first, second, atol=1e-6) != meets


def test_temporal_attention_knows_the_order_of_frames() -> None:
    """With the temporal convolutions still closed, only positions can tell a shuffled clip from a shuffled prediction."""
    model = small_unet(open_temporal=False)
    for module in model.modules():
        if isinstance(module, TransformerTemporalModel):
            nn.init.normal_(module.proj_out.weight, std=0.3)
    (clip,), timesteps, labels = batch(1)

    def gap() -> float:
        order = torch.tensor([2, 0, 1])
        return (model([clip[:, order]], timesteps, labels)[0] - model([clip], timesteps, labels)[0][:, order]).abs().max().item()

    assert gap() > 1e-3
    for module in model.modules():
        if isinstance(module, FramePositions):
            module.forward = lambda tokens, num_frames: tokens  # type: ignore[method-assign]
    assert gap() < 1e-5


def test_height_and_width_are_not_interchangeable() -> None:
    model = small_unet()
    (clip,), timesteps, labels = batch(1)
    swapped = model([clip.transpose(2, 3)], timesteps, labels)[0].transpose(2, 3)
    assert (swapped - model([clip], timesteps, labels)[0]).abs().max() > 1e-3


def test_batch_of_one_equals_batch_of_many() -> None:
    model = small_unet()
    latents, timesteps, labels = batch()
    for index, output in enumerate(model(latents, timesteps, labels)):
        assert output.shape == (3, *SHAPE)
        one = slice(index, index + 1)
        assert_close(model(latents[one], timesteps[one], labels[one])[0], output, atol=1e-5, rtol=1e-5)


def test_every_weight_is_used() -> None:
    model = small_unet()
    torch.stack(model(*batch())).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]


def test_any_size_with_the_same_weights() -> None:
    model = small_unet()
    for shape in [(1, 2, 2), (7, 2, 8), (2, 6, 4)]:
        assert model(*batch(2, shape))[1].shape == (3, *shape)


def test_time_and_label_reach_every_clip() -> None:
    model = small_unet()
    latents, timesteps, labels = batch()
    base = model(latents, timesteps, labels)
    null = torch.full_like(labels, SPEC.num_labels)
    for changed in (model(latents, 1 - timesteps, labels), model(latents, timesteps, null)):
        assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(base, changed, strict=True))


def test_without_labels() -> None:
    spec = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=0)
    model, (latents, timesteps, labels) = small_unet(spec), batch()
    outputs = model(latents, timesteps, None)
    torch.stack(outputs).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    with pytest.raises(ValueError, match=r"num_labels=0.*pass labels=None"):
        model(latents, timesteps, labels)
    with pytest.raises(ValueError, match=r"num_labels=4, got labels=None; pass labels \(B,\), 4 for none"):
        small_unet()(latents, timesteps, None)


def test_wrong_inputs_are_named() -> None:
    model = small_unet()
    latents, timesteps, labels = batch()
    with pytest.raises(ValueError, match=r"UNet needs one shape per batch, got \[\(3, 4, 6\), \(3, 4, 4\)\]; use batching='bucket'"):
        model([latents[0], latents[1][..., :4], latents[2]], timesteps, labels)
    with pytest.raises(ValueError, match="width divisible by 2, got 5"):
        model([clip[..., :5] for clip in latents], timesteps, labels)
    with pytest.raises(ValueError, match=r"latents\[0\] has shape \(2, 3, 4, 6\), expected \(3, any, any, any\)"):
        model([clip[:2] for clip in latents], timesteps, labels)
    with pytest.raises(ValueError, match=r"timesteps has shape \(2,\), expected \(3\)"):
        model(latents, timesteps[:2], labels)
    with pytest.raises(ValueError, match=r"labels has shape \(2,\), expected \(3\)"):
        model(latents, timesteps, labels[:2])
    with pytest.raises(ValueError, match="empty list"):
        model([], timesteps, labels)


def test_label_embeddings_start_as_small_as_the_patch_transformers() -> None:
    model = CONFIG(LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=50))
    assert model.label_embed is not None
    assert model.label_embed.weight.shape == (51, CONFIG.context_width)
    assert model.label_embed.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_same_seed_same_weights_and_outputs_and_no_global_draws() -> None:
    """diffusers' dropout of 0.1 would fail this in training mode."""
    first, second = small_unet().train(), small_unet().train()
    state = torch.get_rng_state()
    for a, b in zip(first(*batch()), second(*batch()), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


def test_bfloat16_autocast() -> None:
    model = small_unet()
    exact = torch.stack(model(*batch()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = torch.stack(model(*batch()))
        outputs.float().square().mean().backward()
    assert (outputs - exact).norm() / exact.norm() < 0.05
