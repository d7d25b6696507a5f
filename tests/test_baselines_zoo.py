"""Video backbones of diffusers: every class of the table keeps the contract, and is what diffusers makes of the same weights."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from baselines.diffusers_zoo import BACKBONES, CLASSES, class_defaults
from baselines.diffusers_zoo.calls import CALLS, POSITIONS, Inputs, ltx
from baselines.diffusers_zoo.model import DiffusersBackbone
from bench.backbone import find_factory
from bench.meters.flops import count_flops
from bench.shapes import LatentSpec, Shape

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
SHAPE = (3, 4, 6)

# Weights that reach no output, by class: the last block of a dual stream works on text that nobody reads any more.
LAST = "model.transformer_blocks.2."
UNUSED = {
    "EasyAnimateTransformer3DModel": (f"{LAST}attn1.to_add_out", f"{LAST}attn1.add_q", f"{LAST}attn1.norm_added_q", f"{LAST}txt_ff"),
    "MochiTransformer3DModel": (f"{LAST}attn1.add_q", f"{LAST}attn1.norm_added_q"),
}


def build(name: str, spec: LatentSpec = SPEC) -> DiffusersBackbone:
    """The model at its small or its given configuration, with random weights where it starts from zeros, which would hide mistakes."""
    torch.manual_seed(0)
    model: Any = find_factory(f"baselines.diffusers_zoo:{name}")(spec)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model


def batch(num_clips: int = 2, shape: Shape = SHAPE) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(num_clips, 3, *shape, generator=generator)
    return list(clips), torch.rand(num_clips, generator=generator), torch.arange(num_clips) % 4


@pytest.mark.parametrize("name", BACKBONES)
def test_the_contract(name: str) -> None:
    model = build(name)
    latents, timesteps, labels = batch()
    state = torch.get_rng_state()
    outputs = model(latents, timesteps, labels)
    assert torch.equal(state, torch.get_rng_state())
    assert [output.shape for output in outputs] == [(3, *SHAPE)] * 2
    for index, output in enumerate(outputs):
        one = slice(index, index + 1)
        assert_close(model(latents[one], timesteps[one], labels[one])[0], output, atol=1e-5, rtol=1e-5)

    null = torch.full_like(labels, SPEC.num_labels)
    frames_swapped = [clip.flip(1) for clip in latents]
    transposed = [clip.mT for clip in latents]
    for changed, least in (
        (model(latents, 1 - timesteps, labels), 1e-2),
        (model(latents, timesteps, null), 1e-4),
        ([clip.flip(1) for clip in model(frames_swapped, timesteps, labels)], 1e-3),  # frames are in an order
        ([clip.mT for clip in model(transposed, timesteps, labels)], 1e-3),  # height is not width
    ):
        for before, after in zip(outputs, changed, strict=True):
            assert (after - before).abs().max() > least

    torch.stack(outputs).square().sum().backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert all(key.startswith(UNUSED.get(name, ())) for key in unused), unused
    assert all(any(key.startswith(prefix) for key in unused) for prefix in UNUSED.get(name, ()))


@pytest.mark.parametrize("name", BACKBONES)
def test_it_calculates_on_meta_and_makes_nothing_elsewhere(name: str) -> None:
    """Tensors made on the default device, here the CPU, would meet those on `meta` and fail: the same mistake as on a GPU."""
    assert count_flops(f"diffusers:{name}", SPEC, SHAPE) > 10**7
    with torch.device("meta"):
        model = BACKBONES[name](SPEC)
    assert {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]} == {"meta"}
    latents = [torch.empty(3, *SHAPE, device="meta")] * 2
    outputs = model(latents, torch.empty(2, device="meta"), torch.zeros(2, dtype=torch.long, device="meta"))
    assert [output.device.type for output in outputs] == ["meta"] * 2


@pytest.mark.parametrize("name", BACKBONES)
def test_shapes_tokens_and_blocks(name: str) -> None:
    model = build(name, LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=0))
    is_unet = name.startswith("UNet")
    assert model.num_tokens((3, 4, 6)) == (72 if is_unet else 18)
    with pytest.raises(ValueError, match=f"{name} needs latent width divisible by 2, got 5"):
        model.check((3, 4, 5))
    for shape in [(1, 2, 8), (5, 6, 2)]:  # with the same weights, one frame among them
        latents, timesteps, _ = batch(1, shape)
        (output,) = model(latents, timesteps, None)
        assert output.shape == (3, *shape)
        assert output.isfinite().all()
    blocks = model.repeated_blocks()
    assert len(blocks) >= 3
    assert not any(inner in outer.modules() for inner in blocks for outer in blocks if inner is not outer)
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("AllegroTransformer3DModel{attention_head_dim: 12, interpolation_scale_t: 1.0}", SHAPE),
        ("CogVideoXTransformer3DModel{patch_size_t: 2, use_rotary_positional_embeddings: true}", (4, 4, 6)),
        ("CosmosTransformer3DModel{extra_pos_embed_type: learnable, patch_size: [3, 2, 1]}", SHAPE),
        ("EasyAnimateTransformer3DModel{mmdit_layers: 1}", SHAPE),
        ("HunyuanVideoTransformer3DModel{attention_head_dim: 48, patch_size_t: 3}", SHAPE),
        ("LTXVideoTransformer3DModel{num_attention_heads: 3, patch_size: 1, patch_size_t: 3}", SHAPE),
        ("LatteTransformer3DModel{num_attention_heads: 3}", SHAPE),
        ("MochiTransformer3DModel{num_attention_heads: 3}", SHAPE),
        ("MotifVideoTransformer3DModel{attention_head_dim: 48, patch_size_t: 3}", SHAPE),
        ("SanaVideoTransformer3DModel{num_attention_heads: 3, patch_size: [3, 4, 2]}", SHAPE),
        ("SkyReelsV2Transformer3DModel{num_layers: 1, patch_size: [1, 2, 3]}", SHAPE),
        ("UNet3DConditionModel{block_out_channels: [32, 64, 96]}", (3, 4, 8)),
        ("UNetMotionModel{block_out_channels: [32, 64, 96], layers_per_block: [1, 1, 2]}", (3, 4, 8)),
        ("UNetSpatioTemporalConditionModel{block_out_channels: [32, 64, 96]}", (3, 4, 8)),
        ("WanTransformer3DModel{num_layers: 2, patch_size: [3, 1, 2], qk_norm: null}", SHAPE),
    ],
)
def test_any_field_may_be_changed(name: str, shape: Shape) -> None:
    """What follows from a field follows: widths of attention, rotary axes, the kinds of a U-Net's blocks."""
    model = build(name)
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in model.config.changes.items()}
    assert {key: model.model.config[key] for key in fields} == fields
    assert model(*batch(shape=shape))[1].shape == (3, *shape)


def test_channels_of_a_class_are_those_of_the_latents() -> None:
    for channels in (1, 5):
        spec = LatentSpec(latent_channels=channels, spatial_stride=8, temporal_stride=4, num_labels=0)
        for factory in BACKBONES.values():
            (output,) = factory(spec)([torch.ones(channels, *SHAPE)], torch.zeros(1), None)
            assert output.shape == (channels, *SHAPE)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("LatteTransformer3DModel", {"video_length": 3}),
        ("CogVideoXTransformer3DModel", {"sample_frames": 3, "sample_height": 4, "sample_width": 6}),
        ("ConsisIDTransformer3DModel", {"sample_frames": 3, "sample_height": 4, "sample_width": 6}),
        ("CogVideoXTransformer3DModel{temporal_compression_ratio: 4}", {"sample_frames": 9, "sample_height": 4, "sample_width": 6}),
    ],
)
def test_positions_are_those_of_the_class_as_shipped(name: str, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter makes them once a shape; the class itself, built for this shape, must agree with it to the last bit."""
    model = build(name)
    latents, timesteps, labels = batch()
    model(*batch(shape=(5, 8, 2)))  # another shape first, whose positions must not stay
    actual = torch.stack(model(latents, timesteps, labels))
    for function in ("get_2d_sincos_pos_embed", "get_3d_sincos_pos_embed"):
        monkeypatch.setattr(f"diffusers.models.embeddings.{function}", lambda *_, **__: pytest.fail("positions made anew"))
    model(latents, timesteps, labels)
    monkeypatch.undo()
    shipped = type(model.model)(**{**model.model.config, **sizes})
    shipped.load_state_dict(model.model.state_dict())
    model.model = shipped
    monkeypatch.setitem(POSITIONS, model.config.name, lambda *_: None)
    model.positions._kept = None
    assert_close(torch.stack(model(latents, timesteps, labels)), actual, atol=0, rtol=0)


def test_mochi_rotates_as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("MochiTransformer3DModel")
    actual = torch.stack(model(*batch()))
    del model.model.rope._create_rope  # the method of its class again
    monkeypatch.setitem(POSITIONS, "MochiTransformer3DModel", lambda *_: None)
    model.positions._kept = None
    with pytest.warns(UserWarning, match="autocast"):
        assert_close(torch.stack(model(*batch())), actual, atol=1e-6, rtol=1e-5)


def test_ltx_gets_its_patches_back_where_they_were() -> None:
    """A model that returns what it gets: packing and unpacking must be inverses, with patches of other sizes on each axis."""

    class Echo:
        config = build("LTXVideoTransformer3DModel{patch_size: 2, patch_size_t: 3}").model.config

        def __call__(self, *, hidden_states: Tensor, **rest: Any) -> tuple[Tensor]:
            assert hidden_states.shape == (2, 2 * 2 * 3, 3 * 3 * 4)  # (B, N, P)
            assert (rest["num_frames"], rest["height"], rest["width"]) == (2, 2, 3)
            return (hidden_states,)

    clips = torch.randn(2, 3, 6, 4, 6)
    inputs = Inputs(clips=clips, timesteps=torch.zeros(2), context=torch.zeros(2, 2, 8), pooled=None, positions=None, strides=(1, 4, 4))
    assert torch.equal(ltx(Echo(), inputs), clips)


def test_sampling_first_does_not_spoil_training() -> None:
    for name in (*POSITIONS, "CogVideoXTransformer3DModel{use_rotary_positional_embeddings: true}"):
        model = build(name)
        latents, timesteps, labels = batch()
        with torch.inference_mode():
            before = torch.stack(model(latents, timesteps, labels))
        after = torch.stack(model(latents, timesteps, labels))
        after.square().sum().backward()
        assert torch.equal(before, after)
        copied = copy.deepcopy(model)
        assert torch.equal(torch.stack(copied(latents, timesteps, labels)), before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LatteTransformer3DModl", "did you mean 'diffusers:LatteTransformer3DModel'?"),
        ("LatteTransformer3DModel{num_layrs: 3}", "no field 'num_layrs' (did you mean 'num_layers'?)"),
        ("LatteTransformer3DModel{in_channels: 8}", "'in_channels' of LatteTransformer3DModel follows from the latent space"),
        ("LatteTransformer3DModel{dropout: 0.1}", "must be 0.0 here"),
        ("CogVideoXTransformer3DModel{ofs_embed_dim: 16}", "must be None here"),
        ("LatteTransformer3DModel{num_layers: three}", "field 'num_layers' is int, got 'three'"),
        ("LatteTransformer3DModel{patch_size: 0}", "use 1 or more"),
        ("WanTransformer3DModel{patch_size: [1, 2]}", "too many values, or too few"),
        ("UNet3DConditionModel{block_out_channels: 64}", "too many values, or too few"),
        ("CosmosTransformer3DModel{max_size: 64}", "too many values, or too few"),
    ],
)
def test_bad_names_are_refused_without_building(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match="backbone") as error:
        find_factory(f"diffusers:{name}")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_configurations_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"diffusers cannot build UNet3DConditionModel with .*33.* must be divisible by num_groups"):
        build("UNet3DConditionModel{block_out_channels: [33, 64]}")
    with pytest.raises(ValueError, match=r"AllegroTransformer3DModel with \{'attention_head_dim': 32\} cannot take latents"):
        count_flops("diffusers:AllegroTransformer3DModel{attention_head_dim: 32}", SPEC, SHAPE)
    with pytest.raises(ValueError, match="UNetMotionModel has positions for latent frames up to 2, got 3"):
        BACKBONES["UNetMotionModel"].configured(motion_max_seq_length=2).check(SHAPE)
    with pytest.raises(ValueError, match="positions for latent height up to 2, got 4"):
        BACKBONES["WanTransformer3DModel"].configured(rope_max_seq_len=2, patch_size=[2, 1, 4]).check((4, 4, 4))


def test_bad_calls_name_the_remedy() -> None:
    model = build("LatteTransformer3DModel")
    latents, timesteps, labels = batch()
    for arguments, expected in (
        (([], timesteps, labels), "at least one clip"),
        (([latents[0], latents[1][:, :2]], timesteps, labels), "use batching='bucket'"),
        (([clip[:2] for clip in latents], timesteps, labels), r"latents\[0\] has shape"),
        ((latents, timesteps[:1], labels), "timesteps has shape"),
        ((latents, timesteps, None), "num_labels=4, got labels=None"),
    ):
        with pytest.raises(ValueError, match=expected):
            model(*arguments)


def test_the_table_names_what_diffusers_has() -> None:
    assert CALLS.keys() < CLASSES.keys()
    assert POSITIONS.keys() < CLASSES.keys()
    for name, row in CLASSES.items():
        fields = class_defaults(CLASSES[name].module, name)
        named = {row.context, *row.small, *row.derived, *row.fixed, *([row.pooled] if row.pooled else [])}
        assert named <= set(fields), name
        shipped = getattr(importlib.import_module(f"diffusers.models.{row.module}"), name)
        assert tuple(shipped._get_init_keys(shipped) - {"self"}) and set(fields) == shipped._get_init_keys(shipped) - {"self"}


def test_naming_them_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys\n"
        "from bench.backbone import find_factory\n"
        "factory = find_factory('diffusers:LatteTransformer3DModel{num_layers: 2}')\n"
        "factory.check((3, 4, 6)); factory.num_tokens((3, 4, 6))\n"
        "assert not {'torch', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
