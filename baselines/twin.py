"""The image U-Net that a video U-Net contains: at initialisation, a one-frame video must get exactly what its twin gives the image.

Gen-1 (2302.03011, section 3.1) trains on images as one-frame videos; this is what makes that sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from baselines.unet import VideoUNet, sizes
from bench.backbone import Text

if TYPE_CHECKING:
    from baselines import UNetConfig
    from bench.shapes import LatentSpec

TEMPORAL = ("temp_convs", "temp_attentions", "transformer_in")  # parts of the video U-Net that its twin lacks


def image_twin(model: VideoUNet) -> UNet2DConditionModel:
    """Stable Diffusion's image U-Net with the spatial weights of `model`."""
    config = model.config
    twin = UNet2DConditionModel(
        **sizes(config, model.spec, "2D"),
        attention_head_dim=tuple(channels // config.head_dim for channels in config.block_channels),  # head counts, in spite of the name
        use_linear_projection=True,
    )
    spatial = {name: value for name, value in model.unet.state_dict().items() if not any(part in name for part in TEMPORAL)}
    twin.load_state_dict(spatial)
    return twin.eval()


@torch.no_grad()
def one_frame_gap(config: UNetConfig, spec: LatentSpec) -> float:
    """Largest difference between a fresh video U-Net on one frame and its twin on the image, relative to the largest output."""
    with torch.random.fork_rng(devices=[]):  # both models draw weights; the cell's own randomness must not notice
        torch.manual_seed(0)
        model = config(spec).eval()
        twin = image_twin(model)
        side = 2 ** len(config.block_channels)
        latents = [torch.randn(spec.input_channels, 1, side, side) for _ in range(2)]
        text = None
        if spec.text_width:  # a whole caption, and one of half as many tokens
            mask = torch.arange(spec.text_tokens) < torch.tensor([[spec.text_tokens], [max(1, spec.text_tokens // 2)]])
            text = Text(tokens=torch.randn(2, spec.text_tokens, spec.text_width), mask=mask)
    timesteps = torch.tensor([0.2, 0.8])
    labels = torch.tensor([0, spec.num_labels]) if spec.num_labels else None
    context, label = model.conditioning(2, labels)
    told: dict[str, Tensor] = {}
    if text is not None:
        context, told["encoder_attention_mask"] = model.with_text(context, text)
    expected = twin(torch.stack(latents)[:, :, 0], 1000 * timesteps, context, timestep_cond=label, **told).sample
    actual = torch.stack(model(latents, timesteps, labels, text=text))[:, :, 0]
    return float((actual - expected).abs().max() / expected.abs().max())
