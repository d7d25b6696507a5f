"""Meters: each measures one thing, names it for what it is, and keeps raw values."""

from bench.meters.clock import StepTimer, StopWatch, synchronize
from bench.meters.flops import count_flops
from bench.meters.memory import PhaseMemory
from bench.meters.storage import StorageMeter, optimizer_state

__all__ = ["PhaseMemory", "StepTimer", "StopWatch", "StorageMeter", "count_flops", "optimizer_state", "synchronize"]
