"""From integers to tensors: padding stays out of the loss, dropped tokens too, and a draw depends on nothing but its index."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.backbone import load_backbone
from bench.data.policy.batches import Batch
from bench.data.policy.config import TokenDropping
from bench.run.preflight import _check_shapes
from bench.shapes import Refusal
from bench.training.draws import RATES, Drawer, pad
from tests.tiny import SPEC, Linear, mixed_set, tiny_cell

CPU = torch.device("cpu")
SHAPES = [(4, 3, 4, 2), (4, 1, 4, 4), (4, 3, 2, 2)]


class Dropper(Linear):
    """Takes every latent voxel for a token and predicts those that are kept."""

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, kept: list[Tensor] | None = None) -> list[Tensor]:
        whole = super().forward(latents, timesteps, labels)
        if kept is None:
            return whole
        masks = [self.kept_voxels(tuple(clip.shape[1:]), tokens) for clip, tokens in zip(latents, kept, strict=True)]  # type: ignore[arg-type]
        return [torch.where(mask, clip, torch.nan) for clip, mask in zip(whole, masks, strict=True)]

    def kept_voxels(self, shape: tuple[int, int, int], kept: Tensor) -> Tensor:
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[kept] = True
        return mask


def drawer(policy: str, backbone: Any = None, **batching: Any) -> Drawer:
    cell = tiny_cell(batching={"policy": policy, "voxel_budget": 1000, **batching})
    return Drawer(cell, mixed_set(SHAPES), backbone or Linear(), CPU)


def test_draws_do_not_depend_on_the_policy() -> None:
    batch = Batch((2, 0, 1), 17)
    packed, padded = drawer("pack").draw(batch), drawer("pad").draw(batch)
    for whole, own, larger, target in zip(packed.latents, packed.targets, padded.latents, padded.targets, strict=True):
        t, h, w = own.shape[1:]
        assert_close(larger[:, :t, :h, :w], whole)
        assert_close(target, own)
        assert larger.shape == (4, 3, 4, 4)
        assert float(larger.abs().sum()) == pytest.approx(float(whole.abs().sum()))  # zeros beyond the clip
    assert_close(packed.timesteps, padded.timesteps)
    assert packed.shapes == padded.shapes == [(3, 2, 2), (3, 4, 2), (1, 4, 4)]


def test_padding_is_left_out_of_the_loss() -> None:
    torch.manual_seed(0)
    backbone = Linear()
    batch = Batch((2, 0, 1), 0)
    packed, padded = (drawer(policy, backbone).draw(batch) for policy in ("pack", "pad"))
    assert_close(padded.loss(backbone), packed.loss(backbone))


@pytest.mark.parametrize("policy", ["pack", "pad"])
def test_a_cell_weighs_the_same_in_a_mixed_batch_as_in_batches_of_one_shape(policy: str) -> None:
    """24, 16 and 12 cells: the loss of the step is over all 52, as if each shape had had its own step of as many cells."""
    torch.manual_seed(0)
    backbone = Linear()
    drawn = drawer(policy, backbone).draw(Batch((0, 1, 2), 0))
    predictions = backbone(drawn.latents, drawn.timesteps, drawn.labels)
    losses = [(p[:, :t, :h, :w] - own).square().mean() for p, own, (t, h, w) in zip(predictions, drawn.targets, drawn.shapes, strict=True)]
    assert_close(drawn.loss(backbone), (24 * losses[0] + 16 * losses[1] + 12 * losses[2]) / 52)
    assert drawn.num_values == 4 * 52


def test_pad_by_hand() -> None:
    first, second = pad([torch.ones(1, 2, 1, 3), torch.ones(1, 1, 2, 1)], (2, 2, 3))
    assert first.shape == second.shape == (1, 2, 2, 3)
    assert first[0, :, 1].eq(0).all() and first[0, :, 0].eq(1).all()
    assert second.sum() == 2 and second[0, 0, :, 0].eq(1).all()


def test_dropped_tokens_are_neither_predicted_nor_counted() -> None:
    torch.manual_seed(0)
    backbone = Dropper()
    drawing = drawer("pack", backbone, token_dropping={"kind": "constant", "rate": 0.5})
    drawn = drawing.draw(Batch((0, 1, 2), 0))
    assert drawn.kept is not None and [len(kept) for kept in drawn.kept] == [12, 8, 6]
    whole = backbone(drawn.latents, drawn.timesteps, drawn.labels)
    squares = [(p - t).flatten(1)[:, kept].square() for p, t, kept in zip(whole, drawn.targets, drawn.kept, strict=True)]
    assert_close(drawn.loss(backbone), torch.cat(squares, dim=1).mean())  # what is not predicted is NaN here
    assert drawn.num_values == 4 * 26
    assert drawn.work(lambda shape: 100, backbone.num_tokens) == (3, 7, 26, 26, 150)
    again = drawing.draw(Batch((1,), 1))
    assert again.kept is not None and torch.equal(again.kept[0], drawn.kept[1])  # of the draw, not of its batch
    other = drawing.draw(Batch((1,), 2))
    assert other.kept is not None and not torch.equal(other.kept[0], drawn.kept[1])


def test_dropped_tokens_make_packs_hold_more() -> None:
    few = drawer("pack", Dropper(), voxel_budget=26, token_dropping={"kind": "constant", "rate": 0.5})
    assert [len(items) for items in few.stream.epoch(0)] == [3]
    assert [len(items) for items in drawer("pack", voxel_budget=26).stream.epoch(0)] == [1, 1, 1]  # of 24, 16 and 12 cells


@pytest.mark.parametrize(
    ("config", "size", "epoch", "rate"),
    [
        ({"kind": "constant", "rate": 0.4}, 0.1, 7, 0.4),
        ({"kind": "decreasing", "rate": 0.4, "epochs": 4}, 0.1, 0, 0.4),
        ({"kind": "decreasing", "rate": 0.4, "epochs": 4}, 0.1, 3, 0.1),
        ({"kind": "decreasing", "rate": 0.4, "epochs": 4}, 0.1, 9, 0.0),
        ({"kind": "per_resolution", "rate": 0.4}, 1.0, 0, 0.4),
        ({"kind": "per_resolution", "rate": 0.4}, 0.25, 0, 0.1),
    ],
)
def test_rates(config: dict[str, Any], size: float, epoch: int, rate: float) -> None:
    dropping = TokenDropping.model_validate(config)
    assert RATES[dropping.kind](dropping, size, epoch) == pytest.approx(rate)


def test_a_backbone_that_cannot_drop_is_refused() -> None:
    """Before anything trains: no clip is asked for."""
    cell = tiny_cell(batching={"policy": "pack", "voxel_budget": 48, "token_dropping": {"kind": "constant", "rate": 0.5}})
    no_clips: Any = None
    with pytest.raises(Refusal, match="predicts a part of its tokens, 'dit:DiT-XS/2' cannot"):
        _check_shapes(cell, no_clips, SPEC, Linear())


@pytest.mark.parametrize(
    ("batching", "message"),
    [
        ({"policy": "crop"}, "exactly one of batch_size"),
        ({"policy": "crop", "batch_size": 2, "voxel_budget": 2}, "exactly one of batch_size"),
        ({"policy": "pack", "batch_size": 2}, "fills batches by latent voxels"),
        ({"policy": "pack", "voxel_budget": 9, "buckets": [[1, 8, 8]]}, "policy 'pack' takes no buckets"),
        ({"policy": "pad", "voxel_budget": 9, "token_dropping": {"kind": "constant", "rate": 0.5}}, "policy 'pad' takes no token_dropping"),
        ({"policy": "pack", "voxel_budget": 9, "token_dropping": {"kind": "decreasing", "rate": 0.5}}, "got None with 'decreasing'"),
        ({"policy": "pack", "voxel_budget": 9, "token_dropping": {"kind": "constant", "rate": 1}}, "less than 1"),
    ],
)
def test_bad_batching_is_an_error(batching: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_cell(batching=batching)


@pytest.mark.parametrize("kind", ["constant", "per_resolution"])
def test_the_dit_trains_on_a_part_of_its_tokens(kind: str) -> None:
    torch.manual_seed(0)
    backbone: Any = load_backbone("dit:DiT-XS/2{depth: 1}", SPEC)
    for weight in backbone.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    cell = tiny_cell(batching={"policy": "pack", "voxel_budget": 60, "token_dropping": {"kind": kind, "rate": 0.5}})
    drawing = Drawer(cell, mixed_set([(4, 2, 4, 6), (4, 1, 2, 4), (4, 1, 4, 4)]), backbone, CPU)
    batch = drawing.stream.batch(0)
    drawn = drawing.draw(batch)
    assert len(batch.items) == 3 and drawn.kept is not None and drawn.mask is not None  # 72 cells, of which 60 have room
    assert int(drawn.mask.sum()) == drawn.num_values == 4 * 4 * sum(len(kept) for kept in drawn.kept)
    whole = backbone(drawn.latents, drawn.timesteps, drawn.labels, kept=drawn.kept)
    cells = [backbone.kept_voxels(shape, kept) for shape, kept in zip(drawn.shapes, drawn.kept, strict=True)]
    squares = [(p - t)[:, own].square() for p, t, own in zip(whole, drawn.targets, cells, strict=True)]
    loss = drawn.loss(backbone)
    assert_close(loss, torch.cat(squares, dim=1).mean())
    loss.backward()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in backbone.parameters())
