"""Operators that torch keeps to itself, found by name, so that a torch without one of them runs the plain formula."""

from __future__ import annotations

from bench.backbone import torch_operator

FLASH = torch_operator("aten._scaled_dot_product_flash_attention_for_cpu.default")
FLASH_BACKWARD = torch_operator("aten._scaled_dot_product_flash_attention_for_cpu_backward.default")
LINEAR = torch_operator("mkldnn._linear_pointwise.default")
SOFTMAX_BACKWARD = torch_operator("aten._softmax_backward_data.out")
