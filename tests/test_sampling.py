"""Samplers: the exact answer where one is known; clips that depend on nothing but their index."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.data.progress import silent
from bench.run import preflight
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import SOLVERS, Sampler
from bench.training.objective import PATHS, draw_noise
from bench.training.sampling import SCHEDULERS, SamplePlan, guided, sample
from tests.tiny import SPEC, Linear, tiny_cell

CPU = torch.device("cpu")


class Oracle:
    """Knows that all data is one clip of value 0.5, so its prediction is exact at every timestep."""

    ragged = True

    def __init__(self, objective: str):
        self.path, self.objective, self.calls = PATHS[objective], objective, 0

    def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        self.calls += 1
        alphas, sigmas = self.path.coefficients(timesteps)
        predictions = []
        for clip, alpha, sigma in zip(latents, alphas, sigmas, strict=True):
            data = torch.full_like(clip, 0.5)
            noise = (clip - alpha * data) / sigma
            predictions += self.path.target([data], [noise], [float(alpha)], [float(sigma)])
        return predictions


def run(backbone: object, objective: str = "rectified_flow", **changes: object) -> list[Tensor]:
    sampler = changes.pop("sampler", Sampler(num_steps=5, solver=SOLVERS[objective][0]))  # type: ignore[arg-type]
    cell = tiny_cell(objective={"name": objective}, sampler=sampler, seed=changes.pop("seed", 0))
    options: dict[str, object] = {"shapes": [(2, 3, 4), (1, 2, 2), (3, 2, 2)], "labels": [0, 1, 2], "spec": SPEC}
    return sample(backbone, SamplePlan(cell=cell, **{**options, **changes}), CPU)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("objective", "solver"), SCHEDULERS)
def test_every_solver_finds_the_only_data_there_is(objective: str, solver: str) -> None:
    oracle = Oracle(objective)
    clips = run(oracle, objective, sampler=Sampler(num_steps=8, solver=solver))  # type: ignore[arg-type]
    assert oracle.calls == 8
    for clip, shape in zip(clips, [(4, 2, 3, 4), (4, 1, 2, 2), (4, 3, 2, 2)], strict=True):
        assert_close(clip, torch.full(shape, 0.5), atol=2e-3, rtol=0)


def test_every_allowed_pair_has_a_scheduler() -> None:
    assert {(objective, solver) for objective, solvers in SOLVERS.items() for solver in solvers} == set(SCHEDULERS)


def test_clips_do_not_depend_on_batch_size_or_neighbours() -> None:
    torch.manual_seed(0)
    backbone = Linear()
    whole = run(backbone)
    for clip, alone in zip(whole, run(backbone, sampler=Sampler(num_steps=5, batch_size=1)), strict=True):
        assert_close(clip, alone)
    later = run(backbone, shapes=[(1, 2, 2)], labels=[1], first_clip=1)
    assert_close(later[0], whole[1])
    assert not torch.allclose(run(backbone, seed=1)[0], whole[0])


def test_a_backbone_of_one_shape_a_batch_gets_one_and_samples_the_same() -> None:
    class OneShape(Linear):
        ragged = False

        def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
            assert len({clip.shape for clip in latents}) == 1
            batches.append(len(latents))
            return super().forward(latents, timesteps, labels)

    shapes, labels = [(2, 3, 4), (1, 2, 2), (2, 3, 4), (1, 2, 2), (2, 3, 4)], [0, 1, 2, 0, 1]
    options = {"shapes": shapes, "labels": labels, "sampler": Sampler(num_steps=1, batch_size=2)}
    batches: list[int] = []
    torch.manual_seed(0)
    mixed = run(Linear(), **options)
    torch.manual_seed(0)
    alike = run(OneShape(), **options)
    assert batches == [2, 1, 2]
    for clip, other, shape in zip(mixed, alike, shapes, strict=True):
        assert clip.shape == (4, *shape)
        assert_close(clip, other)


def test_one_euler_step_by_hand() -> None:
    class Constant(Oracle):
        def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
            assert_close(timesteps, torch.ones(1))
            return [torch.full_like(latents[0], 2.0)]

    one = LatentSpec(latent_channels=1, spatial_stride=1, temporal_stride=1, num_labels=0)
    clip = run(Constant("rectified_flow"), spec=one, shapes=[(1, 1, 2)], labels=[0], sampler=Sampler(num_steps=1))[0]
    assert_close(clip, draw_noise(0, "sample_noise", 0, (1, 1, 1, 2)) - 2.0)


def test_guidance_without_classes_is_refused_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "load_clips", lambda *arguments: SimpleNamespace(label_names=()))
    job: Any = SimpleNamespace(results=Path())
    with pytest.raises(Refusal, match="needs classes"):
        preflight._size(tiny_cell(sampler={"guidance_scale": 2.0}), job, silent)  # type: ignore[arg-type]


def test_guidance_by_hand_and_its_cost() -> None:
    class ByLabel:
        def __call__(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor) -> list[Tensor]:
            return [torch.full_like(clip, float(label)) for clip, label in zip(latents, labels, strict=True)]

    latents, labels = [torch.zeros(1), torch.zeros(1)], torch.tensor([1, 2])
    assert [float(each) for each in guided(ByLabel(), latents, torch.ones(2), labels, 3, 2.0)] == [-1.0, 1.0]  # type: ignore[arg-type]
    assert [float(each) for each in guided(ByLabel(), latents, torch.ones(2), labels, 3, 1.0)] == [1.0, 2.0]  # type: ignore[arg-type]
    torch.manual_seed(0)
    cell = tiny_cell(sampler={"num_steps": 5, "guidance_scale": 2.0})
    assert sample(Linear(), SamplePlan(cell=cell, spec=SPEC, shapes=[(1, 2, 2)], labels=[0]), CPU)[1].num_evals == 10
