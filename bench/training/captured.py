"""A backbone's pass as two CUDA graphs, forward and backward: its kernels are launched as one, whatever the host is busy with.

For batches of one shape only: a graph repeats what it captured. Nothing in the pass may wait for the device or read the host's memory.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class CapturedPass:
    """`run`, a pass through `backbone` in the precision of the run, captured by `torch.cuda.make_graphed_callables`."""

    def __init__(
        self,
        backbone: nn.Module,
        run: Callable[..., list[Tensor]],
        latents: list[Tensor],
        timesteps: Tensor,
        labels: Tensor | None,
        told: dict[str, Any],
    ):
        """The batch is a sample: any other has its shapes."""
        self.shapes = [clip.shape for clip in latents]
        sample = _tensors(latents, timesteps, labels, told)
        names = ([] if labels is None else ["labels"]) + list(told)
        # Copies, since the graph's own inputs are written at every call.
        self._pass: Any = torch.cuda.make_graphed_callables(
            _Captured(backbone, run, names), tuple(tensor.clone() for tensor in sample), allow_unused_input=True
        )

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, **told: Any) -> list[Tensor]:
        """As the backbone. The predictions are the graph's own memory, written at the next call."""
        assert [clip.shape for clip in latents] == self.shapes
        return list(self._pass(*_tensors(latents, timesteps, labels, told)).unbind())


class _Captured(nn.Module):
    """A pass with tensors in and out, and the backbone's weights for its own."""

    def __init__(self, backbone: nn.Module, run: Callable[..., list[Tensor]], names: list[str]) -> None:
        super().__init__()
        self.backbone, self._run, self._names = backbone, run, names

    def forward(self, latents: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
        """(B, C, T, H, W), (B,) or (B, U), and what has the names, (B,) or (B, C, T, H, W) each -> (B, C, T, H, W)."""
        told: dict[str, Any] = dict(zip(self._names, given, strict=True))
        if "clean" in told:
            told["clean"] = list(told["clean"].unbind())
        return torch.stack(self._run(list(latents.unbind()), timesteps, told.pop("labels", None), **told))


def _tensors(latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, told: dict[str, Any]) -> tuple[Any, ...]:
    more = [torch.stack(value) if isinstance(value, list) else value for value in told.values()]
    return torch.stack(latents), timesteps, *([] if labels is None else [labels]), *more
