"""The patch transformer (DiT, Peebles & Xie, 2212.09748) over spacetime patches of clips of any mix of shapes.

Conditioning is adaLN-Zero: time and label make one vector a clip, which shifts, scales and gates every branch.
Attention is joint over (T H W). With one frame and sine-cosine positions this is DiT as published.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.shapes import LatentSpec, Shape, check_shape
from dit.attention import Attention
from dit.gelu import GELU
from dit.linear import Linear
from dit.modulation import Clips, Modulation, Spread, gated_sum, modulated_norm, no_autocast
from dit.packing import equal_runs, kept_voxels, pack, segment_ids, unpack
from dit.positions import position_tables

if TYPE_CHECKING:
    from dit import DiTConfig

FREQUENCY_CHANNELS = 256  # width of the sinusoidal time features


class DiT(nn.Module):
    """Latents in, prediction out, see `bench.backbone.Backbone`."""

    ragged = True

    def __init__(self, config: DiTConfig, spec: LatentSpec, *, out_channels: int | None = None) -> None:
        """`out_channels` other than the latents' serves the published parameter counts, which include a learned sigma."""
        super().__init__()
        self.config = config
        self.spec = spec
        patch_voxels = math.prod(config.patch_size)
        self.embed = nn.Linear(spec.latent_channels * patch_voxels, config.hidden_size)
        self.time_embed = TimeEmbedding(config.hidden_size)
        # The last row is the null label, used by label dropout and guidance.
        self.label_embed = nn.Embedding(spec.num_labels + 1, config.hidden_size) if spec.num_labels else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_modulation = Modulation(config.hidden_size, 2)
        self.final = nn.Linear(config.hidden_size, (out_channels or spec.latent_channels) * patch_voxels)
        self._initialise()

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, kept: list[Tensor] | None = None) -> list[Tensor]:
        """B clips (C, T_i, H_i, W_i), timesteps (B,) in [0, 1], labels (B,) or None -> B clips of the same shapes.

        `kept` drops tokens (NaViT, 2307.06304, section 2.2): of each clip, the indices (n_i,) int64 of those that stay, on the host,
        increasing, counted over w fastest, then h, then t. The others cost nothing, and the prediction is zero there: see `kept_voxels`.
        """
        shapes = self._check(latents, timesteps, labels, kept)
        packed = pack(latents, self.config.patch_size, kept)
        device = packed.values.device
        tokens = self.embed(packed.values)  # (N, D)
        with no_autocast(device):  # a few rows, as in `Modulation`
            cond = self.time_embed(timesteps)  # (B, D)
            if self.label_embed is not None:
                cond = cond + self.label_embed(labels)
        if packed.order != tuple(range(len(shapes))):
            cond = cond.index_select(0, torch.tensor(packed.order).to(device, non_blocking=True))
        width = self.config.head_dim if self.config.positions == "rotary" else self.config.hidden_size
        positions = position_tables(self.config.positions, packed.grids, width, device, packed.kept)
        values = self.forward_packed(tokens, positions, packed.cu_seqlens, packed.seqlens, cond)  # (N, P)
        return unpack(values, packed, self.config.patch_size, shapes)

    def forward_packed(
        self, tokens: Tensor, positions: tuple[Tensor, ...], cu_seqlens: Tensor, seqlens: tuple[int, ...], cond: Tensor
    ) -> Tensor:
        """The network on tensors: tokens (N, D), `position_tables`, cu_seqlens (B + 1,) int32, cond (B, D) -> patches (N, P).

        Equally long clips are a batch (B, N/B, D), and what a clip shares, such as modulation, broadcasts over its tokens.
        Any others are one row (1, N, D), and it is copied to each token. `seqlens` are integers of the host.
        """
        num_tokens = len(tokens)
        assert sum(seqlens) == num_tokens and len(cond) == len(seqlens)
        uniform = len(set(seqlens)) == 1
        tokens = tokens.view(len(seqlens) if uniform else 1, -1, self.config.hidden_size)  # (G, N/G, D)
        spread = None
        if not uniform:
            segments = segment_ids(cu_seqlens, num_tokens)  # (N,)
            numbers = torch.arange(len(seqlens), device=segments.device)
            spread = Spread(segments, (numbers[:, None] == segments).to(tokens.dtype))
        tables = None
        # One table for all clips, or a row for each token. Angles are float32, their sines as precise as what they multiply.
        places = [table.to(tokens.dtype).unflatten(1, (-1, tokens.shape[1])).squeeze(0) for table in positions]  # (1 or G, N/G, ...)
        if self.config.positions == "rotary":
            cos, sin = (place.unsqueeze(2) for place in places)  # (1 or G, N/G, 1, 1, E/2) each
            tables = cos, sin
        else:
            tokens = tokens + places[0]
        cond, clips = F.silu(cond), Clips(equal_runs(seqlens), spread)  # cond (B, D)
        for block in self.blocks:
            tokens = block(tokens, cond, clips, tables, cu_seqlens)
        shift, scale = self.final_modulation(cond, tokens.dtype)  # (B, D) each
        return self.final(modulated_norm(tokens, shift, scale, clips)).flatten(0, 1)

    def repeated_blocks(self) -> list[nn.Module]:
        """The modules that hold nearly all work and memory, alike in code: to be compiled one by one, or recomputed in backward."""
        return list(self.blocks)

    def num_tokens(self, shape: Shape) -> int:
        """Tokens of one clip of latents (T, H, W)."""
        return self.config.num_tokens(shape)

    def check(self, shape: Shape) -> None:
        """ValueError where latents (T, H, W) do not divide into patches."""
        self.config.check(shape)

    def kept_voxels(self, shape: Shape, kept: Tensor) -> Tensor:
        """Which latent voxels of a clip (T, H, W) are predicted where its tokens `kept` (n,) stay: (T, H, W) bool, on the host."""
        self.check(shape)
        self._check_kept("kept", shape, kept)
        return kept_voxels(kept, self.config.patch_size, shape)

    def _check(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, kept: list[Tensor] | None) -> list[Shape]:
        """The boundary: ValueError for what a caller can get wrong; the latents' shapes (T, H, W)."""
        if not latents:
            raise ValueError("DiT got an empty list of latents; pass at least one clip")
        shapes: list[Shape] = []
        for index, clip in enumerate(latents):
            check_shape(f"latents[{index}]", clip, (self.spec.latent_channels, None, None, None))
            _, frames, height, width = clip.shape
            shapes.append((frames, height, width))
        for shape in dict.fromkeys(shapes):
            self.check(shape)
        check_shape("timesteps", timesteps, (len(latents),))
        if (labels is None) != (self.label_embed is None):
            remedy = f"pass labels (B,), {self.spec.num_labels} for none" if labels is None else "pass labels=None"
            raise ValueError(f"this DiT was built with num_labels={self.spec.num_labels}, got labels={labels}; {remedy}")
        if labels is not None:
            check_shape("labels", labels, (len(latents),))
        if kept is not None:
            if len(kept) != len(latents):
                raise ValueError(f"kept has tokens of {len(kept)} clips, got {len(latents)} latents; pass one tensor of indices for each")
            for index, (shape, rows) in enumerate(zip(shapes, kept, strict=True)):
                self._check_kept(f"kept[{index}]", shape, rows)
        return shapes

    def _check_kept(self, name: str, shape: Shape, kept: Tensor) -> None:
        """ValueError unless these are indices of some tokens of a clip (T, H, W)."""
        check_shape(name, kept, (None,))
        num_tokens = self.num_tokens(shape)
        if kept.dtype != torch.int64 or kept.device.type != "cpu":
            raise ValueError(f"{name} is {kept.dtype} on {kept.device}; pass indices as int64 on the CPU")
        if not len(kept):
            raise ValueError(f"{name} is empty; keep at least one of the {num_tokens} tokens of latents {shape}")
        if kept[0] < 0 or kept[-1] >= num_tokens or (kept.diff() <= 0).any():
            found = f"{len(kept)} from {kept.min()} to {kept.max()}"
            raise ValueError(
                f"{name} must increase within 0 ... {num_tokens - 1}, the tokens of latents {shape}, got {found}; sort, no repeats"
            )

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
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(self.final_modulation.weight)
        nn.init.zeros_(self.final.weight)


class Block(nn.Module):
    """Attention and feed-forward, each normalised, modulated and gated by the clip's conditioning (adaLN-Zero, figure 3)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.modulation = Modulation(config.hidden_size, 6)
        self.attention = Attention(config.hidden_size, config.num_heads)
        self.mlp = nn.Sequential(
            Linear(config.hidden_size, config.mlp_ratio * config.hidden_size),
            GELU(),
            Linear(config.mlp_ratio * config.hidden_size, config.hidden_size),
        )

    def forward(
        self,
        tokens: Tensor,  # (G, N/G, D)
        cond: Tensor,  # (B, D), after SiLU
        clips: Clips,
        tables: tuple[Tensor, Tensor] | None,  # of `rotary_tables`
        cu_seqlens: Tensor,
    ) -> Tensor:
        """Tokens -> tokens, (G, N/G, D)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(cond, tokens.dtype)  # (B, D) each
        branch = self.attention(modulated_norm(tokens, shift, scale, clips), tables, cu_seqlens, clips.runs)
        tokens = gated_sum(tokens, gate, branch, clips)
        branch = self.mlp(modulated_norm(tokens, mlp_shift, mlp_scale, clips))
        return gated_sum(tokens, mlp_gate, branch, clips)


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
