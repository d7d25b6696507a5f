"""Attention of an autoregressive training pass: which token sees which, and the formula by one mask.

A pack holds the noised tokens of all clips, then the clean ones of all but each clip's last unit, which nothing sees:
    noised    (B, U, n)        token j of noised unit i of clip b is row (b U + i) n + j
    clean     (B, U - 1, n)    behind them, likewise
A noised unit sees the clean units before it, and itself; a clean unit those before it, and itself (ACDiT, 2412.07720, figure 2). So every
unit sees itself and the clean ones of lower number: that is the whole rule.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

MAX_CACHED_MASKS = 8


class Arrangement(NamedTuple):
    """How many units there are, and how long each is."""

    units: int  # U, of a clip
    length: int  # n, tokens of a unit
    ends: bool = False  # nothing follows but what is predicted: of clean tokens nothing is asked, B U n rows come out

    @property
    def rows(self) -> int:
        """Tokens of a clip, noised and clean: U n + (U - 1) n."""
        return (2 * self.units - 1) * self.length


def attend_units(qkv: Tensor, units: Arrangement) -> Tensor:
    """softmax(query key^T / sqrt(E)) value over what each token sees: (B (2 U - 1) n, 3, K, E) -> (B (2 U - 1) n, K, E), or B U n at the
    end."""
    noised, clean = split(qkv, units)
    query, key, value = torch.cat([noised, clean], dim=1).permute(2, 0, 3, 1, 4)  # (B, K, (2 U - 1) n, E) each
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=sees(units, qkv.device)).transpose(1, 2)
    num_noised = units.units * units.length
    return join(heads[:, :num_noised], heads[:, num_noised:], units)


def attend_in_turn(qkv: Tensor, units: Arrangement) -> Tensor:
    """The same, unit by unit, each with the keys that it sees and no others: for kernels that are slow with a mask, and to count FLOPs."""
    noised, clean = split(qkv, units)
    of_noised, of_clean = [], []
    for unit in range(units.units):
        before, own = clean[:, : unit * units.length], slice(unit * units.length, (unit + 1) * units.length)
        of_noised.append(_attend(noised[:, own], before))
        if unit < units.units - 1 and not units.ends:
            of_clean.append(_attend(clean[:, own], before))
    empty = clean.new_empty(len(clean), 0, *clean.shape[-2:])
    return join(torch.cat(of_noised, dim=1), torch.cat(of_clean, dim=1) if of_clean else empty, units)


def split(packed: Tensor, units: Arrangement) -> tuple[Tensor, Tensor]:
    """(B (2 U - 1) n, ...) -> views of the noised (B, U n, ...) and of the clean (B, (U - 1) n, ...)."""
    num_clips = len(packed) // units.rows
    noised = num_clips * units.units * units.length
    return packed[:noised].unflatten(0, (num_clips, -1)), packed[noised:].view(num_clips, -1, *packed.shape[1:])


def join(noised: Tensor, clean: Tensor, units: Arrangement) -> Tensor:
    """The inverse of `split`; at the end without the clean ones."""
    return noised.flatten(0, 1) if units.ends else torch.cat([noised.flatten(0, 1), clean.flatten(0, 1)])


def sees(units: Arrangement, device: torch.device) -> Tensor:
    """Which token of a clip, noised ones first, sees which: ((2 U - 1) n, (2 U - 1) n) bool, one for all clips and heads."""
    fresh = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()  # what a fake pass makes is of no use to another
    return _made(units, device) if fresh else _mask(units, device)


def _made(units: Arrangement, device: torch.device) -> Tensor:
    number = torch.cat([torch.arange(units.units, device=device), torch.arange(units.units - 1, device=device)])
    place = torch.arange(len(number), device=device)
    seen = (place == place[:, None]) | ((place >= units.units) & (number < number[:, None]))
    return seen.repeat_interleave(units.length, 0).repeat_interleave(units.length, 1)


def _attend(own: Tensor, before: Tensor) -> Tensor:
    """A unit (B, n, 3, K, E) that sees itself and the clean tokens (B, m, 3, K, E) -> (B, n, K, E)."""
    query = own[:, :, 0].transpose(1, 2)  # (B, K, n, E)
    key, value = torch.cat([before[:, :, 1:], own[:, :, 1:]], dim=1).permute(2, 0, 3, 1, 4)  # (B, K, m + n, E) each
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


@lru_cache(MAX_CACHED_MASKS)
def _mask(units: Arrangement, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # training may be given what sampling made
        return _made(units, device)
