"""The patch transformer as an autoregressive model over units of a clip, on the DiT's own blocks (the arrangement of ACDiT, 2412.07720).

A unit is denoised given the clean units before it. Training sees all units of a clip at once: the tokens are there twice, noised, each unit
at a time of its own, and clean, without the last unit, which nobody looks at; `unit_attention.py` says which token sees which. Clean tokens
are conditioned on one learned vector in the place of a time, the only weights beside the DiT's. A clip of one unit is a DiT's, number for
number. Sampling keeps keys and values of clean units: `unit_cache.py`.

Shapes: B clips of one shape, U units of n tokens each; the packed tokens are (B U + B (U - 1), n, D), noised units before clean ones.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.backbone import check_inputs
from bench.shapes import LatentSpec, Refusal, Shape, check_shape
from dit.kernels import attend_units, modulated_norm, modulations, position_tables
from dit.model import DiT
from dit.modulation import no_autocast
from dit.packing import equal_clips, patchify, unpatchify
from dit.positions import of_query_key_value
from dit.unit_attention import Arrangement
from dit.unit_cache import UnitGeneration

if TYPE_CHECKING:
    from dit import AutoregressiveConfig


class Autoregressive(nn.Module):
    """Latents in, prediction out, see `bench.backbone.GeneratesUnits`."""

    ragged = False
    takes_known_frames = False

    def __init__(self, config: AutoregressiveConfig, spec: LatentSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.generates_units, self.unit = config.generates_units, config.unit
        self.num_tokens, self.check, self.units = config.num_tokens, config.check, config.units
        self.dit = DiT(config, spec)
        # In the place of a time embedding. A clip of one unit has no past.
        self.clean = nn.Parameter(torch.empty(config.hidden_size)) if config.generates_units else None
        if self.clean is not None:
            nn.init.normal_(self.clean, std=0.02)

    def forward(
        self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, clean: list[Tensor] | None = None
    ) -> list[Tensor]:
        """B noised clips (C, T, H, W) of one shape, times (B, U) of their units or (B,) of all of a clip's, labels (B,) or None -> B clips.

        `clean`: the same clips without noise, whose units are the past of those after them; None, for who only measures: `latents`.
        """
        firsts = timesteps[:, 0] if timesteps.dim() == 2 else timesteps
        shape = check_inputs("AR", self, self.spec, latents, firsts, labels)[0]
        size, patch = self.config.unit_shape(shape), self.config.patch_size
        num_clips, num_units, length = len(latents), len(self.units(shape)), self.num_tokens(size)
        if timesteps.dim() == 2:
            check_shape("timesteps", timesteps, (num_clips, num_units))
        if clean is not None and [tuple(clip.shape) for clip in clean] != [tuple(clip.shape) for clip in latents]:
            raise Refusal(f"clean has {len(clean)} clips of other shapes than the {num_clips} latents; pass the same clips without noise")
        arrangement = Arrangement(num_units, length)
        noised = patchify(torch.stack(latents), patch)  # (B, N, P)
        past = patchify(torch.stack(latents if clean is None else clean), patch)[:, : (num_units - 1) * length] if num_units > 1 else None
        values = noised.flatten(0, 1) if past is None else torch.cat([noised.flatten(0, 1), past.flatten(0, 1)])
        tokens = self.dit.embed(values).unflatten(0, (-1, length))  # (B U + B (U - 1), n, D)
        times = timesteps if timesteps.dim() == 2 else timesteps[:, None].expand(-1, num_units)
        *of_blocks, last = self.modulation(times, labels, tokens.dtype)  # (B U + B, ...) each
        which = rows_of_units(num_clips, num_units, tokens.device)
        table = self.tables(shape, tokens.dtype)  # (N, ...)
        tables = tuple(in_units(each, num_clips, arrangement) for each in table)  # (B U + B (U - 1), n, ...)
        rotary = of_query_key_value(*tables) if self.config.positions == "rotary" else None
        if rotary is None:
            tokens = tokens + tables[0]
        clips = equal_clips(len(tokens), length, tokens.device)
        for place, (block, rows) in enumerate(zip(self.dit.blocks, of_blocks, strict=True)):
            ends = place == len(self.dit.blocks) - 1  # of clean tokens the last block has keys and values alone
            attending = partial(attend_units, units=arrangement._replace(ends=ends))
            tokens = block(tokens, rows if which is None else rows.index_select(0, which), clips, rotary, attending)
        out = self.predicted(tokens, last[: len(tokens)]).view(num_clips, num_units * length, -1)  # (B, N, P)
        return list(unpatchify(out, patch, shape))

    def modulation(self, times: Tensor, labels: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
        """Times (B, U) and labels (B,) -> for each block, and last for what follows them, a row for each unit, and behind them one for the
        clean tokens of each clip, where there are any: (B U + B, 6 D), ..., (B U + B, 2 D)."""
        dit = self.dit
        with no_autocast(times.device):  # a few rows, as in `modulations`
            cond = dit.time_embed(times.flatten()).unflatten(0, times.shape)  # (B, U, D)
            past = None if self.clean is None or times.shape[1] == 1 else self.clean.expand(len(times), -1)  # (B, D); one unit has none
            if dit.label_embed is not None:
                label = dit.label_embed(labels)  # (B, D)
                cond, past = cond + label[:, None], None if past is None else past + label
        rows = cond.flatten(0, 1) if past is None else torch.cat([cond.flatten(0, 1), past])
        return self._modulated(rows, dtype)

    def modulation_of(self, timestep: float | None, labels: Tensor | None, num_clips: int, dtype: torch.dtype) -> list[Tensor]:
        """The same of one time for all of `num_clips` clips, None: of clean tokens. (B, 6 D), ..., (B, 2 D)."""
        dit, device = self.dit, self.dit.embed.weight.device
        with no_autocast(device):
            if timestep is None:
                assert self.clean is not None
                cond = self.clean[None]  # (1, D)
            else:
                cond = dit.time_embed(torch.full((1,), timestep, device=device))
            cond = cond.expand(num_clips, -1) if dit.label_embed is None else cond + dit.label_embed(labels)  # (B, D)
        return self._modulated(cond, dtype)

    def _modulated(self, cond: Tensor, dtype: torch.dtype) -> list[Tensor]:
        layers: list[nn.Linear] = [*(block.modulation for block in self.dit.blocks), self.dit.final_modulation]  # type: ignore[list-item]
        return list(modulations(layers, F.silu(cond), dtype))

    def tables(self, shape: Shape, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """`position_tables` of a clip of latents (T, H, W): each (N, ...)."""
        config, (t, h, w) = self.config, shape
        width = config.head_dim if config.positions == "rotary" else config.hidden_size
        grid = (t // config.patch_size[0], h // config.patch_size[1], w // config.patch_size[2])
        tables = position_tables(config.positions, (grid,), width, self.dit.embed.weight.device)
        return tuple(table.squeeze(0).to(dtype) for table in tables)

    def predicted(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """What follows the blocks: tokens (G, n, D), rows (G, 2 D) -> patches (G, n, P)."""
        shift, factor = rows.chunk(2, dim=-1)
        values: Tensor = self.dit.final(modulated_norm(tokens, shift, factor, equal_clips(len(tokens), tokens.shape[1], tokens.device)))
        return values

    def generate(self, shape: Shape, labels: Tensor | None, num_clips: int) -> UnitGeneration:
        """See `bench.backbone.GeneratesUnits`."""
        self.check(shape)
        return UnitGeneration(self, shape, labels, num_clips)

    def repeated_blocks(self) -> list[nn.Module]:
        """As of the DiT."""
        return self.dit.repeated_blocks()

    def shard_units(self) -> list[list[nn.Module]]:
        """As of the DiT."""
        return self.dit.shard_units()


def rows_of_units(num_clips: int, num_units: int, device: torch.device) -> Tensor | None:
    """Which row of `modulation` each unit of the pack takes, (B U + B (U - 1),) int64; None: each its own."""
    if num_units == 1:
        return None
    own = torch.arange(num_clips * num_units, device=device)
    past = torch.arange(num_clips, device=device).repeat_interleave(num_units - 1, output_size=num_clips * (num_units - 1))
    return torch.cat([own, past + num_clips * num_units])


def in_units(table: Tensor, num_clips: int, arrangement: Arrangement) -> Tensor:
    """A row for each token of a clip (N, ...) -> for each token of the pack (B U + B (U - 1), n, ...)."""
    units = table.unflatten(0, (arrangement.units, arrangement.length))  # (U, n, ...)
    noised, past = (part.expand(num_clips, *part.shape).flatten(0, 1) for part in (units, units[:-1]))
    return torch.cat([noised, past])
