"""Extractors of one's own: a TorchScript file or a torch module with a manifest, and StyleGAN-V's TorchScript I3D, known by its hash.

A network takes clips (B, 3, T, H, W) float32 in the manifest's value range and gives features (B, dim). Frames are resized to the
manifest's size by one of resize.py. What a manifest claims is checked before the network may measure anything: the hash
of the weights before the file is opened, then the golden values.

A TorchScript file is a program of torch's own operators; a pickled module is not opened, because opening it would run it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.data.plugin import blaming, import_foreign
from bench.metrics.distances.table import distances
from bench.metrics.extractors import golden, i3d
from bench.metrics.extractors.i3d import exact_float32
from bench.metrics.extractors.manifest import FRAME, I3D, MANIFESTS, STYLEGAN_V_SHA256, Manifest
from bench.metrics.extractors.resize import RESIZES
from bench.metrics.protocol import DERIVED
from bench.metrics.weights.cache import WeightsError
from bench.metrics.weights.table import SOURCES
from bench.shapes import Refusal

SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")  # an extractor with such a name is a file, there or not

# TorchScript files that need no manifest beside them: their hash says what they are.
KNOWN_FILES = {STYLEGAN_V_SHA256: I3D}


def load_torchscript(file: Path, device: torch.device) -> tuple[Manifest, Callable[[Tensor], Tensor]]:
    """(manifest, frames (B, T, H, W, 3) uint8 -> features (B, dim)) of a TorchScript file; its manifest is the JSON beside it."""
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise WeightsError(f"extractor file {file} is no regular file; name one that is")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"extractor file {file} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest in KNOWN_FILES:
        manifest = dataclasses.replace(KNOWN_FILES[digest], weights_sha256=digest, aliases=())
        network = open_torchscript(content, file, device)
        # As universome/fvd-comparison calls it where it shows that it equals TensorFlow's network: our resize and range, its own switched
        # off. StyleGAN-V's metric lets it rescale and resize, half-pixel, which is not what FVD is defined with: `i3d_half-pixel` is that.
        called = partial(network, rescale=False, resize=False, return_features=True)
        return manifest, checked(manifest, lambda frames: called(i3d.preprocess(frames).contiguous()), device)
    manifest = read_manifest(file)
    if digest != manifest.weights_sha256:
        raise WeightsError(f"extractor file {file} has sha256 {digest}, its manifest says {manifest.weights_sha256}; it is another file")
    network = open_torchscript(content, file, device)
    return manifest, checked(manifest, lambda frames: network(preprocess(manifest, frames)), device)


def load_factory(name: str, device: torch.device) -> tuple[Manifest, Callable[[Tensor], Tensor]]:
    """(manifest, frames -> features) of "module:factory": `factory()` gives a torch module, `factory.manifest` its manifest."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Refusal(f"extractor {name!r}: {module_name!r} is no name of a module; write module:factory")
    try:
        module = import_foreign(module_name)
    except ModuleNotFoundError as error:
        raise Refusal(f"extractor {name!r}: no module {error.name!r} on the path") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise Refusal(f"extractor {name!r}: module {module_name!r} has nothing to call named {attribute!r}")
    manifest = parse_manifest(getattr(factory, "manifest", None), name)
    with blaming(f"extractor {name!r}"):
        network = factory()
    if not isinstance(network, nn.Module):
        raise Refusal(f"extractor {name!r}: {attribute}() gave {type(network).__name__}, expected a torch.nn.Module")
    if (digest := hash_module(network)) != manifest.weights_sha256:
        raise WeightsError(f"extractor {name!r} has weights {digest}, its manifest says {manifest.weights_sha256}; they are others")
    manifest = dataclasses.replace(manifest, code_sha256=source_sha256(module_name, *(type(part).__module__ for part in network.modules())))
    network.to(device).eval()
    return manifest, checked(manifest, lambda frames: network(preprocess(manifest, frames)), device)


def hash_module(network: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: name, type, shape and values of each, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def source_sha256(*names: str) -> str:
    """SHA-256 of the source of modules, and of all that they use of one's own; not of installed packages, whose versions are recorded."""
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    found: dict[str, bytes] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in found or name.partition(".")[0] == "bench" or file is None:
            continue
        path = Path(file).resolve()
        if stdlib in path.parents or {"site-packages", "dist-packages"} & set(path.parts):
            continue
        found[name] = path.read_bytes()
        for value in vars(module).values():
            used = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            waiting += [used] if isinstance(used, str) else []
    digest = hashlib.sha256()
    for name, source in sorted(found.items()):
        digest.update(f"{name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def read_manifest(file: Path) -> Manifest:
    """The manifest in the JSON beside a TorchScript file: `net.json` of `net.pt`. Refusal for one that is missing or wrong."""
    beside = file.with_suffix(".json")
    try:
        fields = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        needed = f"a readable manifest beside it, {beside.name}, with at least name, weights_sha256 and dim"
        raise Refusal(f"extractor file {file} needs {needed} ({error})") from error
    return parse_manifest(fields, str(file))


def parse_manifest(fields: Any, what: str) -> Manifest:
    """The manifest of an extractor of one's own. Refusal for every field that is missing, unknown, of another type or not one's own."""
    if not isinstance(fields, dict):
        raise Refusal(f"extractor {what}: its manifest is {type(fields).__name__}, expected an object with the fields of Manifest")
    try:
        manifest = Manifest(**fields)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}".removeprefix(": ") for part in error.errors())
        raise Refusal(f"extractor {what}: its manifest is wrong: {wrong}") from error
    if is_reserved(manifest.name):
        raise Refusal(f"extractor {what}: the name {manifest.name!r} is taken or reserved; give it another in its manifest")
    if not manifest.weights_sha256:
        raise Refusal(f"extractor {what}: its manifest needs the weights_sha256 of what it loads")
    if manifest.code_sha256:
        raise Refusal(f"extractor {what}: code_sha256 is found when it is loaded; leave it out of its manifest")
    if manifest.aliases:
        raise Refusal(f"extractor {what}: aliases are for published networks; a network of one's own has one hash")
    if manifest.resize not in (known := [Manifest.resize] if manifest.size is None else list(RESIZES)):
        raise Refusal(f"extractor {what}: resize {manifest.resize!r} to {manifest.size}; with such a size there is {', '.join(known)}")
    return manifest


def is_reserved(name: str) -> bool:
    """Whether an extractor of one's own would be taken for one of ours, or its distances for other numbers.

    >>> [is_reserved(name) for name in ("frame", "I3D", "i3d-half.pixel", "my_fvd", "mine_infinite", "mine")]
    [True, True, True, True, True, False]
    """
    plain = _plain(name)
    ours = {_plain(known) for known in (*MANIFESTS, *SOURCES, FRAME.name)}
    return plain in ours or any(kind.canonical in plain for kind in distances().values()) or name.lower().endswith(DERIVED)


def _plain(name: str) -> str:
    """A name as a reader sees it, and a file system that knows no capital letters: `I3D-half.pixel` is `i3d_half-pixel`."""
    return re.sub(r"[._-]", "", name.lower())


def preprocess(manifest: Manifest, frames: Tensor) -> Tensor:
    """Frames (B, T, H, W, 3) uint8 -> clips (B, 3, T, H', W') float32 as the manifest says."""
    images = frames.flatten(0, 1).float()  # (B*T, H, W, 3)
    if manifest.size is not None:
        images = RESIZES[manifest.resize](images, *manifest.size)
    black, white = manifest.value_range
    clips = (images * ((white - black) / 255) + black).unflatten(0, frames.shape[:2])
    return clips.permute(0, 4, 1, 2, 3).contiguous()


def checked(manifest: Manifest, network: Callable[[Tensor], Any], device: torch.device) -> Callable[[Tensor], Tensor]:
    """`network`, frames -> features, with their shape checked, once it has given the golden values that its manifest claims."""

    @exact_float32()
    def features(frames: Tensor) -> Tensor:
        with blaming(f"extractor {manifest.name!r}"):
            found = network(frames)
        if not isinstance(found, Tensor) or found.shape != (len(frames), manifest.dim):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise Refusal(f"extractor {manifest.name!r} gave {got} for {len(frames)} clips, expected ({len(frames)}, {manifest.dim})")
        return found.float()

    golden.check(manifest.name, manifest.golden, features, device)
    return features


def open_torchscript(content: bytes, file: Path, device: torch.device) -> nn.Module:
    """The program in a TorchScript file. WeightsError for anything else, which torch's reader of programs does not run."""
    try:
        return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise WeightsError(
            f"extractor file {file} is damaged or not TorchScript ({reason}); save it with torch.jit.save, or give module:factory"
        ) from error
