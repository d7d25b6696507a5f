"""Video prediction: the first frames of a clip are known, and a backbone that is given them predicts the rest.

What is given are further channels beside the noised latents: the clean latents of the known frames, zero in all others, and a mask that
is 1 in known frames. The loss and the samples are of the others alone. The same for every backbone, and nothing else differs from the
generation of whole clips: classes, noise, timesteps and solvers are what they are there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def given_of(clips: Sequence[Tensor], known_frames: int) -> list[Tensor]:
    """Latents, B clips (C, T, H, W) -> what is given of each, (C + 1, T, H, W): latents of the first `known_frames`, and the mask."""
    found = []
    for clip in clips:
        given = clip.new_zeros(len(clip) + 1, *clip.shape[1:])
        given[:-1, :known_frames] = clip[:, :known_frames]
        given[-1, :known_frames] = 1
        found.append(given)
    return found


def with_given(latents: Sequence[Tensor], given: Sequence[Tensor] | None) -> list[Tensor]:
    """Noised latents, B clips (C, T, H, W), and what is given of each -> what a backbone takes; None: the latents alone."""
    return list(latents) if given is None else [torch.cat(pair) for pair in zip(latents, given, strict=True)]


def unknown(clips: Sequence[Tensor], known_frames: int) -> list[Tensor]:
    """Of B clips (C, T, H, W) the frames that are to be predicted."""
    return [clip[:, known_frames:] for clip in clips] if known_frames else list(clips)


def with_known(samples: Sequence[Tensor], given: Sequence[Tensor], known_frames: int) -> list[Tensor]:
    """Samples, B clips (C, T, H, W), whose first frames are put back as they were given."""
    return [torch.cat([own[:-1, :known_frames], clip[:, known_frames:]], dim=1) for clip, own in zip(samples, given, strict=True)]
