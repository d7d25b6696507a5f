"""A distance has one name, FVD is reserved, and values under different protocols do not compare."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from bench import weights
from bench.metrics.protocol import ProtocolBlock, compare_or_raise, headline_clips, metric_name


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
        ("frechet", "i3d", 2048, None, "fvd"),
        ("frechet", "i3d", 2047, None, "fvd@2047"),
        ("frechet", "i3d", 64, 400, "fvd@64"),
        ("kernel", "i3d", 64, None, "kvd@64"),
        ("kernel", "i3d", 4096, None, "kvd"),
        ("frechet", "random3d", 64, None, "fd_random3d@64"),
        ("kernel", "random3d", 2048, None, "kd_random3d"),
        ("frechet", "vjepa", 2048, 1408, "fd_vjepa@2048"),
        ("frechet", "vjepa", 2816, 1408, "fd_vjepa"),
    ],
)
def test_names(kind: str, extractor: str, n: int, dim: int | None, name: str) -> None:
    assert metric_name(kind, extractor, n, dim=dim) == name


def test_headline_needs_2048_clips_or_twice_the_features() -> None:
    assert [headline_clips(dim) for dim in (1, 400, 1024, 1025, 4096)] == [2048, 2048, 2048, 2050, 8192]


@pytest.mark.parametrize(
    ("kind", "extractor", "n", "dim", "said"),
    [
        ("fvd", "random3d", 64, None, "'fvd' is what 'frechet' is called with extractor 'i3d', and only then"),
        ("fid", "i3d", 64, None, "unknown distance 'fid'"),
        ("frechet", "fvd_videomae", 64, 1408, "reserved"),
        ("frechet", "MyFVD", 64, 1408, "reserved"),
        ("kernel", "kvd2", 64, 1408, "reserved"),
        ("frechet", "random3", 64, None, "did you mean 'random3d'"),
        ("frechet", "i3d", 64, 1024, "has 400 features"),
        ("frechet", "i3d", 1, None, "at least 2 clips"),
    ],
)
def test_names_that_are_refused(kind: str, extractor: str, n: int, dim: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        metric_name(kind, extractor, n, dim=dim)


def test_another_network_may_not_pass_for_i3d() -> None:
    with pytest.raises(ValidationError, match="give another network another name"):
        block(weights_sha256="b" * 64)
    with pytest.raises(ValidationError, match="give another network another name"):
        block(dim=2048)
    assert block(extractor="i3d_eps1e5", weights_sha256="b" * 64).name("frechet") == "fd_i3d_eps1e5@64"


def test_name_takes_the_smaller_set() -> None:
    assert block().name("frechet") == "fvd@64"
    assert block(n_real=4000, n_fake=2048).name("kernel") == "kvd"


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "bfloat16"},
        {"covariance": "n"},
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
        "n_real": 65,
        "n_fake": 65,
        "num_frames": 16,
        "frame_stride": 3,
        "fps": 25.0,
        "height": 32,
        "width": 32,
        "resize": "none/1",
        "split": "train",
        "clip_list_sha256": "b" * 64,
        "device": "NVIDIA H100",
        "versions": {"torch": "2.13.1", "numpy": "2.4.6"},
    }
    # Held fixed for i3d by the block itself, or with one legal value.
    assert set(ProtocolBlock.model_fields) - set(changes) == {"weights_sha256", "dim", "covariance", "dtype"}
    prints = {block(**{field: value}).fingerprint() for field, value in changes.items()}
    other = {"extractor": "other"}
    prints |= {block(**other, weights_sha256="b" * 64).fingerprint(), block(**other, dim=3).fingerprint(), block().fingerprint()}
    assert len(prints) == len(changes) + 3
    assert block().fingerprint() == block(versions={"numpy": "2.4.6", "torch": "2.13.0"}).fingerprint()


def test_comparison_lists_what_differs() -> None:
    compare_or_raise(block(), block())
    with pytest.raises(ValueError) as caught:
        compare_or_raise(block(), block(num_frames=16, versions={"torch": "2.13.1", "numpy": "2.4.6", "scipy": "1"}))
    said = str(caught.value)
    assert said.endswith("; num_frames: 10 and 16; versions.scipy: None and 1; versions.torch: 2.13.0 and 2.13.1")
    assert "numpy" not in said


def test_needs_no_torch() -> None:
    code = "import sys, bench.metrics.protocol; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
