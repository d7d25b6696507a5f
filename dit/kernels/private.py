"""Operators that torch keeps to itself, found by name, so that a torch without one of them runs the plain formula."""

from __future__ import annotations

from typing import Any

import torch


def find(name: str) -> Any:
    """Torch's operator "namespace.operator.overload", or None where this torch has none of that name.

    >>> find("aten.add.Tensor"), find("aten.no_such_operator.default")
    (<OpOverload(op='aten.add', overload='Tensor')>, None)
    """
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


FLASH = find("aten._scaled_dot_product_flash_attention_for_cpu.default")
FLASH_BACKWARD = find("aten._scaled_dot_product_flash_attention_for_cpu_backward.default")
LINEAR = find("mkldnn._linear_pointwise.default")
SOFTMAX_BACKWARD = find("aten._softmax_backward_data.out")
