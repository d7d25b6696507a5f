"""What is faster than the formulas of the video U-Net, with the same numbers: one table, operation by operation.

A call runs the fast way. The formula runs inside `with OPERATIONS.plain("linear", "gated_gelu"):`, which chooses by name; so each gain
can be measured, and is: `bench/perf/test_changes.py`. Choices by device are made here only.
"""

from __future__ import annotations

from baselines.kernels.linear import by_onednn, contexts, linear, linear_to_map, linear_to_tokens, projections, query_key_value
from baselines.kernels.maps import add, convolution_over_time, laid_out, norm_input, norm_silu, shifted_convolution
from baselines.kernels.tokens import attention_over_time, gated_gelu
from bench.backbone import Operations

# Each is (plain, fast). What the fast way does:
OPERATIONS = Operations(
    laid_out=laid_out,  # channels-last maps on a CPU
    add=add,  # in memory that is there
    norm_input=norm_input,  # half precision as it is, on a CPU
    norm_silu=norm_silu,  # group norm and SiLU in one
    shifted_convolution=shifted_convolution,  # the bias in the shift, once a clip
    convolution_over_time=convolution_over_time,  # in two dimensions
    by_onednn=by_onednn,  # a CPU's linear layers
    linear=linear,  # with the residual in the product
    linear_to_tokens=linear_to_tokens,  # by a convolution, where tokens are no view of maps
    linear_to_map=linear_to_map,  # onto tokens, or likewise
    query_key_value=query_key_value,  # by one product
    projections=projections,  # of all layers by one product
    gated_gelu=gated_gelu,  # keeps its input alone
    attention_over_time=attention_over_time,  # by products
    contexts=contexts,  # query and output weights multiplied into keys and values, once a clip
)
OF_A_CPU = ("laid_out", "norm_input", "by_onednn", "attention_over_time")  # elsewhere their formula runs
