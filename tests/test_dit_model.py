"""The patch transformer: it is DiT, learns with every weight, and keeps the contract. `test_dit_packed.py` has its packs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from bench.meters.storage import StorageMeter
from bench.shapes import LatentSpec
from dit import DiTConfig
from dit.model import DiT
from tests.small_dit import MIXED, SPEC, UNIFORM, batch, losses, small_dit


def test_every_weight_is_used() -> None:
    model = small_dit()
    torch.stack([output.square().sum() for output in model(*batch(MIXED))]).sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_order_along_each_axis_matters(axis: int, positions: str) -> None:
    """Without positions a transformer would give the swapped clip the swapped output."""
    model = small_dit(patch_size=(1, 1, 1), positions=positions)
    (latents,), timesteps, labels = batch([(3, 4, 5)])
    rolled = latents.roll(1, dims=axis)
    difference = model([rolled], timesteps, labels)[0] - model([latents], timesteps, labels)[0].roll(1, dims=axis)
    assert difference.abs().max() > 1e-3


def test_axes_are_not_interchangeable() -> None:
    model = small_dit(patch_size=(1, 1, 1))
    (latents,), timesteps, labels = batch([(3, 4, 5)])
    for axes in [(0, 2, 1, 3), (0, 1, 3, 2), (0, 3, 2, 1)]:
        swapped = model([latents.permute(axes)], timesteps, labels)[0].permute(axes)
        assert (swapped - model([latents], timesteps, labels)[0]).abs().max() > 1e-3


def test_time_and_label_reach_every_clip() -> None:
    model = small_dit()
    latents, timesteps, labels = batch(MIXED)
    labels = labels % SPEC.num_labels
    base = model(latents, timesteps, labels)
    null = torch.full_like(labels, SPEC.num_labels)
    for changed in (model(latents, 1 - timesteps, labels), model(latents, timesteps, null)):
        assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(base, changed, strict=True))


def test_without_labels() -> None:
    spec = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=0)
    model, (latents, timesteps, labels) = small_dit(spec), batch(MIXED)
    assert model.label_embed is None
    assert [output.shape for output in model(latents, timesteps, None)] == [clip.shape for clip in latents]
    with pytest.raises(ValueError, match=r"num_labels=0.*pass labels=None"):
        model(latents, timesteps, labels)
    with pytest.raises(ValueError, match=r"num_labels=4, got labels=None; pass labels \(B,\), 4 for none"):
        small_dit()(latents, timesteps, None)


def test_wrong_inputs_are_named() -> None:
    model = small_dit()
    latents, timesteps, labels = batch(MIXED)
    with pytest.raises(ValueError, match="empty list"):
        model([], timesteps, labels)
    with pytest.raises(ValueError, match=r"latents\[1\] has shape \(2, 4, 2, 2\), expected \(3, any, any, any\)"):
        model([latents[0], latents[1][:2]], timesteps[:2], labels[:2])
    with pytest.raises(ValueError, match="width divisible by 2, got 5"):
        model([latents[0][..., :5]], timesteps[:1], labels[:1])
    with pytest.raises(ValueError, match=r"timesteps has shape \(4,\), expected \(5\)"):
        model(latents, timesteps[:4], labels)
    with pytest.raises(ValueError, match=r"labels has shape \(4,\), expected \(5\)"):
        model(latents, timesteps, labels[:4])


def test_starts_by_predicting_zero() -> None:
    model = DiT(DiTConfig(depth=2, hidden_size=48, num_heads=2, patch_size=(1, 2, 2)), SPEC)
    assert all(not output.any() for output in model(*batch(MIXED)))
    assert model.label_embed is not None and len(model.label_embed.weight) == 5
    assert model.label_embed.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_same_seed_same_weights_and_outputs_and_no_global_draws() -> None:
    first, second = small_dit().train(), small_dit().train()
    state = torch.get_rng_state()
    for a, b in zip(first(*batch(MIXED)), second(*batch(MIXED)), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("shapes", [MIXED, UNIFORM])
def test_bfloat16_autocast(shapes: list[tuple[int, int, int]]) -> None:
    model = small_dit()
    exact = model(*batch(shapes))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(*batch(shapes))
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
    error = torch.cat([(a - b).flatten() for a, b in zip(outputs, exact, strict=True)]).norm()
    assert error / torch.cat([output.flatten() for output in exact]).norm() < 0.05


def step(model: DiT, shapes: list[tuple[int, int, int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of one training step."""
    outputs = model(*batch(shapes))
    return outputs, list(torch.autograd.grad(losses(outputs), list(model.parameters())))


def peak_bytes(model: nn.Module, loss: Callable[[], Tensor]) -> int:
    with StorageMeter(list(model.parameters())) as meter:
        loss().backward()
    return meter.peak_bytes


@pytest.mark.parametrize("shapes", [MIXED, UNIFORM])
def test_recomputing_its_blocks_changes_memory_only(shapes: list[tuple[int, int, int]]) -> None:
    plain, recomputed = small_dit(), small_dit()
    for block in recomputed.repeated_blocks():
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    for ours, expected in zip(step(recomputed, shapes), step(plain, shapes), strict=True):
        assert all(map(torch.equal, ours, expected))
    peak, plain_peak = (peak_bytes(model, lambda model=model: losses(model(*batch(20 * shapes)))) for model in (recomputed, plain))
    assert peak < 0.85 * plain_peak


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize(
    ("shapes", "positions", "bfloat16"), [(MIXED, "rotary", False), (UNIFORM, "sincos", False), (UNIFORM, "rotary", True)]
)
def test_each_block_compiles_in_one_graph(shapes: list[tuple[int, int, int]], positions: str, bfloat16: bool) -> None:
    plain, compiled = small_dit(positions=positions), small_dit(positions=positions)
    for block in compiled.repeated_blocks():
        block.compile(backend="aot_eager", fullgraph=True)  # all of the compiler but its code generator
    assert len(compiled.repeated_blocks()) == 2
    tolerance = 3e-2 if bfloat16 else 1e-5
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        results = zip(step(compiled, shapes), step(plain, shapes), strict=True)
    for ours, expected in results:
        for tensor, right in zip(ours, expected, strict=True):
            assert (tensor - right).norm() <= tolerance * right.norm()


def test_names_of_weights_are_those_of_earlier_checkpoints() -> None:
    layers = ["embed", "time_embed.into", "time_embed.out", "final_modulation", "final"]
    for index in range(2):
        layers += [f"blocks.{index}.{layer}" for layer in ("modulation", "attention.qkv", "attention.out", "mlp.0", "mlp.2")]
    names = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")} | {"label_embed.weight"}
    assert set(small_dit().state_dict()) == names


# What diffusers calls the layers of a block. Its query, key and value are three matrices.
BLOCK_NAMES = {
    "modulation": "norm1.linear",
    "attention.out": "attn1.to_out.0",
    "mlp.0": "ff.net.0.proj",
    "mlp.2": "ff.net.2",
}


def weights_from_diffusers(theirs: dict[str, Tensor], depth: int, patch_size: int) -> dict[str, Tensor]:
    """State of `DiTTransformer2DModel` -> state of `DiT`."""
    embedder = "transformer_blocks.0.norm1.emb"
    names = {
        "time_embed.into": f"{embedder}.timestep_embedder.linear_1",
        "time_embed.out": f"{embedder}.timestep_embedder.linear_2",
        "final_modulation": "proj_out_1",
    }
    for index in range(depth):
        names |= {f"blocks.{index}.{ours}": f"transformer_blocks.{index}.{name}" for ours, name in BLOCK_NAMES.items()}
    ours = {f"{name}.{part}": theirs[f"{other}.{part}"] for name, other in names.items() for part in ("weight", "bias")}
    ours["label_embed.weight"] = theirs[f"{embedder}.class_embedder.embedding_table.weight"]
    ours["embed.weight"] = theirs["pos_embed.proj.weight"].flatten(1)  # (D, C, p, p): our patches run in this order
    ours["embed.bias"] = theirs["pos_embed.proj.bias"]
    for part in ("weight", "bias"):
        for index in range(depth):
            matrices = [theirs[f"transformer_blocks.{index}.attn1.to_{name}.{part}"] for name in "qkv"]
            ours[f"blocks.{index}.attention.qkv.{part}"] = torch.cat(matrices)
        last = theirs[f"proj_out_2.{part}"]  # rows in order (p, p, C); ours are (C, p, p)
        ours[f"final.{part}"] = last.unflatten(0, (patch_size, patch_size, -1)).movedim(2, 0).flatten(0, 2)
    return ours


def diffusers_pair() -> tuple[nn.Module, DiT]:
    """`DiTTransformer2DModel` with random weights, and ours with the same ones."""
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    torch.manual_seed(0)
    theirs = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=3,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=4,
        norm_eps=1e-6,
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb = theirs.transformer_blocks[0].norm1.emb  # DiT has one embedder, diffusers one a block
    ours = DiT(DiTConfig(depth=3, hidden_size=48, num_heads=2, patch_size=(1, 2, 2), positions="sincos"), SPEC).eval()
    ours.load_state_dict(weights_from_diffusers(theirs.state_dict(), depth=3, patch_size=2))
    return theirs, ours


def test_one_frame_is_diffusers_dit() -> None:
    """The proof that this is DiT: same weights, same prediction as `DiTTransformer2DModel`."""
    theirs, ours = diffusers_pair()
    images, timesteps, labels = torch.randn(5, 3, 8, 8), torch.tensor([0.0, 0.123, 0.5, 0.987, 1.0]), torch.arange(5)
    with torch.no_grad():
        expected = theirs(images, 1000 * timesteps, class_labels=labels).sample
        actual = torch.cat(ours(list(images.unsqueeze(2)), timesteps, labels), dim=1).transpose(0, 1)
    assert expected.std() > 0.1 and math.isfinite(expected.std())
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_step_needs_less_memory_than_diffusers(bfloat16: bool) -> None:
    theirs, ours = diffusers_pair()
    images, timesteps, labels = torch.randn(32, 3, 8, 8), torch.rand(32), torch.arange(32) % 5

    def their_loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return theirs(images, 1000 * timesteps, class_labels=labels).sample.square().mean()

    def our_loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            return losses(ours(list(images.unsqueeze(2)), timesteps, labels))

    assert peak_bytes(ours, our_loss) < peak_bytes(theirs, their_loss)
