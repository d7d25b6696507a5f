"""Weights cast to half precision once a step and all at once, where autocast would cast them layer by layer, and their gradients back.

Any backbone is served: which weights autocast casts is seen in a trial pass, and those that its code keeps in float32, such as norms or
what stands in a region without autocast, stay so. Outside of a step the backbone's weights are float32: checkpoints, optimiser,
clipping and average see no others.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.meters.operators import launches

CAST = torch.ops.aten._to_copy.default
JOIN = torch.ops.aten.cat.default
ALIGNMENT = 64  # values: what kernels that read many at a time ask of an address, in half precision 128 bytes


class HalfWeights:
    """Half-precision copies of a backbone's weights, in their place from a forward pass until `restore`.

    What is computed is the same to the bit: a copy is what autocast makes, and each gradient is cast once. A backbone whose code asks a
    weight for its type might compute something else; a second trial pass, with copies, finds that, and autocast is then left alone.
    """

    def __init__(self, backbone: nn.Module, half: torch.dtype) -> None:
        self._backbone, self._half = backbone, half
        self._weights: list[Tensor] | None = None  # float32, those that are cast; None before it is known
        self._places: list[tuple[dict[str, Any], str, int]] = []  # where a module holds one: its parameters, the name, index of the weight

    def forward(self, call: Callable[[], Any], look: Callable[[], Any]) -> Any:
        """What `call` gives, a pass through the backbone under autocast that is to be differentiated; `look`: the same, to be looked at."""
        self.prepare(look)
        self._put()
        try:
            return call()
        except BaseException:
            self.restore()
            raise

    def prepare(self, call: Callable[[], Any]) -> None:
        """Look which weights are cast, where that is not known: what the first pass does, before it is measured."""
        if self._weights is None:
            self._weights = self._seen(call)

    def restore(self) -> None:
        """The float32 weights in their places again. A block that is computed again in backward needs the copies until then."""
        for held, name, index in self._places:
            held[name] = self._weights[index]  # type: ignore[index]

    def _put(self) -> None:
        if not self._weights:
            return
        copies = CastTogether.apply(self._half, self.restore, *self._weights)
        for held, name, index in self._places:
            held[name] = copies[index]

    def _seen(self, call: Callable[[], Any]) -> list[Tensor]:
        """The weights to be cast. The trials leave buffers and the state of random numbers as they were."""
        trained = [weight for weight in self._backbone.parameters() if weight.requires_grad and weight.dtype == torch.float32]
        with undisturbed(self._backbone):
            with _Watch(trained, self._half) as plain:
                call()
            weights = plain.cast_alone()
            index = {id(weight): place for place, weight in enumerate(weights)}
            for module in self._backbone.modules():
                held: dict[str, Any] = module._parameters
                self._places += [(held, name, index[id(weight)]) for name, weight in held.items() if id(weight) in index]
            self._weights = weights
            self._put()
            try:
                with _Watch([], self._half) as cast:
                    call()
            finally:
                self.restore()
        if plain.without_casts_of(weights) != cast.read:
            self._places = []
            return []
        return weights


class CastTogether(torch.autograd.Function):
    """Float32 weights -> copies in half precision, in one call; backward casts their gradients in another."""

    @staticmethod
    def forward(ctx: Any, half: torch.dtype, done: Callable[[], None], *weights: Tensor) -> tuple[Tensor, ...]:
        """`done` is called when the gradients of all copies are there, and lets go of the copies."""
        ctx.set_materialize_grads(False)
        ctx.weights, ctx.done = weights, done
        copies = side_by_side(weights, half)
        torch._foreach_copy_(copies, weights)
        return tuple(copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.done()
        used = [grad is not None for grad in grads]  # a weight that a pass left out has no gradient
        exact = [torch.empty_like(weight) if has else None for weight, has in zip(ctx.weights, used, strict=True)]  # in its layout
        torch._foreach_copy_([each for each in exact if each is not None], [grad for grad in grads if grad is not None])
        return None, None, *exact


def side_by_side(weights: Sequence[Tensor], half: torch.dtype) -> list[Tensor]:
    """Room for copies of weights in their layouts, one after another in one piece of memory: what joins neighbours then copies nothing."""
    sizes = [-(-weight.numel() // ALIGNMENT) * ALIGNMENT for weight in weights]
    memory = torch.empty(sum(sizes), dtype=half, device=weights[0].device)
    starts = [0, *itertools.accumulate(sizes)]
    # Not views (`data`), which autograd would follow to the whole; nor `set_`, of which a fake mode's cache keeps the memory.
    layouts = ((weight.shape, torch.empty_like(weight, device="meta").stride()) for weight in weights)
    return [memory.as_strided(*layout, start).data for start, layout in zip(starts[:-1], layouts, strict=True)]


class _Watch(TorchDispatchMode):
    """Sees which operators read which of `weights`, and in which types all others are read."""

    def __init__(self, weights: Sequence[Tensor], half: torch.dtype) -> None:
        super().__init__()
        self._half = half
        self._weights = {weight.untyped_storage()._cdata: weight for weight in weights}  # a view of a weight shares its storage
        self.read: list[tuple[Any, ...]] = []  # operator and types of what it reads
        self._of: list[tuple[set[int], bool]] = []  # of each, the weights it reads, and whether it casts them

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if launches(func) and func is not JOIN:  # which computes nothing, and is left out where copies lie side by side
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            to = (kwargs or {}).get("dtype")
            self.read.append((func, to, *(tensor.dtype for tensor in tensors)))
            of = {tensor.untyped_storage()._cdata for tensor in tensors} & self._weights.keys()
            self._of.append((of, func is CAST and to == self._half))
        return func(*args, **(kwargs or {}))

    def cast_alone(self) -> list[Tensor]:
        """The weights that are cast to half precision and read by nothing else."""
        cast, exact = (set().union(*(of for of, casts in self._of if casts == wanted)) for wanted in (True, False))
        return [weight for storage, weight in self._weights.items() if storage in cast - exact]

    def without_casts_of(self, weights: list[Tensor]) -> list[tuple[Any, ...]]:
        """`read`, but for what reads one of these."""
        left_out = {weight.untyped_storage()._cdata for weight in weights}
        return [read for read, (of, _) in zip(self.read, self._of, strict=True) if not of & left_out]


@contextlib.contextmanager
def undisturbed(backbone: nn.Module) -> Iterator[None]:
    """Inside, passes change neither buffers nor the state of random numbers. Gradients are on, or torch would choose other operators."""
    kept = [(buffer, buffer.clone()) for buffer in backbone.buffers()]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)
