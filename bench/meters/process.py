"""What float32 means here."""

import torch


def use_exact_float32() -> None:
    """Float32 means float32 for convolutions too: by default cuDNN rounds them to TF32, a gift to a backbone made of them."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
