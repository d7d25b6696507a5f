"""Memory of a real GPU: what its allocator and driver tell, what is predicted of it, and what fits by trying. `tox -e gpu`."""

from collections.abc import Iterator

import pytest
import torch

from bench.backbone import load_backbone
from bench.commands.profile import fit
from bench.commands.profile.measure import Request, try_step
from bench.meters.device import Neighbours, own_bytes
from bench.meters.memory import FOUND, PhaseMemory, is_out_of_memory, let_go
from bench.training.draws import Drawer
from bench.training.predict import Predictor
from bench.training.step import OPTIONS, Stepper, StepPoint
from tests.tiny import SPEC, latent_set, mixed_set, tiny_cell

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
MIB = 2**20


@pytest.fixture
def small_card() -> Iterator[int]:
    """Bytes that the allocator may reserve: 4 GiB, however large the card is."""
    total = torch.cuda.get_device_properties(CUDA).total_memory
    let_go(CUDA)
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**32 / total))
    yield min(total, 2**32)
    torch.cuda.set_per_process_memory_fraction(1.0)
    let_go(CUDA)


def block(mib: int) -> torch.Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8, device=CUDA)


def test_the_process_has_what_its_allocator_reserved_and_a_context() -> None:
    if Neighbours(CUDA).most_others:
        pytest.skip("others are on the device")
    held = block(512)
    own = own_bytes(CUDA)
    assert own is not None and own > torch.cuda.memory_reserved() > held.nbytes - 1
    assert own - torch.cuda.memory_reserved() < 4 * 2**30  # a context, kernels and libraries


def test_retries_errors_and_gaps_of_a_phase_are_counted(small_card: int) -> None:
    memory = PhaseMemory(CUDA)
    memory.start()
    assert {memory.peaks()[name] for name in ("num_alloc_retries", "num_ooms")} == {0}
    cached = block(2048)
    del cached
    larger = block(3072)  # beside the cache it has no room: that is emptied
    del larger
    with pytest.raises(torch.OutOfMemoryError) as error:
        block(8192)
    assert is_out_of_memory(error.value)
    found = memory.peaks()
    assert set(found) >= set(FOUND) - {"peak_process_bytes"}
    assert found["num_alloc_retries"] >= 1 and found["num_ooms"] == 1
    assert 3072 * MIB <= found["peak_allocated_bytes"] <= found["peak_reserved_bytes"] <= small_card
    memory.start()
    again = memory.peaks()
    assert (again["num_alloc_retries"], again["num_ooms"]) == (0, 0) and again["peak_allocated_bytes"] < 3072 * MIB


def test_gaps_of_split_blocks_are_seen() -> None:
    let_go(CUDA)
    memory = PhaseMemory(CUDA)
    memory.start()
    small = [torch.empty(2 * MIB, dtype=torch.uint8, device=CUDA) for _ in range(16)]  # cut from blocks of 20 MiB
    del small[1::2]
    assert memory.peaks()["peak_inactive_split_bytes"] >= 2 * MIB


MIXED = [(4, 8, 32, 32), (4, 1, 32, 64), (4, 4, 32, 32)] * 4
BATCHES = [
    ("dit:DiT-S/2", {"policy": "pack", "voxel_budget": 65536}),
    ("dit:DiT-S/2", {"policy": "bucket", "voxel_budget": 65536}),
    ("baselines:UNet-S", {"policy": "bucket", "voxel_budget": 65536}),
    ("baselines:UNet-S", {"batch_size": 8}),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("backbone", "batching"), BATCHES)
def test_any_batch_takes_what_was_predicted_of_it(backbone: str, batching: dict[str, object], precision: str) -> None:
    """Within 5 % of the allocated peak."""
    cell = tiny_cell(backbone=backbone, device="cuda", precision=precision, batching=batching)
    stepper = Stepper(load_backbone(backbone, SPEC).cuda().train(), CUDA, precision, trains=True)  # type: ignore[attr-defined]
    assert stepper.train_step is not None
    data = latent_set(16, (4, 8, 32, 32)) if "batch_size" in batching else mixed_set(MIXED)
    drawer = Drawer(cell, data, stepper.backbone, CUDA)
    drawn = drawer.draw(drawer.stream.batch(1))
    predicted = Predictor(backbone, SPEC, precision, "cuda").peak_drawn(drawn).num_bytes
    stepper.train_step(drawn.loss, OPTIONS.warmup_steps, 0.0)
    memory = PhaseMemory(CUDA)
    memory.start()
    stepper.train_step(drawn.loss, OPTIONS.warmup_steps, 0.0)
    assert abs(memory.peaks()["peak_allocated_bytes"] / predicted - 1) < 0.05


@pytest.mark.parametrize("backbone", ["dit:DiT-S/2", "baselines:UNet-S"])
def test_what_fits_by_trying_is_near_what_is_predicted(small_card: int, backbone: str) -> None:
    """Of 4 GiB, which here hold no context, so that all of it is for tensors and for gaps."""
    predictor = Predictor(backbone, SPEC, "bf16", "cuda")

    def at(batch_size: int) -> StepPoint:
        return StepPoint(batch_size=batch_size, shape=(8, 32, 32))

    def fits(batch_size: int) -> bool:
        request = Request(names=(backbone,), spec=SPEC, point=at(batch_size), precision="bf16")
        return try_step(request, backbone, "training", CUDA) is not None

    predicted = fit.largest(lambda num: predictor.peak_bytes("training", at(num)), small_card, most=512)
    tried = fit.largest_tried(fits, predicted, 512)
    assert 0.75 < tried / predicted <= 1.05
    assert torch.cuda.memory_allocated() < 64 * MIB  # nothing is left of what failed
