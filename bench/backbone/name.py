"""How a name such as "dit:DiT-S/2" becomes a backbone. Knows none by name, and no torch.

A plug-in is a module that exports `BACKBONES: dict[str, Factory]`. Importing it must be cheap and torch-free; its
factories import torch when they are called.

A name may end in changes to the configuration, a YAML flow mapping: "dit:DiT-S/2{depth: 5, hidden_size: 160}". A plug-in may know more
names than it lists, such as every folder of weights: "pretrained:/path/to/pipeline", "pretrained:org/name@revision".
"""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.backbone.contract import Backbone, Factory
from bench.data.plugin import ENTRY_POINT_GROUP, import_foreign, refusing, registered
from bench.shapes import LatentSpec, Refusal, Shape, did_you_mean, told_of

MOST_LETTERS = 1000  # of a name with its changes
MOST_NAMED = 12  # of a module's names, in a line about one that it lacks


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
        few = list(factories)[:MOST_NAMED]
        more = f" and {len(factories) - len(few)} others, which `ls` names" if len(factories) > len(few) else ""
        raise Refusal(f"unknown backbone {plain!r}{did_you_mean(plain, names)}; {module_name} has {', '.join(few)}{more}")
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
    """The name without its module; of a folder, its last part.

    >>> short_name("dit:DiT-S/2{depth: 5}"), short_name("pretrained:/weights/wan-1.3b/"), short_name("pretrained:org/name@main")
    ('DiT-S/2{depth: 5}', 'wan-1.3b', 'org/name@main')
    """
    plain, brace, changes = name.partition("{")
    config = plain.rpartition(":")[2]
    if config.startswith(("/", ".")):
        config = config.rstrip("/").rpartition("/")[2] or config
    return config + brace + changes


def import_plugin(name: str) -> ModuleType:
    """The module of a backbone's name: what is registered under it, or else an importable module of that name."""
    return import_foreign(registered(ENTRY_POINT_GROUP).get(name, name))


def known_modules() -> list[str]:
    """Modules registered under the entry-point group, those of this project among them. Any other module on the path works too."""
    return sorted(registered(ENTRY_POINT_GROUP))
