"""Captions as a table: each text once, as what an encoder is given or has made of it, and clips as places in it. The last is the empty one.

Words are what is between spaces and punctuation, in small letters; those that no training caption has are left out of a caption. Every
caption begins with a token of its own, so that the empty one has something to be told by.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.data.text.config import WordText
from bench.shapes import Refusal

WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
FIRST = 1  # the token that every caption begins with; 0: none is there
NUM_SPECIAL = 2  # tokens that are no words


@dataclass(frozen=True, kw_only=True)
class CaptionTable:
    """U texts."""

    texts: tuple[str, ...]  # each once; the last is the empty one
    values: np.ndarray  # (U, L) int64 tokens of words, or (U, L, W) float32 of a frozen encoder
    mask: np.ndarray  # (U, L) bool, which of them are there
    vocabulary: tuple[str, ...]  # of the words, token NUM_SPECIAL and on; () of a frozen encoder
    key: str  # identity of what reads them

    @property
    def empty(self) -> int:
        """The place of the empty caption."""
        return len(self.texts) - 1

    def places(self, captions: Iterable[str]) -> np.ndarray:
        """Captions -> where they are, (n,) int64."""
        known = {text: place for place, text in enumerate(self.texts)}
        return np.array([known[caption] for caption in captions], dtype=np.int64)


def each_once(captions: Iterable[str]) -> tuple[str, ...]:
    """The texts of a table that has these captions.

    >>> each_once(["b", "", "a", "b"])
    ('a', 'b', '')
    """
    return (*sorted(set(captions) - {""}), "")


def words_of(text: str) -> list[str]:
    """A text's words.

    >>> words_of("A red, X-shaped disc doesn't bounce.")
    ['a', 'red', 'x-shaped', 'disc', "doesn't", 'bounce']
    """
    return WORD.findall(text.lower())


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """The words of captions, sorted. Refusal where there is none."""
    words = {word for caption in set(captions) for word in words_of(caption)}
    if not words:
        raise Refusal("no training clip has a caption with a word in it, and text.encoder words learns from these; leave out text")
    return tuple(sorted(words))


def unknown_words(texts: Iterable[str], vocabulary: Sequence[str]) -> list[str]:
    """Words of texts that no training caption has, in their order."""
    known = set(vocabulary)
    return list(dict.fromkeys(word for text in texts for word in words_of(text) if word not in known))


def word_tokens(config: WordText, texts: Sequence[str], vocabulary: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts -> tokens (U, L) int64, and which of them are there (U, L) bool."""
    known = {word: NUM_SPECIAL + place for place, word in enumerate(vocabulary)}
    tokens = np.zeros((len(texts), config.max_tokens), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        found = [FIRST, *(known[word] for word in words_of(text) if word in known)][: config.max_tokens]
        row[: len(found)] = found
    return tokens, tokens > 0
