"""Extractors of somebody else's, for tests: factories with manifests, and networks to save as TorchScript."""

import torch
from torch import Tensor, nn


class Moments(nn.Module):
    """Clips (B, 3, T, H, W) -> (B, 6): mean of each colour and mean change of each from frame to frame, times weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 7.0))

    def forward(self, clips: Tensor) -> Tensor:
        change = (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean((2, 3, 4))
        return torch.cat([clips.mean((2, 3, 4)), change], dim=1) * self.weight


class StyleganV(nn.Module):
    """Called as StyleGAN-V's detector; 400 features whose black and white are the published distance apart."""

    def __init__(self, distance: float = 151.392) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor((distance / 400 / 4) ** 0.5))

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        x = x.float()
        if rescale:
            x = x * 2 / 255 - 1
        if resize:
            x = x[:, :, :1]  # loses time, so that a caller who asks for it is found out
        features = x.mean((2, 3, 4)).mean(1, keepdim=True).expand(-1, 400) * self.gain
        return features if return_features else features.softmax(1)


def moments() -> Moments:
    return Moments()


moments.manifest = {  # type: ignore[attr-defined]
    "name": "moments",
    "weights_sha256": "",  # filled by the test
    "dim": 6,
    "min_frames": 2,
    "license": "MIT",
}


def without_manifest() -> Moments:
    return Moments()


def not_a_module() -> int:
    return 3


not_a_module.manifest = {"name": "three", "weights_sha256": "0" * 64, "dim": 1}  # type: ignore[attr-defined]


def raises() -> Moments:
    raise RuntimeError("no weights")


def leaves() -> Moments:
    raise SystemExit(0)


raises.manifest = leaves.manifest = {"name": "broken", "weights_sha256": "0" * 64, "dim": 1}  # type: ignore[attr-defined]


ERROR: Exception = RuntimeError("no features")


class Raises(Moments):
    def forward(self, clips: Tensor) -> Tensor:
        raise ERROR


def moments_that_raise() -> Moments:
    return Raises()
