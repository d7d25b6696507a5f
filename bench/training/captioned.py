"""A backbone and what reads its clips' captions, as one module: to optimiser, average, checkpoints and sharding there is no other.

Whoever calls it says which caption of a table each clip has, an integer, and the backbone is given that caption's tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.backbone import Text
from bench.data.seeds import stream_seed
from bench.data.text.config import Captioning, WordText
from bench.data.text.table import NUM_SPECIAL, CaptionTable

HEADS = (4, 2, 1)  # of attention among words: as many as divide the width


class Captioned(nn.Module):
    """Latents and places of captions in, prediction out. What else a backbone says of itself is asked of the one inside."""

    values: Tensor  # (U, L) tokens of words, or (U, L, W) of a frozen encoder
    mask: Tensor  # (U, L) bool

    def __init__(self, backbone: nn.Module, words: nn.Module | None, table: CaptionTable) -> None:
        """`words` reads tokens of words; None: the table has what a frozen encoder read."""
        super().__init__()
        self.backbone: Any = backbone
        self.words = words
        # Not among the weights: which captions there are says the data.
        self.register_buffer("values", torch.from_numpy(np.array(table.values)), persistent=False)
        self.register_buffer("mask", torch.from_numpy(np.array(table.mask)), persistent=False)

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, *, captions: Tensor, **more: Any) -> list[Tensor]:
        """As the backbone; captions (B,) int64, places in the table."""
        return self.backbone(latents, timesteps, labels, **more, text=self.text(captions))

    def text(self, captions: Tensor) -> Text:
        """Places (B,) -> their tokens (B, L, W) and mask (B, L)."""
        values, mask = self.values.index_select(0, captions), self.mask.index_select(0, captions)
        return Text(tokens=values if self.words is None else self.words(values, mask), mask=mask)

    def __getattr__(self, name: str) -> Any:
        """Of the backbone: `ragged`, `check`, `num_tokens`, `kept_voxels`, `repeated_blocks`, `shard_units`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "backbone":
                raise
            return getattr(self.backbone, name)

    @contextmanager
    def reading(self, table: CaptionTable) -> Iterator[None]:
        """Inside, captions are places in another table, of the same encoder."""
        before = self.values, self.mask
        self.values, self.mask = (torch.from_numpy(np.array(each)).to(self.mask.device) for each in (table.values, table.mask))
        try:
            yield
        finally:
            self.values, self.mask = before


def with_captions(backbone: nn.Module, config: Captioning, table: CaptionTable, seed: int) -> Captioned:
    """A backbone and the encoder of a cell, whose initial weights are those of the run's seed, whatever the backbone."""
    words = None
    if isinstance(config, WordText):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "text_weights", 0))
            words = WordEncoder(config, NUM_SPECIAL + len(table.vocabulary))
    return Captioned(backbone, words, table)


class WordEncoder(nn.Module):
    """Words and their places, then layers of attention among them: tokens (B, L) -> (B, L, W)."""

    def __init__(self, config: WordText, num_words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_words, config.width)
        self.positions = nn.Parameter(torch.empty(config.max_tokens, config.width))
        self.layers = nn.ModuleList(WordLayer(config.width) for _ in range(config.depth))
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, L) int64 and which of them are there (B, L) bool -> (B, L, W)."""
        tokens = self.embed(words) + self.positions
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens


class WordLayer(nn.Module):
    """Attention among the words of a caption and a feed-forward layer, each normalised before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = next(heads for heads in HEADS if width % heads == 0)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, L, W), (B, L) bool -> (B, L, W)."""
        qkv = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, K, E)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, K, L, E) each
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.mlp_norm(tokens))
