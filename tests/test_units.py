"""Units of a clip and the model that generates them: what sees what, the DiT inside it, its cache, what it costs and what it refuses."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.backbone import find_factory
from bench.meters.flops import count_flops, flops_of, generation_flops
from bench.shapes import LatentSpec, Refusal, Shape
from bench.training.predict import Predictor
from bench.training.step import StepPoint
from dit import BACKBONES, AutoregressiveConfig
from dit.autoregressive import Autoregressive
from dit.kernels import OPERATIONS
from dit.kernels import units as fast
from dit.model import DiT
from dit.unit_attention import Arrangement, attend_in_turn, attend_units
from dit.unit_twin import cache_gap, clip_gap, clips, shape_of, small
from dit.units import boxes, frames_of, generating, num_units, unit_shape

SPEC = LatentSpec(latent_channels=3, spatial_stride=4, temporal_stride=1, num_labels=4)
UNITS = ("patch", "frame", "2f", "clip")


def config(unit: str = "frame", **changes: object) -> AutoregressiveConfig:
    found = BACKBONES[f"AR-XS/2-{unit}"]
    assert isinstance(found, AutoregressiveConfig)
    return replace(found, **changes)  # type: ignore[arg-type]


def times_of(model: Autoregressive, latents: Tensor) -> Tensor:
    num = len(model.units((latents.shape[2], latents.shape[3], latents.shape[4])))
    return torch.rand(len(latents), num, generator=torch.Generator().manual_seed(5))


# --- how a clip is cut


def test_units_fill_a_clip_once_in_the_order_of_tokens() -> None:
    for unit in UNITS:
        size = unit_shape(unit, (4, 4, 6), (1, 2, 2))
        seen = torch.full((4, 4, 6), -1)
        for number, box in enumerate(boxes((4, 4, 6), size)):
            assert (seen[box] == -1).all()
            seen[box] = number
        assert (seen >= 0).all() and seen.max() + 1 == num_units((4, 4, 6), size)
        order = seen[:, ::2, ::2].flatten()  # raster order of tokens
        assert (order.diff() >= 0).all()


@pytest.mark.parametrize(("unit", "counts"), [("patch", (2339, 2339)), ("frame", (259, 2331)), ("2f", (129, 2322)), ("clip", (25, 2250))])
def test_calls_and_tokens_of_a_clip(unit: str, counts: tuple[int, int]) -> None:
    """90 tokens, 25 steps; within 5 % of the 2,250 tokens of a DiT."""
    units = num_units((10, 6, 6), unit_shape(unit, (10, 6, 6), (1, 2, 2)))
    assert generating(90, units, 25) == counts
    assert counts[1] <= 1.05 * 2250


def test_a_unit_that_is_none_or_does_not_divide_is_refused() -> None:
    assert (frames_of("frame"), frames_of("3f"), frames_of("patch")) == (1, 3, None)
    with pytest.raises(Refusal, match=r"unit '4f' needs latent frames divisible by 4, got 10 .*; use 8 or 12, or another unit"):
        config("4f").check((10, 6, 6))
    with pytest.raises(Refusal, match="unknown unit 'frames'; use patch, frame, clip or a number of frames"):
        find_factory("dit:AR-XS/2-frame{unit: frames}")
    with pytest.raises(Refusal, match="AR needs latent height divisible by 2, got 5"):
        config().check((10, 5, 6))
    find_factory("dit:AR-XS/2-frame{unit: 5f}").check((10, 6, 6))  # type: ignore[attr-defined]


# --- attention


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("units", "length"), [(1, 5), (3, 4), (5, 1), (3, fast.LONG)])
def test_every_way_of_attention_is_the_formula(units: int, length: int, ends: bool) -> None:
    """Outputs and gradients: two triangles, two masked squares, a rectangle for each unit; and unit by unit."""
    arrangement = Arrangement(units, length, ends)
    qkv = torch.randn(2 * arrangement.rows, 3, 2, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    results = []
    for way in (attend_units, attend_in_turn, fast.attend_by_parts):
        given = qkv.clone().requires_grad_()
        out = way(given, arrangement)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        assert given.grad is not None
        results.append((out, given.grad))
    for found in results[1:]:
        for value, expected in zip(found, results[0], strict=True):
            assert_close(value, expected, atol=2e-5, rtol=1e-5)


def test_the_fast_way_is_taken_and_can_be_left() -> None:
    assert OPERATIONS["attend_units"].chosen is fast.attend_by_parts
    model = small(config(), SPEC)
    latents, _, labels = clips(shape_of(model.config), SPEC)
    times = times_of(model, latents)
    quick = torch.stack(model(list(latents), times, labels))
    with OPERATIONS.plain("attend_units"):
        assert_close(torch.stack(model(list(latents), times, labels)), quick, atol=1e-5, rtol=1e-5)


# --- the model


@pytest.mark.parametrize("unit", ["patch", "frame", "2f"])
def test_a_unit_sees_itself_and_the_clean_units_before_it(unit: str) -> None:
    """What of the inputs moves the prediction of unit i: its own noised latents, and clean latents of units below i; nothing else."""
    model = small(config(unit), SPEC)
    shape = shape_of(model.config)
    noised, _, labels = clips(shape, SPEC)
    clean = torch.randn(noised.shape, generator=torch.Generator().manual_seed(3))
    times = times_of(model, noised)
    places = model.units(shape)

    def predicted(noised: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack(model(list(noised), times, labels, clean=list(clean)))

    before = predicted(noised, clean)
    for number, box in enumerate(places):
        for which in ("noised", "clean"):
            changed = {"noised": noised.clone(), "clean": clean.clone()}
            changed[which][:, :, *box] += 1.0
            moved = (predicted(**changed) - before).abs() > 0
            for other, there in enumerate(places):
                sees = other == number if which == "noised" else other > number
                assert bool(moved[:, :, *there].any()) == sees, (which, number, other)


@pytest.mark.parametrize("num_labels", [0, 4])
@pytest.mark.parametrize("unit", UNITS)
def test_one_unit_is_the_dit_and_the_cache_is_the_training_pass(unit: str, num_labels: int) -> None:
    spec = replace(SPEC, num_labels=num_labels)
    assert clip_gap(config(unit), spec) <= 1e-6
    assert cache_gap(config(unit), spec) <= 1e-5
    assert cache_gap(config(unit, positions="sincos"), spec) <= 1e-5


@pytest.mark.parametrize(("unit", "shape"), [("frame", (1, 4, 4)), ("2f", (2, 4, 4)), ("patch", (1, 2, 2))])
def test_a_clip_of_one_unit_has_no_past(unit: str, shape: Shape) -> None:
    """A still, to a model of frames: its pass is that of sampling."""
    model = small(config(unit), SPEC)
    latents, _, labels = clips(shape, SPEC)
    with torch.no_grad():
        whole = torch.stack(model(list(latents), torch.full((len(latents), 1), 0.3), labels, clean=list(latents)))
        assert_close(model.generate(shape, labels, len(latents)).predict(latents, 0.3), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["fast", "plain"])
@pytest.mark.parametrize("unit", ["frame", "patch"])
def test_fake_passes_and_real_ones_keep_nothing_of_each_other(unit: str, way: str) -> None:
    """A mask that is kept for later would be of the wrong kind: a prediction, a pass, another prediction."""
    model = small(config(unit), SPEC)
    latents, _, labels = clips((2, 6, 8), SPEC)
    with OPERATIONS.plain("attend_units") if way == "plain" else contextlib.nullcontext():
        for _ in range(2):
            name = f"dit:AR-XS/2-{unit}{{depth: 1, hidden_size: 48, num_heads: 2}}"
            assert Predictor(name, SPEC, "fp32", "cpu").peak_bytes("training", StepPoint(batch_size=2, shape=(2, 6, 8))) > 0
            assert all(clip.isfinite().all() for clip in model(list(latents), torch.full((len(latents),), 0.3), labels))


def test_the_first_unit_is_a_dits_clip_of_that_unit() -> None:
    """With no past the blocks are those of full-sequence diffusion, in a model that has one."""
    model = small(config("2f"), SPEC)
    twin = DiT(model.config, SPEC).eval()
    twin.load_state_dict(model.dit.state_dict())
    latents, _, labels = clips((4, 4, 4), SPEC)
    times = times_of(model, latents)
    with torch.no_grad():
        found = torch.stack(model(list(latents), times, labels))[:, :, :2]
        assert_close(found, torch.stack(twin(list(latents[:, :, :2]), times[:, 0], labels)), atol=1e-5, rtol=1e-5)


def test_the_clean_vector_is_the_only_new_parameter() -> None:
    torch.manual_seed(0)
    model = config()(SPEC)
    torch.manual_seed(0)
    twin = DiT(config(), SPEC)
    own = dict(model.named_parameters())
    assert own.pop("clean").shape == (128,)
    assert {name.removeprefix("dit."): tuple(weight.shape) for name, weight in own.items()} == {
        name: tuple(weight.shape) for name, weight in twin.named_parameters()
    }
    for name, weight in twin.named_parameters():  # a run of the same seed starts from the same weights
        assert torch.equal(own[f"dit.{name}"], weight)
    assert "clean" not in dict(config("clip")(SPEC).named_parameters())


def test_every_weight_is_trained() -> None:
    model = small(config(), SPEC)
    latents, _, labels = clips(shape_of(model.config), SPEC)
    torch.stack(model(list(latents), times_of(model, latents), labels)).square().mean().backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]


def test_wrong_inputs_are_refused() -> None:
    model = small(config(), SPEC)
    latents, times, labels = clips((4, 4, 4), SPEC)
    with pytest.raises(Refusal, match=r"timesteps has shape \(2, 3\), expected \(2, 4\)"):
        model(list(latents), times[:, None].expand(2, 3), labels)
    with pytest.raises(Refusal, match="clean has 1 clips of other shapes than the 2 latents"):
        model(list(latents), times, labels, clean=[latents[0]])
    with pytest.raises(Refusal, match="needs one shape per batch"):
        model([latents[0], latents[1][:, :2]], times, labels)
    generation = model.generate((4, 4, 4), labels, 2)
    with pytest.raises(Refusal, match="latents has shape"):
        generation.predict(latents, 0.5)
    for _ in range(4):
        generation.keep(latents[:, :, :1])
    with pytest.raises(Refusal, match=r"all 4 units .* are generated; start anew"):
        generation.predict(latents[:, :, :1], 0.5)


def test_modulation_is_made_once_a_time() -> None:
    model = small(config(), SPEC)
    latents, _, labels = clips((4, 4, 4), SPEC)
    calls: list[float] = []
    plain = model.dit.time_embed.forward
    model.dit.time_embed.forward = lambda times: calls.append(float(times)) or plain(times)  # type: ignore[func-returns-value,method-assign]
    generation = model.generate((4, 4, 4), labels, 2)
    with torch.no_grad():
        for unit in range(4):
            for time in (0.75, 0.25):
                generation.predict(latents[:, :, unit : unit + 1], time)
            generation.keep(latents[:, :, unit : unit + 1])
    assert calls == [0.75, 0.25]
    keys_and_values = 2 * 2 * 2 * 16 * 48 * 4  # of 2 blocks, for 2 clips of 16 tokens of 48 channels, float32
    modulation = 3 * 2 * (2 * 6 + 2) * 48 * 4  # of 2 times and of clean tokens, for 2 clips
    assert generation.cache_bytes == keys_and_values + modulation


# --- what it costs


def test_flops_of_a_training_pass_are_of_what_is_seen() -> None:
    """The linear layers of 2 N - n tokens (in the last block of N, but for keys and values), and products with visible keys alone."""
    own = config("frame")
    tokens, length, width, units, depth = 90, 9, 128, 10, own.depth
    past = tokens - length
    values = 3 * 4
    keys = sum(length * (unit + 1) * length for unit in range(units)), sum(length * (unit + 1) * length for unit in range(units - 1))
    block = 24 * width**2 * (tokens + past) + 4 * width * sum(keys)
    last = 24 * width**2 * tokens + 6 * width**2 * past + 4 * width * keys[0]
    rows = units + 1
    modulation = (6 * depth + 2) * 2 * width**2 * rows
    ends = 2 * values * width * (tokens + past) + 2 * values * width * tokens
    time = (2 * 256 * width + 2 * width**2) * units
    assert count_flops("dit:AR-XS/2-frame", SPEC, (10, 6, 6)) == (depth - 1) * block + last + modulation + ends + time


def test_flops_of_a_generated_clip() -> None:
    """Of one unit they are the steps of a DiT, but for the last of the modulation, which is made once a time for all; of more units less
    attention, since noise looks at the past alone."""
    whole = generation_flops("dit:AR-XS/2-clip", SPEC, (10, 6, 6), 25)
    with torch.device("meta"):
        twin = DiT(config(), SPEC)
    assert whole == 25 * flops_of(twin, SPEC, (10, 6, 6))
    frames = generation_flops("dit:AR-XS/2-frame", SPEC, (10, 6, 6), 25)
    assert 0.9 * whole < frames < 1.05 * whole


def test_compiled_blocks_run_the_formula() -> None:
    """A compiler is given the mask: `attend_units` by name, one graph."""
    model = small(config(), SPEC)
    latents, _, labels = clips((4, 4, 4), SPEC)
    times = times_of(model, latents)
    with torch.no_grad():
        expected = torch.stack(model(list(latents), times, labels))
        for block in model.repeated_blocks():
            block.forward = torch.compile(block.forward, backend="eager", fullgraph=True)  # type: ignore[method-assign]
        assert_close(torch.stack(model(list(latents), times, labels)), expected, atol=1e-5, rtol=1e-5)


def test_names_say_what_is_built() -> None:
    assert {unit: config(unit).generates_units for unit in UNITS} == {"patch": True, "frame": True, "2f": True, "clip": False}
    assert set(config("frame").canaries(SPEC)) == {"unit = clip equals the DiT", "cached sampling equals the training pass"}
    assert all(check() <= 1e-5 for check in config("frame").canaries(SPEC).values())
    assert functools.reduce(int.__mul__, config("2f").unit_shape((4, 6, 6))) == 72
