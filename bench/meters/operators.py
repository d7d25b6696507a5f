"""What a step asks of the device: operators dispatched, and kernels launched on CUDA. Counts, the same on every run."""

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode


class OperatorCounter(TorchDispatchMode):
    """Operators that reach the dispatcher below autograd while it is active, forward, backward and optimiser alike."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operators += 1
        return func(*args, **(kwargs or {}))


def count_kernels(step: Any) -> int:
    """Kernels, copies and fills that one call of `step` starts on a CUDA device."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        step()
        torch.cuda.synchronize()
    return sum(1 for event in profile.events() if event.device_type == DeviceType.CUDA)
