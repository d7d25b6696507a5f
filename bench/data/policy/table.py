"""The batching policies there are: ours, and those that other distributions register as "unet_vs_dit.policies". Knows no torch."""

from bench.data.policy.bucket import BUCKET
from bench.data.policy.contract import BatchingPolicy
from bench.data.policy.crop import CROP
from bench.data.policy.pack import PACK
from bench.data.policy.pad import PAD
from bench.data.registry import Registry

# In the order in which a report prefers them: of two of a family that a backbone was run with, the first.
POLICIES: Registry[BatchingPolicy] = Registry("batching policy", "unet_vs_dit.policies", (CROP, BUCKET, PACK, PAD))
# What a backbone of one shape a batch can do where another policy mixes shapes.
UNIFORM = tuple(policy.name for policy in POLICIES.own.values() if not (policy.needs_ragged or policy.baseline))
