"""Clips and ways of batching -> what becomes of the pixels, and the batches themselves. Knows integers, no torch."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.commands.audit.result import ClipsFound, NotUsed, PolicyAudit, ShapeCount, SizeRange
from bench.commands.audit.subject import Audited
from bench.data.policy.batches import BatchStream
from bench.data.policy.config import Batching
from bench.data.policy.fitting import fit, training_rules
from bench.data.policy.ledger import EPOCHS, ledger
from bench.data.policy.table import POLICIES
from bench.shapes import Refusal, Shape

STEPS = 100  # that are counted where some show stills: their share is then right to the per cent


@dataclass(frozen=True, kw_only=True)
class Account:
    """A policy's ledger, and what it is made of."""

    policy: PolicyAudit
    latent_shapes: tuple[Shape, ...]  # (T, H, W) of each item; () where the policy is refused
    batches: tuple[tuple[Shape, ...], ...]  # latent (T, H, W) of each clip of each batch as a backbone gets it, padding included


def accounts(subject: Audited) -> list[Account]:
    """One for every variant. Refusal where none of them can use the clips."""
    found = [_account(subject, name, batching) for name, batching in subject.variants.items()]
    if all(account.policy.refused for account in found):
        first = found[0].policy
        raise Refusal(f"no batching policy can use the clips of {subject.title}; {first.name}: {first.refused}")
    return found


def _account(subject: Audited, name: str, batching: Batching) -> Account:
    spec = subject.spec
    try:
        if subject.data.mixed and batching.batch_size is not None:
            raise Refusal(f"batching.batch_size {batching.batch_size} is for data of one shape, this has several; give voxel_budget")
        fitted = fit(subject.shapes, training_rules(subject.data, batching, spec))
        account = ledger(subject.shapes, fitted, batching, spec, subject.seed, subject.boxes, subject.clip_ids)
    except Refusal as error:
        return Account(policy=PolicyAudit(name=name, batching=batching, refused=subject.said(str(error))), latent_shapes=(), batches=())
    latent_shapes = tuple(spec.latent_shape(item.shape) for item in fitted.items)
    policy = PolicyAudit(
        name=name,
        batching=batching,
        refused=None,
        ledger=dataclasses.replace(account, losses=tuple(map(subject.said, account.losses))),
        items=shape_counts([item.shape for item in fitted.items]),
        lost_clips=[NotUsed(name=subject.clip_ids[lost.clip], kind=lost.kind, reason=subject.said(lost.reason)) for lost in fitted.lost],
    )
    return Account(policy=policy, latent_shapes=latent_shapes, batches=tuple(_batches(latent_shapes, batching, subject.seed)))


def _batches(shapes: Sequence[Shape], batching: Batching, seed: int) -> list[tuple[Shape, ...]]:
    """Shapes in each batch of the epochs that the ledger counts."""
    if batching.batch_size is not None:  # of one shape, so that one batch is like another of clips, or of stills
        own = BatchStream(shapes[:1], batching, seed)
        return [tuple(own.shapes_of(own.batch(step))) for step in range(STEPS if batching.stills else 1)]
    stream, policy = BatchStream(shapes, batching, seed), POLICIES.find(batching.policy)
    batches = [members for epoch in range(EPOCHS) for members in stream.epoch(epoch)]
    return [policy.given(tuple(shapes[item] for item in members)) for members in batches]


def clips_found(subject: Audited) -> ClipsFound:
    """The audited clips, before any policy."""
    shapes, survey = subject.shapes, subject.survey
    return ClipsFound(
        num_clips=len(shapes),
        num_pixels=sum(map(math.prod, shapes)),
        fps=survey.fps,
        shapes=shape_counts(shapes),
        aspect=spread([width / height for _, height, width in shapes]),
        area=spread([height * width for _, height, width in shapes]),
        num_frames=spread([num_frames for num_frames, _, _ in shapes]),
        skipped=[NotUsed(name=entry.name, kind="skipped", reason=entry.reason) for entry in survey.skipped],
        lost=survey.lost,
        notes=list(survey.notes),
    )


def shape_counts(shapes: Sequence[Shape]) -> list[ShapeCount]:
    """Distinct shapes and how many have each, most frequent first."""
    return [ShapeCount(shape=shape, num=num) for shape, num in sorted(Counter(shapes).items(), key=lambda entry: (-entry[1], entry[0]))]


def spread(values: Sequence[float]) -> SizeRange:
    """Least, median and most of one value or more; the median is one of them, as in the ledger."""
    ordered = sorted(values)
    return SizeRange(least=ordered[0], median=ordered[len(ordered) // 2], most=ordered[-1])
