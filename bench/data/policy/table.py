"""The batching policies there are: ours, and those that other distributions register as "unet_vs_dit.policies". Knows no torch."""

from bench.data.policy.contract import BatchingPolicy
from bench.data.policy.covering import bucketed, cropped, full_batches
from bench.data.policy.own_shapes import as_they_come, at_own_shapes, packed
from bench.data.registry import Registry

CROP = BatchingPolicy(
    name="crop", word="crops", family="crops", fit=cropped, plan=full_batches, one_shape=True, full_batches=True, baseline=True
)
BUCKET = BatchingPolicy(
    name="bucket", word="buckets", family="buckets", fit=bucketed, plan=full_batches, full_batches=True, takes_buckets=True
)
PACK = BatchingPolicy(
    name="pack",
    word="packs",
    family="own shapes",
    fit=at_own_shapes,
    plan=packed,
    needs_ragged=True,
    drops_tokens=True,
    against="bucket",
)
PAD = BatchingPolicy(name="pad", word="padded batches", family="own shapes", fit=at_own_shapes, plan=as_they_come, pads=True)

# In the order in which a report prefers them: of two of a family that a backbone was run with, the first.
POLICIES: Registry[BatchingPolicy] = Registry("batching policy", "unet_vs_dit.policies", (CROP, BUCKET, PACK, PAD))
# What a backbone of one shape a batch can do where another policy mixes shapes.
UNIFORM = tuple(policy.name for policy in POLICIES.own.values() if not (policy.needs_ragged or policy.baseline))
