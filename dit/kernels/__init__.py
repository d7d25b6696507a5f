"""What is faster than the formulas of the patch transformer, with the same numbers: one table, operation by operation.

A call runs the fast way. The formula runs inside `with OPERATIONS.plain("linear", "attend"):`, which chooses by name; so each gain can be
measured, and is: `bench/perf/test_changes.py`. Devices, precisions and compilers that a fast way does not suit get the formula from it.
"""

from __future__ import annotations

from bench.backbone import Operations
from dit.kernels.attention import attend, attention_products
from dit.kernels.linear import linear
from dit.kernels.modulation import gated_sum, modulated_norm, modulations, over_clips, sum_of_clips
from dit.kernels.positions import clip_order, position_tables, rotate_query_key
from dit.kernels.units import attend_units

# Each is (plain, fast). What the fast way does:
OPERATIONS = Operations(
    linear=linear,  # float32 products by oneDNN
    modulations=modulations,  # of all blocks in one, without a cast of weights for a few rows
    rotate_query_key=rotate_query_key,  # into one buffer
    modulated_norm=modulated_norm,  # norm and modulation in one
    gated_sum=gated_sum,  # a written derivative
    over_clips=over_clips,  # rows of a mixed pack are not copied
    sum_of_clips=sum_of_clips,  # nor multiplied by a matrix
    clip_order=clip_order,  # clips of one length side by side
    position_tables=position_tables,  # cached by pack
    attend=attend,  # one derivative for a pack
    attention_products=attention_products,  # of long clips and in bfloat16, in place of the fused kernel
    attend_units=attend_units,  # without a mask: parts of a softmax merged
)
OF_A_CPU = ("attention_products", "over_clips", "sum_of_clips")  # elsewhere their formula runs
