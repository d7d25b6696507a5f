"""Objectives: endpoints, hand-computed values, inversion, and agreement with diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from bench.training.objective import DISCRETE_SCHEDULE, PATHS, VALIDATION_TIMESTEPS, clip_losses, draw_noise, draw_uniform, noised


@pytest.mark.parametrize("name", PATHS)
def test_one_is_noise_and_small_is_data(name: str) -> None:
    path = PATHS[name]
    alpha, sigma = path.coefficients(torch.tensor([1.0]))
    assert_close((alpha, sigma), (torch.tensor([0.0]), torch.tensor([1.0])), atol=1e-6, rtol=0)
    alpha, sigma = path.coefficients(path.snap(torch.tensor([0.0])))
    assert alpha > 0.99
    assert sigma < 0.02


def test_rectified_flow_by_hand() -> None:
    latents, noise = [torch.full((1, 1, 1, 2), 2.0)], [torch.full((1, 1, 1, 2), -1.0)]
    mixed, targets = noised(PATHS["rectified_flow"], latents, noise, torch.tensor([0.25]))
    assert_close(mixed[0], torch.full((1, 1, 1, 2), 0.75 * 2 - 0.25))
    assert_close(targets[0], torch.full((1, 1, 1, 2), -3.0))


def test_v_prediction_is_that_of_diffusers() -> None:
    scheduler = DDIMScheduler(**DISCRETE_SCHEDULE)
    latents = [torch.randn(2, 3, 1, 2, generator=torch.Generator().manual_seed(index)) for index in range(3)]
    noise = [draw_noise(0, "n", index, (2, 3, 1, 2)) for index in range(3)]
    steps = torch.tensor([0, 500, 998])
    mixed, targets = noised(PATHS["v_prediction"], latents, noise, (steps + 1) / 1000)
    for index, step in enumerate(steps):
        assert_close(mixed[index], scheduler.add_noise(latents[index], noise[index], step), atol=1e-5, rtol=1e-5)
        assert_close(targets[index], scheduler.get_velocity(latents[index], noise[index], step[None]), atol=1e-5, rtol=1e-5)


def test_data_and_noise_come_back_from_mixture_and_target() -> None:
    timesteps = PATHS["v_prediction"].snap(torch.tensor([0.3]))
    latents, noise = [torch.randn(1, 2, 2, 2)], [torch.randn(1, 2, 2, 2)]
    mixed, targets = noised(PATHS["v_prediction"], latents, noise, timesteps)
    alpha, sigma = (float(value) for value in PATHS["v_prediction"].coefficients(timesteps))
    assert_close(alpha * mixed[0] - sigma * targets[0], latents[0], atol=1e-5, rtol=1e-5)
    mixed, targets = noised(PATHS["rectified_flow"], latents, noise, torch.tensor([0.3]))
    assert_close(mixed[0] - 0.3 * targets[0], latents[0])


def test_snapped_timesteps_are_on_the_grid() -> None:
    timesteps = PATHS["v_prediction"].snap(torch.tensor([0.0, 0.0005, 0.9999]))
    assert_close(timesteps, torch.tensor([0.001, 0.001, 1.0]))


def test_every_clip_weighs_the_same_whatever_its_size() -> None:
    predictions = [torch.zeros(1, 1, 1, 1), torch.zeros(1, 4, 4, 4)]
    targets = [torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 4, 4, 4)]
    assert_close(clip_losses(predictions, targets), torch.tensor([4.0, 1.0]))


def test_draws_depend_on_their_name_alone() -> None:
    assert_close(draw_noise(0, "noise", 3, (2, 2)), draw_noise(0, "noise", 3, (2, 2)))
    assert not torch.equal(draw_noise(0, "noise", 3, (2, 2)), draw_noise(0, "noise", 4, (2, 2)))
    assert draw_uniform(0, "timestep", 1) != draw_uniform(0, "label_dropout", 1)
    assert len(VALIDATION_TIMESTEPS) == 8
