"""The contract every backbone keeps, and how a name such as "dit:DiT-S/2" becomes one.

A plug-in is a module that exports `BACKBONES: dict[str, Factory]`. Importing it must be cheap and torch-free; its
factories import torch when they are called. This file knows no backbone by name.

A name may end in changes to the configuration, a YAML flow mapping: "dit:DiT-S/2{depth: 5, hidden_size: 160}".
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import os
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.shapes import LatentSpec, Refusal, Shape, check_shape, told_of

if TYPE_CHECKING:
    from torch import Tensor, nn

ENTRY_POINT_GROUP = "unet_vs_dit.backbones"
DISTRIBUTION = "unet-vs-dit"
MOST_LETTERS = 1000  # of a name with its changes
MOST_COUNT = 2**14  # of channels or anything else that a change counts: all are built before their memory is known
MOST_LAYERS = 2**10  # where a field counts these: each takes time to build, whatever its width
WATCHED = "UNET_VS_DIT_WATCHED"  # in the environment of a process whose parent notices when it exits or hangs
IMPORT_S = 60.0  # that an import may take
SURVIVED = 70  # exit status of the process that tries one
TRIAL = f"""
import importlib, os, sys
sys.path[:] = sys.argv[2:]
try:
    importlib.import_module(sys.argv[1])
except BaseException:
    pass  # whoever asks will see for himself
os._exit({SURVIVED})
"""


class BrokenPlugin(Refusal):
    """A plug-in that raises what its contract does not name, exits or hangs. Nothing is wrong with the cells of others."""


class Backbone(Protocol):
    """Latents in, prediction out, same shapes. Knows neither schedule, loss, guidance nor sampler. Is an `nn.Module`."""

    ragged: bool  # True: any mix of shapes in one batch; False: one shape per batch

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Latents, B tensors (C, T_i, H_i, W_i); timesteps (B,) in [0, 1], 1 = noise; labels (B,) int64, or None without classes."""
        ...

    def num_tokens(self, shape: Shape) -> int:
        """Cost of one clip of latent shape (T, H, W) to this backbone, in its own tokens."""
        ...

    def check(self, shape: Shape) -> None:
        """Refusal naming the axis, the size and the divisor, where a latent (T, H, W) cannot be taken."""
        ...


class DropsTokens(Backbone, Protocol):
    """A ragged backbone that can be trained on a part of each clip's tokens (`batching.token_dropping`)."""

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, kept: list[Tensor] | None = None) -> list[Tensor]:
        """As above; `kept`, for each clip the increasing indices (n_i,) int64 of its tokens that stay, w fastest, then h, then t."""
        ...

    def kept_voxels(self, shape: Shape, kept: Tensor) -> Tensor:
        """(T, H, W) bool: the latent voxels of a clip of latents (T, H, W) that are predicted when these tokens stay."""
        ...


class Shardable(Backbone, Protocol):
    """A backbone whose weights can lie in parts in several processes (`parallel.kind: fsdp`)."""

    def shard_units(self) -> list[list[nn.Module]]:
        """Groups of modules whose weights are gathered and let go together, inner ones before those that they are in.

        The weights of a module are read in its own call alone, but for those of groups before it; what is in no group may be read anywhere.
        """
        ...


def is_sharded(layer: nn.Module) -> bool:
    """Whether this process has a part of a layer's weights now: they are then there in its call alone."""
    return any(hasattr(weight, "to_local") for weight in layer._parameters.values())


# Builds a backbone for a latent space. May also have `check(shape)` and `ragged`, so that both are known before torch is imported,
# `configured(**changes)`, the factory of the same backbone with other fields: what is in braces behind a name, and
# `scaled(width, deeper, skew)`, the changes that give it another size: what `match` searches (bench/run/match/search.py).
Factory = Callable[[LatentSpec], Backbone]


def check_inputs(
    name: str, backbone: Backbone, spec: LatentSpec, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None
) -> list[Shape]:
    """The boundary of a backbone: Refusal for what a caller can get wrong, else the latents' shapes (T, H, W)."""
    if not latents:
        raise Refusal(f"{name} got an empty list of latents; pass at least one clip")
    for index, clip in enumerate(latents):
        check_shape(f"latents[{index}]", clip, (spec.latent_channels, None, None, None))
    shapes = [(frames, height, width) for _, frames, height, width in (clip.shape for clip in latents)]
    different = list(dict.fromkeys(shapes))
    if len(different) > 1 and not backbone.ragged:
        raise Refusal(f"{name} needs one shape per batch, got {different}; use batching='bucket'")
    for shape in different:
        backbone.check(shape)
    check_shape("timesteps", timesteps, (len(latents),))
    if (labels is None) != (spec.num_labels == 0):
        remedy = f"pass labels (B,), {spec.num_labels} for none" if labels is None else "pass labels=None"
        raise Refusal(f"this {name} was built with num_labels={spec.num_labels}, got labels={labels}; {remedy}")
    if labels is not None:
        check_shape("labels", labels, (len(latents),))
    return shapes


# The library of float32 products on a CPU, "onednn" or "torch" (its own: MKL or another), by what is multiplied: rows with weights, and in
# backward for the gradients of both. Which is faster depends on the processor; `run` tries them, and rivals share the choice.
PRODUCTS = {"forward": "onednn", "of_rows": "onednn", "of_weights": "onednn"}

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Operation(Generic[Arguments, Result]):
    """One operation of a backbone: its plain formula and a fast way to the same numbers, which a call takes unless told otherwise."""

    def __init__(self, plain: Callable[Arguments, Result], fast: Callable[Arguments, Result]) -> None:
        self.plain, self.fast, self.chosen = plain, fast, fast

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self.chosen(*args, **kwargs)

    @contextmanager
    def by(self, way: Callable[Arguments, Result]) -> Iterator[None]:
        """Inside, calls go this way: `plain`, or one that it is to be compared with."""
        before, self.chosen = self.chosen, way
        try:
            yield
        finally:
            self.chosen = before


class Operations(dict[str, Operation[..., Any]]):
    """The table of a backbone's operations that have a fast way, by name."""

    @contextmanager
    def plain(self, *names: str) -> Iterator[None]:
        """Inside, these operations are their plain formulas. Refusal for a name that the table lacks."""
        with ExitStack() as stack:
            for name in names:
                if name not in self:
                    raise Refusal(f"unknown operation {name!r}{did_you_mean(name, list(self))}; there are {', '.join(self)}")
                stack.enter_context(self[name].by(self[name].plain))
            yield


def find_factory(name: str) -> Factory:
    """Factory of "module:config{changes}". Refusal naming what is unknown and the nearest known name."""
    plain, changes = split_name(name)
    module_name, colon, config = plain.partition(":")
    if not colon or not config or not all(part.isidentifier() for part in module_name.split(".")):
        near = did_you_mean(plain, known_backbones())
        raise Refusal(f"backbone {name!r} is not of the form module:config{near}; known modules: {', '.join(known_modules())}")
    try:
        module = import_plugin(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise Refusal(f"backbone module {module_name!r} needs the module {error.name!r}, which is not installed") from error
        raise Refusal(f"backbone {name!r}: no module {module_name!r} on the path{did_you_mean(module_name, known_modules())}") from error
    factories = getattr(module, "BACKBONES", None)
    if not isinstance(factories, dict):
        raise Refusal(f"backbone {name!r}: module {module_name!r} exports no dict BACKBONES, so it is not a plug-in")
    if config not in factories:
        names = [f"{module_name}:{known}" for known in factories]
        raise Refusal(f"unknown backbone {plain!r}{did_you_mean(plain, names)}; {module_name} has {', '.join(factories)}")
    factory = factories[config]
    if not changes:
        return factory
    if not hasattr(factory, "configured"):
        raise Refusal(f"backbone {plain!r} takes no changes to its configuration, got {name[len(plain) :]}; name it without braces")
    with told_of(f"backbone {name!r}"), refusing():
        return factory.configured(**changes)


def known_backbones() -> list[str]:
    """All that known modules have, "module:config"; one that is broken hides no other."""
    found = []
    for module in known_modules():
        with contextlib.suppress(Refusal, ModuleNotFoundError, AttributeError, TypeError):
            found += [f"{module}:{config}" for config in import_plugin(module).BACKBONES]
    return found


@contextmanager
def refusing() -> Iterator[None]:
    """What a plug-in refuses inside, by any ValueError as its contract has it, is a Refusal."""
    try:
        yield
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(str(error)) from error


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """As `refusing`; what else a plug-in raises inside, or exits with, is BrokenPlugin, but for files and memory that are not there."""
    try:
        with refusing():
            yield
    except (Refusal, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BrokenPlugin(f"{what} raised {type(error).__name__}: {' '.join(str(error).split())}; mend it") from error


def check_latents(backbone: Backbone | Factory, shape: Shape) -> None:
    """Refusal where latents (T, H, W) cannot be taken by a backbone, or by its factory as far as that says."""
    check = getattr(backbone, "check", None)  # optional in a factory: a plug-in without it is checked once it is built
    if check is not None and not isinstance(backbone, type):  # a class that is its own factory has it only then
        with refusing():
            check(shape)


def load_backbone(name: str, spec: LatentSpec) -> Backbone:
    """The backbone "module:config{changes}" for `spec`, with freshly initialised weights."""
    factory = find_factory(name)
    with refusing():
        return factory(spec)


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """The name without its changes, and those. Refusal where the braces hold no mapping from fields to values.

    >>> split_name("dit:DiT-S/2{depth: 5}")
    ('dit:DiT-S/2', {'depth': 5})
    """
    plain, brace, _ = name.partition("{")
    if not brace:
        return name, {}
    text = name[len(plain) :]
    form = f"backbone {name!r}: {text!r} is not of the form {{field: value, ...}}"
    if len(name) > MOST_LETTERS:
        raise Refusal(f"backbone {name[:80]!r}... has {len(name):,} letters, at most {MOST_LETTERS} are read")
    try:
        changes: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.endswith("}") else None
    except (RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise Refusal(form) from error
    # YAML reads "depth:5", without a space, as a field of that name without a value.
    if not isinstance(changes, dict) or not all(isinstance(key, str) and key.isidentifier() for key in changes):
        raise Refusal(f"{form}, with a space behind each colon")
    return plain, changes


def canonical_name(value: Any) -> Any:
    """The one spelling of a backbone in cells, records and reports: changes sorted by field; without any, the plain name.

    Takes a name or, as a matrix may also write it, a mapping of `name` and changes. Anything else is left to the reader of the cell.

    >>> canonical_name({"name": "dit:DiT-S/2", "hidden_size": 160, "depth": 5})
    'dit:DiT-S/2{depth: 5, hidden_size: 160}'
    >>> canonical_name("dit:DiT-S/2{}")
    'dit:DiT-S/2'
    """
    plain, changes = value, {}
    if isinstance(value, dict):
        plain, changes = value.get("name"), {str(key): change for key, change in value.items() if key != "name"}
        if not isinstance(plain, str):
            form = "{name: 'module:config', field: value}, or 'module:config{field: value}' in quotes"
            raise Refusal(f"backbone {value!r} has no name; write {form}")
        if changes and "{" in plain:
            raise Refusal(f"backbone {plain!r} has changes in its name and beside it, {changes!r}; write them in one place")
    if not isinstance(plain, str):
        return value
    plain, written = split_name(plain)
    changes = changes or written
    try:
        flow = yaml.safe_dump(changes, default_flow_style=True, sort_keys=True, width=float("inf"), allow_unicode=True).strip()
    except yaml.YAMLError as error:
        raise Refusal(f"backbone: {changes!r} holds what YAML cannot write") from error
    return plain + (flow if changes else "")


def short_name(name: str) -> str:
    """The name without its module.

    >>> short_name("dit:DiT-S/2{depth: 5}")
    'DiT-S/2{depth: 5}'
    """
    plain, brace, changes = name.partition("{")
    return plain.rpartition(":")[2] + brace + changes


ConfigT = TypeVar("ConfigT")


def with_changes(config: ConfigT, changes: dict[str, Any]) -> ConfigT:
    """A dataclass with other fields, lists made tuples. Refusal for a field that it lacks or a value of another type."""
    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(type(config))
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    checked = {}
    for key, value in changes.items():
        check_field(key, known)
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(tuples(value), strict=True)
        except ValidationError as error:
            wanted = getattr(hints[key], "__name__", "") if isinstance(hints[key], type) else str(hints[key])
            raise Refusal(f"field {key!r} is {wanted}, got {value!r}") from error
        most = MOST_LAYERS if any(word in key for word in ("depth", "layers", "blocks")) else MOST_COUNT
        if any(isinstance(count, int) and not 1 <= count <= most for count in (value if isinstance(value, list) else [value])):
            raise Refusal(f"field {key!r} counts something, got {value!r}; use 1 to {most}")
    return dataclasses.replace(config, **checked)  # type: ignore[type-var]


def check_field(key: str, known: list[str]) -> None:
    """Refusal naming the nearest field where `key` is none of the `known` ones."""
    if key not in known:
        raise Refusal(f"no field {key!r}{did_you_mean(key, known)}; fields: {', '.join(known)}")


def tuples(value: Any) -> Any:
    """Lists as tuples, at any depth: configuration is frozen."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def import_plugin(name: str) -> ModuleType:
    """The module of a backbone's name: what is registered under it, or else an importable module of that name."""
    return import_foreign(registered(ENTRY_POINT_GROUP).get(name, name))


def import_foreign(name: str) -> ModuleType:
    """A module that another person may have written. BrokenPlugin where its import raises, exits or hangs; ModuleNotFoundError.

    An import that would end this process or hold it up is found out in another.
    """
    unknown = name not in sys.modules and name.partition(".")[0] not in _own_packages()
    if unknown and WATCHED not in os.environ and (fault := _trial(name, *sys.path)):
        raise BrokenPlugin(f"importing module {name!r} {fault}; mend it")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as error:  # another person's code
        raise BrokenPlugin(f"importing module {name!r} raised {type(error).__name__}: {' '.join(str(error).split())}; mend it") from error


@functools.cache
def _trial(name: str, *path: str) -> str:
    """What importing a module does to a process; empty where it lives on."""
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", TRIAL, name, *path], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        code = process.wait(timeout=IMPORT_S)
    except subprocess.TimeoutExpired:
        return f"takes over {IMPORT_S:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "" if code == SURVIVED else f"ends the process with status {code}"


@functools.cache
def _own_packages() -> set[str]:
    """Top-level packages of this project."""
    points = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    own = {point.value.partition(".")[0] for point in points if point.dist is not None and point.dist.name == DISTRIBUTION}
    return own | {__name__.partition(".")[0]}


def known_modules() -> list[str]:
    """Modules registered under the entry-point group, those of this project among them. Any other module on the path works too."""
    return sorted(registered(ENTRY_POINT_GROUP))


@functools.cache
def registered(group: str) -> dict[str, str]:
    """Name -> module, or "module:OBJECT", of an entry-point group. Read once: it looks through every installed distribution."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=group)}


def did_you_mean(name: str, known: list[str]) -> str:
    """' (did you mean X?)' where a known name is near, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""
