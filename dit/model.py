"""The patch transformer (DiT, Peebles & Xie, 2212.09748) over spacetime patches of clips of any mix of shapes.

Conditioning is adaLN-Zero: time and label make one vector a clip, which shifts, scales and gates every branch.
Attention is joint over (T H W), then, where clips have captions, to each clip's own.
With one frame and sine-cosine positions this is DiT as published.

Functions of `dit.kernels` are the formulas of `attention.py`, `modulation.py` and `positions.py`, and `F.linear`, made faster.
Shapes on the right: G = B clips of one length with N/B tokens each, else G = 1 row with the N tokens of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.backbone import Text, check_inputs
from bench.shapes import LatentSpec, Shape
from dit.kernels import attend, clip_order, gated_sum, linear, modulated_norm, modulations, position_tables, rotate_query_key
from dit.kernels.attention import attend_to_text
from dit.modulation import EPS, no_autocast
from dit.packing import PackClips, check_kept, clips_of, kept_voxels, pack, unpack
from dit.positions import of_query_key_value

if TYPE_CHECKING:
    from dit import DiTConfig

Attending = Callable[[Tensor], Tensor]  # queries, keys and values (N, 3, K, E) -> (N, K, E), or less: of the first tokens
FREQUENCY_CHANNELS = 256  # width of the sinusoidal time features


class DiT(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`."""

    ragged = True
    takes_known_frames = True
    takes_text = True

    def __init__(self, config: DiTConfig, spec: LatentSpec, *, out_channels: int | None = None) -> None:
        """`out_channels` other than the latents' serves the published parameter counts, which include a learned sigma."""
        super().__init__()
        self.config = config
        self.spec = spec
        self.num_tokens, self.check = config.num_tokens, config.check
        patch_voxels = math.prod(config.patch_size)
        self.embed = nn.Linear(spec.input_channels * patch_voxels, config.hidden_size)
        self.time_embed = TimeEmbedding(config.hidden_size)
        # The last row is the null label, used by label dropout and guidance.
        self.label_embed = nn.Embedding(spec.num_labels + 1, config.hidden_size) if spec.num_labels else None
        self.text_embed = nn.Linear(spec.text_width, config.hidden_size) if spec.text_width else None
        self.blocks = nn.ModuleList(Block(config, has_text=bool(spec.text_width)) for _ in range(config.depth))
        self.final_modulation = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.final = nn.Linear(config.hidden_size, (out_channels or spec.latent_channels) * patch_voxels)
        self._initialise()

    def forward(
        self,
        latents: list[Tensor],
        timesteps: Tensor,
        labels: Tensor | None,
        kept: list[Tensor] | None = None,
        *,
        text: Text | None = None,
    ) -> list[Tensor]:
        """B clips (C, T_i, H_i, W_i), timesteps (B,) in [0, 1], labels (B,) or None, their captions or None -> B clips of the same shapes.

        `kept` drops tokens (NaViT, 2307.06304, section 2.2): of each clip, the indices (n_i,) int64 of those that stay, on the host,
        increasing, counted over w fastest, then h, then t. The others cost nothing, and the prediction is zero there: see `kept_voxels`.
        """
        shapes = check_inputs("DiT", self, self.spec, latents, timesteps, labels, text)
        if kept is not None:
            if len(kept) != len(latents):
                raise ValueError(f"kept has tokens of {len(kept)} clips, got {len(latents)} latents; pass one tensor of indices for each")
            for index, (shape, rows) in enumerate(zip(shapes, kept, strict=True)):
                check_kept(f"kept[{index}]", rows, self.num_tokens(shape), shape)
        packed = pack(latents, self.config.patch_size, kept, clip_order)
        device = packed.values.device
        tokens = self.embed(packed.values)  # (N, D)
        with no_autocast(device):  # a few rows, as in `modulations`
            cond = self.time_embed(timesteps)  # (B, D)
            if self.label_embed is not None:
                cond = cond + self.label_embed(labels)  # (B, D)
        if packed.order != tuple(range(len(shapes))):
            order = torch.tensor(packed.order).to(device, non_blocking=True)
            cond = cond.index_select(0, order)
            text = None if text is None else Text(tokens=text.tokens.index_select(0, order), mask=text.mask.index_select(0, order))
        width = self.config.head_dim if self.config.positions == "rotary" else self.config.hidden_size
        tables = position_tables(self.config.positions, packed.grids, width, device, packed.kept)
        values = self.forward_packed(tokens, tables, packed.cu_seqlens, packed.seqlens, cond, text)  # (N, P)
        return unpack(values, packed, self.config.patch_size, shapes)

    def forward_packed(
        self,
        tokens: Tensor,
        tables: tuple[Tensor, ...],
        cu_seqlens: Tensor,
        seqlens: tuple[int, ...],
        cond: Tensor,
        text: Text | None = None,
    ) -> Tensor:
        """The network on tensors: tokens (N, D), `position_tables`, cu_seqlens (B + 1,) int32, cond (B, D), captions -> patches (N, P).

        Equally long clips are a batch, and what a clip shares, such as modulation, broadcasts over its tokens. Any others are one row,
        and it is copied to each token. `seqlens` are integers of the host.
        """
        assert sum(seqlens) == len(tokens) and len(cond) == len(seqlens)
        clips = clips_of(seqlens, cu_seqlens, tokens.dtype)
        tokens = tokens.view(len(seqlens) if clips.segments is None else 1, -1, self.config.hidden_size)  # (G, N/G, D)
        # One table for all clips, or a row for each token. Angles are float32, their sines as precise as what they multiply.
        tables = tuple(table.to(tokens.dtype).unflatten(1, (-1, tokens.shape[1])).squeeze(0) for table in tables)  # (1 or G, N/G, ...)
        rotary = None
        if self.config.positions == "rotary":
            rotary = of_query_key_value(*tables)
        else:
            tokens = tokens + tables[0]
        layers: list[nn.Linear] = [*(block.modulation for block in self.blocks), self.final_modulation]  # type: ignore[list-item]
        *of_blocks, last = modulations(layers, F.silu(cond), tokens.dtype)  # (B, 6 D) each, (B, 2 D)
        told: tuple[Tensor, ...] = ()
        if text is not None and self.text_embed is not None:
            # Encoders differ in scale by far more than their captions do.
            told = self.text_embed(F.layer_norm(text.tokens, text.tokens.shape[-1:], eps=EPS)), text.mask  # (B, L, D), (B, L)
        for block, rows in zip(self.blocks, of_blocks, strict=True):
            tokens = block(tokens, rows, clips, rotary, told=told)  # (G, N/G, D)
        shift, factor = last.chunk(2, dim=-1)  # (B, D) each
        return self.final(modulated_norm(tokens, shift, factor, clips)).flatten(0, 1)  # (N, P)

    def repeated_blocks(self) -> list[nn.Module]:
        """The modules that hold nearly all work and memory, alike in code: to be compiled one by one, or recomputed in backward."""
        return list(self.blocks)

    def shard_units(self) -> list[list[nn.Module]]:
        """Modulation apart: it is computed before the blocks, and of a block's weights a third."""
        return [[part] for block in self.blocks for part in (block.modulation, block)]  # type: ignore[list-item]

    def kept_voxels(self, shape: Shape, kept: Tensor) -> Tensor:
        """Which latent voxels of a clip (T, H, W) are predicted where its tokens `kept` (n,) stay: (T, H, W) bool, on the host."""
        self.check(shape)
        check_kept("kept", kept, self.num_tokens(shape), shape)
        return kept_voxels(kept, self.config.patch_size, shape)

    def _initialise(self) -> None:
        """As DiT does (section 3.2): a block starts as the identity and the model predicts zero."""
        # Xavier keeps the variance of activations and of gradients alike through the branches.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

        # Conditioning starts small, and labels as small as time, so that neither drowns the other. The U-Net does the same.
        nn.init.normal_(self.time_embed.into.weight, std=0.02)
        nn.init.normal_(self.time_embed.out.weight, std=0.02)
        if self.label_embed is not None:
            nn.init.normal_(self.label_embed.weight, std=0.02)

        # Zero modulation means no shift, no scale and closed gates; a zero last layer means no prediction yet.
        # A caption says nothing at first: the model starts as the same without text.
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.modulation.weight)
            elif isinstance(module, TextAttention):
                nn.init.zeros_(module.out.weight)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.final.weight)


class Block(nn.Module):
    """Attention and feed-forward, each normalised, modulated and gated by the clip's conditioning (adaLN-Zero, figure 3)."""

    def __init__(self, config: DiTConfig, *, has_text: bool = False) -> None:
        super().__init__()
        self.modulation = nn.Linear(config.hidden_size, 6 * config.hidden_size)
        self.attention = Attention(config.hidden_size, config.num_heads)
        self.text_attention = TextAttention(config.hidden_size, config.num_heads) if has_text else None
        self.mlp = nn.Sequential(
            Linear(config.hidden_size, config.mlp_ratio * config.hidden_size),
            nn.GELU(approximate="tanh"),
            Linear(config.mlp_ratio * config.hidden_size, config.hidden_size),
        )

    def forward(
        self,
        tokens: Tensor,
        rows: Tensor,
        clips: PackClips,
        rotary: tuple[Tensor, Tensor] | None,
        attending: Attending | None = None,
        told: tuple[Tensor, ...] = (),
    ) -> Tensor:
        """Tokens (G, N/G, D) -> same; rows (B, 6 D) that `modulation` makes of the conditioning after SiLU, `rotary_tables` or None.

        `attending`: which tokens see which, where it is not all of a clip; it may leave out the last of G, which then end here.
        `told`: captions (B, L, D) and their mask (B, L), where there are any.
        """
        shift, factor, gate, mlp_shift, mlp_factor, mlp_gate = rows.chunk(6, dim=-1)  # (B, D) each
        branch = modulated_norm(tokens, shift, factor, clips)  # norm(tokens) factor + shift: (G, N/G, D)
        branch = self.attention(branch, clips, rotary, attending)  # (G, N/G, D)
        if (going := len(branch)) < len(tokens):  # the others were there to be looked at
            tokens, gate, mlp_shift, mlp_factor, mlp_gate = (each[:going] for each in (tokens, gate, mlp_shift, mlp_factor, mlp_gate))
        tokens = gated_sum(tokens, gate, branch, clips)  # tokens + gate branch: (G, N/G, D)
        if self.text_attention is not None:
            tokens = tokens + self.text_attention(tokens, clips, *told)  # (G, N/G, D)
        branch = self.mlp(modulated_norm(tokens, mlp_shift, mlp_factor, clips))  # (G, N/G, D)
        return gated_sum(tokens, mlp_gate, branch, clips)  # (G, N/G, D)


class Attention(nn.Module):
    """Multi-head self-attention over the clips of a pack; query, key and value from one matrix product."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, clips: PackClips, rotary: tuple[Tensor, Tensor] | None, attending: Attending | None = None) -> Tensor:
        """Tokens (G, N/G, D) -> same; `rotary_tables` or None; `attending` in the place of attention inside each clip."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # (G, N/G, 3, K, E)
        if rotary is not None:
            qkv = rotate_query_key(qkv, *rotary)  # (G, N/G, 3, K, E)
        heads = attend(qkv.flatten(0, 1), clips) if attending is None else attending(qkv.flatten(0, 1))  # (N, K, E)
        return self.out(heads.reshape(-1, *tokens.shape[1:]))  # (G, N/G, D)


class TextAttention(nn.Module):
    """Multi-head attention of each token to the caption of its clip; it starts at zero. Neither time nor label modulates it."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, tokens: Tensor, clips: PackClips, text: Tensor, mask: Tensor) -> Tensor:
        """Tokens (G, N/G, D), text (B, L, D), mask (B, L) bool -> (G, N/G, D)."""
        normed = F.layer_norm(tokens, tokens.shape[-1:], eps=EPS).to(tokens.dtype)
        query = self.query(normed).unflatten(-1, (self.num_heads, -1)).flatten(0, 1)  # (N, K, E)
        key_value = self.key_value(text).unflatten(-1, (2, self.num_heads, -1))  # (B, L, 2, K, E)
        heads = attend_to_text(query, key_value.to(query.dtype), mask, clips)  # (N, K, E)
        return self.out(heads.reshape(tokens.shape))  # (G, N/G, D)


class Linear(nn.Linear):
    """rows weight^T + bias, of many rows."""

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(rows, self.weight, self.bias)


class TimeEmbedding(nn.Module):
    """Sinusoids of 1000 t through two layers: (B,) in [0, 1] -> (B, D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.into = nn.Linear(FREQUENCY_CHANNELS, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Frequencies fall from 1 to 1/10000 inclusive, cosines first, as in diffusers' DiT."""
        half = FREQUENCY_CHANNELS // 2
        exponents = torch.arange(half, device=timesteps.device, dtype=torch.float32) / (half - 1)
        angle = 1000.0 * timesteps.float()[:, None] * 10000.0**-exponents  # (B, half)
        features = torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.into.weight.dtype)
        return self.out(F.silu(self.into(features)))
