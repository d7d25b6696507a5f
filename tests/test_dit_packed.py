"""Packs: a clip's prediction depends neither on its company nor on the tokens that it dropped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.shapes import Shape
from dit.kernels import OPERATIONS
from dit.kernels.products import WholeMatrices
from dit.model import DiT
from tests.small_dit import MIXED, SAME_LENGTH, UNIFORM, batch, losses, small_dit

LARGE = [(1, 16, 8), (6, 8, 16), (1, 8, 16), (1, 2, 2), (2, 4, 6), (6, 12, 2), (8, 2, 12), (2, 6, 4)]  # equal lengths apart; images
TUBELETS = [(2, 4, 6), (4, 2, 2), (2, 6, 4), (6, 2, 2), (2, 2, 4)]


def some_tokens(model: DiT, shapes: list[Shape]) -> list[Tensor]:
    """About half of the tokens of each clip, at least one."""
    generator = torch.Generator().manual_seed(2)
    sizes = [model.num_tokens(shape) for shape in shapes]
    return [torch.randperm(size, generator=generator)[: size // 2 + 1].sort().values for size in sizes]


@pytest.fixture
def every_clip_is_long() -> Iterator[None]:
    """The kernels of long clips, from twelve tokens on, which small models would never see, and the way of a GPU with a mixed pack."""
    whole_matrices = WholeMatrices(most_scores=400)
    long = OPERATIONS["attention_products"].by(lambda qkv, length: whole_matrices if length >= 12 else None)
    with long, OPERATIONS.plain("over_clips", "sum_of_clips"):
        yield


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
@pytest.mark.parametrize(
    ("shapes", "patch_size"),
    [*((shapes, (1, 2, 2)) for shapes in (MIXED, UNIFORM, SAME_LENGTH, LARGE)), (TUBELETS, (2, 2, 2)), (LARGE[1:2] * 3, (2, 2, 2))],
)
@pytest.mark.parametrize("dropping", [False, True], ids=["all tokens", "some tokens"])
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_packed_equals_one_at_a_time(
    request: pytest.FixtureRequest,
    shapes: list[Shape],
    patch_size: Shape,
    positions: str,
    dropping: bool,
    long: bool,
) -> None:
    """Outputs, and gradients of the weights and of the latents; mixed shapes, one shape and one length."""
    if long:
        request.getfixturevalue("every_clip_is_long")
    model = small_dit(patch_size=patch_size, positions=positions)
    latents, timesteps, labels = batch(shapes)
    kept = some_tokens(model, shapes) if dropping else None

    def run(groups: list[slice]) -> tuple[list[Tensor], list[Tensor]]:
        clips = [clip.clone().requires_grad_() for clip in latents]
        outputs = []
        for group in groups:
            outputs += model(clips[group], timesteps[group], labels[group], kept[group] if kept is not None else None)
        loss = torch.stack([(output * output.detach().cos()).sum() for output in outputs]).sum()
        return outputs, list(torch.autograd.grad(loss, [*clips, *model.parameters()]))

    together, gradients = run([slice(None)])
    alone, gradients_alone = run([slice(index, index + 1) for index in range(len(shapes))])
    for shape, output, expected in zip(shapes, together, alone, strict=True):
        assert output.shape == (3, *shape)
        assert_close(output, expected, atol=1e-5, rtol=1e-5)
    for gradient, expected in zip(gradients, gradients_alone, strict=True):
        assert_close(gradient, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=1e-5)


def test_uniform_path_equals_ragged_path() -> None:
    """A stranger of another length puts the same clips on the other path."""
    model = small_dit()
    latents, timesteps, labels = batch([*UNIFORM, (1, 2, 2)])
    ragged = model(latents, timesteps, labels)
    for output, expected in zip(model(latents[:3], timesteps[:3], labels[:3]), ragged, strict=False):
        assert_close(output, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shapes", [MIXED, UNIFORM])
def test_keeping_all_tokens_changes_nothing(shapes: list[Shape]) -> None:
    model = small_dit()
    latents, timesteps, labels = batch(shapes)
    kept = [torch.arange(model.num_tokens(shape)) for shape in shapes]
    for output, expected in zip(model(latents, timesteps, labels, kept), model(latents, timesteps, labels), strict=True):
        assert torch.equal(output, expected)


@pytest.mark.parametrize("shapes", [MIXED, UNIFORM])
def test_dropped_tokens_are_neither_seen_nor_predicted_nor_paid_for(shapes: list[Shape]) -> None:
    model = small_dit()
    latents, timesteps, labels = batch(shapes)
    kept = some_tokens(model, shapes)
    rows = []
    for module in (model.embed, model.blocks[0].mlp, model.final):
        module.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    outputs = model(latents, timesteps, labels, kept)
    assert rows == 3 * [sum(map(len, kept))]
    cells = [model.kept_voxels(shape, part) for shape, part in zip(shapes, kept, strict=True)]
    changed = [torch.where(seen, clip, clip + 1) for clip, seen in zip(latents, cells, strict=True)]
    for output, again, seen in zip(outputs, model(changed, timesteps, labels, kept), cells, strict=True):
        assert torch.equal(output, again)
        assert torch.equal(output.ne(0).any(0), seen)


@pytest.mark.parametrize(("offset", "moved"), [((0, 0, 4), (3, 4, 8)), ((0, 6, 0), (3, 10, 4)), ((2, 0, 0), (5, 4, 4))])
def test_with_rotary_positions_only_distances_count(offset: Shape, moved: Shape) -> None:
    """The same cells in a corner of a larger grid, the rest of it dropped: what is kept sits where the whole grid has it."""
    for positions, stays in (("rotary", True), ("sincos", False)):
        model = small_dit(positions=positions)
        (latents,), timesteps, labels = batch([(3, 4, 4)])
        larger = torch.zeros(3, *moved)
        corner = tuple(slice(start, start + size) for start, size in zip(offset, (3, 4, 4), strict=True))
        larger[:, *corner] = latents
        inside = torch.zeros(moved, dtype=torch.bool)
        inside[corner] = True
        kept = inside[:, ::2, ::2].flatten().nonzero()[:, 0]
        assert torch.equal(model.kept_voxels(moved, kept), inside)
        output = model([larger], timesteps, labels, [kept])[0][:, *corner]
        assert torch.allclose(output, model([latents], timesteps, labels)[0], atol=1e-5) is stays


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([torch.arange(6)], "kept has tokens of 1 clips, got 2 latents"),
        ([torch.arange(6), torch.arange(0)], r"kept\[1\] is empty; keep at least one of the 4 tokens of latents \(4, 2, 2\)"),
        ([torch.arange(6), torch.tensor([0, 4])], r"kept\[1\] must increase within 0 ... 3.*got 2 from 0 to 4"),
        ([torch.tensor([-1, 0]), torch.arange(4)], r"kept\[0\] must increase within 0 ... 11"),
        ([torch.tensor([0, 2, 1]), torch.arange(4)], r"kept\[0\] must increase"),
        ([torch.tensor([2, 2]), torch.arange(4)], r"kept\[0\] must increase"),
        ([torch.tensor([0.0, 1.0]), torch.arange(4)], r"kept\[0\] is torch.float32 on cpu; pass indices as int64 on the CPU"),
        ([torch.arange(6), torch.arange(4, device="meta")], r"kept\[1\] is torch.int64 on meta"),
        ([torch.arange(6)[:, None], torch.arange(4)], r"kept\[0\] has shape \(6, 1\), expected \(any\)"),
    ],
)
def test_wrong_tokens_are_named(wrong: list[Tensor], message: str) -> None:
    model, (latents, timesteps, labels) = small_dit(), batch(MIXED[:2])
    with pytest.raises(ValueError, match=message):
        model(latents, timesteps, labels, wrong)
    with pytest.raises(ValueError, match="kept must increase within 0"):
        model.kept_voxels(MIXED[0], torch.tensor([12]))
    with pytest.raises(ValueError, match="height divisible by 2, got 3"):
        model.kept_voxels((2, 3, 6), torch.tensor([0]))


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_takes_sizes_it_never_saw(positions: str) -> None:
    """After a step on small clips: larger and longer ones than any before, whose predictions are no larger than theirs."""
    model = small_dit(positions=positions)
    losses(model(*batch(MIXED))).backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.01 * weight.grad
        known = torch.cat([output.flatten() for output in model(*batch(MIXED))])
        for shape in [(1, 64, 2), (1, 2, 64), (40, 2, 2), (12, 18, 26)]:
            (output,) = model(*batch([shape]))
            assert output.shape == (3, *shape)
            assert output.std() < 2 * known.std()
