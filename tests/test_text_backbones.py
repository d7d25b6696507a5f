"""Captions in the backbones: each clip attends to its own, padding has no effect, and without text nothing is there."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.backbone import Text, load_backbone
from bench.shapes import LatentSpec, Refusal

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
TOLD = SPEC.with_text(12, 5)
NAMES = ("dit:DiT-XS/2", "baselines:UNet-XS")
SHAPES = {
    "dit:DiT-XS/2": [(2, 4, 6), (4, 2, 2), (4, 2, 2), (2, 6, 4), (1, 8, 2)],  # a mixed pack, in another order inside
    "baselines:UNet-XS": [(2, 4, 6)] * 5,
}


def awake(name: str, spec: LatentSpec = TOLD) -> Any:
    """With random weights: the zeros a model starts from would let any mistake pass."""
    torch.manual_seed(0)
    model: Any = load_backbone(name, spec)
    for weight in model.parameters():
        if not bool(weight.any()):
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval()


def inputs(shapes: list[tuple[int, int, int]], seed: int = 1) -> tuple[list[Tensor], Tensor, Tensor, Text]:
    generator = torch.Generator().manual_seed(seed)
    num = len(shapes)
    mask = torch.arange(TOLD.text_tokens) < torch.tensor([5, 3, 1, 2, 4])[:num, None]
    text = Text(tokens=torch.randn(num, TOLD.text_tokens, TOLD.text_width, generator=generator), mask=mask)
    latents = [torch.randn(3, *shape, generator=generator) for shape in shapes]
    return latents, torch.rand(num, generator=generator), torch.arange(num) % 5, text


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_clip_sees_its_own_caption(name: str) -> None:
    model = awake(name)
    latents, timesteps, labels, text = inputs(SHAPES[name])
    together = model(latents, timesteps, labels, text=text)
    for index, clip in enumerate(latents):
        one = slice(index, index + 1)
        alone = model([clip], timesteps[one], labels[one], text=Text(tokens=text.tokens[one], mask=text.mask[one]))[0]
        assert_close(together[index], alone, rtol=1e-4, atol=1e-5)
    tokens = text.tokens.clone()
    tokens[1] += torch.randn(tokens[1].shape, generator=torch.Generator().manual_seed(5))
    changed = model(latents, timesteps, labels, text=Text(tokens=tokens, mask=text.mask))
    differs = [not torch.allclose(a, b, atol=1e-6) for a, b in zip(together, changed, strict=True)]
    assert differs == [index == 1 for index in range(len(latents))]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_the_mask_leaves_out_has_no_effect(name: str) -> None:
    model = awake(name)
    latents, timesteps, labels, text = inputs(SHAPES[name])
    loud = torch.where(text.mask[..., None], text.tokens, 1e3)
    expected = model(latents, timesteps, labels, text=text)
    found = model(latents, timesteps, labels, text=Text(tokens=loud, mask=text.mask))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    longer = Text(tokens=torch.cat([text.tokens, torch.ones(len(latents), 3, 12)], 1), mask=torch.nn.functional.pad(text.mask, (0, 3)))
    assert_close(model(latents, timesteps, labels, text=longer), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_dit_starts_as_without_text() -> None:
    torch.manual_seed(0)
    told: Any = load_backbone("dit:DiT-XS/2", TOLD)
    for parameter in told.final.parameters():
        torch.nn.init.normal_(parameter)
    plain: Any = load_backbone("dit:DiT-XS/2", SPEC)
    assert plain.load_state_dict(told.state_dict(), strict=False).missing_keys == []
    latents, timesteps, labels, text = inputs(SHAPES["dit:DiT-XS/2"])
    assert_close(told(latents, timesteps, labels, text=text), plain(latents, timesteps, labels), rtol=0, atol=0)


@torch.no_grad()
def test_tokens_that_are_dropped_do_not_mix_up_captions() -> None:
    model = awake("dit:DiT-XS/2")
    latents, timesteps, labels, text = inputs(SHAPES["dit:DiT-XS/2"])
    kept = [torch.arange(0, model.num_tokens(tuple(clip.shape[1:])), 2) for clip in latents]
    together = model(latents, timesteps, labels, kept=kept, text=text)
    for index in range(len(latents)):
        one = slice(index, index + 1)
        own = Text(tokens=text.tokens[one], mask=text.mask[one])
        alone = model(latents[one], timesteps[one], labels[one], kept=kept[one], text=own)[0]
        assert_close(together[index], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_graph_for_all_packs_says_the_same() -> None:
    from dit.attention import attend_to_text, attend_to_text_masked
    from dit.packing import clips_of

    generator = torch.Generator().manual_seed(0)
    for seqlens in ((6, 6, 6), (4, 2, 6)):
        sums = torch.tensor([0, *torch.tensor(seqlens).cumsum(0)], dtype=torch.int32)
        clips = clips_of(seqlens, sums, torch.float32)
        query, text = torch.randn(sum(seqlens), 2, 8, generator=generator), torch.randn(3, 5, 2, 2, 8, generator=generator)
        mask = torch.arange(5) < torch.tensor([[1], [5], [3]])
        assert_close(attend_to_text(query, text, mask, clips), attend_to_text_masked(query, text, mask, clips))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_the_text_learns(name: str) -> None:
    model = awake(name).train()
    latents, timesteps, labels, text = inputs(SHAPES[name])
    sum(clip.square().sum() for clip in model(latents, timesteps, labels, text=text)).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not bool(weight.grad.any())]


@pytest.mark.parametrize("name", NAMES)
def test_without_text_there_is_nothing_of_it(name: str) -> None:
    model: Any = load_backbone(name, SPEC)
    assert not [key for key in model.state_dict() if "text_" in key]
    latents, timesteps, labels, text = inputs(SHAPES[name])
    with pytest.raises(Refusal, match="text_width=0 and got text; leave it out"):
        model(latents, timesteps, labels, text=text)
    with pytest.raises(Refusal, match="text_width=12 and got no text"):
        load_backbone(name, TOLD)(latents, timesteps, labels)


def test_the_image_twin_reads_captions_too() -> None:
    from baselines import BACKBONES
    from baselines.twin import one_frame_gap

    assert one_frame_gap(BACKBONES["UNet-XS"], TOLD) < 1e-5
