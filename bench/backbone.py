"""The contract every backbone keeps, and how a name such as "dit:DiT-S/2" becomes one.

A plug-in is a module that exports `BACKBONES: dict[str, Factory]`. Importing it must be cheap and torch-free; its
factories import torch when they are called. This file knows no backbone by name.

A name may end in changes to the configuration, a YAML flow mapping: "dit:DiT-S/2{depth: 5, hidden_size: 160}".
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.data.plugin import ENTRY_POINT_GROUP, import_foreign, refusing, registered
from bench.shapes import LatentSpec, Refusal, Shape, check_shape, did_you_mean, told_of

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_LETTERS = 1000  # of a name with its changes
MOST_COUNT = 2**14  # of channels or anything else that a change counts: all are built before their memory is known
MOST_LAYERS = 2**10  # where a field counts these: each takes time to build, whatever its width


class Backbone(Protocol):
    """Latents in, prediction out, same shapes. Knows neither schedule, loss, guidance nor sampler. Is an `nn.Module`."""

    ragged: bool  # True: any mix of shapes in one batch; False: one shape per batch

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        """Latents, B tensors (C, T_i, H_i, W_i); timesteps (B,) in [0, 1], 1 = noise; labels (B,) int64, or None without classes.

        C is `LatentSpec.input_channels`, of the predictions `latent_channels`: the same unless frames are known (`TakesKnownFrames`).
        """
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


class TakesKnownFrames(Backbone, Protocol):
    """A backbone that takes what `LatentSpec.given_channels` adds to a clip's latents, and predicts the latents alone.

    That is how it is told the known frames of a clip whose others it is to predict (`objective.known_frames`).
    """

    takes_known_frames: bool  # True; its factory says the same


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
        check_shape(f"latents[{index}]", clip, (spec.input_channels, None, None, None))
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


def torch_operator(name: str) -> Any:
    """Torch's own "namespace.operator.overload", which it may keep to itself; None where this torch has none of that name.

    >>> torch_operator("aten.add.Tensor"), torch_operator("aten.no_such_operator.default")
    (<OpOverload(op='aten.add', overload='Tensor')>, None)
    """
    import torch

    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


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


def known_modules() -> list[str]:
    """Modules registered under the entry-point group, those of this project among them. Any other module on the path works too."""
    return sorted(registered(ENTRY_POINT_GROUP))
