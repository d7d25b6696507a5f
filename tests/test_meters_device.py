"""What the device says of itself, as far as a CPU can say it; the GPU's part with a stand-in for NVML."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from bench.meters import device as device_module
from bench.meters.device import EnergyMeter, Neighbours, own_bytes
from bench.records.environment import own_cpus
from tests.fake_card import CUDA, running

CPU = torch.device("cpu")


def zone(folder: Path, name: str, joules: float, limit: float = 1000) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{int(limit * 1e6)}\n")


def test_energy_of_processor_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "PACKAGES", tmp_path)
    assert EnergyMeter(CPU).joules() is None  # nothing reports it
    zone(tmp_path, "intel-rapl:0", 100)
    zone(tmp_path, "intel-rapl:1", 990)
    meter = EnergyMeter(CPU)
    zone(tmp_path, "intel-rapl:0", 130)
    zone(tmp_path, "intel-rapl:1", 5)  # it has started again from 0 at 1000
    assert meter.joules() == pytest.approx(30 + 15)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()  # no longer readable
    assert meter.joules() is None


@pytest.mark.parametrize(
    ("processes", "others"),
    [({}, 0), ({os.getpid(): 5}, 0), ({os.getpid(): 5, 1: 7}, 1), ({71: 5}, 0), ({71: 5, 72: 6}, 1)],
)
def test_another_process_on_the_gpu_is_noticed(monkeypatch: pytest.MonkeyPatch, processes: dict[int, int | None], others: int) -> None:
    """Without its own number on the list, as in a container, one of the processes is this one."""
    running(monkeypatch, processes)
    neighbours = Neighbours(CUDA)
    assert neighbours.most_others == others
    running(monkeypatch, {os.getpid(): 5})  # it left again, but it was there
    neighbours.look()
    assert neighbours.most_others == others


@pytest.mark.parametrize(
    ("processes", "own"),
    [
        ({os.getpid(): 5, 1: 7}, 5),
        ({71: 5}, 5),  # it is alone, by another number
        ({71: 5, 72: 6}, None),  # which of them it is, nobody tells
        ({os.getpid(): None}, None),
        ({os.getpid(): None, 1: 7}, None),
        ({}, None),
    ],
)
def test_a_process_s_own_bytes_are_told_or_left_out(
    monkeypatch: pytest.MonkeyPatch, processes: dict[int, int | None], own: int | None
) -> None:
    running(monkeypatch, processes)
    assert own_bytes(CUDA) == own


def test_without_a_driver_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(device: torch.device) -> None:
        raise device_module.pynvml.NVMLError(device_module.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(device_module, "_handle", absent)
    assert own_bytes(CUDA) is None


def burn(seconds: float) -> None:
    end_s = time.process_time() + seconds
    while time.process_time() < end_s:
        pass


def test_processors_taken_by_others_are_told_apart_from_our_own() -> None:
    """Whatever else the machine does is in both shares, so only their order is looked at."""
    own = Neighbours(CPU)
    burn(1.0)
    without = own.cpu_share()
    process = multiprocessing.get_context("spawn").Process(target=burn, args=(60.0,))
    process.start()
    time.sleep(1.0)
    beside = Neighbours(CPU)
    time.sleep(1.5)
    with_other = beside.cpu_share()
    process.kill()
    process.join()
    assert 0 <= without <= 1
    assert with_other > 0.5 / len(own_cpus())
