"""Backbones that are there and cannot be built."""

from typing import Never

from bench.shapes import LatentSpec


def refuse(name: str) -> Never:
    raise ValueError(f"{name} has 0 layers; give it one")


def never(spec: LatentSpec) -> Never:
    refuse("Never")


def never_either(spec: LatentSpec) -> Never:
    refuse("NeverEither")


BACKBONES = {"Never": never, "NeverEither": never_either}
