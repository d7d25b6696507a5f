"""The search for a size: width by bisection, at the family's own depth and shape first. Runs in a process of its own.

A factory that can be sized has `scaled(width, deeper, skew)`: the changes that make it `width` times as wide, with `deeper` more layers
(fewer below 0) and with inner levels wider than outer ones by `skew`, where it has levels. Costs grow with width, so a few candidates tell.
"""

import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench.backbone import canonical_name, find_factory, load_backbone, split_name, tuples
from bench.data.plugin import refusing
from bench.data.policy.batches import clips_per_batch
from bench.data.progress import Reporter
from bench.data.sealed import write_sealed
from bench.meters.flops import count_flops, num_params
from bench.meters.process import pick_device
from bench.run.job import MatchJob
from bench.run.measure.products import use_products
from bench.run.preflight import latent_space
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import Cell
from bench.study.matrix import Match, MatchProof
from bench.training.acceleration import accelerate
from bench.training.predict import Predictor
from bench.training.step import Stepper, StepPoint, make_batch

# Shapes tried, (deeper, skew), the family's own first: widths come in coarse steps, and a slightly other shape has other steps.
SHAPES = tuple((deeper, skew) for deeper in (0, 1, -1, 2, -2) for skew in (0.0, 0.2, -0.2, 0.4, -0.4))
WIDTHS = (1 / 8, 8.0)  # of the family's own width, between which is searched
BISECTIONS = 12
SEARCH_ROUNDS, PROOF_ROUNDS = 6, 30  # alternating steps of a measured axis
WARMUP_ROUNDS = 2


def match_backbone(job: MatchJob, progress: Reporter) -> None:
    """Find the size of the job's cell and write its proof to `job.out`. Refusal where none is within the tolerance."""
    use_products(job.matrix, job.results, pick_device(job.cell))
    spec = latent_space(job.cell, job.results, progress)
    proof = Search(job.cell, job.target, job.match, spec, progress).run()
    write_sealed(job.out, job.out.stem, proof)


class Search:
    """One backbone against its target on one axis."""

    def __init__(self, cell: Cell, target: str, match: Match, spec: LatentSpec, progress: Reporter):
        self.cell, self.target, self.match, self.spec, self.progress = cell, target, match, spec, progress
        self.shape = spec.latent_shape((cell.data.num_frames, cell.data.height, cell.data.width))
        self.device = pick_device(cell)
        self.factory: Any = find_factory(cell.backbone)
        if not hasattr(self.factory, "scaled"):
            raise Refusal(f"backbone {cell.backbone!r} cannot be sized (its factory has no `scaled`); give its size in braces")
        self.ratios: dict[str, float] = {}  # candidate -> its cost over the target's, in the order tried
        self.cost = functools.cache(self._cost)  # of the axes that are counted or predicted

    def run(self) -> MatchProof:
        """The first candidate within the tolerance, the family's own depth first; proved."""
        for shape in SHAPES:
            nearest = self._nearest(*shape)
            if nearest is not None and self._mismatch(nearest) <= self.match.tolerance:
                proof = self._prove(nearest)
                if proof.mismatch <= self.match.tolerance:
                    return proof
        if not self.ratios:
            raise Refusal(f"backbone {self.cell.backbone!r} has no other sizes at this shape; give its size in braces")
        best = min(self.ratios, key=self._mismatch)
        raise Refusal(
            f"no size of {self.cell.backbone} is within {self.match.tolerance:.1%} of {self.target} in {self.match.by}: the nearest, "
            f"{best}, is {self._mismatch(best):.1%} off; raise match.tolerance or match to another backbone"
        )

    def _nearest(self, deeper: int, skew: float) -> str | None:
        """The width whose cost is nearest to the target's in this shape, by bisection in the logarithm of the width."""
        low, high = (math.log(width) for width in WIDTHS)
        found: list[str] = []
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            name = self._candidate(math.exp(middle), deeper, skew)
            if name is None:
                return min(found, key=self._mismatch, default=None)
            found.append(name)
            if self._ratio(name) < 1:
                low = middle
            else:
                high = middle
        # The steps between sizes are coarse: the neighbour on the other side may be nearer.
        found += [name for edge in (low, high) if (name := self._candidate(math.exp(edge), deeper, skew)) is not None]
        return min(found, key=lambda name: abs(math.log(self._ratio(name))))

    def _candidate(self, width: float, deeper: int, skew: float) -> str | None:
        """Name of the backbone at that size, None where there is no such depth."""
        plain, changes = split_name(self.cell.backbone)
        try:
            with refusing():
                sizes = self.factory.scaled(width, deeper, skew)
            others = {field: value for field, value in sizes.items() if tuples(value) != getattr(self.factory, field)}
            name = canonical_name({"name": plain, **changes, **others})
            find_factory(name)
        except Refusal:
            return None
        return str(name)

    def _mismatch(self, name: str) -> float:
        return math.exp(abs(math.log(self._ratio(name)))) - 1

    def _ratio(self, name: str) -> float:
        if name not in self.ratios:
            self.progress(len(self.ratios), len(SHAPES) * BISECTIONS, f"{self.match.by} of {name}")
            target, value, _, _ = AXES[self.match.by](self, name, False)
            self.ratios[name] = value / target
        return self.ratios[name]

    def _prove(self, name: str) -> MatchProof:
        target, value, how, raw = AXES[self.match.by](self, name, True)
        return MatchProof(
            by=self.match.by,
            to=self.target,
            asked=self.cell.backbone,
            found=name,
            target=target,
            value=value,
            mismatch=max(target, value) / min(target, value) - 1,
            tolerance=self.match.tolerance,
            how=how,
            tried=tuple(self.ratios.items()),
            raw=raw,
        )

    def _cost(self, name: str) -> float:
        """Parameters, forward FLOPs of a clip, or the predicted peak of a training step in bytes."""
        if self.match.by == "flops":
            return float(count_flops(name, self.spec, self.shape))
        if self.match.by == "peak_memory":
            return float(Predictor(name, self.spec, self.cell.precision, self.device.type).peak_bytes("training", self._point()))
        with torch.device("meta"):
            backbone: Any = load_backbone(name, self.spec)
        return float(num_params(backbone))

    def measured_bytes(self, name: str) -> float:
        """Peak of tensor storage of a training step, measured."""
        stepper = self._stepper(name)
        batch = make_batch(self.spec, self._point(), "training", self.device)
        with stepper.meter("training", batch) as meter:
            stepper.step("training", batch)
        return float(meter.peak_bytes)

    def times_s(self, name: str, num_rounds: int) -> tuple[list[float], list[float]]:
        """Seconds of training steps of the target and of the candidate, taken in turn: what else the machine does falls on both."""
        steppers = [self._stepper(each) for each in (self.target, name)]
        batch = make_batch(self.spec, self._point(), "training", self.device)
        times: tuple[list[float], list[float]] = ([], [])
        for index in range(WARMUP_ROUNDS + num_rounds):
            for side in (0, 1) if index % 2 else (1, 0):
                steppers[side].step("training", batch)
                times[side].append(sum(steppers[side].read_timers().values()))
        return times[0][WARMUP_ROUNDS:], times[1][WARMUP_ROUNDS:]

    def _stepper(self, name: str) -> Stepper:
        backbone: Any = load_backbone(name, self.spec)
        accelerate(backbone, self.cell.acceleration)
        return Stepper(backbone.to(self.device).train(), self.device, self.cell.precision, trains=True)

    def _point(self) -> StepPoint:
        return StepPoint(batch_size=max(1, clips_per_batch(self.shape, self.cell.batching)), shape=self.shape)


Costs = tuple[float, float, str, dict[str, list[float]]]  # of the target, of a candidate, how they were found, raw samples


def _counted(search: Search, name: str, proving: bool) -> Costs:
    return search.cost(search.target), search.cost(name), "counted", {}


def _in_a_step(search: Search, name: str, proving: bool) -> Costs:
    cost = search.measured_bytes if proving else search.cost
    return cost(search.target), cost(name), "found by prediction, measured in a training step", {}


def _in_turn(search: Search, name: str, proving: bool) -> Costs:
    target_s, own_s = search.times_s(name, PROOF_ROUNDS if proving else SEARCH_ROUNDS)
    median_s = statistics.median(target_s)
    ratio = math.exp(statistics.median(math.log(own / target) for target, own in zip(target_s, own_s, strict=True)))
    how = f"measured, median ratio of {PROOF_ROUNDS} alternating training steps"
    return median_s, median_s * ratio, how, {search.target: target_s, name: own_s}


AXES: dict[str, Callable[[Search, str, bool], Costs]] = {
    "params": _counted,
    "flops": _counted,
    "peak_memory": _in_a_step,
    "step_time": _in_turn,
}
