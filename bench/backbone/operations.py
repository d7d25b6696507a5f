"""Operations of a backbone with a plain formula and a fast way to the same numbers, and which library multiplies. Knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, ParamSpec, TypeVar

from bench.shapes import Refusal, did_you_mean

# The library of float32 products on a CPU, "onednn" or "torch" (its own: MKL or another), by what is multiplied: rows with weights, and in
# backward for the gradients of both. Which is faster depends on the processor; `run` tries them, and rivals share the choice.
PRODUCTS = {"forward": "onednn", "of_rows": "onednn", "of_weights": "onednn"}


def torch_operator(name: str) -> Any:
    """Torch's own "namespace.operator.overload", which it may keep to itself; None where this torch has none of that name.

    >>> torch_operator("aten.add.Tensor"), torch_operator("aten.no_such_operator.default")
    (<OpOverload(op='aten.add', overload='Tensor')>, None)
    """
    import torch

    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Operation(Generic[Arguments, Result]):
    """One operation of a backbone: its plain formula and a fast way to the same numbers, which a call takes unless told otherwise."""

    def __init__(self, plain: Callable[Arguments, Result], fast: Callable[Arguments, Result]) -> None:
        self.plain, self.fast, self.chosen = plain, fast, fast

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self.chosen(*args, **kwargs)

    @contextmanager
    def by(self, way: Callable[Arguments, Result]) -> Iterator[None]:
        """Inside, calls go this way: `plain`, or one that it is to be compared with."""
        before, self.chosen = self.chosen, way
        try:
            yield
        finally:
            self.chosen = before


class Operations(dict[str, Operation[..., Any]]):
    """The table of a backbone's operations that have a fast way, by name."""

    @contextmanager
    def plain(self, *names: str) -> Iterator[None]:
        """Inside, these operations are their plain formulas. Refusal for a name that the table lacks."""
        with ExitStack() as stack:
            for name in names:
                if name not in self:
                    raise Refusal(f"unknown operation {name!r}{did_you_mean(name, list(self))}; there are {', '.join(self)}")
                stack.enter_context(self[name].by(self[name].plain))
            yield
