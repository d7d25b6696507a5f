"""The deterministic peak of tensor storage, on any device, and what it consists of."""

import contextlib
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUTSIDE = "(no module)"  # loss, backward, optimiser


def held_bytes() -> int:
    """Bytes of tensor storage that Python objects of this process hold, each storage once: caches and forgotten tensors too."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.layout is torch.strided and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


@dataclass
class Life:
    """One storage, from the operator that made it to the moment it was freed."""

    num_bytes: int
    kind: str
    module: str
    born: int  # events are counted: births and deaths
    died: int | None = None


class StorageMeter(TorchDispatchMode):
    """Peak bytes of tensor storage alive at once, on any device: the same number on every run of the same code.

    Follows each storage from the operator that made it to the moment it is freed. It counts what programs ask for, not
    what an allocator holds, and not the temporaries inside an operator.
    """

    def __init__(self, *roots: Any, model: nn.Module | None = None, **kinds: Any):
        """`roots` and `kinds`: tensors that are alive already, in any nesting; a keyword names their kind, such as weights or optimiser.

        `model`: storage born in its forward is told by module, that of its weights by owner, and its gradients are a kind of their own.
        """
        super().__init__()
        self.alive_bytes = 0
        self.peak_bytes = 0
        self._events = 0
        self._peak_event = 0
        self._lives: list[Life] = []
        self._seen: dict[int, tuple[weakref.ref[torch.UntypedStorage], Life]] = {}
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()} if model is not None else {}
        self._stack: list[str] = []
        self._hooks = contextlib.ExitStack()
        if model is not None:
            for name, weight in model.named_parameters():
                self._follow(weight, "weights", name.rpartition(".")[0])
        for kind, tensors in {**kinds, "inputs": roots}.items():
            for leaf in tree_leaves(tensors):
                self._follow(leaf, kind)

    def __enter__(self) -> "StorageMeter":
        if self._model is not None:
            pre = register_module_forward_pre_hook(lambda module, args: self._stack.append(self._names.get(id(module), OUTSIDE)))
            post = register_module_forward_hook(lambda module, args, output: self._left(), always_call=True)
            self._hooks.callback(pre.remove)
            self._hooks.callback(post.remove)
            for name, weight in self._model.named_parameters():
                if weight.requires_grad:
                    owner = name.rpartition(".")[0]
                    hook = weight.register_post_accumulate_grad_hook(lambda weight, owner=owner: self._name_gradient(weight, owner))
                    self._hooks.callback(hook.remove)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._hooks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self._follow(leaf, "activations", self._stack[-1] if self._stack else OUTSIDE)
        return result

    def split(self) -> dict[str, int]:
        """Kind -> bytes of it that were alive at the peak: weights, gradients, optimiser, activations (with temporaries), inputs, ..."""
        return self._at_peak(lambda life: life.kind)

    def by_module(self) -> dict[str, int]:
        """Module -> bytes that were alive at the peak: its weights and gradients and what was born in its forward."""
        return self._at_peak(lambda life: life.module)

    def _at_peak(self, key: Any) -> dict[str, int]:
        totals: dict[str, int] = {}
        for life in self._lives:
            if life.born <= self._peak_event and (life.died is None or life.died > self._peak_event):
                totals[key(life)] = totals.get(key(life), 0) + life.num_bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def _follow(self, leaf: Any, kind: str, module: str = OUTSIDE) -> None:
        if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._events += 1
        life = Life(storage.nbytes(), kind, module, self._events)
        self._lives.append(life)
        self._seen[key] = weakref.ref(storage, lambda _: self._free(key, life)), life
        self.alive_bytes += life.num_bytes
        if self.alive_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_event = self.alive_bytes, self._events

    def _free(self, key: int, life: Life) -> None:
        if self._seen.pop(key, None) is not None:
            self._events += 1
            life.died = self._events
            self.alive_bytes -= life.num_bytes

    def _left(self) -> None:
        if self._stack:
            self._stack.pop()

    def _name_gradient(self, weight: Tensor, owner: str) -> None:
        if weight.grad is not None and (entry := self._seen.get(weight.grad.untyped_storage()._cdata)) is not None:
            entry[1].kind, entry[1].module = "gradients", owner


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor an optimiser keeps: a root of the storage meter."""
    return [leaf for state in optimizer.state.values() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
