"""Objects that other installed packages register: a measure of one's own is a file anywhere and an entry point. No torch.

[project.entry-points."unet_vs_dit.distances"]
energy = "my_package.energy:ENERGY"
"""

from __future__ import annotations

import importlib.metadata
from typing import TypeVar

from bench.shapes import Refusal

PluginT = TypeVar("PluginT")


def registered_objects(group: str, expected: type[PluginT]) -> dict[str, PluginT]:
    """Name -> object of every entry point of `group`, by name. Refusal for one that cannot be imported or is something else."""
    found = {}
    for point in sorted(importlib.metadata.entry_points(group=group), key=lambda point: point.name):
        where = f"entry point {point.name!r} of {group} ({point.value})"
        try:
            plugin = point.load()
        except (ImportError, AttributeError) as error:
            raise Refusal(f"{where} cannot be imported: {error}; mend that package or uninstall it") from error
        if not isinstance(plugin, expected):
            raise Refusal(f"{where} is a {type(plugin).__name__}, expected a {expected.__name__} of {expected.__module__}")
        found[point.name] = plugin
    return found
