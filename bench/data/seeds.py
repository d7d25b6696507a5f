"""Seeds of random streams: every draw has a generator of its own, so it depends on nothing but its name. Knows no torch."""

import hashlib


def stream_seed(seed: int, stream: str, index: int) -> int:
    """Seed of draw `index` of `stream` in run `seed`: the low 32 bits of a blake2b, all that torch's CPU generator uses.

    >>> stream_seed(0, "noise", 0) != stream_seed(0, "noise", 1)
    True
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
