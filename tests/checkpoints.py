"""Tiny random checkpoints in the formats that public ones have, saved by diffusers' own classes."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1}
UNET: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8}
DISCRETE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
# Class of the denoiser -> its fields, its scheduler with what it says beside its defaults, its autoencoder.
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any], str]] = {
    "DiTTransformer2DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 8, "sample_size": 4, "num_embeds_ada_norm": 5},
        "DDIMScheduler", {"beta_schedule": "linear", "clip_sample": False}, "AutoencoderKL",
    ),
    "UNet3DConditionModel": (
        {**UNET, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"), "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D")}
        | {"attention_head_dim": 4},
        "DDIMScheduler", DISCRETE, "AutoencoderKL",
    ),
    "UNetSpatioTemporalConditionModel": (
        {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 8, "in_channels": 8, "out_channels": 4}
        | {"num_attention_heads": (2, 4), "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24}
        | {"down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")}
        | {"up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")},
        "EulerDiscreteScheduler",
        {"prediction_type": "v_prediction", "timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0}
        | {"beta_schedule": "scaled_linear", "use_karras_sigmas": True},
        "AutoencoderKLTemporalDecoder",
    ),
    "LatteTransformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 8, "sample_size": 4, "patch_size": 2, "caption_channels": 8, "video_length": 4}
        | {"cross_attention_dim": 24, "norm_type": "ada_norm_single", "num_embeds_ada_norm": 1000, "norm_elementwise_affine": False}
        | {"attention_bias": True, "activation_fn": "gelu-approximate"},
        "DDIMScheduler", {"beta_schedule": "linear", "clip_sample": False}, "AutoencoderKL",
    ),
    "WanTransformer3DModel": (
        {**HEADS, "in_channels": 4, "out_channels": 4, "text_dim": 8, "freq_dim": 16, "ffn_dim": 24, "rope_max_seq_len": 32},
        "UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}, "AutoencoderKLWan",
    ),
    "CogVideoXTransformer3DModel": (
        {**HEADS, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_embed_dim": 8, "time_embed_dim": 8}
        | {"max_text_seq_length": 6, "sample_height": 4, "sample_width": 4, "sample_frames": 5, "use_rotary_positional_embeddings": True},
        "CogVideoXDDIMScheduler",
        DISCRETE | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "snr_shift_scale": 3.0},
        "AutoencoderKLCogVideoX",
    ),
}  # fmt: skip
TEXT = {"UNet3DConditionModel", "LatteTransformer3DModel", "WanTransformer3DModel", "CogVideoXTransformer3DModel"}
IMAGES = {"block_out_channels": (8, 8), "layers_per_block": 1, "latent_channels": 4, "down_block_types": ("DownEncoderBlock2D",) * 2}
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": IMAGES | {"norm_num_groups": 4, "up_block_types": ("UpDecoderBlock2D",) * 2},
    "AutoencoderKLTemporalDecoder": IMAGES | {"block_out_channels": (32, 32)},
    "AutoencoderKLWan": {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [True, True]}
    | {"latents_mean": [0.5, -1.0, 0.0, 2.0], "latents_std": [2.0, 1.0, 0.5, 4.0], "scale_factor_spatial": 4},
    "AutoencoderKLCogVideoX": {"block_out_channels": (4, 4, 4), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2}
    | {"down_block_types": ("CogVideoXDownBlock3D",) * 3, "up_block_types": ("CogVideoXUpBlock3D",) * 3},
}


@functools.cache
def network(name: str) -> Any:
    """A tiny one of a class, its weights random where they start from zeros, which would hide mistakes."""
    torch.manual_seed(0)
    made = getattr(diffusers, name)(**KINDS[name][0])
    for weight in made.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    return made.eval()


def save_checkpoint(name: str, folder: Path) -> Path:
    """A pipeline's folder of a denoiser of this class."""
    _, scheduler, options, autoencoder = KINDS[name]
    part = "unet" if name.startswith("UNet") else "transformer"
    network(name).save_pretrained(folder / part)
    getattr(diffusers, scheduler)(**options).save_pretrained(folder / "scheduler")
    torch.manual_seed(0)
    getattr(diffusers, autoencoder)(**AUTOENCODERS[autoencoder]).save_pretrained(folder / "vae")
    index = {"_class_name": "Pipeline", part: ["diffusers", name], "vae": ["diffusers", autoencoder], "scheduler": ["diffusers", scheduler]}
    if name in TEXT:
        index |= {"text_encoder": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def changed(folder: Path, file: str, to: Path, **fields: Any) -> Path:
    """A copy of a checkpoint with other fields in one of its JSON files."""
    shutil.copytree(folder, to)
    path = to / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return to
