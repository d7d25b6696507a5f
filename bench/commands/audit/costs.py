"""What the batches of a policy cost each backbone: FLOPs, counted, and the least seconds that they take at the machine's peak."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bench.backbone import check_latents, load_backbone
from bench.commands.audit.account import Account, spread
from bench.commands.audit.many import at_all
from bench.commands.audit.result import StepCost
from bench.commands.audit.subject import Audited
from bench.data.policy.table import POLICIES, UNIFORM
from bench.data.source import Progress
from bench.meters.flops import flops_of
from bench.shapes import LatentSpec, Refusal, Shape

BACKWARD = 3  # a training step has three times the FLOPs of its forward
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def costs(subject: Audited, accounts: Sequence[Account], num_pixels: int, peak: float, progress: Progress) -> list[StepCost]:
    """Every backbone under every policy that works. `num_pixels` of all clips; `peak`: FLOP/s of the machine."""
    usable = [account for account in accounts if account.policy.refused is None]
    found = []
    for name in subject.backbones:
        with torch.device("meta"):
            backbone: Any = load_backbone(name, subject.spec)
        reasons = [_refusal(backbone, name, subject, account) for account in usable]
        possible = [account for account, reason in zip(usable, reasons, strict=True) if reason is None]
        shapes = sorted({shape for account in possible for batch in account.batches for shape in batch})

        def tell(done: int, total: int, name: str = name) -> None:
            progress(done, total, f"FLOPs of {name}")

        flops = at_all(shapes, functools.partial(_count, backbone, subject.spec), tell)
        num_tokens = functools.cache(backbone.num_tokens)
        for account, reason in zip(usable, reasons, strict=True):
            cost = StepCost(backbone=name, policy=account.policy.name, refused=reason)
            if reason is None:
                forward_flops = sum(flops[shape] for batch in account.batches for shape in batch) / len(account.batches)
                step_time_s = BACKWARD * forward_flops / peak
                counted = {
                    "num_tokens": spread([num_tokens(shape) for shape in account.latent_shapes]),
                    "forward_flops": forward_flops,
                    "least_step_time_s": step_time_s,
                    "least_time_per_used_voxel_s": step_time_s / _used_voxels(account, num_pixels, subject.spec),
                }
                cost = cost.model_copy(update=counted)
            found.append(cost)
    return found


def _count(backbone: Any, spec: LatentSpec, shape: Shape) -> int:
    """Forward FLOPs of one clip of latents (T, H, W)."""
    with torch.device("meta"):
        return flops_of(backbone, spec, shape)


def _used_voxels(account: Account, num_pixels: int, spec: LatentSpec) -> float:
    """The clips' own pixels that a step uses, in latent voxels: padding, and pixels made by enlarging, are none of them."""
    ledger = account.policy.ledger
    assert ledger is not None
    return ledger.pixels.used * num_pixels / (spec.temporal_stride * spec.spatial_stride**2) / ledger.steps_per_epoch


def _refusal(backbone: Any, name: str, subject: Audited, account: Account) -> str | None:
    """Why a backbone cannot do a policy, or None where it can."""
    batching = account.policy.batching
    if POLICIES.find(batching.policy).needs_ragged and not backbone.ragged:
        return f"{name} takes one shape at a time; use {' or '.join(UNIFORM)}"
    try:
        for shape in sorted({shape for batch in account.batches for shape in batch} | set(account.latent_shapes)):
            check_latents(backbone, shape)
    except Refusal as error:
        sides = f"; sides are multiples of batching.side_multiple, {batching.side_multiple} pixels" if subject.data.mixed else ""
        return subject.said(f"{error}{sides}")
    return None
