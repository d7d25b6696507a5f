"""What is the same for every item of a set, as a sequence that takes the memory of one."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

ValueT = TypeVar("ValueT")


class Repeated(Sequence[ValueT], Generic[ValueT]):
    """`one`, `num` times.

    >>> list(Repeated((1, 8, 8), 3)[1:])
    [(1, 8, 8), (1, 8, 8)]
    """

    def __init__(self, one: ValueT, num: int):
        self.one, self.num = one, num

    def __len__(self) -> int:
        return self.num

    @overload
    def __getitem__(self, index: int) -> ValueT: ...
    @overload
    def __getitem__(self, index: slice) -> "Repeated[ValueT]": ...
    def __getitem__(self, index: int | slice) -> "ValueT | Repeated[ValueT]":
        found = range(self.num)[index]
        return Repeated(self.one, len(found)) if isinstance(found, range) else self.one

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(value == self.one for value in other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"({self.one!r},) * {self.num}"
