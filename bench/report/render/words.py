"""Numbers and lists as people say them, for sentences and pictures that are read by whoever knows no statistics."""

import re
from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NAMED = {1 / 4: "a quarter of the", 1 / 3: "a third of the", 1 / 2: "half the", 2 / 3: "two thirds of the", 3 / 4: "three quarters of the"}
EQUAL = 0.015  # ratios nearer to 1 are said to be none


def times(ratio: float) -> str:
    """How many times as much, of a ratio of at least 1.

    >>> times(2.64), times(1.98), times(14.2), times(1.042), times(1.01)
    ('2.6 times', 'twice', '14 times', '1.04 times', 'just')
    """
    if ratio - 1 < EQUAL:
        return "just"
    if 1.95 <= ratio < 2.05:
        return "twice"
    return f"{ratio:,.{2 if ratio < 1.095 else 1 if ratio < 9.95 else 0}f} times"


def share(ratio: float) -> str:
    """How much of the other's, of a ratio of at most 1.

    >>> share(0.441), share(0.507), share(0.331), share(0.99), share(0.0041)
    ('44 % of the', 'half the', 'a third of the', 'the same', '0.4 % of the')
    """
    if 1 - ratio < EQUAL:
        return "the same"
    near = min(NAMED, key=lambda known: abs(known - ratio))
    if abs(near - ratio) < 0.011:
        return NAMED[near]
    return f"{100 * ratio:.{0 if ratio >= 0.0095 else 1 if ratio >= 0.00095 else 4}f} % of the"


def number(num: int) -> str:
    """'three', '14'."""
    return NUMBERS[num] if num < len(NUMBERS) else str(num)


def number_of(num: int, thing: str) -> str:
    """'three seeds', 'one seed', '14 seeds'."""
    return f"{number(num)} {thing}{'' if num == 1 else 's'}"


def p_value(found: float) -> str:
    """'p = 0.08'."""
    return "p < 0.001" if found < 0.001 else f"p = {found:.2g}"


def listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def brief(reason: str) -> str:
    """A reason without what stands in brackets and after its first clause.

    >>> brief("1 seed; a claim needs at least 3"), brief("different protocols (dtype: float32 and bf16)")
    ('1 seed', 'different protocols')
    """
    return re.split(r"[;:]| \(|, so ", reason)[0]
