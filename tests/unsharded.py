"""A backbone that does not say how its weights could be sharded."""

from tests.tiny import Linear

BACKBONES = {"Linear": Linear}
