"""What a step asks of the device: operators dispatched, of them those that launch work, and kernels launched on CUDA. Counts, the
same on every run."""

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode

# Beside views, what allocates or marks and computes nothing. An empty tensor is memory; `lift_fresh` names a constant.
IDLE = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh", "resize_", "set_"}
)
IDLE_NAMESPACES = frozenset({"prim", "profiler"})  # size and device queries; marks for a profiler


class OperatorCounter(TorchDispatchMode):
    """Operators that reach the dispatcher below autograd while it is active, forward, backward and optimiser alike.

    `num_launches` leaves out those that start nothing on a device: views, allocations, queries. An operator of many tensors, such as
    `_foreach_copy_`, is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_operators = 0
        self.num_launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operators += 1
        self.num_launches += launches(func)
        return func(*args, **(kwargs or {}))


def launches(func: Any) -> bool:
    """Whether an operator (`OpOverload`) starts work on a device."""
    return not (func.is_view or func.namespace in IDLE_NAMESPACES or func.overloadpacket.__name__ in IDLE)


def count_kernels(step: Any) -> int:
    """Kernels, copies and fills that one call of `step` starts on a CUDA device."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        step()
        torch.cuda.synchronize()
    return sum(1 for event in profile.events() if event.device_type == DeviceType.CUDA)
