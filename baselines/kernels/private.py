"""Operators that torch keeps to itself, found by name, so that a torch without one of them runs the plain formula."""

from __future__ import annotations

from typing import Any

import torch


def find(name: str) -> Any:
    """Torch's operator "namespace.operator.overload", or None where this torch has none of that name."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


LINEAR = find("mkldnn._linear_pointwise.default")
LINEAR_SUM = find("mkldnn._linear_pointwise.binary")
