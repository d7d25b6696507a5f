"""A backbone that runs out of memory at a batch of three, and not before."""

from torch import Tensor

from bench.shapes import LatentSpec
from tests.tiny import Linear


class Hungry(Linear):
    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        if len(latents) == 3:
            raise MemoryError("no room for three clips")
        return super().forward(latents, timesteps, labels)


def hungry(spec: LatentSpec) -> Hungry:
    return Hungry(spec)


BACKBONES = {"Hungry": hungry}
