"""The processes that train one cell together: which is which, what they agree on, and how the weights are spread over them.

One process alone is the usual case, and then nothing here communicates. What is told between them are numbers in tensors, by gloo on the
host; gradients and sharded weights go by the device's own library.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.shapes import Refusal
from bench.study.cell import Parallel


@dataclass(frozen=True)
class Ranks:
    """This process among those of its cell."""

    rank: int = 0
    num: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes what belongs to all."""
        return self.rank == 0

    def own(self, num: int) -> list[int]:
        """Of so many things, those of this process: every num-th."""
        return list(range(self.rank, num, self.num))

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, on the host, float64: the same bits in each."""
        if self.num == 1:
            return values
        values = values.detach().to("cpu", torch.float64)
        dist.all_reduce(values)
        return values

    def of_leader(self, values: Sequence[float]) -> list[float]:
        """Numbers as the leading process has them."""
        if self.num == 1:
            return list(values)
        told = torch.tensor(list(values), dtype=torch.float64)
        dist.broadcast(told, src=0)
        return told.tolist()

    def any(self, asked: bool) -> bool:
        """Whether any process says so."""
        return asked if self.num == 1 else bool(self.total(torch.tensor([float(asked)])).item())

    def lists(self, value: float) -> list[float]:
        """The value of every process, in their order."""
        found = torch.zeros(self.num, dtype=torch.float64)
        found[self.rank] = value
        return self.total(found).tolist()

    def counts(self, own: Mapping[str, int], names: Sequence[str]) -> dict[str, list[int]]:
        """Of each name the number of every process, in their order; without names of which a process has none. All give the same names."""
        table = torch.zeros(self.num, len(names), dtype=torch.float64)
        table[self.rank] = torch.tensor([own.get(name, math.nan) for name in names], dtype=torch.float64)
        found = dict(zip(names, self.total(table).T.tolist(), strict=True))
        return {name: [int(value) for value in every] for name, every in found.items() if not any(map(math.isnan, every))}

    def here_s(self, seconds: float) -> float:
        """Seconds of all processes, where all are on this machine; else this one's."""
        every = self.lists(seconds)
        return sum(every) if os.environ.get("LOCAL_WORLD_SIZE", "1") == str(self.num) else seconds

    def gathered(self, own: dict[int, Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Tensors (float32, on the host) of all places, each of its shape, in every process; `own`: place -> that of this one."""
        if self.num == 1:
            return [own[place] for place in range(len(shapes))]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        flat = torch.zeros(sum(sizes))
        for place, part in enumerate(flat.split(sizes)):
            if place in own:
                part.copy_(own[place].flatten())
        dist.all_reduce(flat)  # each place is one process's, and zero in all others
        return [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]

    def wait(self) -> None:
        """Until all are here."""
        if self.num > 1:
            dist.barrier()


ALONE = Ranks()


def join() -> Ranks:
    """This process among those that its agent started; alone where there is none."""
    if "RANK" not in os.environ:
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    # Whoever fails is seen by the agent; one that judges clips, while others wait, may take hours.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=7))
    assert dist.get_world_size() == int(os.environ["WORLD_SIZE"])
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """No more is said to the others."""
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def spread(backbone: nn.Module, parallel: Parallel, device: torch.device, half: torch.dtype | None) -> nn.Module:
    """The backbone as its processes train it: as it is, a copy in each (DDP), or sharded by block (FSDP2).

    Gradients are then those of the mean of the processes' losses. Refusal where there are no blocks to shard by.
    """
    if parallel.kind == "none":
        return backbone
    if parallel.kind == "ddp":
        ids = [device.index or 0] if device.type == "cuda" else None
        # A process may have no clip of those that a weight is for, as the layers over time of images.
        return nn.parallel.DistributedDataParallel(backbone, device_ids=ids, forward_sync_buffers=False, find_unused_parameters=True)
    return _sharded(backbone, device, half)


def _sharded(backbone: Any, device: torch.device, half: torch.dtype | None) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    check_sharded(backbone)
    # Nothing writes into what a unit returns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None, cast_forward_inputs=False)
    for unit in backbone.shard_units():
        fully_shard(unit if len(unit) > 1 else unit[0], mesh=mesh, mp_policy=policy)
    return fully_shard(backbone, mesh=mesh, mp_policy=policy)


def check_sharded(backbone: Any) -> None:
    """Refusal for a backbone that does not say what it can be sharded by."""
    if getattr(backbone, "shard_units", None) is None:
        name = type(backbone).__name__
        raise Refusal(f"parallel.kind=fsdp needs a backbone with shard_units(), and {name} has none; use parallel.kind=ddp")


def balanced(costs: Sequence[int], num: int) -> list[list[int]]:
    """Places of clips for each of `num` processes, in order: the dearest first, each to whoever has least (Graham 1969, LPT).

    >>> balanced([4, 1, 3, 2], 2), balanced([1, 1, 1], 2)
    ([[0, 1], [2, 3]], [[0, 2], [1]])
    """
    parts: list[list[int]] = [[] for _ in range(num)]
    loads = [0] * num
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        least = min(range(num), key=lambda part: (loads[part], part))
        parts[least].append(place)
        loads[least] += costs[place]
    return [sorted(part) for part in parts]
