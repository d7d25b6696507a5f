"""Where a checkpoint's own noise schedule meets ours, and what it predicts becomes what our objective wants. Plain mathematics.

Whatever a network was trained to predict, with noised latents a x0 + s n it says what x0 and n are; and latents of any other schedule
are, scaled, on its own, where the ratio of noise to signal is the same. So three steps make a contender of it: find its timestep of
that ratio, scale the latents to its path, and put the x0 and n that it says into the target of our objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import diffusers
import torch
from torch import Tensor

from bench.shapes import Refusal, did_you_mean

# Schedulers of diffusers whose `alphas_cumprod` are the path that the network was trained on, at timesteps 0, 1, 2, ...
DISCRETE = (
    "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
LEAST_SIGNAL = 1e-3  # of a path on which noise is predicted: from pure noise no clip can be told


class NoisePath(Protocol):
    """What must be known of our objective (bench/training/objective.py)."""

    @property
    def coefficients(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Timesteps (B,) -> alpha, sigma, each (B,)."""
        ...

    @property
    def target(self) -> Callable[..., Sequence[Tensor]]:
        """Latents and noise, B tensors each, alpha and sigma of each -> B prediction targets."""
        ...


def _noise(said: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    return (x - s * said) / a, said


def _velocity(said: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Salimans & Ho 2022 (2202.00512), appendix D: v = a n - s x0, where a^2 + s^2 = 1. Karras et al.'s networks of SVD say the same."""
    return a * x - s * said, s * x + a * said


def _flow(said: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Liu et al. 2022 (2209.03003): n - x0, where a + s = 1."""
    return x - s * said, x + a * said


def _sample(said: Tensor, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    return said, (x - a * said) / s


# What a network says of x = a x0 + s n, by diffusers' word for it -> x0 and n.
SAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "epsilon": _noise,
    "v_prediction": _velocity,
    "flow_prediction": _flow,
    "sample": _sample,
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A checkpoint's path from data to noise. A place on it is the angle of noise and signal, atan2(s, a)."""

    says: str  # key of SAYS
    least_angle: float  # its place with the least noise
    most_angle: float  # and with the most: what has more noise is taken there
    time_of: Callable[[Tensor], Tensor]  # angles (B,) float64 -> the timesteps that the network is given, (B,)

    @property
    def is_straight(self) -> bool:
        """Whether a + s = 1, and not a^2 + s^2."""
        return self.says == "flow_prediction"

    def at(self, alphas: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of latents alpha x0 + sigma n, each (B,): its timesteps, a and s of the same ratio, each (B,); at its ends the nearest."""
        angles = torch.atan2(sigmas.double(), alphas.double()).clamp(self.least_angle, self.most_angle)
        signal, noise = angles.cos(), angles.sin()
        total = signal + noise if self.is_straight else torch.ones_like(signal)
        return self.time_of(angles).float(), (signal / total).float(), (noise / total).float()

    def ask(self, network: Callable[[Tensor, Tensor], Tensor], latents: Tensor, timesteps: Tensor, path: NoisePath) -> Sequence[Tensor]:
        """Latents (B, C, T, H, W) of our path at timesteps (B,) -> B predictions (C, T, H, W) of our objective's target.

        `network` takes latents of the checkpoint's path and its timesteps, (B,).
        """
        alphas, sigmas = path.coefficients(timesteps)
        times, a, s = self.at(alphas, sigmas)
        scale = torch.hypot(a, s) / torch.hypot(alphas, sigmas)
        a, s, scale = (each.view(-1, 1, 1, 1, 1) for each in (a, s, scale))
        scaled = latents.float() * scale
        clean, noise = SAYS[self.says](network(scaled, times).float(), scaled, a, s)
        return path.target(list(clean), list(noise), list(alphas.unbind()), list(sigmas.unbind()))


def read_schedule(config: dict[str, Any], where: str) -> Schedule:
    """The schedule of a scheduler_config.json. Refusal, beginning with `where`, for one that is not known here."""
    name, says = str(config.get("_class_name")), str(config.get("prediction_type", "epsilon"))
    if name in FLOW or says == "flow_prediction":
        num = float(config.get("num_train_timesteps", 1000))
        return Schedule(
            says="flow_prediction",
            least_angle=0.0,
            most_angle=math.pi / 2,
            time_of=lambda angles: num * angles.sin() / (angles.sin() + angles.cos()),
        )
    if says not in SAYS:
        raise Refusal(f"{where}: prediction_type {says!r} is not known{did_you_mean(says, list(SAYS))}; there are {', '.join(SAYS)}")
    if name == "EulerDiscreteScheduler" and config.get("timestep_type") == "continuous":
        return _continuous(config, says, where)
    if name not in DISCRETE:
        raise Refusal(f"{where}: no schedule is known of a {name}{did_you_mean(name, [*DISCRETE, *FLOW])}")
    return _discrete(name, config, says, where)


def _continuous(config: dict[str, Any], says: str, where: str) -> Schedule:
    """Karras et al. 2022 (2206.00364) as SVD has it: any sigma, and the network is given a quarter of its logarithm."""
    least, most = (config.get(key) for key in ("sigma_min", "sigma_max"))
    if not least or not most or says == "sample":
        raise Refusal(
            f"{where}: continuous timesteps need sigma_min and sigma_max, and epsilon or v_prediction; got {least}, {most}, {says}"
        )
    return Schedule(says=says, least_angle=math.atan(least), most_angle=math.atan(most), time_of=lambda angles: angles.tan().log() / 4)


def _discrete(name: str, config: dict[str, Any], says: str, where: str) -> Schedule:
    """A path of so many timesteps. Between two of them the place is between theirs, as in diffusers' samplers of other sigmas."""
    try:
        scheduler = getattr(diffusers, name).from_config(config)
    except (ArithmeticError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise Refusal(f"{where}: diffusers cannot make its {name}: {' '.join(str(error).split())[:200]}; save it again") from error
    signal = scheduler.alphas_cumprod.double().clamp(0, 1)  # (S,) a^2 at each timestep
    angles = torch.atan2((1 - signal).sqrt(), signal.sqrt())
    if says == "epsilon":
        angles = angles[signal.sqrt() > LEAST_SIGNAL]

    kept = {angles.device: angles}  # on a GPU copied once: a copy would wait for it in every call

    def time_of(wanted: Tensor) -> Tensor:
        if wanted.device not in kept:
            kept[wanted.device] = angles.to(wanted.device)
        known = kept[wanted.device]
        after = torch.searchsorted(known, wanted.contiguous()).clamp(1, len(known) - 1)
        low, high = known[after - 1], known[after]
        return (after - 1) + (wanted - low) / (high - low)

    return Schedule(says=says, least_angle=float(angles[0]), most_angle=float(angles[-1]), time_of=time_of)
