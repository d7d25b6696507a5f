"""Meters: time, memory, FLOPs. Each measures one thing, names it for what it is, and keeps raw values."""

import contextlib
import gc
import resource
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.backbone import load_backbone
from bench.shapes import LatentSpec, Shape


def use_exact_float32() -> None:
    """Float32 means float32 for convolutions too: by default cuDNN rounds them to TF32, a gift to a backbone made of them."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepTimer:
    """Time of each step without waiting for the device: CUDA events, read back later; the clock on a CPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._pending: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Record the block as one step."""
        start = self._mark()
        yield
        self._pending.append((start, self._mark()))

    def read(self) -> list[float]:
        """Seconds of the steps recorded since the last read. On CUDA this waits for them."""
        pending, self._pending = self._pending, []
        if not self._cuda:
            return [end - start for start, end in pending]
        if pending:
            pending[-1][1].synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pending]

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class StopWatch:
    """Wall clock of a loop, with pauses (checkpoints, validation) left out; the device is waited for at both ends of a pause."""

    def __init__(self, device: torch.device, elapsed_s: float = 0.0):
        self._device = device
        self._elapsed_s = elapsed_s
        synchronize(device)
        self._started_s: float | None = time.perf_counter()  # None in a pause

    def elapsed_s(self) -> float:
        """Seconds so far, pauses excluded. Does not wait for the device."""
        return self._elapsed_s + (0.0 if self._started_s is None else time.perf_counter() - self._started_s)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block out."""
        synchronize(self._device)
        self._elapsed_s, self._started_s = self.elapsed_s(), None
        try:
            yield
        finally:
            synchronize(self._device)
            self._started_s = time.perf_counter()


class StorageMeter(TorchDispatchMode):
    """Peak bytes of tensor storage alive at once, on any device: the same number on every run of the same code.

    Follows each storage from the operator that made it to the moment it is freed. It counts what programs ask for, not
    what an allocator holds, and not the temporaries inside an operator.
    """

    def __init__(self, *roots: Any):
        """`roots`: tensors that are alive already, such as weights and optimiser state, in any nesting."""
        super().__init__()
        self.alive_bytes = 0
        self.peak_bytes = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for leaf in tree_leaves(roots):
            self._follow(leaf)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self._follow(leaf)
        return result

    def _follow(self, leaf: Any) -> None:
        if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        num_bytes = storage.nbytes()
        self._seen[key] = weakref.ref(storage, lambda _: self._free(key, num_bytes))
        self.alive_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)

    def _free(self, key: int, num_bytes: int) -> None:
        if self._seen.pop(key, None) is not None:
            self.alive_bytes -= num_bytes


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor an optimiser keeps: a root of the storage meter."""
    return [leaf for state in optimizer.state.values() for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


class PhaseMemory:
    """Peak memory of one phase of the process: resident set on every machine, the allocator's two numbers on CUDA."""

    def __init__(self, device: torch.device):
        self._device = device
        self._resettable = False

    def start(self) -> None:
        """Forget the peaks so far, where the system allows it, and give cached blocks back, which would count as reserved."""
        gc.collect()
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: set the resident peak back to the resident size
            self._resettable = True
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> dict[str, int]:
        """Bytes since `start`: `peak_rss_bytes`, and on CUDA `peak_allocated_bytes` and `peak_reserved_bytes`."""
        peaks = {"peak_rss_bytes": _peak_rss_bytes() if self._resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._device.type == "cuda":
            peaks["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self._device)
            peaks["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(self._device)
        return peaks


def count_flops(name: str, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip of latent shape (T, H, W): multiply-add = 2, attention included, counted on the `meta` device.

    On `meta` attention takes its matrix-product form, which the counter sees; on a CPU its fused kernel counts as zero.
    """
    with torch.device("meta"):
        backbone: Any = load_backbone(name, spec)
        backbone.requires_grad_(False)  # the counter's hooks trip over a parameter that is used as a view
        latents = [torch.empty(spec.latent_channels, *shape)]
        timesteps, labels = torch.empty(1), torch.zeros(1, dtype=torch.long) if spec.num_labels else None
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone(latents, timesteps, labels)
    return counter.get_total_flops()


def _peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss
