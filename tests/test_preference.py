"""Twin preference: chance for a model that knows nothing, the valid clip for one that knows it, its twin for one that learnt twins."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.data.latents.latents import LatentSet
from bench.run.expected.model import TWIN_TIMESTEPS
from bench.shapes import LatentSpec
from bench.study.cell import Cell
from bench.training.preference import TIMESTEPS, preferred
from bench.training.trainer import Trainer
from dit import BACKBONES
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
KNOWN, SHAPE = 2, (8, 4, 4)
SPEC = LatentSpec(latent_channels=2, spatial_stride=4, temporal_stride=1, num_labels=0).with_known_frames()


def moving(num: int, seed: int, turn: int = 1) -> Tensor:
    """A spot that goes round a circle of columns, one to the right a frame; after the known frames by `turn`. (N, 2, 8, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    places, rows = (torch.randint(4, (num,), generator=generator) for _ in range(2))
    clips = torch.zeros(num, 2, *SHAPE)
    for frame in range(SHAPE[0]):
        steps = min(frame, KNOWN - 1) + turn * max(frame - KNOWN + 1, 0)
        clips[torch.arange(num), :, frame, rows, (places + steps) % 4] = 2.0
    return clips - clips.mean()


def cell(seed: int = 0) -> Cell:
    return tiny_cell(
        objective={"known_frames": KNOWN},
        data={"source": "worlds", "num_frames": 8, "height": 16, "width": 16, "num_train": 8, "num_val": 4, "num_test": 4},
        budget={"steps": 450},
        batching={"batch_size": 16},
        optimizer={"learning_rate": 4e-3, "warmup_steps": 5, "ema_decay": 0.9},
        seed=seed,
    )


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return BACKBONES["DiT-XS/2"].configured(depth=2, hidden_size=48, num_heads=4)(SPEC)


class Knowing:
    """Exact for the clips that it knows, by their place in a batch."""

    def __init__(self, clips: list[Tensor]) -> None:
        self.clips = clips

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [(clip[:2] - known) / t for clip, known, t in zip(latents, self.clips, timesteps, strict=True)]


def test_a_model_that_knows_the_valid_clips_prefers_them_and_the_other_way_round() -> None:
    valid, twins = list(moving(6, 0)), list(moving(6, 0, turn=-1))
    assert preferred(Knowing(valid), valid, twins, cell(), CPU).tolist() == [1.0] * 6
    assert preferred(Knowing(twins), valid, twins, cell(), CPU).tolist() == [0.0] * 6


def test_the_time_of_twins_is_expected_of_as_many_timesteps() -> None:
    assert len(TIMESTEPS) == TWIN_TIMESTEPS


def test_equal_losses_are_half_and_both_clips_have_one_noise() -> None:
    valid = list(moving(5, 0))
    seen: list[list[Tensor]] = []

    class Watching:
        def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
            seen.append(latents)
            assert labels is None and timesteps.unique().numel() == 1
            return [torch.zeros_like(clip[:2]) for clip in latents]

    assert preferred(Watching(), valid, valid, cell(), CPU).tolist() == [0.5] * 5
    assert len(seen) == 2 * len(TIMESTEPS)
    for first, second in zip(seen[: len(TIMESTEPS)], seen[len(TIMESTEPS) :], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_answer_does_not_depend_on_the_batch_size() -> None:
    valid, twins = list(moving(7, 0)), list(moving(7, 0, turn=-1))
    backbone = small()
    for weight in backbone.parameters():
        nn.init.normal_(weight, std=0.1)
    one_by_one = cell().model_copy(update={"sampler": cell().sampler.model_copy(update={"batch_size": 2})})
    assert_close(preferred(backbone, valid, twins, cell(), CPU), preferred(backbone, valid, twins, one_by_one, CPU))


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_model_has_no_preference(seed: int) -> None:
    """Its weights are woken, as zeros would be a tie of all that they multiply. Both clips of a pair are as bright, as chance needs."""
    num = 160
    valid, twins = list(moving(num, seed)), list(moving(num, seed, turn=-1))
    backbone = small(seed)
    for weight in backbone.parameters():
        nn.init.normal_(weight, std=0.05)
    share = float(preferred(backbone.eval(), valid, twins, cell(), CPU).mean())
    assert abs(share - 0.5) < 1.96 * np.sqrt(0.25 / num)


def trained(tmp_path: object, turn: int) -> nn.Module:
    sets = [LatentSet(latents=moving(num, seed, turn).numpy(), labels=None, null_label=0) for num, seed in ((64, 1), (8, 2))]
    options = {"inputs": "x", "folder": tmp_path, "flops_of": lambda shape: 1, "device": CPU}
    trainer = Trainer(cell(), small(), train=sets[0], val=sets[1], **options)  # type: ignore[arg-type]
    trainer.train()
    return trainer.averaged_backbone()


@pytest.mark.parametrize(("turn", "preference"), [(1, 1.0), (-1, 0.0)])
def test_a_trained_model_prefers_the_law_that_it_saw_and_one_trained_on_twins_its_breach(
    tmp_path: object, turn: int, preference: float
) -> None:
    valid, twins = list(moving(32, 3)), list(moving(32, 3, turn=-1))
    share = preferred(trained(tmp_path, turn), valid, twins, cell(), CPU).mean()
    assert abs(share - preference) < 0.2, share
