"""What a plug-in imports, and what the rest of the suite knows of a backbone: its contract, its name, its operations. Knows no torch."""

from bench.backbone.config import check_field, tuples, with_changes
from bench.backbone.contract import (
    Backbone,
    DropsTokens,
    Factory,
    HasPretrainedWeights,
    Shardable,
    TakesKnownFrames,
    TakesText,
    Text,
    check_inputs,
    is_sharded,
)
from bench.backbone.name import (
    canonical_name,
    check_latents,
    find_factory,
    import_plugin,
    known_backbones,
    known_modules,
    load_backbone,
    short_name,
    split_name,
)
from bench.backbone.operations import PRODUCTS, Operation, Operations, torch_operator

__all__ = [
    "PRODUCTS",
    "Backbone",
    "DropsTokens",
    "Factory",
    "HasPretrainedWeights",
    "Operation",
    "Operations",
    "Shardable",
    "TakesKnownFrames",
    "TakesText",
    "Text",
    "canonical_name",
    "check_field",
    "check_inputs",
    "check_latents",
    "find_factory",
    "import_plugin",
    "is_sharded",
    "known_backbones",
    "known_modules",
    "load_backbone",
    "short_name",
    "split_name",
    "torch_operator",
    "tuples",
    "with_changes",
]
