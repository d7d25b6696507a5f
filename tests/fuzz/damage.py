"""Damage: bytes, texts and trees in, the same with something wrong out. Draws from the generator it is given and from nothing else."""

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (
    0,
    -1,
    1,
    2,
    7,
    255,
    256,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    10**12,
    10**18,
    -(10**12),
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
)
WORDS = (
    "", " ", "\0", "\n", "\x1b[31m", "[bold]", "[/]", "<script>alert(1)</script>", "=1+1", "..", "../../x", "/", "/etc/passwd", "~nouser/x",
    "~", ".", "a/b", "a:b", ":", "x:", ":x", ".x:y", "x..y:z", "dit:", "dit:DiT-XS/2{", "dit:DiT-XS/2{depth: 0}",
    "dit:DiT-XS/2{depth: 1e9}",
    "dit:DiT-S/2{x: {y: [1, {z: 2}]}}", "tests.unbuildable:X", "os:system", "sys", "é", "\u202e", "\ud800", "\uffff", "²", "nan", "inf",
    "-inf", "1e400", "true", "null", "1_000", "0x10", "1:30", "2001-01-01", "a" * 300, "a" * 20_000, "{{x}}", "${x}", "${oc.env:HOME}",
    "$", "%s",
    "\\", "'", '"', "`", "|", "&", "#", "None", "\t", "auto", "cpu", "worlds", "folder", "i3d", "crop", "pack",
)  # fmt: skip
INTERESTING = tuple(number for number in NUMBERS if isinstance(number, int) and 0 <= number < 2**64)
DEEP = 30
# What only the text of a JSON file can hold.
RAW = (
    "9" * 5000, "-" + "9" * 400, "1e999", "[" * 100_000, '{"a":' * 3000, '"\\ud800"', "NaN", "Infinity", "\ufeff", "1e-999",
    '"' + "x" * 10**6,
)  # fmt: skip


def bad_value(rng: Random) -> Any:
    """A JSON value that nobody expects."""
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(WORDS)
    if kind == 6:
        return rng.choice((None, True, False, float("nan"), float("inf"), -float("inf")))
    if kind == 7:
        return [bad_value(rng) for _ in range(rng.randrange(4))]
    tree: Any = rng.choice(({}, [], 1))
    for _ in range(rng.choice((1, 2, DEEP, 8 * DEEP) if not rng.randrange(8) else (1, 2))):
        tree = [tree] if rng.randrange(2) else {rng.choice(WORDS[:20]): tree}
    return tree


def damaged_bytes(rng: Random, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """A few bytes changed, moved, doubled, cut or taken from `others`."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        size = len(data)
        at, kind = rng.randrange(size + 1), rng.randrange(11)
        if rng.randrange(2):  # headers say more than bodies
            at = min(at, rng.randrange(256))
        length = min(rng.choice((1, 2, 4, 8, 64, 1024)), max(size - at, 0))
        if kind < 2 and at < size:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and at < size:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x7B, rng.randrange(256)))
        elif kind < 5:
            width = rng.choice((2, 4, 8))
            number = rng.choice(INTERESTING) % 256**width
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif kind == 5:
            del data[at : at + length]
        elif kind == 6:
            data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
        elif kind == 7:
            data[at : at + length] = bytes(length)
        elif kind == 8 and not rng.randrange(3):
            del data[at:]
        elif kind == 9:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 10 and others:
            other = rng.choice(list(others))
            cut = rng.randrange(len(other) + 1)
            data = data[:at] + bytearray(other[cut:])
    return bytes(data) if rng.randrange(200) else b""


def damaged_tree(rng: Random, tree: Any) -> Any:
    """A JSON tree with one to three places changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return bad_value(rng)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 4:
            holder[key] = bad_value(rng)
        elif kind == 4:
            del holder[key]
        elif kind == 5:
            other, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[other_key])
        elif kind == 6 and isinstance(holder, dict):
            holder[str(rng.choice(WORDS))] = holder.pop(key)
        elif isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(holder[key])] * rng.choice((1, 2, 100))
        elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * rng.choice((-1, 0, 2, 1000, 10**9, 0.3)) + rng.choice((0, 1))
        else:
            holder[key] = [holder[key]]
    return tree


def _places(tree: Any, depth: int = 0) -> Any:
    """(holder, key) of everything in a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items)[:40]:
        yield tree, key
        if depth < 2 * DEEP:
            yield from _places(value, depth + 1)


def damaged_json(rng: Random, content: bytes) -> bytes:
    """A JSON file with its tree or its bytes changed, or with what only a text can have."""
    kind = rng.randrange(10)
    if kind < 6:
        return json.dumps(damaged_tree(rng, json.loads(content))).encode("utf-8", "surrogatepass")
    if kind < 8:
        return damaged_bytes(rng, content)
    text = content.decode()
    inserted = rng.choice(RAW)
    values = [at + 2 for at in range(len(text) - 2) if text[at : at + 2] == ": "]
    at = rng.choice(values) if values else 0
    end = next((place for place in range(at, len(text)) if text[place] in ",\n}"), len(text))
    return (text[:at] + inserted + text[end:]).encode("utf-8", "surrogatepass")
