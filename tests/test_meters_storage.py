"""The storage meter: known values, the same number every time, and what the peak consists of."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.backbone import load_backbone
from bench.meters.storage import StorageMeter, optimizer_state
from tests.tiny import SPEC


def test_peak_by_hand() -> None:
    kept = torch.zeros(1000)  # 4000 bytes
    with StorageMeter(kept) as meter:
        a = kept + 1  # 8000
        b = a * 2  # 12000, the peak
        del a  # 8000
        view = b.view(10, 100)  # no storage of its own
        c = view[0] + 1  # 8400
        del b, view, c
    assert (meter.peak_bytes, meter.alive_bytes) == (12000, 4000)
    assert meter.split() == {"activations": 8000, "inputs": 4000}


def test_one_extra_tensor_kept_alive_is_seen() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def peak(leak: bool) -> int:
        kept = []
        with StorageMeter(list(model.parameters())) as meter:
            for _ in range(2):
                x = torch.ones(8, 64)
                model(x).sum().backward()
                if leak:
                    kept.append(torch.ones(8, 64))
                model.zero_grad(set_to_none=True)
        return meter.peak_bytes

    assert [peak(False) for _ in range(5)] == [peak(False)] * 5
    assert peak(True) > peak(False)


def test_gradients_and_optimizer_state_are_followed() -> None:
    model = nn.Linear(100, 100, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    state = optimizer_state(optimizer)
    assert sum(tensor.numel() for tensor in state) == 2 * 10_000 + 1
    model.zero_grad(set_to_none=True)
    with StorageMeter(model=model, optimiser=state) as meter:
        model(torch.ones(1, 100)).sum().backward()
        end = torch.ones(10)  # the peak: everything is alive
    assert len(end) == 10
    split = meter.split()
    assert (split["weights"], split["gradients"], split["optimiser"]) == (40_000, 40_000, 80_004)
    assert sum(split.values()) == meter.peak_bytes


def test_modules_own_their_weights_gradients_and_what_they_make() -> None:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Tanh(), nn.Linear(20, 30, bias=False))
    with StorageMeter(model=model) as meter:
        out = model(torch.ones(5, 10))
    assert out.shape == (5, 30)
    # Weights 10 x 20 and 20 x 30, outputs 5 x 20 of the tanh, which keeps it and not its input, and 5 x 30, and the input.
    assert meter.by_module() == {"2": 4 * (600 + 150), "0": 4 * 200, "1": 400, "(no module)": 200}
    model(torch.ones(5, 10)).sum().backward()  # its hooks are gone
    assert sum(meter.by_module().values()) == meter.peak_bytes


def test_a_step_without_the_machine_has_the_same_peak() -> None:
    """Fake tensors have shapes and no values: what they predict is what a real step measures."""

    def peak() -> tuple[int, dict[str, int]]:
        torch.manual_seed(0)
        backbone = load_backbone("baselines:UNet-XS", SPEC)
        latents = [torch.ones(4, 3, 4, 6) for _ in range(2)]
        with StorageMeter(latents, model=backbone) as meter:  # type: ignore[arg-type]
            outputs = backbone(latents, torch.full((2,), 0.5), torch.tensor([0, 3]))
            torch.stack(outputs).square().mean().backward()
        return meter.peak_bytes, meter.split()

    measured = peak()
    with FakeTensorMode():
        assert peak() == measured
