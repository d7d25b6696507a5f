"""The layers of the video U-Net against diffusers' own forward on the same weights, and what recomputing them saves."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from baselines.kernels import OPERATIONS, add, attention_over_time, contexts, gated_gelu, linear, norm_silu
from baselines.kernels.linear import RowsProduct, attend_alone, joined, lie_side_by_side
from baselines.kernels.maps import NormSiLU
from baselines.kernels.tokens import GatedGELU, attention_by_products
from baselines.operators import attend_context
from baselines.unet import VideoUNet
from bench.meters.storage import StorageMeter
from bench.perf.twins import plain_unet
from tests.test_baselines_unet import SHAPE, batch, small_unet


@pytest.fixture(params=[1, 2, "elsewhere"])
def device_choices(request: pytest.FixtureRequest) -> Iterator[None]:
    """The choices made on a CPU, on one thread and on two, and, where they are formulas, those made on any other device."""
    before, elsewhere = torch.get_num_threads(), request.param == "elsewhere"
    torch.set_num_threads(1 if elsewhere else request.param)
    with OPERATIONS.plain(*(("laid_out", "norm_input", "by_onednn", "attention_over_time") if elsewhere else ())):
        yield
    torch.set_num_threads(before)


def plain_forward(model: VideoUNet, plain: nn.Module, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> Tensor:
    context, label = model.conditioning(len(latents), labels)
    return plain(torch.stack(latents), 1000 * timesteps, context, timestep_cond=label, return_dict=False)[0]


def gradients(network: nn.Module, prediction: Tensor) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    prediction.square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.usefixtures("device_choices")
@pytest.mark.parametrize(
    ("shape", "dtype", "tolerance"),
    [
        (SHAPE, torch.float32, 1e-4),
        (SHAPE, torch.float64, 1e-6),
        ((1, 2, 2), torch.float64, 1e-6),  # one cell left at the innermost level
        ((10, 2, 4), torch.float64, 1e-6),  # more frames than a head is wide: the fused kernel
    ],
)
def test_outputs_and_gradients_are_those_of_plain_diffusers(shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float) -> None:
    model = small_unet().to(dtype)
    latents, timesteps, labels = batch(3, shape)
    latents = [clip.to(dtype) for clip in latents]
    plain = plain_unet(model.unet, dropout=False).to(dtype)
    expected = plain_forward(model, plain, latents, timesteps, labels)
    actual = torch.stack(model(latents, timesteps, labels))
    assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())
    actual_gradients, expected_gradients = gradients(model.unet, actual), gradients(plain, expected)
    assert actual_gradients.keys() == expected_gradients.keys()
    for name, grad in expected_gradients.items():
        atol = tolerance * grad.abs().max().item() + 1e-3 * tolerance  # where one cell meets no other, some gradients are zero
        assert_close(actual_gradients[name], grad, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_keep_their_names_and_initial_values() -> None:
    model = small_unet(open_temporal=False)
    assert {name.split(".")[0] for name in model.state_dict()} == {"unet", "context", "label_embed"}
    plain = plain_unet(model.unet, dropout=False)
    assert [(name, value.shape) for name, value in model.unet.state_dict().items()] == [(n, v.shape) for n, v in plain.state_dict().items()]


@pytest.mark.usefixtures("device_choices")
def test_never_more_memory_than_plain_diffusers() -> None:
    model, inputs = small_unet().train(), batch(4, (8, 8, 8))
    plain = plain_unet(model.unet, dropout=False)
    peaks = []
    for network, predict in ((model, lambda: torch.stack(model(*inputs))), (plain, lambda: plain_forward(model, plain, *inputs))):
        network.zero_grad(set_to_none=True)
        with StorageMeter() as meter:
            predict().square().mean().backward()
        peaks.append(meter.peak_bytes)
    assert peaks[0] < peaks[1]


def test_never_more_operations_than_plain_diffusers() -> None:
    with torch.device("meta"):
        model = small_unet(open_temporal=False)
        plain = plain_unet(model.unet, dropout=False)
        latents, timesteps, labels = [torch.empty(3, *SHAPE)] * 2, torch.empty(2), torch.zeros(2, dtype=torch.long)
        counts = []
        for predict in (
            lambda: torch.stack(model(latents, timesteps, labels)),
            lambda: plain_forward(model, plain, latents, timesteps, labels),
        ):
            with FlopCounterMode(display=False) as counter:
                predict().sum().backward()
            counts.append(counter.get_total_flops())
    assert 0.9 * counts[1] < counts[0] <= counts[1]


def test_bfloat16_autocast_is_as_close_as_plain_diffusers() -> None:
    model, inputs = small_unet(), batch()
    plain = plain_unet(model.unet, dropout=False)
    exact = plain_forward(model, plain, *inputs)
    exact_gradients = gradients(plain, exact)
    errors = {}
    for name, network, predict in (
        ("ours", model.unet, lambda: torch.stack(model(*inputs))),
        ("plain", plain, lambda: plain_forward(model, plain, *inputs)),
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = predict().float()
        grads = gradients(network, prediction)
        assert all(grad.dtype == torch.float32 for grad in grads.values())
        gaps = torch.stack([(grads[key] - grad).norm() / grad.norm() for key, grad in exact_gradients.items()])
        errors[name] = ((prediction - exact).norm() / exact.norm()).item(), gaps.median().item()
    assert errors["ours"][0] < 1.5 * errors["plain"][0]
    assert errors["ours"][1] < 1.5 * errors["plain"][1]


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 6, 1, 4), (2, 6, 4, 1), (3, 6, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.usefixtures("device_choices")
def test_norm_silu(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(2, 6, dtype=torch.float64)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    maps, grad = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    maps = maps.contiguous(memory_format=layout).requires_grad_()
    inputs = (maps, *norm.parameters())
    actual, expected = norm_silu(norm, maps), F.silu(norm(maps))
    assert_close(actual, expected)
    assert_close(torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad))


def test_attention_over_time_in_as_many_launches_as_a_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = torch.randn(2, 5, 3, 3, 2, 4)  # 6 problems of 2 heads, of more frames than a head is wide
    with OPERATIONS.plain("attention_over_time"):
        whole = attention_over_time(qkv)
    sizes: list[int] = []
    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *parts: (sizes.append(len(parts[0])), plain(*parts))[1])
    assert_close(attention_by_products(qkv, most_problems=4), whole)
    assert sizes == [4, 2]


def test_norm_silu_of_half_precision_maps_is_exact_inside_and_half_outside() -> None:
    norm = nn.GroupNorm(2, 6)
    maps = (torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)) + 50).bfloat16().requires_grad_()
    output = norm_silu(norm, maps)
    assert_close(output, F.silu(norm(maps.float())).bfloat16(), rtol=0, atol=0.02)
    output.square().sum().backward()
    assert (output.dtype, maps.grad is not None and maps.grad.dtype) == (torch.bfloat16, torch.bfloat16)


def test_gated_gelu() -> None:
    projected = torch.randn(2, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value, gate = projected.chunk(2, dim=-1)
    assert_close(gated_gelu(projected), value * F.gelu(gate))
    assert torch.autograd.gradcheck(gated_gelu, projected)


def test_a_second_derivative_is_refused() -> None:
    """Their backward passes write over what a second one would need."""
    maps, norm = torch.randn(1, 4, 2, 2, requires_grad=True), nn.GroupNorm(2, 4)
    tokens, layer = torch.randn(1, 3, 4, requires_grad=True), nn.Linear(4, 4)
    outputs = {
        "GatedGELU": (tokens, GatedGELU.apply(tokens)),
        "NormSiLU": (maps, NormSiLU.apply(maps, norm.weight, norm.bias, norm.num_groups, norm.eps)),
        "Linear": (tokens, RowsProduct.apply(tokens, layer.weight, layer.bias, None)),
    }
    for given, output in outputs.values():
        (grad,) = torch.autograd.grad(output.square().sum(), given, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("with_residual", [False, True])
def test_linear_layers_with_the_residual_in_the_product(dtype: torch.dtype, with_residual: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(6, 5).to(dtype)
    tokens = torch.randn(6, 3, 2, generator=generator).to(dtype).permute(2, 1, 0).requires_grad_()  # (2, 3, 6), not in rows
    residual = torch.randn(2, 3, 5, generator=generator).to(dtype).requires_grad_() if with_residual else None
    actual, expected = linear(layer, tokens, residual), OPERATIONS["linear"].plain(layer, tokens, residual)
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    assert_close(actual, expected, **tolerance)
    inputs = [each for each in (tokens, *layer.parameters(), residual) if each is not None]
    grad = torch.randn(actual.shape, generator=generator).to(dtype)
    assert_close(torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad), **tolerance)


def test_neighbours_in_memory_are_joined_where_they_lie() -> None:
    whole = torch.randn(7, 4)
    parts = [part.detach().requires_grad_() for part in whole.split([3, 2, 2])]
    together = joined(parts)
    assert lie_side_by_side(parts) and together.data_ptr() == whole.data_ptr() and torch.equal(together, whole)
    assert_close(torch.autograd.grad(together, parts, whole), whole.split([3, 2, 2]))
    apart = [parts[0], parts[2], parts[1]]
    assert not lie_side_by_side(apart) and torch.equal(joined(apart), torch.cat(apart))
    assert not lie_side_by_side([parts[0], parts[1].clone()])
    assert not lie_side_by_side([whole[:2], torch.as_strided(whole, (4, 2), (2, 1), 8)])  # as wide they are not


def test_layers_of_several_widths_attend_to_the_context_as_alone() -> None:
    model, heads = small_unet(), torch.Generator().manual_seed(0)
    attentions = model.unet.sharing.attentions()
    assert len({attention.to_q.in_features for attention in attentions}) > 1
    widths = [attention.to_q.in_features for attention in attentions]
    pairs = [tuple(torch.randn(2, 3, width, generator=heads, requires_grad=True) for _ in range(2)) for width in widths]
    for attention, pair, (attend, *given) in zip(attentions, pairs, contexts(attentions, pairs), strict=True):
        tokens = torch.randn(8, 5, attention.to_q.in_features, generator=heads)
        actual = attend(attention, tokens, *given, residual=tokens)
        expected = attend_context(attention, tokens, *pair, residual=tokens)
        assert_close(actual, expected, rtol=1e-4, atol=1e-5)
        assert_close(attend_alone(attention, tokens, *pair, residual=tokens), actual)
        weights = actual.detach().clone()
        for ours, theirs in zip(*(torch.autograd.grad(each, pair, weights, retain_graph=True) for each in (actual, expected)), strict=True):
            assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_sum_reuses_only_memory_of_its_own_type_and_layout() -> None:
    tokens, half = torch.ones(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bfloat16)
    assert add(tokens.clone(), tokens).eq(2).all()
    assert add(half, tokens).dtype == torch.float32
    assert add(half, tokens) is not half
    assert half.eq(1).all()
    transposed = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    assert add(transposed, tokens).stride() == tokens.stride()


def test_recomputing_block_by_block_changes_nothing_and_saves_memory() -> None:
    model, inputs = small_unet().train(), batch(4, (8, 8, 8))
    results: list[tuple[Any, ...]] = []
    for recompute in (False, True):
        if recompute:
            for block in model.repeated_blocks():
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
        model.zero_grad(set_to_none=True)
        with StorageMeter() as meter:
            prediction = torch.stack(model(*inputs))
            prediction.square().mean().backward()
        results.append((prediction.detach(), [parameter.grad for parameter in model.parameters()], meter.peak_bytes))
    (plain, plain_grads, plain_peak), (again, again_grads, peak) = results
    assert torch.equal(plain, again)
    assert all(torch.equal(a, b) for a, b in zip(plain_grads, again_grads, strict=True))
    assert peak < 0.5 * plain_peak


def test_repeated_blocks_are_the_layers_and_never_one_within_another() -> None:
    model = small_unet()
    blocks = model.repeated_blocks()
    assert len(blocks) == 1 + 4 + 2 + 6 + 8 + 4  # first transformer, down with and without attention, mid, up
    inside = [module for block in blocks for module in block.modules()]
    assert len(set(inside)) == len(inside)
    parameters = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert parameters > 0.8 * sum(parameter.numel() for parameter in model.unet.parameters())


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_each_kind_of_layer_compiles_as_one_graph() -> None:
    model, inputs = small_unet().train(), batch(2)
    expected = gradients(model, torch.stack(model(*inputs)))
    first = {type(block): block for block in reversed(model.repeated_blocks())}
    assert len(first) == 4
    for block in first.values():
        block.compile(backend="aot_eager", fullgraph=True)
    for name, grad in gradients(model, torch.stack(model(*inputs))).items():
        assert_close(grad, expected[name], rtol=0, atol=1e-5 * expected[name].abs().max().item() + 1e-9)
