"""A number in three cases: all inputs in the middle, all at their best, all at their worst."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranged:
    """It is said with its range, the smaller end first."""

    best: float
    middle: float
    worst: float

    def __str__(self) -> str:
        """As a table has it.

        >>> str(Ranged(3, 2, 1)), str(Ranged(1, 2, 3)), str(Ranged(5, 5, 5))
        ('2 [1, 3]', '2 [1, 3]', '5')
        """
        low, high = sorted((self.best, self.worst))
        return number(self.middle) + f" [{number(low)}, {number(high)}]" * (low != high)

    def __mul__(self, factor: float) -> "Ranged":
        return Ranged(self.best * factor, self.middle * factor, self.worst * factor)

    def __add__(self, other: "Ranged | float") -> "Ranged":
        more = other if isinstance(other, Ranged) else Ranged(other, other, other)
        return Ranged(self.best + more.best, self.middle + more.middle, self.worst + more.worst)


def longest(ranges: Sequence[Ranged]) -> Ranged:
    """The largest of several in every case."""
    return Ranged(max(each.best for each in ranges), max(each.middle for each in ranges), max(each.worst for each in ranges))


def number(value: float) -> str:
    """Two digits, three from 100 on.

    >>> number(0.01234), number(12.34), number(1234.5), number(123456)
    ('0.012', '12', '1,230', '123,000')
    """
    digits = 3 if abs(value) >= 100 else 2
    return f"{float(f'{value:.{digits}g}'):,.10g}"
