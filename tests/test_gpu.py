"""What only a CUDA device can show: kernels, precision, memory, synchronisation. `tox -e gpu`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.testing import assert_close

from baselines.kernels import attention_over_time
from bench.backbone import load_backbone
from bench.meters.clock import StepTimer, StopWatch, mark, synchronize
from bench.meters.device import EnergyMeter, Neighbours
from bench.meters.memory import PhaseMemory
from bench.meters.peak import matmul_peak
from bench.meters.storage import StorageMeter
from bench.perf.suite import suite
from bench.perf.workload import warm_up
from bench.training.canary import run_canaries
from bench.training.predict import Predictor
from bench.training.step import Stepper, StepPoint, make_batch
from bench.training.trainer import Trainer
from tests.tiny import SPEC, latent_set, mixed_set, tiny_cell

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPE = (4, 6, 4)


@pytest.fixture(autouse=True)
def fresh_accelerate_state() -> None:
    """accelerate remembers device and precision for the whole process; a cell has a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """RuntimeError where the host waits for the device inside."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


BACKBONES = ["dit:DiT-XS/2", "baselines:UNet-XS"]


def trainer(folder: Path, backbone: str, **changes: object) -> Trainer:
    cell = tiny_cell(backbone=backbone, device="cuda", **changes)
    data = latent_set(shape=(4, *SHAPE))
    torch.manual_seed(0)
    return Trainer(
        cell,
        load_backbone(backbone, SPEC),
        train=data,
        val=data,
        inputs="gpu",
        folder=folder,
        flops_of=lambda shape: 1,
        device=torch.device("cuda"),
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_trains_and_resumes(tmp_path: Path, backbone: str, precision: str) -> None:
    training = trainer(tmp_path, backbone, precision=precision, budget={"steps": 30}).train()
    assert len(training.loss) == len(training.step_time_s) == 30
    assert all(0 < step_s < 10 for step_s in training.step_time_s)
    assert trainer(tmp_path, backbone, precision=precision, budget={"steps": 30}).state.step == 30


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_captured_graphs_train_as_the_pass_itself(tmp_path: Path, backbone: str, precision: str) -> None:
    fields = {"precision": precision, "budget": {"steps": 12}}
    losses = []
    for way in ("none", "graphs"):
        (tmp_path / way).mkdir()
        run = trainer(tmp_path / way, backbone, acceleration={"compile": way}, **fields)
        assert (run.train_step._captured is not None) == (way == "graphs")
        losses.append(run.train().loss)
    assert_close(losses[1], losses[0], rtol=1e-3 if precision == "fp32" else 2e-2, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_fastest_way_is_found_and_kept(tmp_path: Path, backbone: str) -> None:
    found = trainer(tmp_path, backbone, acceleration={"compile": "auto"}, precision="bf16", budget={"steps": 3}).train().acceleration
    assert found is not None
    assert found.pass_time_s.keys() | found.left_out.keys() == {"none", "blocks", "graphs"}
    assert found.chosen in found.pass_time_s


@pytest.mark.parametrize("backbone", BACKBONES)
def test_first_losses_are_those_of_the_cpu(tmp_path: Path, backbone: str) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        AcceleratorState._reset_state(reset_partial_state=True)
        (tmp_path / device).mkdir()
        cell = tiny_cell(backbone=backbone, device=device, budget={"steps": 2})
        data = latent_set(shape=(4, *SHAPE))
        torch.manual_seed(0)
        network = load_backbone(backbone, SPEC)
        on_device = Trainer(
            cell, network, train=data, val=data, inputs="x", folder=tmp_path / device, flops_of=lambda shape: 1, device=torch.device(device)
        )  # type: ignore[arg-type]
        losses.append(on_device.train().loss)
    assert_close(losses[0], losses[1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_canaries_pass(backbone: str) -> None:
    torch.manual_seed(0)
    data = latent_set(shape=(4, *SHAPE))
    cell = tiny_cell(backbone=backbone, device="cuda")
    canaries = run_canaries(cell, load_backbone(backbone, SPEC), SPEC, SHAPE, data, data, torch.device("cuda"))  # type: ignore[arg-type]
    assert all(canary.passed for canary in canaries), canaries


def test_mixed_shapes_agree_with_the_loop_in_half_precision() -> None:
    """Variable-length attention against one clip at a time."""
    torch.manual_seed(0)
    network = load_backbone("dit:DiT-XS/2", SPEC).cuda().eval()  # type: ignore[attr-defined]
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    latents = [torch.randn(4, *shape, device="cuda") for shape in (SHAPE, (1, 4, 4), (2, 2, 6))]
    timesteps, labels = torch.tensor([0.1, 0.5, 0.9], device="cuda"), torch.tensor([0, 1, 3], device="cuda")
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        together = network(latents, timesteps, labels)
        for index, clip in enumerate(latents):
            alone = network([clip], timesteps[index : index + 1], labels[index : index + 1])[0]
            assert_close(together[index].float(), alone.float(), atol=0.05, rtol=0.05)


def test_attention_over_time_takes_any_number_of_cells() -> None:
    """CUDA's fused kernels end at 65535 problems: a step of images has more."""
    qkv = torch.randn(300, 2, 256, 3, 1, 8, device="cuda", requires_grad=True)
    mixed = attention_over_time(qkv)
    mixed.sum().backward()
    alone = attention_over_time(qkv[-1:].detach().cpu())
    assert_close(mixed[-1:].cpu(), alone, rtol=1e-4, atol=1e-5)
    assert qkv.grad is not None
    assert bool(qkv.grad.isfinite().all())


MIXED = [(4, 4, 6, 4), (4, 1, 4, 8), (4, 2, 4, 4), (4, 4, 2, 6)]
HALF = {"token_dropping": {"kind": "constant", "rate": 0.5}}
POLICIES = [
    ("baselines:UNet-XS", {"policy": "bucket"}),
    ("baselines:UNet-XS", {"policy": "pad"}),
    ("dit:DiT-XS/2", {"policy": "pack"}),
    ("dit:DiT-XS/2", {"policy": "pack", **HALF}),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("backbone", "batching"), POLICIES)
def test_any_policy_trains_resumes_and_never_waits(tmp_path: Path, backbone: str, batching: dict[str, object], precision: str) -> None:
    data = mixed_set(MIXED * 4)
    cell = tiny_cell(
        backbone=backbone, device="cuda", precision=precision, batching={"voxel_budget": 256, **batching}, budget={"steps": 12}
    )

    def made() -> Trainer:
        torch.manual_seed(0)
        options = {"inputs": "gpu", "folder": tmp_path, "flops_of": lambda shape: 1, "device": torch.device("cuda")}
        return Trainer(cell, load_backbone(backbone, SPEC), train=data, val=data, **options)  # type: ignore[arg-type]

    first = made()
    watch = StopWatch(first.device)
    for _ in range(3):
        first.step(watch)
    with waiting_forbidden():
        for _ in range(4):
            first.step(watch)
    with first._pause(watch):
        first.save()
    assert made().state.step == 7
    assert len(made().train().loss) == 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_never_waits_for_the_device(tmp_path: Path, backbone: str, precision: str) -> None:
    made = trainer(tmp_path, backbone, precision=precision, budget={"steps": 100})
    watch = StopWatch(made.device)
    for _ in range(3):  # the second step is metered
        made.step(watch)
    with waiting_forbidden():
        for _ in range(3):
            made.step(watch)


@pytest.mark.parametrize("name", [name for name in suite() if name.startswith(("train", "sample", "packed"))])
def test_counters_repeat_and_kernels_are_among_them(tmp_path: Path, name: str) -> None:
    counters = []
    for turn in range(2):
        AcceleratorState._reset_state(reset_partial_state=True)
        (tmp_path / str(turn)).mkdir()
        workload = suite()[name].open(tmp_path / str(turn))
        warm_up(workload)
        counters.append(workload.counters())
    assert counters[0] == counters[1]
    assert counters[0]["kernels"] > 10


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", ["dit:DiT-S/2", "baselines:UNet-S"])
def test_predicted_memory_is_what_the_allocator_sees(backbone: str, precision: str) -> None:
    """Within 5 % of the allocated peak, for a step whose activations outweigh what libraries keep for themselves."""
    device, point = torch.device("cuda"), StepPoint(batch_size=8, shape=(8, 32, 32))
    predicted = Predictor(backbone, SPEC, precision, "cuda").peak_bytes("training", point)
    stepper = Stepper(load_backbone(backbone, SPEC).cuda().train(), device, precision, trains=True)  # type: ignore[attr-defined]
    batch = make_batch(SPEC, point, "training", device)
    stepper.step("training", batch)
    torch.cuda.reset_peak_memory_stats()
    stepper.step("training", batch)
    assert abs(torch.cuda.max_memory_allocated() / predicted - 1) < 0.05


def test_meters_of_the_device() -> None:
    device = torch.device("cuda")
    energy, neighbours = EnergyMeter(device), Neighbours(device)
    a = torch.randn(4096, 4096, device=device)
    for _ in range(50):
        a = (a @ a).clamp(-1, 1)
    torch.cuda.synchronize()
    joules = energy.joules()
    assert joules is None or joules > 0
    assert neighbours.most_others == 0
    assert matmul_peak(device, torch.bfloat16) > matmul_peak(device, torch.float32) > 1e12


def test_step_timer_sees_the_device_and_not_the_host() -> None:
    timer = StepTimer(torch.device("cuda"))
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        with timer.step():
            for _ in range(10):
                a = (a @ a).clamp(-1, 1)
    times = timer.read()
    assert len(times) == 3
    assert min(times) > 1e-4


def test_a_mark_is_where_the_device_gets_to_and_not_where_the_host_is() -> None:
    device = torch.device("cuda")
    a = torch.randn(4096, 4096, device=device)
    a @ a  # what is loaded at first use is loaded
    watch = StopWatch(device)
    for _ in range(50):
        a = (a @ a).clamp(-1, 1)
    moment, handed_over_s = mark(device), watch.elapsed_s()
    synchronize(device)
    assert handed_over_s < watch.at(moment) <= watch.elapsed_s() + 1e-3


def test_memory_meters_agree_on_a_known_tensor() -> None:
    device = torch.device("cuda")
    memory = PhaseMemory(device)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    memory.start()
    with StorageMeter() as meter:
        block = torch.zeros(64 * 2**20, dtype=torch.uint8, device=device)
        del block
    peaks = memory.peaks()
    assert peaks["peak_allocated_bytes"] - before == meter.peak_bytes == 64 * 2**20
    assert peaks["peak_reserved_bytes"] >= peaks["peak_allocated_bytes"]


def test_i3d_on_the_device_is_that_of_the_cpu() -> None:
    from bench.metrics.extractors.features import extract
    from bench.metrics.extractors.table import load_extractor
    from bench.metrics.weights import table as weights

    if weights.status_of("i3d").state != "ready":
        pytest.skip("needs the I3D weights: python -m bench weights get i3d")
    frames = torch.randint(0, 256, (2, 10, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    first, second = (extract(load_extractor("i3d", device), frames) for device in ("cpu", "cuda"))
    assert abs(first - second).max() / abs(first).max() < 1e-3
