"""The video backbones of diffusers, by class name: "diffusers:LatteTransformer3DModel". Knows no torch and imports no diffusers.

Each is the class as it is shipped, at a small configuration, with labels in the place of text. Any field of its configuration may
be changed in the name: "diffusers:WanTransformer3DModel{num_layers: 6, num_attention_heads: 8}". `model.py` builds them.

Left out are classes whose forward wants more than noise, time and text, or that would leave the weights for it idle: an image (I2VGen-XL,
Framepack), a pose or a face (WanAnimate), a control signal (WanVACE), a camera (SanaWM), sound (LTX-2, MiniMax H3), an earlier clip
(Helios), a second time (AnyFlow). HunyuanVideo 1.5 sorts tokens by their values, so its FLOPs cannot be counted without running it;
Kandinsky 5 rounds queries and keys to bfloat16 in any precision; ChronoEdit is Wan again but for clips of two frames.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.backbone import check_field, tuples
from bench.shapes import LatentSpec, Refusal, Shape, check_divisible, num_voxels

if TYPE_CHECKING:
    from baselines.diffusers_zoo.model import DiffusersBackbone

Fields = dict[str, Any]

ANY = 2**30  # more latents than any clip has
TRANSFORMER = {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 3}  # D = 128
UNET = {"block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": 128}
COGVIDEO = {**TRANSFORMER, "patch_size": 2, "time_embed_dim": 128, "text_embed_dim": 128} | {
    "sample_height": 8, "sample_width": 8, "sample_frames": 9, "temporal_compression_ratio": 1,
}  # fmt: skip
# Learnt positions are a buffer that never learns, and of one size.
COGVIDEO_FIXED = {"dropout": 0.0, "max_text_seq_length": 2, "use_learned_positional_embeddings": False}
TEXT_TO_IMAGE = {"image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None}  # no picture beside the text


def width(fields: Fields) -> int:
    """D, in the classes that give it as heads times the width of one."""
    return fields["num_attention_heads"] * fields["attention_head_dim"]


def rotary_axes(fields: Fields) -> Shape:
    """The share of time, height and width in the rotary channels of a head: 16, 56 and 56 of 128, at any other width."""
    side = fields["attention_head_dim"] * 7 // 32 * 2
    return fields["attention_head_dim"] - 2 * side, side, side


def attending(suffix: str) -> dict[str, Callable[[Fields], tuple[str, ...]]]:
    """Block types of a U-Net of any number of levels: attention at every one but the innermost, as Stable Diffusion has it."""

    def down(fields: Fields) -> tuple[str, ...]:
        return (f"CrossAttnDownBlock{suffix}",) * (len(fields["block_out_channels"]) - 1) + (f"DownBlock{suffix}",)

    def up(fields: Fields) -> tuple[str, ...]:
        return (f"UpBlock{suffix}",) + (f"CrossAttnUpBlock{suffix}",) * (len(fields["block_out_channels"]) - 1)

    return {"down_block_types": down, "up_block_types": up}


def levels(fields: Fields) -> Shape:
    """Each level of a U-Net but the first halves height and width."""
    stride = 2 ** (len(fields["block_out_channels"]) - 1)
    return 1, stride, stride


def patch(fields: Fields) -> Shape:
    """Latent voxels per token, in the classes that give them in one or in two fields."""
    size = fields["patch_size"]
    frames, height, columns = size if isinstance(size, tuple) else (fields.get("patch_size_t") or 1, size, size)
    return frames, height, columns


@dataclass(frozen=True, kw_only=True)
class DiffusersClass:
    """How one class of diffusers is built; how it is called is in `calls.py`."""

    module: str  # where it is defined, under diffusers.models
    small: Fields  # the configuration that its name alone stands for
    context: str  # field: width of a token of text
    pooled: str | None = None  # field: width of the one vector of text that is added to time, where the class has that
    derived: dict[str, Callable[[Fields], Any]] = field(default_factory=dict)  # fields that follow from others unless they are given
    fixed: Fields = field(default_factory=dict)  # fields that the adapter relies on
    divisors: Callable[[Fields], Shape] = patch
    most: Callable[[Fields], Shape] = lambda fields: (ANY, ANY, ANY)  # the largest latent (T, H, W) it has positions for
    packed: bool = False  # takes patches, not latents: its channels are those of a patch


WAN_SIZES: dict[str, Callable[[Fields], Any]] = {"ffn_dim": lambda fields: 4 * width(fields)}
ROTARY_LIMIT = {"rope_max_seq_len": 1024}


def most_rotary(fields: Fields) -> Shape:
    """Rotary tables have rows for so many tokens an axis."""
    frames, height, columns = (fields["rope_max_seq_len"] * size for size in patch(fields))
    return frames, height, columns


CLASSES = {
    "AllegroTransformer3DModel": DiffusersClass(
        module="transformers.transformer_allegro", context="caption_channels",
        small={**TRANSFORMER, "num_attention_heads": 5, "attention_head_dim": 24, "patch_size": 2, "caption_channels": 128},
        derived={"cross_attention_dim": width},
        fixed={"dropout": 0.0, "patch_size_t": 1},  # its patches are of one frame, whatever the field says
    ),
    "CogVideoXTransformer3DModel": DiffusersClass(
        module="transformers.cogvideox_transformer_3d", context="text_embed_dim",
        small={**COGVIDEO, "patch_size_t": None},
        fixed={**COGVIDEO_FIXED, "ofs_embed_dim": None},
    ),
    "ConsisIDTransformer3DModel": DiffusersClass(
        module="transformers.consisid_transformer_3d", context="text_embed_dim",
        small=COGVIDEO,
        fixed={**COGVIDEO_FIXED, "is_train_face": False, "is_kps": False},
    ),
    "CosmosTransformer3DModel": DiffusersClass(
        module="transformers.transformer_cosmos", context="text_embed_dim",
        small={**TRANSFORMER, "patch_size": (1, 2, 2), "max_size": (128, 240, 240), "text_embed_dim": 128, "adaln_lora_dim": 64}
        | {"extra_pos_embed_type": None},
        # The mask of padding is resized with torchvision, and nothing is padded here.
        fixed={"concat_padding_mask": False, "use_crossattn_projection": False, "img_context_dim_in": None}
        | {"controlnet_block_every_n": None},
        most=lambda fields: fields["max_size"],
    ),
    "EasyAnimateTransformer3DModel": DiffusersClass(
        module="transformers.transformer_easyanimate", context="text_embed_dim",
        small={**TRANSFORMER, "patch_size": 2, "time_embed_dim": 128, "text_embed_dim": 128},
        fixed={"dropout": 0.0, "text_embed_dim_t5": None},
    ),
    "HunyuanVideoTransformer3DModel": DiffusersClass(
        module="transformers.transformer_hunyuan_video", context="text_embed_dim", pooled="pooled_projection_dim",
        small={**TRANSFORMER, "num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 1, "patch_size": 2, "patch_size_t": 1}
        | {"text_embed_dim": 128, "pooled_projection_dim": 128},
        derived={"rope_axes_dim": rotary_axes},
        fixed={"guidance_embeds": False, "image_condition_type": None},  # guidance as an input is for distilled weights
    ),
    "LTXVideoTransformer3DModel": DiffusersClass(
        module="transformers.transformer_ltx", context="caption_channels",
        small={**TRANSFORMER, "patch_size": 2, "patch_size_t": 1, "caption_channels": 128},
        derived={"cross_attention_dim": width},
        packed=True,
    ),
    "LatteTransformer3DModel": DiffusersClass(
        module="transformers.latte_transformer_3d", context="caption_channels",
        # The norms and biases of the published model.
        small={**TRANSFORMER, "patch_size": 2, "sample_size": 8, "caption_channels": 128, "norm_type": "ada_norm_single"}
        | {"num_embeds_ada_norm": 1000, "norm_elementwise_affine": False, "norm_eps": 1e-6, "attention_bias": True}
        | {"activation_fn": "gelu-approximate"},
        derived={"cross_attention_dim": width},
        fixed={"dropout": 0.0},
    ),
    "MochiTransformer3DModel": DiffusersClass(
        module="transformers.transformer_mochi", context="text_embed_dim",
        small={**TRANSFORMER, "patch_size": 2, "pooled_projection_dim": 128, "text_embed_dim": 128},
    ),
    "MotifVideoTransformer3DModel": DiffusersClass(
        module="transformers.transformer_motif_video", context="text_embed_dim",
        small={**TRANSFORMER, "num_layers": 2, "num_single_layers": 2, "patch_size": 2, "patch_size_t": 1, "text_embed_dim": 128},
        derived={"rope_axes_dim": rotary_axes},
        fixed={"image_embed_dim": None},
    ),
    "SanaVideoTransformer3DModel": DiffusersClass(
        module="transformers.transformer_sana_video", context="caption_channels",
        small={**TRANSFORMER, "patch_size": (1, 2, 2), "caption_channels": 128, **ROTARY_LIMIT},
        derived={"num_cross_attention_heads": lambda fields: fields["num_attention_heads"]}
        | {"cross_attention_head_dim": lambda fields: fields["attention_head_dim"], "cross_attention_dim": width},
        fixed={"dropout": 0.0, "guidance_embeds": False},
        most=most_rotary,
    ),
    "SkyReelsV2Transformer3DModel": DiffusersClass(
        module="transformers.transformer_skyreels_v2", context="text_dim",
        small={**TRANSFORMER, "patch_size": (1, 2, 2), "text_dim": 128, **ROTARY_LIMIT},
        derived=WAN_SIZES,
        fixed={**TEXT_TO_IMAGE, "inject_sample_info": False, "num_frame_per_block": 1},
        most=most_rotary,
    ),
    "UNet3DConditionModel": DiffusersClass(
        module="unets.unet_3d_condition", context="cross_attention_dim", pooled="time_cond_proj_dim",
        small={**UNET, "attention_head_dim": 16},
        derived={**attending("3D"), "time_cond_proj_dim": lambda fields: fields["cross_attention_dim"]},
        divisors=levels,
    ),
    "UNetMotionModel": DiffusersClass(
        module="unets.unet_motion_model", context="cross_attention_dim", pooled="time_cond_proj_dim",
        small={**UNET, "num_attention_heads": 4, "motion_num_attention_heads": 4, "motion_max_seq_length": 32},
        derived={**attending("Motion"), "time_cond_proj_dim": lambda fields: fields["cross_attention_dim"]},
        fixed={"encoder_hid_dim": None, "encoder_hid_dim_type": None, "addition_embed_type": None},
        divisors=levels,
        most=lambda fields: (fields["motion_max_seq_length"], ANY, ANY),
    ),
    "UNetSpatioTemporalConditionModel": DiffusersClass(
        module="unets.unet_spatio_temporal_condition", context="cross_attention_dim",
        small={**UNET, "num_attention_heads": 4, "addition_time_embed_dim": 64},
        derived=attending("SpatioTemporal")
        | {"projection_class_embeddings_input_dim": lambda fields: 3 * fields["addition_time_embed_dim"]},
        divisors=levels,
    ),
    "WanTransformer3DModel": DiffusersClass(
        module="transformers.transformer_wan", context="text_dim",
        small={**TRANSFORMER, "patch_size": (1, 2, 2), "text_dim": 128, **ROTARY_LIMIT},
        derived=WAN_SIZES,
        fixed=TEXT_TO_IMAGE,
        most=most_rotary,
    ),
}  # fmt: skip


@functools.cache
def class_defaults(module: str, name: str) -> dict[str, Any]:
    """Field -> default of a class's configuration, under diffusers.models, from its source: importing it would take seconds, and torch.

    None too where a field has no default, or one that is not a plain value.
    """
    spec = importlib.util.find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent.joinpath("models", *module.split(".")).with_suffix(".py").read_text()
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    (init,) = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    given = [*init.args.args[1:], *init.args.kwonlyargs]
    positional: list[ast.expr | None] = [None] * (len(init.args.args) - 1 - len(init.args.defaults))
    written = [*positional, *init.args.defaults, *init.args.kw_defaults]
    found: dict[str, Any] = {}
    for argument, default in zip(given, written, strict=True):
        found[argument.arg] = None
        with contextlib.suppress(ValueError):
            found[argument.arg] = None if default is None else tuples(ast.literal_eval(default))
    return found


@dataclass(frozen=True, kw_only=True)
class ZooConfig:
    """One class of diffusers at one configuration. Calling it with a `LatentSpec` builds the model."""

    channels: ClassVar = ("in_channels", "out_channels")  # fields that follow from the latent space
    name: str
    row: DiffusersClass
    changes: Fields = field(default_factory=dict)  # fields other than in the small configuration

    @functools.cached_property
    def fields(self) -> Fields:
        """The configuration, but for channels: what is not in it is as diffusers has it."""
        given = {**self.row.small, **self.changes, **self.row.fixed}
        return given | {key: derive(given) for key, derive in self.row.derived.items() if key not in given}

    def configured(self, **changes: Any) -> ZooConfig:
        """The class at another configuration. ValueError for a field that it lacks, or that is not for a matrix to set."""
        row = self.row
        for key in changes:
            check_field(key, list(class_defaults(row.module, self.name)))
            if key in self.channels:
                raise ValueError(f"field {key!r} of {self.name} follows from the latent space; leave it out")
            if key in row.fixed:
                raise ValueError(f"field {key!r} of {self.name} must be {row.fixed[key]!r} here; leave it out")
            check_kind(key, tuples(changes[key]), row.small.get(key))
        other = replace(self, changes={**self.changes, **{key: tuples(value) for key, value in changes.items()}})
        try:
            for sizes in (other.divisors, other.most):
                _, _, _ = sizes
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} has no such configuration as {changes}: a field has too many values, or too few") from error
        return other

    @property
    def divisors(self) -> Shape:
        """What latent (T, H, W) must be divisible by."""
        return self.row.divisors(self.fields)

    @property
    def most(self) -> Shape:
        """The largest latent (T, H, W)."""
        return self.row.most(self.fields)

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) do not divide into patches or levels, or are larger than the class has positions for."""
        check_sizes(self.name, shape, self.divisors, self.most)

    def num_tokens(self, shape: Shape) -> int:
        """Patches of a transformer, latent voxels of a U-Net, for one clip of latents (T, H, W)."""
        return tokens_of(self.row, self.divisors, shape)

    def __call__(self, spec: LatentSpec) -> DiffusersBackbone:
        """The model for this latent space, freshly initialised from torch's global generator."""
        from baselines.diffusers_zoo.model import DiffusersBackbone

        return DiffusersBackbone(self, spec)


def check_sizes(name: str, shape: Shape, divisors: Shape, most: Shape) -> None:
    """ValueError where latents (T, H, W) do not divide into patches or levels, or are larger than the class has positions for."""
    check_divisible(name, shape, divisors)
    for axis, size, largest in zip(("frames", "height", "width"), shape, most, strict=True):
        if size > largest:
            raise Refusal(f"{name} has positions for latent {axis} up to {largest}, got {size} (latents {shape})")


def tokens_of(row: DiffusersClass, divisors: Shape, shape: Shape) -> int:
    """Patches of a transformer, latent voxels of a U-Net, for one clip of latents (T, H, W)."""
    return num_voxels(shape) // (1 if row.divisors is levels else math.prod(divisors))


def check_kind(key: str, value: Any, example: Any) -> None:
    """ValueError where a field, or any of its values, is of another type than in the small configuration, or a number below 1."""
    examples, values = (each if isinstance(each, tuple) else (each,) for each in (example, value))
    kind = type(examples[0])
    if example is None or any(isinstance(each, tuple) for each in values):
        return  # nothing to compare with, or one value for every layer of every level
    for each in values:
        if type(each) is not kind and not (kind is float and type(each) is int):
            raise ValueError(f"field {key!r} is {kind.__name__}, got {value!r}")
        if kind is int and each < 1:
            raise ValueError(f"field {key!r} counts something, got {value!r}; use 1 or more")


BACKBONES = {name: ZooConfig(name=name, row=row) for name, row in CLASSES.items()}
