"""Sampling unit after unit: keys and values of clean units are kept, and so is what a time makes of the modulation.

Every tensor of a unit is (B, n, ...) tokens, the unit's own: what went before is in the cache alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.shapes import Refusal, Shape, check_shape
from dit.packing import equal_clips, patchify, unpatchify
from dit.positions import of_query_key_value

if TYPE_CHECKING:
    from dit.autoregressive import Autoregressive


class UnitGeneration:
    """Clips in the making, see `bench.backbone.Generation`."""

    def __init__(self, model: Autoregressive, shape: Shape, labels: Tensor | None, num_clips: int) -> None:
        self.model, self.shape, self.labels, self.num_clips = model, shape, labels, num_clips
        self.size = model.config.unit_shape(shape)
        self.num_units, self.length = len(model.units(shape)), model.num_tokens(self.size)
        self.unit = 0  # that is being generated
        self._cache: list[Tensor | None] = [None] * len(model.dit.blocks)  # of each block (2, B, K, N, E): keys and values
        self._rows: dict[float | None, list[Tensor]] = {}  # time, None: clean -> modulation
        self._tables: tuple[Tensor, ...] | None = None

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: float) -> Tensor:
        """Of this unit, noised (B, C, t, h, w) at one time in [0, 1] for all -> the prediction, same shape."""
        tokens = self._through(latents, timestep)
        out = self.model.predicted(tokens, self._rows[timestep][-1])
        return unpatchify(out, self.model.config.patch_size, self.size)

    @torch.no_grad()
    def keep(self, latents: Tensor) -> None:
        """This unit is done, clean (B, C, t, h, w): the next ones see it, and it is their turn."""
        if self.unit + 1 < self.num_units:
            self._through(latents, None)
        self.unit += 1

    @property
    def cache_bytes(self) -> int:
        """Bytes of all that is kept between calls."""
        kept = [*self._cache, *(row for rows in self._rows.values() for row in rows)]
        return sum(each.nbytes for each in kept if each is not None)

    def _through(self, latents: Tensor, timestep: float | None) -> Tensor:
        """Tokens (B, n, D) behind the last block. In the cache their keys and values have this unit's place until they are written anew."""
        if self.unit >= self.num_units:
            raise Refusal(f"all {self.num_units} units of clips of latents {self.shape} are generated; start anew")
        model, config = self.model, self.model.config
        check_shape("latents", latents, (self.num_clips, model.spec.latent_channels, *self.size))
        tokens = model.dit.embed(patchify(latents, config.patch_size))  # (B, n, D)
        if timestep not in self._rows:
            self._rows[timestep] = model.modulation_of(timestep, self.labels, self.num_clips, tokens.dtype)
        if self._tables is None:
            self._tables = model.tables(self.shape, tokens.dtype)
        here = slice(self.unit * self.length, (self.unit + 1) * self.length)
        tables = tuple(table[None, here] for table in self._tables)  # (1, n, ...) each
        rotary: Any = of_query_key_value(*tables) if config.positions == "rotary" else None
        if rotary is None:
            tokens = tokens + tables[0]
        clips = equal_clips(self.num_clips, self.length, tokens.device)
        for place, block in enumerate(model.dit.blocks):
            # The block as it is: one that was compiled for training would be compiled again for every length of the cache.
            whole: Any = type(block).forward
            tokens = whole(block, tokens, self._rows[timestep][place], clips, rotary, partial(self._attend, place=place))
        return tokens

    def _attend(self, qkv: Tensor, place: int) -> Tensor:
        """Attention of a block to the units kept and to this one: (B n, 3, K, E) -> (B n, K, E)."""
        query, *written = qkv.unflatten(0, (self.num_clips, -1)).permute(2, 0, 3, 1, 4)  # (B, K, n, E) each
        cache = self._cache[place]
        if cache is None:
            cache = self._cache[place] = query.new_empty(2, *query.shape[:2], self.num_units * self.length, query.shape[-1])
        start, end = self.unit * self.length, (self.unit + 1) * self.length
        for part, own in zip(cache, written, strict=True):
            part[:, :, start:end] = own
        key, value = cache[:, :, :, :end]
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(0, 1)


@torch.no_grad()
def past_and_prediction(model: Autoregressive, noised: Tensor, clean: Tensor, times: list[float], labels: Tensor | None) -> Tensor:
    """What sampling would predict of each unit of noised clips (B, C, T, H, W) at its time, if those before it became `clean`."""
    generation = model.generate((noised.shape[2], noised.shape[3], noised.shape[4]), labels, len(noised))
    found = torch.empty_like(noised)
    for box, timestep in zip(model.units(generation.shape), times, strict=True):
        found[:, :, *box] = generation.predict(noised[:, :, *box], timestep)
        generation.keep(clean[:, :, *box])
    return found
