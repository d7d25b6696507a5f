"""The contract every backbone keeps, and how a name such as "dit:DiT-S/2" becomes one.

A plug-in is a module that exports `BACKBONES: dict[str, Factory]`. Importing it must be cheap and torch-free; its
factories import torch when they are called. This file knows no backbone by name.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Protocol

from bench.shapes import LatentSpec, Shape

if TYPE_CHECKING:
    from torch import Tensor

ENTRY_POINT_GROUP = "unet_vs_dit.backbones"


class Backbone(Protocol):
    """Latents in, prediction out, same shapes. Knows neither schedule, loss, guidance nor sampler. Is an `nn.Module`."""

    ragged: bool  # True: any mix of shapes in one batch; False: one shape per batch

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Latents, B tensors (C, T_i, H_i, W_i); timesteps (B,) in [0, 1], 1 = noise; labels (B,) int64, or None without classes."""
        ...

    def num_tokens(self, shape: Shape) -> int:
        """Cost of one clip of latent shape (T, H, W) to this backbone, in its own tokens."""
        ...

    def check(self, shape: Shape) -> None:
        """ValueError naming the axis, the size and the divisor, where a latent (T, H, W) cannot be taken."""
        ...


class Factory(Protocol):
    """Builds a backbone for a latent space. May also have `check(shape)`, so that shapes are checked before torch is imported."""

    def __call__(self, spec: LatentSpec) -> Backbone: ...


def find_factory(name: str) -> Factory:
    """Factory of "module:config". ValueError naming what is unknown and the nearest known name."""
    module_name, colon, config = name.partition(":")
    if not colon or not module_name or not config:
        raise ValueError(f"backbone {name!r} is not of the form module:config; known modules: {', '.join(known_modules())}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise ValueError(f"backbone module {module_name!r} needs the module {error.name!r}, which is not installed") from error
        raise ValueError(f"backbone {name!r}: no module {module_name!r} on the path{did_you_mean(module_name, known_modules())}") from error
    factories = getattr(module, "BACKBONES", None)
    if not isinstance(factories, dict):
        raise ValueError(f"backbone {name!r}: module {module_name!r} exports no dict BACKBONES, so it is not a plug-in")
    if config not in factories:
        names = [f"{module_name}:{known}" for known in factories]
        raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, names)}; {module_name} has {', '.join(factories)}")
    return factories[config]


def load_backbone(name: str, spec: LatentSpec) -> Backbone:
    """The backbone "module:config" for `spec`, with freshly initialised weights."""
    return find_factory(name)(spec)


def known_modules() -> list[str]:
    """Modules registered under the entry-point group, those of this project among them. Any other module on the path works too."""
    return sorted({point.value for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)})


def did_you_mean(name: str, known: list[str]) -> str:
    """' (did you mean X?)' where a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""
