"""The storage peak of a training step: is it the same number each time, and the one that is predicted without a device?"""

from typing import Any

import pytest
import torch

from bench.commands.profile.measure import Request, measure_memory
from bench.perf.turns import SPEC
from bench.shapes import shape_text
from bench.training.predict import Predictor
from bench.training.step import StepPoint

RUNS = 5
# name -> latents and batch; the last is of diffusers, through the adapter
CASES = {
    "baselines:UNet-XS": StepPoint(batch_size=12, shape=(10, 6, 6)),
    "dit:DiT-XS/2": StepPoint(batch_size=12, shape=(10, 6, 6)),
    "baselines:UNet-S": StepPoint(batch_size=1, shape=(8, 16, 16)),
    "dit:DiT-S/2": StepPoint(batch_size=2, shape=(8, 16, 16)),
    "diffusers:LatteTransformer3DModel": StepPoint(batch_size=2, shape=(8, 16, 16)),
}


@pytest.mark.perf
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(CASES))
def test_peak(benchmark: Any, name: str, precision: str) -> None:
    point, device = CASES[name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predicted = Predictor(name, SPEC, precision, device.type).peak("training", point).num_bytes
    request = Request(names=(name,), spec=SPEC, point=point, precision=precision)
    peaks: list[int] = []
    benchmark.pedantic(lambda: peaks.append(measure_memory(request, name, "training", device)[0].num_bytes), rounds=RUNS)
    row = {
        "table": "memory", "backbone": name, "precision": precision, "device": device.type, "latents": shape_text(point.shape),
        "batch": point.batch_size, "peak_bytes": peaks[0], "runs with this peak": f"{peaks.count(peaks[0])} of {len(peaks)}",
        "predicted_bytes": predicted, "predicted / measured": f"{predicted / peaks[0]:.4f}",
    }  # fmt: skip
    benchmark.extra_info.update(rows=[row], torch=torch.__version__)
