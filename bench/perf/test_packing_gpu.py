"""Packs of clips of many shapes on a GPU, in bfloat16: against padding, against equal clips, against other libraries, and by kernel.

As `test_packing.py` and `test_peers.py`, with larger packs and networks: small ones measure how fast a host launches kernels.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.perf.mix import mixed_packs
from bench.perf.test_packing import against_equal_clips, against_padding, by_kernel
from bench.perf.test_peers import MODULES, against_latte, against_navit

pytestmark = [pytest.mark.perf, pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

BUDGET = {"S": 32768, "B": 16384}  # tokens of a pack
SMALL_BUDGET = 8192  # where a contender's mask has the square of it
LATTE_CLIPS = {"S": 32, "B": 16}
ROUNDS = 9
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def name_of_the_gpu(benchmark: Any) -> None:
    benchmark.extra_info["gpu"] = torch.cuda.get_device_name()


@pytest.mark.parametrize("against", [against_padding, against_equal_clips])
@pytest.mark.parametrize("size", BUDGET)
def test_pack(benchmark: Any, size: str, against: Callable[..., None]) -> None:
    against(benchmark, size, mixed_packs(ROUNDS, BUDGET[size]), CUDA, tokens=BUDGET[size])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("size", BUDGET)
def test_attention_kernels(benchmark: Any, size: str) -> None:
    by_kernel(benchmark, size, mixed_packs(ROUNDS, SMALL_BUDGET), torch.bfloat16, CUDA, tokens=SMALL_BUDGET)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("size", BUDGET)
def test_packed_images_against_vit_pytorch(benchmark: Any, size: str, module: str) -> None:
    against_navit(benchmark, size, module, mixed_packs(ROUNDS, SMALL_BUDGET, max_frames=1), CUDA)


@pytest.mark.parametrize("size", BUDGET)
def test_equal_clips_against_latte(benchmark: Any, size: str) -> None:
    against_latte(benchmark, size, LATTE_CLIPS[size], ROUNDS, CUDA)
