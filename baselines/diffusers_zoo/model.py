"""One adapter for every class of the table: the class as diffusers ships it, with labels in the place of text."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from baselines.diffusers_zoo.calls import CALLS, POSITIONS, Inputs, plain
from bench.backbone import check_inputs
from bench.shapes import LatentSpec, Refusal, Shape

if TYPE_CHECKING:
    from baselines.diffusers_zoo import ZooConfig

REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # of a configuration


class DiffusersBackbone(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`."""

    ragged = False

    def __init__(self, config: ZooConfig, spec: LatentSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.num_tokens, self.check = config.num_tokens, config.check
        self.model = build_class(config, spec)
        row = config.row
        # The text: two tokens, as with one softmax is 1 whatever the query, and query and key weights would count but never learn.
        # The last row of each table is the null label, used by label dropout and guidance.
        context_width = config.fields[row.context]
        self.context = nn.Parameter(torch.empty(2, context_width))
        self.context_label = nn.Embedding(spec.num_labels + 1, context_width) if spec.num_labels else None
        self.pooled: nn.Parameter | None = None
        self.pooled_label: nn.Embedding | None = None
        if row.pooled is not None:
            pooled_width = config.fields[row.pooled]
            self.pooled = nn.Parameter(torch.empty(pooled_width))
            self.pooled_label = nn.Embedding(spec.num_labels + 1, pooled_width) if spec.num_labels else None
        # As small as in the other backbones: labels at unit scale in one model only made a false gap in quality.
        for text in (self.context, self.pooled, *(table.weight for table in (self.context_label, self.pooled_label) if table is not None)):
            if text is not None:
                nn.init.normal_(text, std=0.02)
        self.positions = LastPositions(POSITIONS, config.name)

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        """B clips (C, T, H, W) of one shape, timesteps (B,) in [0, 1], labels (B,) or None -> B clips of the same shape."""
        check_inputs(self.config.name, self, self.spec, latents, timesteps, labels)
        clips = torch.stack(latents)  # (B, C, T, H, W)
        context, pooled = self.conditioning(len(latents), labels)
        try:
            inputs = Inputs(
                clips=clips,
                timesteps=1000.0 * timesteps.float(),  # the clock of their discrete schedules
                context=context,
                pooled=pooled,
                positions=self.positions.of(self.model, clips),
                strides=(self.spec.temporal_stride, self.spec.spatial_stride, self.spec.spatial_stride),
            )
            return list(CALLS.get(self.config.name, plain)(self.model, inputs))
        except REFUSALS as error:
            if not clips.is_meta:  # there only shapes are calculated with, and it is the first call that a run makes
                raise
            raise Refusal(f"{self.config.name} with {self.config.changes} cannot take latents {tuple(clips.shape)}: {error}") from error

    def conditioning(self, num_clips: int, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of text, (B, 2, context width), and the vector added to time, (B, pooled width) or None; labels (B,) or None."""
        context = self.context.expand(num_clips, -1, -1)
        if self.context_label is not None:
            context = torch.stack([context[:, 0] + self.context_label(labels), context[:, 1]], dim=1)
        pooled = None if self.pooled is None else self.pooled.expand(num_clips, -1)
        if pooled is not None and self.pooled_label is not None:
            pooled = pooled + self.pooled_label(labels)
        return context, pooled

    def repeated_blocks(self) -> list[nn.Module]:
        """Modules to compile or to recompute one by one."""
        return blocks_of(self.model)


class LastPositions:
    """What a class's pipeline would make once for all steps: made when clips come in another shape or place."""

    def __init__(self, table: Mapping[str, Callable[[Any, Shape, torch.device], Any]], name: str) -> None:
        self.table, self.name = table, name
        self._kept: tuple[tuple[Shape, torch.device], Any] | None = None  # of the last shape, on its device

    def of(self, model: nn.Module, clips: Tensor) -> Any:
        """Of clips (B, C, T, H, W); None for a class that wants none."""
        make = self.table.get(self.name)
        if make is None:
            return None
        _, _, frames, height, width = clips.shape
        key = ((frames, height, width), clips.device)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # sampling may come first, and training must be able to use them
                self._kept = key, make(model, *key)
        return self._kept[1]


def blocks_of(model: Any) -> list[nn.Module]:
    """The blocks that diffusers names as repeated, else the members of the model's own lists."""
    names = model._repeated_blocks or ()
    if names:
        return [module for module in model.modules() if type(module).__name__ in names]
    return [block for blocks in model.children() if isinstance(blocks, nn.ModuleList) for block in blocks]


def without_dropout(model: nn.Module) -> nn.Module:
    """Hard-coded in some: a handicap the others have not, and a draw from global randomness."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def build_class(config: ZooConfig, spec: LatentSpec) -> Any:
    """diffusers' model for this latent space. ValueError where it refuses the configuration."""
    row = config.row
    values = spec.latent_channels * (math.prod(config.divisors) if row.packed else 1)
    fields = {**config.fields, **dict.fromkeys(config.channels, values)}
    model_class = getattr(importlib.import_module(f"diffusers.models.{row.module}"), config.name)
    try:
        model = model_class(**fields)
    except REFUSALS as error:
        raise ValueError(f"diffusers cannot build {config.name} with {config.changes}: {str(error) or type(error).__name__}") from error
    return without_dropout(model).to(torch.get_default_device())  # a parameter of SVD's is made where no device context reaches
