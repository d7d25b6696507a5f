"""Video prediction: known frames are given as they are, nothing is learnt or asked of them, and both backbones take them alike."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from baselines import BACKBONES as UNETS
from bench.backbone import load_backbone
from bench.data.latents.latents import LatentSet
from bench.run.checks import check_cell, latent_spec
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import Cell, Objective, Sampler
from bench.study.tune import full_name
from bench.training.draws import Drawer
from bench.training.known import given_of, unknown, with_given, with_known
from bench.training.sampling import SamplePlan, sample
from bench.training.validation import validation_losses
from dit import BACKBONES as DITS
from tests.tiny import cell_fields, latent_set, tiny_cell

CPU = torch.device("cpu")
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0).with_known_frames()
BACKBONES = {"UNet": UNETS["UNet-XS"].configured(block_channels=[32, 32], num_res_blocks=1), "DiT": DITS["DiT-XS/2"].configured(depth=2)}


def clips(num: int = 2, shape: tuple[int, ...] = (4, 5, 4, 6), seed: int = 0) -> list[Tensor]:
    return list(torch.randn((num, *shape), generator=torch.Generator().manual_seed(seed)))


def woken(name: str) -> Any:
    """A backbone whose weights are none of them zero."""
    torch.manual_seed(0)
    backbone = BACKBONES[name](SPEC)
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return backbone.eval()


def test_what_is_given_is_the_known_latents_and_a_mask() -> None:
    [clip] = clips(1)
    [given] = given_of([clip], 2)
    assert given.shape == (5, 5, 4, 6)
    assert torch.equal(given[:4, :2], clip[:, :2]) and not given[:4, 2:].any()
    assert (given[4, :2] == 1).all() and (given[4, 2:] == 0).all()
    assert torch.equal(with_given([clip], [given])[0], torch.cat([clip, given]))
    assert torch.equal(unknown([clip], 2)[0], clip[:, 2:])
    [back] = with_known([torch.zeros_like(clip)], [given], 2)
    assert torch.equal(back[:, :2], clip[:, :2]) and not back[:, 2:].any()


def test_a_latent_space_with_known_frames_has_more_input_channels() -> None:
    assert (SPEC.latent_channels, SPEC.given_channels, SPEC.input_channels) == (4, 5, 9)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_predicts_the_latents_from_all_that_it_is_given(name: str) -> None:
    backbone, noised = woken(name), clips()
    timesteps = torch.tensor([0.3, 0.8])
    given = given_of(clips(seed=1), 2)
    found = backbone(with_given(noised, given), timesteps, None)
    assert [tuple(clip.shape) for clip in found] == [(4, 5, 4, 6)] * 2
    others = backbone(with_given(noised, given_of(clips(seed=2), 2)), timesteps, None)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(found, others, strict=True))  # it looks at them
    masked = backbone(with_given(noised, given_of([torch.zeros_like(clip) for clip in noised], 3)), timesteps, None)
    unmasked = backbone(with_given(noised, given_of([torch.zeros_like(clip) for clip in noised], 1)), timesteps, None)
    assert (masked[0] - unmasked[0]).abs().max() > 1e-3  # and at the mask
    with pytest.raises(Refusal, match=r"latents\[0\] has shape \(4, 5, 4, 6\), expected \(9"):
        backbone(noised, timesteps, None)


def test_packs_of_mixed_shapes_are_unpacked_to_latents() -> None:
    backbone, sizes = woken("DiT"), [(4, 5, 4, 6), (4, 3, 4, 4), (4, 5, 4, 6)]
    inputs = [torch.cat([clip, given_of([clip], 1)[0]]) for size in sizes for clip in clips(1, size)]
    timesteps = torch.tensor([0.2, 0.5, 0.9])
    together = backbone(inputs, timesteps, None)
    assert [tuple(clip.shape) for clip in together] == sizes
    for index, clip in enumerate(inputs):
        assert_close(together[index], backbone([clip], timesteps[index : index + 1], None)[0], atol=1e-5, rtol=1e-4)


class Watching:
    """Remembers its inputs; what it predicts for known frames is wild."""

    ragged = True

    def __init__(self, wild: float = 0.0) -> None:
        self.wild, self.inputs = wild, list[Tensor]()

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        self.inputs = latents
        return [clip[:4] * 0.5 + self.wild * clip[-1] for clip in latents]

    def num_tokens(self, shape: Any) -> int:
        return 1


def predicting(known: int = 1, **changes: Any) -> Cell:
    return tiny_cell(objective={"known_frames": known}, **changes)


def unlabelled(num: int = 8) -> LatentSet:
    return latent_set(num, (4, 4, 4, 2), labelled=False)


def test_training_gives_known_frames_and_learns_the_others() -> None:
    cell, data = predicting(2), unlabelled()
    drawer = Drawer(cell, data, None, CPU)
    plain = Drawer(tiny_cell(), data, None, CPU)
    batch = drawer.stream.batch(0)
    drawn, without = drawer.draw(batch), plain.draw(batch)
    for clip, whole, item in zip(drawn.latents, without.latents, batch.items, strict=True):
        assert torch.equal(clip[:4], whole)  # the same draw, noise and timestep
        assert torch.equal(clip[4:8, :2], torch.from_numpy(np.array(data.latents[item]))[:, :2])
    calm, wild = drawn.loss(Watching()), drawn.loss(Watching(wild=100.0))
    assert torch.equal(calm, wild)
    differences = [(clip[:4] * 0.5 - target)[:, 2:] for clip, target in zip(drawn.latents, drawn.targets, strict=True)]
    assert_close(calm, torch.stack(differences).square().mean())
    spread = drawer.draw(batch, places=[0, 1], num_processes=1)
    assert_close(spread.loss(Watching(wild=9.0)), calm)


def test_the_validation_loss_leaves_known_frames_out() -> None:
    cell, data = predicting(2), unlabelled()
    calm, wild = (validation_losses(Watching(wild), data, 4, cell, CPU) for wild in (0.0, 100.0))
    assert calm == wild
    assert calm != validation_losses(Watching(), data, 4, predicting(1), CPU)


class Knowing:
    """Exact where all frames of a clip are as its last known one."""

    ragged = True

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        found = []
        for clip, timestep in zip(latents, timesteps, strict=True):
            known = int(clip[-1, :, 0, 0].sum())
            data = clip[4:8, known - 1 : known].expand_as(clip[:4])
            found.append((clip[:4] - data) / timestep)
        return found


@pytest.mark.parametrize("known", [1, 3])
def test_samples_go_on_from_the_known_frames(known: int) -> None:
    true = clips(3)
    cell = predicting(known, sampler=Sampler(num_steps=6), data=cell_fields()["data"] | {"num_frames": 5})
    plan = SamplePlan(cell=cell, spec=SPEC, shapes=[(5, 4, 6)] * 3, labels=[0] * 3, given=given_of(true, known))
    found, _ = sample(Knowing(), plan, CPU)
    for clip, own in zip(found, true, strict=True):
        assert torch.equal(clip[:, :known], own[:, :known])
        assert_close(clip[:, known:], own[:, known - 1 : known].expand(-1, 5 - known, -1, -1), atol=2e-3, rtol=0)


def test_noise_of_a_sample_does_not_depend_on_what_is_known() -> None:
    class Blind(Knowing):
        def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
            return [torch.zeros_like(clip[:4]) for clip in latents]

    options: dict[str, Any] = {"spec": SPEC, "shapes": [(5, 4, 6)] * 2, "labels": [0] * 2}
    data = cell_fields()["data"] | {"num_frames": 5}
    first, _ = sample(Blind(), SamplePlan(cell=predicting(1, data=data), given=given_of(clips(seed=1), 1), **options), CPU)
    second, _ = sample(Blind(), SamplePlan(cell=predicting(2, data=data), given=given_of(clips(seed=2), 2), **options), CPU)
    assert all(torch.equal(a[:, 2:], b[:, 2:]) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "objective.known_frames 4 leaves nothing to predict of data.num_frames 4; use fewer"),
        ({"evaluation": {"extractors": ["random3d"], "num_samples": 4, "grid": [[4, 16, 16]]}}, "whole clips of one shape"),
        (
            {"batching": {"policy": "pack", "voxel_budget": 500, "token_dropping": {"kind": "constant", "rate": 0.2}}},
            "this cell has batching.token_dropping",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(changes: dict[str, Any], line: str) -> None:
    known = 4 if not changes else 1
    with pytest.raises(ValueError, match=line):
        predicting(known, **changes)


def test_a_backbone_that_takes_no_known_frames_is_refused() -> None:
    with pytest.raises(Refusal, match=r"objective.known_frames 1 needs a backbone that takes known frames, 'diffusers:\S+' does not"):
        check_cell(predicting(1, backbone="diffusers:UNet3DConditionModel"))
    for name in ("dit:DiT-XS/2", "baselines:UNet-XS"):
        cell = predicting(1, backbone=name, data=cell_fields()["data"] | {"height": 32, "width": 32})
        check_cell(cell)
        spec = latent_spec(cell, 0)
        assert spec is not None and spec.input_channels == 9
        assert load_backbone(name, spec).takes_known_frames  # type: ignore[attr-defined]


def test_cells_that_know_no_frame_are_what_they_were() -> None:
    assert "known_frames" not in Objective().model_dump()
    assert tiny_cell().fingerprint() == tiny_cell(objective={"known_frames": 0}).fingerprint() != predicting(1).fingerprint()


def test_the_loss_of_other_known_frames_is_another_and_so_they_are_not_tuned() -> None:
    with pytest.raises(Refusal, match=r"tune.objective.known_frames is no field that can be tuned"):
        full_name("objective.known_frames")
