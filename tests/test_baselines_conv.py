"""The modern convolutional network: an image network of any weights on one frame, and what a clip's frames, label and text may change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from baselines import BACKBONES, ConvConfig, conv
from baselines.conv import KERNEL, over_space, over_time, response_norm, shuffled, unshuffled
from baselines.conv_twin import ImageTwin
from bench.backbone import Text, load_backbone
from bench.run.match.search import SHAPES
from bench.shapes import LatentSpec
from bench.training.canary import batch_against_single

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
CAPTIONED = dataclasses.replace(SPEC, text_width=10)
CONFIG = ConvConfig(block_channels=(16, 32), num_blocks=(1, 2))
SHAPE = (3, 4, 6)


def small_conv(spec: LatentSpec = SPEC, *, woken: bool = True) -> Any:
    """A tiny model; `woken`, with random weights where it starts from zeros, which would let any mistake pass."""
    torch.manual_seed(0)
    model = CONFIG(spec)
    for parameter in model.parameters() if woken else ():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.15)
    return model


def batch(num_clips: int = 3, shape: tuple[int, int, int] = SHAPE) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(num_clips, 3, *shape, generator=generator)
    return list(clips), torch.rand(num_clips, generator=generator), torch.arange(num_clips) % 4


def captions(num_clips: int = 3) -> Text:
    """Of 1, 2, ... tokens each."""
    tokens = torch.randn(num_clips, num_clips + 1, 10, generator=torch.Generator().manual_seed(2))
    return Text(tokens=tokens, mask=torch.arange(num_clips + 1) <= torch.arange(num_clips)[:, None])


def num_params(name: str) -> int:
    with torch.device("meta"):
        model: Any = load_backbone(name, LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("size", ["XS", "S", "B", "L", "XL"])
def test_sizes_match_the_patch_transformer_in_parameters(size: str) -> None:
    assert num_params(f"baselines:Conv-{size}") == pytest.approx(num_params(f"dit:DiT-{size}/2"), rel=0.02)


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, num_labels=0), CAPTIONED])
@pytest.mark.parametrize("broken", ["over_space", "over_time", "response_norm", "unshuffled"])
def test_the_canary_sees_a_broken_layer(spec: LatentSpec, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (gap,) = CONFIG.canaries(spec).values()
    state = torch.get_rng_state()
    assert gap() < 1e-5
    assert torch.equal(state, torch.get_rng_state())
    right: Callable[..., Tensor] = getattr(conv, broken)
    monkeypatch.setattr(conv, broken, lambda maps, *given: right(maps, *given) * torch.linspace(0.9, 1.1, right(maps, *given).shape[-1]))
    assert gap() > 1e-3


def test_one_frame_is_the_image_network_on_sides_that_differ() -> None:
    model, (latents, timesteps, labels) = small_conv(), batch(shape=(1, 4, 6))
    expected = ImageTwin(model)(torch.stack(latents)[:, :, 0], timesteps, labels, None)
    assert expected.std() > 0.05
    assert_close(torch.stack(model(latents, timesteps, labels))[:, :, 0], expected, atol=1e-5, rtol=1e-5)


def test_a_convolution_over_space_is_the_whole_kernel_at_any_size() -> None:
    layer = nn.Conv2d(5, 5, KERNEL, padding=3, groups=5)
    for height, width in [(1, 1), (1, 9), (2, 3), (4, 2), (8, 11)]:
        maps = torch.randn(2, 3, height, width, 5)
        expected = layer(maps.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).view_as(maps)
        assert_close(over_space(maps, layer), expected, atol=1e-5, rtol=1e-5)


def test_a_convolution_over_time_by_hand() -> None:
    """Two channels, four frames of one voxel: taps (before, 1 - before - after, after), ends repeated."""
    maps = torch.tensor([[1.0, 1], [2, 0], [4, 0], [8, 0]])[None, :, None, None]  # (1, 4, 1, 1, 2)
    taps = torch.tensor([[0.5, 1.0], [0.25, 0.0]])
    first = [0.5 * 1 + 0.25 * 1 + 0.25 * 2, 0.5 * 1 + 0.25 * 2 + 0.25 * 4, 0.5 * 2 + 0.25 * 4 + 0.25 * 8, 0.5 * 4 + 0.25 * 8 + 0.25 * 8]
    assert_close(over_time(maps, taps)[0, :, 0, 0], torch.tensor([first, [1.0, 1, 0, 0]]).t())
    assert torch.equal(over_time(maps[:, :1], taps), maps[:, :1])


def test_response_normalisation_by_hand() -> None:
    """Norms over all N voxels 5 and 1, their mean 3; of an input of zeros derivatives are finite."""
    values = torch.tensor([[[3.0, 0.0], [4.0, 1.0]]])  # (1, N 2, R 2)
    found = response_norm(values, torch.tensor([1.0, 2.0]))
    assert_close(found, values * torch.tensor([1 + 5 / 3, 1 + 2 / 3]), atol=1e-4, rtol=1e-4)
    assert_close(response_norm(100 * values, torch.tensor([1.0, 2.0])), 100 * found, atol=1e-2, rtol=1e-4)
    zeros = torch.zeros(1, 2, 2, requires_grad=True)
    response_norm(zeros, torch.ones(2)).sum().backward()
    assert zeros.grad is not None and zeros.grad.isfinite().all()


def test_shuffling_undoes_unshuffling_and_keeps_squares_together() -> None:
    maps = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6, 1)
    small = unshuffled(maps)
    assert small.shape == (1, 2, 2, 3, 4) and small[0, 0, 1, 2].tolist() == [16, 17, 22, 23]
    assert torch.equal(shuffled(small), maps)


def test_starts_closed_and_as_the_identity() -> None:
    model, (latents, timesteps, labels) = small_conv(woken=False), batch()
    assert not any(output.any() for output in model(latents, timesteps, labels))
    block = model.middle[0]
    maps = torch.randn(2, 3, 2, 3, 32)
    assert torch.equal(block(maps, block.modulation(torch.randn(2, 32)), None), maps)


def test_frames_meet_and_their_order_counts() -> None:
    model, ((clip,), timesteps, labels) = small_conv(), batch(1)
    altered = clip.clone()
    altered[:, 2] += 1
    base = model([clip], timesteps, labels)[0]
    assert (model([altered], timesteps, labels)[0] - base)[:, 0].abs().max() > 1e-3
    order = torch.tensor([2, 0, 1])
    assert (model([clip[:, order]], timesteps, labels)[0] - base[:, order]).abs().max() > 1e-3


def test_a_response_is_of_the_whole_clip() -> None:
    """With closed taps in time, frames meet in response normalisation alone."""
    model, ((clip,), timesteps, labels) = small_conv(), batch(1)
    for block in model.repeated_blocks():
        nn.init.zeros_(block.time)
    altered = clip.clone()
    altered[:, 2] *= 3
    assert (model([altered], timesteps, labels)[0] - model([clip], timesteps, labels)[0])[:, 0].abs().max() > 1e-3


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, num_labels=0), SPEC.with_known_frames()])
def test_a_batch_is_one_at_a_time(spec: LatentSpec) -> None:
    model = small_conv(spec).eval()
    with torch.no_grad():
        assert batch_against_single(model, spec, SHAPE, torch.device("cpu")) < 1e-5


def test_any_size_with_the_same_weights() -> None:
    model = small_conv()
    for shape in [(1, 2, 2), (7, 2, 8), (2, 6, 4)]:
        assert model(*batch(2, shape))[1].shape == (3, *shape)


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, num_labels=0), CAPTIONED])
def test_every_weight_is_used(spec: LatentSpec) -> None:
    model, (latents, timesteps, labels) = small_conv(spec), batch()
    outputs = model(latents, timesteps, labels if spec.num_labels else None, text=captions() if spec.text_width else None)
    torch.stack(outputs).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]


def test_time_and_label_reach_every_clip() -> None:
    model, (latents, timesteps, labels) = small_conv(), batch()
    base = model(latents, timesteps, labels)
    for changed in (model(latents, 1 - timesteps, labels), model(latents, timesteps, torch.full_like(labels, SPEC.num_labels))):
        assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(base, changed, strict=True))


def test_known_frames_are_taken_and_not_predicted() -> None:
    spec = SPEC.with_known_frames()
    model, (clips, timesteps, labels) = small_conv(spec), batch()
    given = [torch.cat([clip, torch.zeros(4, *SHAPE)]) for clip in clips]
    base = model(given, timesteps, labels)
    assert base[0].shape == (3, *SHAPE)
    given[0] = torch.cat([clips[0], torch.ones(4, *SHAPE)])
    assert not torch.allclose(model(given, timesteps, labels)[0], base[0], atol=1e-3)


def test_text_is_heard_where_its_mask_says() -> None:
    model, (latents, timesteps, labels), text = small_conv(CAPTIONED), batch(), captions()
    base = torch.stack(model(latents, timesteps, labels, text=text))
    for where, heard in ((text.mask, True), (~text.mask, False)):
        tokens = text.tokens + 3 * torch.randn(10) * where[..., None]
        changed = torch.stack(model(latents, timesteps, labels, text=Text(tokens=tokens, mask=text.mask)))
        assert [not torch.equal(a, b) for a, b in zip(changed, base, strict=True)] == [heard] * 3
    shorter = Text(tokens=text.tokens[:1, :1], mask=text.mask[:1, :1])  # the padding of a batch is no part of a caption
    assert_close(model(latents[:1], timesteps[:1], labels[:1], text=shorter)[0], base[0], atol=1e-5, rtol=1e-5)


def test_text_changes_nothing_at_the_start_and_costs_nothing_where_there_is_none() -> None:
    model, plain = small_conv(CAPTIONED, woken=False), small_conv(woken=False)
    assert not [name for name, _ in plain.named_modules() if "text" in name]
    for network in (model, plain):
        network.load_state_dict({name: torch.full_like(w, 0.01) for name, w in plain.state_dict().items()}, strict=False)
    latents, timesteps, labels = batch()
    told = model(latents, timesteps, labels, text=captions())
    for a, b in zip(told, plain(latents, timesteps, labels), strict=True):
        assert b.any() and torch.equal(a, b)


def test_wrong_inputs_are_named() -> None:
    model, (latents, timesteps, labels) = small_conv(), batch()
    with pytest.raises(ValueError, match=r"Conv needs one shape per batch, got \[\(3, 4, 6\), \(3, 4, 4\)\]; use batching='bucket'"):
        model([latents[0], latents[1][..., :4], latents[2]], timesteps, labels)
    with pytest.raises(ValueError, match=r"Conv needs latent width divisible by 2, got 5"):
        model([clip[..., :5] for clip in latents], timesteps, labels)
    with pytest.raises(ValueError, match=r"text_width=0 and got text; leave it out"):
        model(latents, timesteps, labels, text=captions())
    with pytest.raises(ValueError, match=r"text_width=10 and got no text; pass text"):
        small_conv(CAPTIONED)(latents, timesteps, labels)
    with pytest.raises(ValueError, match=r"Conv needs latent height divisible by 4, got 6 .*use 4 or 8"):
        BACKBONES["Conv-S"].check((5, 6, 8))


def test_impossible_configurations() -> None:
    with pytest.raises(ValueError, match="40 is not divisible by 16"):
        ConvConfig(block_channels=(32, 40), num_blocks=(1, 1))
    with pytest.raises(ValueError, match="one number for each level"):
        ConvConfig(block_channels=(32, 48), num_blocks=(1,))
    with pytest.raises(ValueError, match="cannot have 1 fewer"):
        CONFIG.scaled(1.0, -1)


def test_scaled_as_match_asks() -> None:
    config = BACKBONES["Conv-XS"]
    assert config.scaled(2.0, 1) == {"block_channels": [128, 352], "num_blocks": [3, 5]}
    assert config.scaled(2.0, 0, skew=0.5)["block_channels"] == [96, 448]  # 64 x 1.5, 176 x 2.5 to a multiple of 16
    for deeper, skew in SHAPES[:5]:
        sizes = config.scaled(1.7, deeper, skew)
        assert config.configured(**sizes).check((3, 4, 4)) is None
    assert config.configured(expansion=2).expansion == 2


def test_blocks_recomputed_in_backward_are_the_same_and_shards_hold_all_that_is_large() -> None:
    model = small_conv()
    units = model.shard_units()
    held = {id(weight) for unit in units for module in unit for weight in module.parameters()}
    blocks = {id(weight) for block in model.repeated_blocks() for weight in block.parameters()}
    assert blocks <= held and len(model.repeated_blocks()) == 1 + 2 + 1


def test_bfloat16_autocast() -> None:
    model = small_conv()
    exact = torch.stack(model(*batch()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = torch.stack(model(*batch()))
        outputs.float().square().mean().backward()
    assert (outputs - exact).norm() / exact.norm() < 0.05


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = small_conv(woken=False), small_conv(woken=False)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    taps = torch.cat([block.time.flatten() for block in first.repeated_blocks()])
    assert taps.abs().max() <= 1 / math.sqrt(3) and taps.std() > 0.2
