"""Captions that say nothing, for backbones of which only the time, the memory and the counts are asked."""

import torch

from bench.backbone import Text
from bench.shapes import LatentSpec


def stand_in_text(spec: LatentSpec, num_clips: int, device: torch.device | str) -> dict[str, Text]:
    """What a backbone for this latent space is called with beside latents, timesteps and labels: whole captions, or nothing."""
    if not spec.text_width:
        return {}
    shape = (num_clips, spec.text_tokens, spec.text_width)
    return {"text": Text(tokens=torch.full(shape, 0.5, device=device), mask=torch.ones(shape[:2], dtype=torch.bool, device=device))}
