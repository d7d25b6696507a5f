"""Backbones that break their contract, each in its own way. tests/exits.py is one more."""

import os
import time
from typing import Never

from torch import Tensor

from bench.shapes import LatentSpec
from tests.tiny import Linear


class Sleeps(Linear):
    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        time.sleep(1000)
        raise AssertionError


class Cuts(Linear):
    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [output[:, :1] for output in super().forward(latents, timesteps, labels)]


class NotANumber(Linear):
    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [output * float("nan") for output in super().forward(latents, timesteps, labels)]


def raises(spec: LatentSpec) -> Never:
    raise RuntimeError(f"no layers for {spec.latent_channels} channels")


def leaves(spec: LatentSpec) -> Never:
    os._exit(0)


BACKBONES = {
    "Raises": raises,
    "Leaves": leaves,
    "NoModule": lambda spec: "a backbone",
    "Sleeps": Sleeps,
    "Cuts": Cuts,
    "NotANumber": NotANumber,
}
