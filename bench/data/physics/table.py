"""The physics worlds, by name. Another is a file with a `World` and an entry here, or one that a package registers. No torch."""

from bench.data.physics.liquid import LIQUID
from bench.data.physics.world import World
from bench.data.registry import Registry

WORLDS: Registry[World] = Registry("physics world", "unet_vs_dit.physics_worlds", (LIQUID,))
