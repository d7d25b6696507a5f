"""The performance suite under pytest-benchmark: raw samples, a timer that waits for the device, counters and machine beside them."""

from pathlib import Path

import pytest
import torch

from bench.meters.process import use_exact_float32
from bench.metrics.weights.table import WeightsError
from bench.perf.suite import suite
from bench.perf.workload import warm_up
from bench.records.environment import read_environment

ROUNDS = 20


@pytest.mark.perf
@pytest.mark.parametrize("name", suite())
def test_step(benchmark, name: str, tmp_path: Path) -> None:
    use_exact_float32()
    try:
        workload = suite()[name].open(tmp_path)
    except WeightsError as error:
        pytest.skip(str(error))
    warm_up(workload)
    parts_s: dict[str, list[float]] = {}

    def step() -> None:
        for part, seconds in workload.timed_step()[1].items():  # it waits for the device at both ends
            parts_s.setdefault(part, []).append(seconds)

    benchmark.pedantic(step, rounds=ROUNDS)
    device = torch.cuda.get_device_name() if workload.device.type == "cuda" else "cpu"
    benchmark.extra_info.update(
        parts_s=parts_s,
        counters=workload.counters(),
        environment=read_environment(num_threads=torch.get_num_threads(), device=device).model_dump(),
    )
