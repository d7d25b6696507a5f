"""Objectives: where a clip is on the path from data to noise, what the backbone has to predict there, and the loss.

Timesteps run over [0, 1], 1 = noise, for every objective. Noise schedules are those of diffusers' schedulers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from bench.data.seeds import stream_seed

NUM_TRAIN_TIMESTEPS = 1000  # length of the discrete schedule of v-prediction, as in DDPM (2006.11239)
VALIDATION_TIMESTEPS = tuple((index + 0.5) / 8 for index in range(8))  # the 8 fixed timesteps of the validation loss

# Zero terminal signal-to-noise ratio, so that sampling may start from pure noise (Lin et al. 2023, 2305.08891).
DISCRETE_SCHEDULE = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_schedule": "linear",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True, kw_only=True)
class Path:
    """One objective: a noise schedule and what is predicted on it."""

    snap: Callable[[Tensor], Tensor]  # uniform draws (B,) in [0, 1) -> timesteps (B,) the schedule has
    coefficients: Callable[[Tensor], tuple[Tensor, Tensor]]  # timesteps (B,) -> alpha, sigma, each (B,)
    # latents and noise, B tensors each, alpha and sigma, B numbers each -> B prediction targets
    target: Callable[[list[Tensor], list[Tensor], list[float], list[float]], Sequence[Tensor]]


@cache
def _alphas_cumprod() -> Tensor:
    return DDIMScheduler(**DISCRETE_SCHEDULE).alphas_cumprod.double()


def _discrete_coefficients(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    index = (timesteps.double() * NUM_TRAIN_TIMESTEPS).round().long() - 1
    alphas_cumprod = _alphas_cumprod()[index.clamp_min(0).cpu()].to(timesteps.device)
    return alphas_cumprod.sqrt().float(), (1 - alphas_cumprod).sqrt().float()


PATHS = {
    # Liu et al. 2022 (2209.03003), eq. 1: a straight line; the velocity points from data to noise.
    "rectified_flow": Path(
        snap=lambda uniform: uniform,
        coefficients=lambda timesteps: (1 - timesteps, timesteps),
        target=lambda latents, noise, alphas, sigmas: torch._foreach_sub(noise, latents),
    ),
    # Salimans & Ho 2022 (2202.00512), section 4 and appendix D: v = alpha noise - sigma latents.
    "v_prediction": Path(
        snap=lambda uniform: ((uniform * NUM_TRAIN_TIMESTEPS).floor() + 1) / NUM_TRAIN_TIMESTEPS,
        coefficients=_discrete_coefficients,
        target=lambda latents, noise, alphas, sigmas: torch._foreach_sub(scaled(noise, alphas), scaled(latents, sigmas)),
    ),
}


def draw_noise(seed: int, stream: str, index: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of draw `index`, made on the CPU: the same for every backbone, batch size and device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(stream_seed(seed, stream, index)))


def draw_uniform(seed: int, stream: str, index: int) -> float:
    """One uniform number in [0, 1) of draw `index`."""
    return float(torch.rand((), generator=torch.Generator().manual_seed(stream_seed(seed, stream, index))))


def noised(path: Path, latents: list[Tensor], noise: list[Tensor], timesteps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Latents and noise, B tensors (C, T_i, H_i, W_i), and timesteps (B,) -> (noised latents, targets), same shapes.

    Timesteps live on the CPU, so that the coefficients reach the device without a synchronisation.
    """
    alphas, sigmas = (each.tolist() for each in path.coefficients(timesteps))
    mixed = torch._foreach_add(scaled(latents, alphas), scaled(noise, sigmas))
    return list(mixed), list(path.target(latents, noise, alphas, sigmas))


def told_labels(labels: Iterable[int], null_label: int, label_dropout: float) -> Tensor:
    """Labels of B clips -> (B,) int64, as a trained model is told them: where all were dropped the null one, all that it knows."""
    return torch.tensor([null_label if label_dropout == 1 else int(label) for label in labels])


def scaled(clips: list[Tensor], factors: list[float]) -> tuple[Tensor, ...]:
    """B clips (C, T_i, H_i, W_i), each times its own factor, same shapes.

    All in one: on a GPU launching kernels clip by clip takes longer than the network.
    """
    return torch._foreach_mul(clips, factors)


def mean_square(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Mean squared error over all values of B clips (C, T_i, H_i, W_i), () float32: a larger clip weighs more."""
    return differences(predictions, targets).square().mean()


def differences(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """B clips (C, T_i, H_i, W_i) -> prediction less target, all values in a row, float32: a few kernels, however many clips there are."""
    prediction, target = (torch.cat([clip.flatten() for clip in clips]) for clips in (predictions, targets))
    return prediction.float() - target


def clip_losses(predictions: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared error of each clip, (B,) float32, whatever its size."""
    return torch.stack([(prediction.float() - target).square().mean() for prediction, target in zip(predictions, targets, strict=True)])
