"""Device "auto" is settled before a cell has a fingerprint, and by whoever knows."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.run import device
from bench.run.device import device_here, on_this_machine, settled
from bench.run.launchers.table import launcher
from bench.run.match.resolve import _key, resolve
from bench.shapes import Refusal
from bench.study.matrix import Match, load_study
from tests.commands import write_matrix
from tests.tiny import cell_fields, tiny_cell


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    device_here.cache_clear()
    yield
    device_here.cache_clear()


def on(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(device, "device_here", lambda: kind)


def test_a_cell_of_a_cpu_is_not_that_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one results folder, what a CPU finished is still to do on a machine with a GPU."""
    defaults = {key: value for key, value in cell_fields(device="auto").items() if key != "backbone"}
    study = load_study(str(write_matrix(tmp_path, defaults=defaults)))
    folders = {}
    for kind in ("cpu", "cuda"):
        on(monkeypatch, kind)
        found = resolve(study, tmp_path, print, launcher())
        assert {named.cell.device for named in found.cells} == {kind}
        folders[kind] = [named.folder for named in found.cells]
    assert not set(folders["cpu"]) & set(folders["cuda"])
    on(monkeypatch, "cpu")
    plain = load_study(str(write_matrix(tmp_path, defaults=defaults | {"device": "cpu"})))
    assert [named.folder for named in resolve(plain, tmp_path, print, launcher()).cells] == folders["cpu"]


def test_the_proof_of_a_match_is_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for kind in ("cpu", "cuda"):
        on(monkeypatch, kind)
        keys.append(_key(Match(by="flops", to="DiT-XS/2"), tiny_cell(device="auto"), "dit:DiT-XS/2", launcher()))
    assert len(set(keys)) == 2


def test_a_device_that_is_named_is_kept_and_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "device_here", lambda: pytest.fail("asked"))
    assert [settled(tiny_cell(device=kind)).device for kind in ("cpu", "cuda")] == ["cpu", "cuda"]


def test_two_devices_that_are_one_here_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "cpu")
    study = load_study(str(write_matrix(tmp_path, axes={"device": ["auto", "cpu"]}, match=None, defaults=cell_fields())))
    with pytest.raises(Refusal, match=r"cells .* and .* are one cell here, where device auto is cpu; name devices that differ"):
        on_this_machine(study)


def test_without_a_driver_it_is_a_cpu_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert device_here() == "cpu"


@pytest.mark.parametrize(("printed", "expected"), [("True", "cuda"), ("False", "cpu"), ("a notice\nTrue", "cuda"), ("", "cpu")])
def test_with_a_driver_torch_says_whether_it_can_use_it(monkeypatch: pytest.MonkeyPatch, printed: str, expected: str) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=printed))
    assert device_here() == expected


def test_what_torch_is_asked_is_what_it_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    assert device_here() == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("code", ["raise SystemExit('no torch')", "import time; time.sleep(60)"])
def test_a_torch_that_does_not_answer_is_a_line(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(device, "has_driver", lambda: True)
    monkeypatch.setattr(device, "ASK", code)
    monkeypatch.setattr(device, "TIMEOUT_S", 5.0 if "no torch" in code else 0.2)
    with pytest.raises(Refusal, match=r"torch does not say whether there is a GPU .*; give device=cpu or device=cuda"):
        device_here()


def test_a_driver_is_found_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "AMD", Path("/nowhere"))
    monkeypatch.setattr(device, "DRIVERS", ("libnowhere.so.1",))
    assert not device.has_driver()
    if sys.platform == "linux":
        monkeypatch.setattr(device, "DRIVERS", ("libnowhere.so.1", "libc.so.6"))
        assert device.has_driver()
    monkeypatch.setattr(device, "DRIVERS", ())
    monkeypatch.setattr(device, "AMD", Path(__file__))
    assert device.has_driver()
