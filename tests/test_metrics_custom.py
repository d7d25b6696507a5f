"""Anybody's network with a manifest: what it claims is checked first, and a file that could run code is not opened."""

import dataclasses
import hashlib
import importlib
import json
import os
import pickle
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.data.plugin import BrokenPlugin
from bench.meters.memory import is_out_of_memory
from bench.metrics.extractors import custom, golden
from bench.metrics.extractors.features import cached_features, extract
from bench.metrics.extractors.manifest import I3D, Manifest
from bench.metrics.extractors.table import load_extractor
from bench.metrics.protocol import metric_name
from bench.metrics.quality import protocol_block
from bench.metrics.weights.cache import WeightsError
from tests import extractor_plugin

FACTS: dict[str, Any] = {"frame_stride": 1, "fps": None, "split": "test"}  # of a protocol


def save_script(network: nn.Module, file: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), file)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def script(folder: Path, network: nn.Module | None = None, **changes: Any) -> Path:
    """A TorchScript file with its manifest beside it."""
    file = folder / "net.pt"
    digest = save_script(network or extractor_plugin.Moments(), file)
    fields = {"name": "moments", "weights_sha256": digest, "dim": 6, "min_frames": 2, "license": "MIT"} | changes
    file.with_suffix(".json").write_text(json.dumps(fields))
    return file


def clips(n: int = 3, num_frames: int = 5, height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, num_frames, height, width, 3), dtype=np.uint8)


def stated(frames: np.ndarray, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    x = frames.astype(np.float64) / 255 * (high - low) + low
    change = np.abs(np.diff(x, axis=1)).mean((1, 2, 3))
    return np.concatenate([x.mean((1, 2, 3)), change], axis=1) * np.arange(1, 7)


def test_a_torchscript_file_is_an_extractor(tmp_path: Path) -> None:
    extractor = load_extractor(str(script(tmp_path)), "cpu")
    assert extractor.name == "moments" and extractor.dim == 6
    np.testing.assert_allclose(extract(extractor, clips()), stated(clips()), rtol=1e-4, atol=1e-5)
    assert metric_name("frechet", extractor.name, 64, extractor.dim) == "fd_moments@64"
    with pytest.raises(ValueError, match="at least 2 frames a clip, got 1"):
        extract(extractor, clips(num_frames=1))
    with pytest.raises(ValueError, match="multiply by 255"):
        extract(extractor, clips().astype(np.float32) / 255)


def test_range_and_resize_of_the_manifest_are_used(tmp_path: Path) -> None:
    ranged = load_extractor(str(script(tmp_path, value_range=[0, 255])))
    np.testing.assert_allclose(extract(ranged, clips()), stated(clips(), 0, 255), rtol=1e-4)
    sized = load_extractor(str(script(tmp_path, size=[3, 2], resize="tf1-bilinear/1")))
    np.testing.assert_allclose(extract(sized, clips()), stated(clips()[:, :, ::2, ::2]), rtol=1e-4, atol=1e-5)
    half = load_extractor(str(script(tmp_path, size=[3, 2], resize="half-pixel-bilinear/1")))
    means = clips().reshape(3, 5, 3, 2, 2, 2, 3).mean((3, 5))  # halving averages two by two
    np.testing.assert_allclose(extract(half, clips()), stated(means), rtol=1e-4, atol=1e-5)


def test_golden_values_are_checked_when_it_is_loaded(tmp_path: Path) -> None:
    frames = golden.checkerboard(4, 16, 24)
    truth = {
        "mean checkerboard 4x16x24": stated(frames)[0].mean(),
        "rms checkerboard 4x16x24": float(np.sqrt(np.square(stated(frames)[0]).mean())),
        "distance black white 3x8x8": 4.0 * (1 + 4 + 9),
    }
    load_extractor(str(script(tmp_path, golden=truth)))
    for words, value in truth.items():
        said = f"is not what its manifest says: {words} is " + format(value, ".6g")[:4]
        with pytest.raises(ValueError, match=said):
            load_extractor(str(script(tmp_path, golden={words: value * 1.01 + 0.01})))
        with pytest.raises(ValueError, match="not what its manifest says"):
            load_extractor(str(script(tmp_path, golden={words: float("nan")})))
    with pytest.raises(ValueError, match="not what its manifest says"):
        load_extractor(str(script(tmp_path, golden=truth, value_range=[0, 1])))
    with pytest.raises(ValueError, match="unknown golden value 'fvd'"):
        load_extractor(str(script(tmp_path, golden={"fvd": 1.0})))


def test_the_checkerboard_is_not_its_own_mirror() -> None:
    clip = golden.checkerboard(6, 16, 16)
    assert clip.shape == (1, 6, 16, 16, 3) and clip.dtype == np.uint8
    for other in (clip[:, ::-1], clip[:, :, ::-1], clip[:, :, :, ::-1], clip.transpose(0, 1, 3, 2, 4), clip[..., ::-1], 255 - clip):
        assert not np.array_equal(clip, other)
    assert hashlib.sha256(clip.tobytes()).hexdigest() == hashlib.sha256(golden.checkerboard(6, 16, 16).tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights_sha256": "0" * 64}, r"its manifest says 0{64}; it is another file"),
        ({"weights_sha256": ""}, "needs the weights_sha256"),
        ({"weights_sha256": "abc"}, "weights_sha256: String should match"),
        ({"dim": 7}, None),
        ({"dim": "many"}, "dim: Input should be a valid integer"),
        ({"colour": "blue"}, "colour: Unexpected keyword"),
        ({"name": "i3d"}, "taken or reserved"),
        ({"name": "myFVD"}, "taken or reserved"),
        ({"name": "frame"}, "taken or reserved"),
        ({"name": "Motion"}, "taken or reserved"),
        ({"name": "i3d-half-pixel"}, "taken or reserved"),
        ({"name": "i3d_torchscript"}, "taken or reserved"),
        ({"name": "mine_Infinite"}, "taken or reserved"),
        ({"code_sha256": "0" * 64}, "is found when it is loaded"),
        ({"name": "a/b"}, "name: String should match"),
        ({"size": [4, 4]}, "resize 'none/1' to .4, 4.; with such a size there is tf1-bilinear/1, half-pixel-bilinear/1"),
        ({"resize": "tf1-bilinear/1"}, "resize .* to None; with such a size there is none/1"),
        ({"aliases": ["0" * 64]}, "aliases are for published networks"),
        ({"min_frames": 5, "max_frames": 3}, "5 to 3 frames"),
        ({"value_range": [1, 0]}, "from black up to white"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: dict[str, Any], said: str | None) -> None:
    file = str(script(tmp_path, **change))
    if said is None:
        with pytest.raises(ValueError, match=r"gave shape \(3, 6\) for 3 clips, expected \(3, 7\)"):
            extract(dataclasses.replace(load_extractor(file), batch_size=3), clips())
        return
    with pytest.raises((ValueError, WeightsError), match=said):
        load_extractor(file)


def test_a_file_without_a_readable_manifest_is_refused(tmp_path: Path) -> None:
    file = script(tmp_path)
    for content, said in (
        ("{", "needs a readable manifest"),
        ("[1]", "its manifest is list"),
        ('{"name": "x"}', "Field required|dim"),
    ):
        file.with_suffix(".json").write_text(content)
        with pytest.raises(ValueError, match=said):
            load_extractor(str(file))
    file.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"needs a readable manifest beside it, net\.json, with"):
        load_extractor(str(file))
    with pytest.raises(WeightsError, match="cannot be read"):
        load_extractor(str(tmp_path / "nothing.pt"))


class Exploit(nn.Module):
    def __init__(self, command: str):
        super().__init__()
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["module", "old module", "state dict", "pickle", "disguised", "text"])
def test_a_file_that_is_not_torchscript_is_not_opened(tmp_path: Path, kind: str) -> None:
    """Its manifest agrees with it, so only its kind speaks against it."""
    file, exploit = tmp_path / "net.pt", Exploit(f"touch {tmp_path / 'ran'}")
    if kind == "pickle":
        file.write_bytes(pickle.dumps(exploit))
    elif kind == "text":
        file.write_text("hello")
    else:
        content: Any = {"state": torch.ones(2)} if kind == "state dict" else exploit
        torch.save(content, file, _use_new_zipfile_serialization=kind != "old module")
    if kind == "disguised":
        with zipfile.ZipFile(file, "a") as archive:  # has what TorchScript has, by name
            archive.writestr("net/constants.pkl", pickle.dumps(exploit))
            archive.writestr("net/code/x.py", "import os")
    fields = {"name": "mine", "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "dim": 6}
    file.with_suffix(".json").write_text(json.dumps(fields))
    with pytest.raises(WeightsError, match="damaged or not TorchScript") as caught:
        load_extractor(str(file))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = script(tmp_path)
    content = file.read_bytes()[:-100]
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="it is another file"):
        load_extractor(str(file))
    fields = json.loads(file.with_suffix(".json").read_text())
    file.with_suffix(".json").write_text(json.dumps(fields | {"weights_sha256": hashlib.sha256(content).hexdigest()}))
    with pytest.raises(WeightsError, match="damaged or not TorchScript"):
        load_extractor(str(file))


def test_a_factory_is_an_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = custom.hash_module(extractor_plugin.Moments())
    fields = extractor_plugin.moments.manifest | {"weights_sha256": digest}  # type: ignore[attr-defined]
    monkeypatch.setattr(extractor_plugin.moments, "manifest", fields)
    extractor = load_extractor("tests.extractor_plugin:moments", "cpu")
    np.testing.assert_allclose(extract(extractor, clips()), stated(clips()), rtol=1e-4, atol=1e-5)
    assert extractor.manifest.weights_sha256 == digest
    monkeypatch.setattr(extractor_plugin.moments, "manifest", fields | {"weights_sha256": "0" * 64})
    with pytest.raises(WeightsError, match=f"has weights {digest}, its manifest says 0000"):
        load_extractor("tests.extractor_plugin:moments")


def test_code_is_a_part_of_what_an_extractor_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of a factory's module, or of one that it uses, gives other features, and they are not taken from the cache."""
    digest = custom.hash_module(extractor_plugin.Moments())
    monkeypatch.syspath_prepend(tmp_path)

    def written(factor: int, shift: int) -> list[float]:
        (tmp_path / "own_shift.py").write_text(f"def shifted(x):\n    return x + {shift}\n")
        (tmp_path / "own_network.py").write_text(
            "from own_shift import shifted\nfrom tests.extractor_plugin import Moments\n\n\n"
            f"class Own(Moments):\n    def forward(self, clips):\n        return shifted({factor} * super().forward(clips))\n\n\n"
            "def make():\n    return Own()\n\n\n"
            f"make.manifest = dict(name='own', weights_sha256='{digest}', dim=6, min_frames=2, license='MIT')\n"
        )
        importlib.invalidate_caches()
        for name in ("own_shift", "own_network"):
            sys.modules.pop(name, None)
        for compiled in (tmp_path / "__pycache__").glob("*"):  # of the same second and size
            compiled.unlink()
        extractor = load_extractor("own_network:make")
        codes.append(extractor.manifest.code_sha256)
        block = protocol_block(extractor.manifest, extractor.device, n_real=2, n_fake=2, shape=(5, 6, 4), clip_list=[], **FACTS)
        assert block.describe()["code_sha256"] == codes[-1]
        return cached_features(extractor, clips(), None, tmp_path)[0].tolist()  # type: ignore[no-any-return]

    codes: list[str] = []
    first, other_factor, other_shift = written(1, 0), written(2, 0), written(1, 3)
    assert first != other_factor and first != other_shift
    assert written(1, 0) == first
    assert len(set(codes)) == 3 and codes[0] == codes[3]
    assert custom.source_sha256("own_network") == custom.source_sha256("own_network", "torch", "json", "bench.shapes")


def test_the_hash_of_a_module_sees_names_types_and_values() -> None:
    networks = [nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False).double(), extractor_plugin.Moments()]
    for network in networks:
        network.load_state_dict({name: torch.ones_like(value) for name, value in network.state_dict().items()})
    hashes = {custom.hash_module(network) for network in networks}
    networks[0].weight.data[0, 0] += 1  # type: ignore[union-attr, operator]
    assert len(hashes | {custom.hash_module(networks[0])}) == 5


@pytest.mark.parametrize("error", [RuntimeError("no features"), torch.OutOfMemoryError("full")])
def test_what_a_network_raises_is_its_own_fault(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    manifest = {"name": "mine", "weights_sha256": custom.hash_module(extractor_plugin.Raises()), "dim": 6}
    monkeypatch.setattr(extractor_plugin.moments_that_raise, "manifest", manifest, raising=False)
    monkeypatch.setattr(extractor_plugin, "ERROR", error)
    loaded = load_extractor("tests.extractor_plugin:moments_that_raise")
    with pytest.raises(BrokenPlugin, match=f"extractor 'mine' raised {type(error).__name__}: {error}; mend it") as raised:
        extract(loaded, clips())
    assert is_out_of_memory(raised.value) == (str(error) == "full")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"extractor file .*net\.pt is no regular file"):
        load_extractor(str(tmp_path / "net.pt"))


def test_a_manifest_too_deep_to_read_is_refused(tmp_path: Path) -> None:
    file = script(tmp_path)
    file.with_suffix(".json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"needs a readable manifest beside it, .*\.json"):
        load_extractor(str(file))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:factory", "no module 'nowhere' on the path"),
        ("tests.extractor_plugin:nothing", "has nothing to call named 'nothing'"),
        ("tests.extractor_plugin:without_manifest", "its manifest is NoneType, expected an object with the fields"),
        ("tests.extractor_plugin:not_a_module", "gave int, expected a torch.nn.Module"),
        ("tests.extractor_plugin:moments", "needs the weights_sha256"),
        ("tests.extractor_plugin:raises", "extractor 'tests.extractor_plugin:raises' raised RuntimeError: no weights; mend it"),
        ("tests.extractor_plugin:leaves", "extractor 'tests.extractor_plugin:leaves' raised SystemExit: 0; mend it"),
        ("moments", "a TorchScript file .* or module:factory"),
    ],
)
def test_factories_that_are_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_extractor(name)


def test_stylegan_v_is_the_canonical_network_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in of the same signature: found without a manifest, called without its own resize, checked on black and white."""
    file = tmp_path / "i3d_torchscript.pt"
    small = dataclasses.replace(I3D, golden={"distance black white 9x24x24": 151.392})
    digest = save_script(extractor_plugin.StyleganV(), file)
    monkeypatch.setattr(custom, "KNOWN_FILES", {digest: small})
    extractor = load_extractor(str(file))
    assert (extractor.name, extractor.manifest.weights_sha256) == ("i3d", digest)
    assert metric_name("frechet", extractor.name, 64, 400) == "fvd@64"
    frames = clips(2, 9)
    expected = frames.astype(np.float64).mean((1, 2, 3, 4)) / 255 * 2 - 1
    features = extract(extractor, frames)
    assert features.shape == (2, 400)
    np.testing.assert_allclose(features[:, 0], expected * (151.392 / 1600) ** 0.5, atol=0.02)
    assert np.ptp(features, axis=1).max() == 0, "asked for softmax"
    reversed_frames = frames.copy()
    reversed_frames[:, 1:] = 0
    assert np.abs(extract(extractor, reversed_frames) - features).max() > 0.05, "asked for its own resize"
    with pytest.raises(ValueError, match="at least 9 frames"):
        extract(extractor, clips(1, 8))


def test_stylegan_v_with_other_values_is_not_fvd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "i3d_torchscript.pt"
    small = dataclasses.replace(I3D, golden={"distance black white 9x24x24": 151.392})
    digest = save_script(extractor_plugin.StyleganV(distance=151.392 * 1.0024), file)  # as the wrong epsilon gives
    monkeypatch.setattr(custom, "KNOWN_FILES", {digest: small})
    with pytest.raises(ValueError, match=r"is 151\.7.*claimed 151\.392"):
        load_extractor(str(file))


def test_stylegan_v_file_that_is_published() -> None:
    assert custom.KNOWN_FILES == {"bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2": I3D}
    assert isinstance(I3D, Manifest) and set(I3D.golden) == {"rms checkerboard 9x32x32"}
