"""The physics worlds, by name. Another is a file with a `World` and an entry here, or one that an installed package registers. No torch."""

from bench.data.physics.collision import COLLISION
from bench.data.physics.liquid import LIQUID
from bench.data.physics.motion import MOTION
from bench.data.physics.parabola import PARABOLA
from bench.data.physics.pendulum import PENDULUM
from bench.data.physics.stack import STACK
from bench.data.physics.world import World
from bench.data.registry import Registry

OURS = (MOTION, COLLISION, PARABOLA, PENDULUM, STACK, LIQUID)
WORLDS: Registry[World] = Registry("physics world", "unet_vs_dit.physics_worlds", OURS)
