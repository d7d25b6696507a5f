"""GPUs by name: the memory that a program gets of them and the dense matrix-product rate their maker publishes. Knows no torch."""

import re
from dataclasses import dataclass

from bench.shapes import Refusal, did_you_mean

GIB = 2**30

# What a step cannot have of a device's memory, beyond the tensors that are counted: the context and the kernels of CUDA and
# its libraries, the workspaces of cuBLAS and cuDNN, and what the caching allocator loses by rounding blocks and to gaps.
RESERVED_BYTES = GIB  # context, kernels, workspaces
RESERVED_SHARE = 0.05  # of the rest: rounding and gaps


@dataclass(frozen=True, kw_only=True)
class GPUCard:
    """A device to fit into. A rate is None where it is unknown, or where the card has no units for that precision."""

    name: str
    memory_bytes: int  # that a program sees
    peaks: dict[str, float | None]  # precision -> FLOP/s

    @property
    def usable_bytes(self) -> int:
        """Bytes that tensors may take: the memory less the reserve."""
        return max(0, int((self.memory_bytes - RESERVED_BYTES) * (1 - RESERVED_SHARE)))


# Memory: the capacity that torch reports for the card, rounded down (a "24 GB" card has less, after ECC and the driver's share).
# Rates, in TFLOP/s: bf16 on tensor cores, accumulated in float32, without sparsity; fp32 on the ordinary units, as this suite never
# rounds float32 to TF32. From NVIDIA's documents: V100 data sheet (SXM2); T4 data sheet; A100, A10, L4 and L40S data sheets; GA102, Ada
# and RTX Blackwell architecture whitepapers (GeForce); Hopper whitepaper and H200 data sheet (both SXM). V100 and T4 have no bf16 units.
# fmt: off
_TABLE = {
    #               GiB     bf16    fp32
    "V100-32GB":  ( 31.7,   None,   15.7),
    "T4":         ( 14.5,   None,    8.1),
    "A100-40GB":  ( 39.3,  312.0,   19.5),
    "A100-80GB":  ( 79.1,  312.0,   19.5),
    "A10":        ( 21.9,  125.0,   31.2),
    "RTX 3090":   ( 23.5,   71.0,   35.6),
    "RTX 4090":   ( 23.5,  165.2,   82.6),
    "L4":         ( 21.9,  121.0,   30.3),
    "L40S":       ( 44.3,  362.0,   91.6),
    "H100-80GB":  ( 79.1,  989.4,   66.9),
    "H200":       (139.7,  989.4,   66.9),
    "RTX 5090":   ( 31.3,  209.5,  104.8),
}
# fmt: on
CARDS = {
    name: GPUCard(name=name, memory_bytes=int(gib * GIB), peaks={"bf16": bf16 and bf16 * 1e12, "fp32": fp32 * 1e12})
    for name, (gib, bf16, fp32) in _TABLE.items()
}


def find_card(text: str) -> GPUCard:
    """The card of that name, whatever the case and the spaces, or one of a plain size such as 24GiB. Refusal for anything else.

    >>> find_card("rtx4090").name, find_card("24GiB").memory_bytes // GIB
    ('RTX 4090', 24)
    """
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*GiB", text.strip(), re.IGNORECASE)
    if size:
        card = GPUCard(name=text.strip(), memory_bytes=int(float(size[1]) * GIB), peaks={"bf16": None, "fp32": None})
        if not card.usable_bytes:
            raise Refusal(f"card {text!r} is no larger than the reserve of {RESERVED_BYTES / GIB:g} GiB; name a larger size")
        return card
    names = {plain(name): name for name in CARDS}
    if plain(text) not in names:
        begun = [name for known, name in names.items() if plain(text) and known.startswith(plain(text))]
        hint = f" (did you mean {begun[0]!r}?)" if begun else did_you_mean(text, list(CARDS))
        raise Refusal(f"unknown card {text!r}{hint}; known: {', '.join(CARDS)}, or a size such as 24GiB")
    return CARDS[names[plain(text)]]


def plain(name: str) -> str:
    """A card's name without case, spaces and dashes."""
    return re.sub(r"[\s_-]", "", name).lower()
