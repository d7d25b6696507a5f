"""A distance has one name, FVD is reserved, and values under different protocols do not compare."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from bench.metrics.distances.table import distances
from bench.metrics.extractors.manifest import MANIFESTS
from bench.metrics.protocol import ProtocolBlock, compare_or_raise, metric_name, read_name
from bench.metrics.weights import table as weights
from bench.records.record import Measurement


def block(**changes: object) -> ProtocolBlock:
    fields: dict[str, object] = {
        "extractor": "i3d",
        "weights_sha256": weights.source_sha256("i3d"),
        "dim": 400,
        "n_real": 64,
        "n_fake": 128,
        "num_frames": 10,
        "frame_stride": 1,
        "fps": 8.0,
        "height": 24,
        "width": 24,
        "resize": "tf1-bilinear-224/1",
        "split": "test",
        "clip_list_sha256": "a" * 64,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
    }
    return ProtocolBlock.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("kind", "extractor", "n", "dim", "name"),
    [
        ("frechet", "i3d", 2048, 400, "fvd"),
        ("frechet", "i3d", 2047, 400, "fvd@2047"),
        ("frechet", "i3d", 64, 400, "fvd@64"),
        ("kernel", "i3d", 64, 400, "kvd@64"),
        ("kernel", "i3d", 4096, 400, "kvd"),
        ("frechet", "random3d", 64, 128, "fd_random3d@64"),
        ("kernel", "random3d", 2048, 128, "kd_random3d"),
        ("frechet", "mine", 2048, 1408, "fd_mine@2048"),
        ("frechet", "mine", 2816, 1408, "fd_mine"),
        ("frechet", "vjepa", 2560, 1280, "fd_vjepa"),
    ],
)
def test_names(kind: str, extractor: str, n: int, dim: int, name: str) -> None:
    assert metric_name(kind, extractor, n, dim) == name


def test_a_name_says_its_distance_and_its_extractor() -> None:
    for kind in distances():
        for extractor in (*MANIFESTS, "frame", "my-own.1"):
            found = read_name(metric_name(kind, extractor, 64, 48))
            assert found is not None and (found[0].key, found[1]) == (kind, extractor)
    for other in ("fvd_infinite@64", "fd_motion_infinite@64", "kd_motion_excess_ratio@64", "val_loss", "fvd2", "framing_distance"):
        assert read_name(other) is None


def fingerprint(made: ProtocolBlock) -> str | None:
    """As a measurement under it has."""
    return Measurement(name="fvd@64", value=1, unit="1", better="lower", protocol=made.describe()).protocol_fingerprint


def test_another_network_may_not_pass_for_i3d() -> None:
    with pytest.raises(ValidationError, match="give another network another name"):
        block(weights_sha256="b" * 64)
    with pytest.raises(ValidationError, match="give another network another name"):
        block(dim=2048)
    assert block(extractor="mine", weights_sha256="b" * 64).name("frechet") == "fd_mine@64"


def test_a_published_file_of_the_same_network_is_fvd_with_its_own_hash() -> None:
    """StyleGAN-V's TorchScript: another file, the same network, so the same name; the blocks differ in the hash."""
    other = block(weights_sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2")
    assert other.name("frechet") == "fvd@64" and fingerprint(other) != fingerprint(block())
    with pytest.raises(ValueError, match="weights_sha256: af5c50f0"):
        compare_or_raise(block().describe(), other.describe())


@pytest.mark.parametrize("change", [{"covariance": "n"}, {"root": "sqrtm"}, {"resize": "half-pixel-bilinear-224/1"}])
def test_fvd_is_measured_one_way_only(change: dict[str, object]) -> None:
    """As other tools measure, the same weights give a distance of another name."""
    with pytest.raises(ValidationError, match=f"not measured with {next(iter(change))} .*give it another name"):
        block(**change)
    assert block(extractor="i3d_eps1e-5", **change).name("frechet") == "fd_i3d_eps1e-5@64"
    assert block(extractor="i3d_half-pixel", **change).name("kernel") == "kd_i3d_half-pixel@64"


def test_name_takes_the_smaller_set() -> None:
    assert block().name("frechet") == "fvd@64"
    assert block(n_real=4000, n_fake=2048).name("kernel") == "kvd"


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"covariance": "n-2"},
        {"root": "newton"},
        {"n_real": 1},
        {"weights_sha256": "short"},
        {"fps": 0.0},
        {"unheard_of": 1},
    ],
)
def test_what_a_block_may_not_hold(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        block(**change)


def test_block_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        block().n_real = 3


def test_every_field_moves_the_fingerprint() -> None:
    changes: dict[str, object] = {
        "extractor": "other",
        "code_sha256": "c" * 64,
        "n_real": 65,
        "n_fake": 65,
        "num_frames": 16,
        "frame_stride": 3,
        "fps": 25.0,
        "height": 32,
        "width": 32,
        "split": "train",
        "sampling": "random start, seed 0",
        "clip_list_sha256": "b" * 64,
        "device": "NVIDIA H100",
        "versions": {"torch": "2.13.1", "numpy": "2.4.6"},
        "clips": {"rule": "seeded-cut/1"},
    }
    # Held fixed for i3d by the block itself, or with one legal value.
    assert set(ProtocolBlock.model_fields) - set(changes) == {"weights_sha256", "dim", "resize", "covariance", "root", "dtype"}
    prints = {fingerprint(block(**{field: value})) for field, value in changes.items()}
    other = {"extractor": "other"}
    held = {"weights_sha256": "b" * 64, "dim": 3, "resize": "none/1", "covariance": "n", "root": "sqrtm"}
    prints |= {fingerprint(block(**other, **{field: value})) for field, value in held.items()} | {fingerprint(block())}
    assert len(prints) == len(changes) + len(held) + 1
    assert fingerprint(block()) == fingerprint(block(versions={"numpy": "2.4.6", "torch": "2.13.0"}))


def test_comparison_lists_what_differs() -> None:
    compare_or_raise(block().describe(), block().describe())
    with pytest.raises(ValueError) as caught:
        other = block(num_frames=16, versions={"torch": "2.13.1", "numpy": "2.4.6", "scipy": "1"})
        compare_or_raise(block().describe(), other.describe())
    said = str(caught.value)
    assert said.endswith("; num_frames: 10 and 16; versions.scipy: None and 1; versions.torch: 2.13.0 and 2.13.1")
    assert "numpy" not in said


def test_needs_no_torch() -> None:
    code = "import sys, bench.metrics.protocol; sys.exit('torch' in sys.modules or 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
