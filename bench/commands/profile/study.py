"""The profile of several backbones side by side: counts, predictions, measurements, what fits, and where the first two cross."""

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from bench.backbone import find_factory
from bench.commands.profile import fit
from bench.commands.profile.cross import crossings, grid
from bench.commands.profile.measure import (
    NotMeasured,
    Request,
    build,
    measure_memory,
    measure_pairs,
    measure_times,
    out_of_memory,
    try_step,
)
from bench.commands.profile.result import (
    AXES,
    PHASES,
    Contender,
    Cross,
    CrossPoint,
    LargestFit,
    LimitedBy,
    Phase,
    ProfileResult,
    Target,
    TriedFit,
)
from bench.data.progress import Progress
from bench.meters.device import Neighbours
from bench.meters.flops import count_flops
from bench.meters.peak import matmul_peak
from bench.meters.process import device_name
from bench.records.environment import commit, read_environment
from bench.shapes import Refusal, Shape, shape_text
from bench.training.predict import Predictor
from bench.training.step import Stepper, StepPoint

LONGEST_STEP_S = 20.0  # a longer step is not measured, by the estimate below
LONGEST_CROSS_STEP_S = 4.0  # each is taken several times
CROSS_PAIRS = 3  # pairs of steps at a point of the grid
EXPECTED_MFU = 0.5  # for that estimate
MOST_CLIPS = 512  # of the largest batch: a step handles clips one by one in Python, and takes longer to predict with each
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FRONTIER_SIZES = tuple(2**power for power in range(3, 12))  # latent voxels


class ProfileStudy:
    """One profile in the making."""

    def __init__(self, request: Request, target: Target, here: torch.device, here_usable_bytes: int, progress: Progress):
        self.request, self.target, self.here, self.here_usable_bytes = request, target, here, here_usable_bytes
        self._progress, self._done = progress, 0
        self._tries = has_card(target, here)
        num_names = len(request.names)
        self._total = 2 * num_names + (num_names + 1) * len(PHASES) * target.is_here
        self.predictors: dict[str, Predictor] = {}
        for name in request.names:
            find_factory(name)
        for name in request.names:
            with self._stage(f"building {name}"):
                self.predictors[name] = Predictor(name, request.spec, request.precision, here.type if target.is_here else "cuda")
            self.predictors[name].check(request.point.shape)

    def run(self, *, fits: bool, crosses: bool, draws: bool) -> ProfileResult:
        """What a step costs. Each of these takes many predictions: `fits`: the largest that fits, with `draws` at other sizes too,
        `crosses`: where the first two cross."""
        request = self.request
        self._total += fits * len(request.names) * (len(PHASES) * len(AXES) * (2 if self._tries else 1) + draws)
        flops = {name: count_flops(name, request.spec, request.point.shape) for name in request.names}
        phases: dict[str, dict[str, Phase]] = {name: {} for name in request.names}
        for name in request.names:
            with self._stage(f"predicting {name}"):
                for phase in PHASES:
                    memory = self.predictors[name].peak(phase, request.point)
                    step_flops = flops[name] * request.point.batch_size * (3 if phase == "training" else 1)
                    peak = None if self.target.is_here else self.target.published_flops
                    least_s = step_flops / peak if peak else None
                    phases[name][phase] = Phase(step_flops=step_flops, predicted=memory, least_step_time_s=least_s)
        if self.target.is_here:
            self._measure(phases)
        largest = {name: self._fits(name) if fits else [] for name in request.names}
        every = [each for of_name in largest.values() for each in of_name]
        if self.target.usable_bytes is not None and every and not any(each.value for each in every):
            smallest = min(each.num_bytes for each in every)
            raise Refusal(
                f"nothing fits {self.target.name}: of {self.target.usable_bytes / 2**30:.2f} usable GiB the least step "
                f"needs {smallest / 2**30:.2f}; name a larger card or a smaller backbone"
            )
        contenders = [
            Contender(
                name=name,
                num_params=self.predictors[name].num_params,
                tokens_per_clip=self.predictors[name].num_tokens(request.point.shape),
                flops_per_clip=flops[name],
                phases=phases[name],
                fits=largest[name],
                frontier=self._frontier(name) if fits and draws else [],
            )
            for name in request.names
        ]
        return ProfileResult(
            shape=request.point.shape,
            batch_size=request.point.batch_size,
            precision=request.precision,
            channels=request.spec.latent_channels,
            num_labels=request.spec.num_labels,
            target=self.target,
            contenders=contenders,
            cross=self._cross() if crosses else None,
            environment=read_environment(num_threads=torch.get_num_threads(), device=device_name(self.here)),
            commit=commit(),
        )

    # --- at the given batch and shape

    def _measure(self, phases: dict[str, dict[str, Phase]]) -> None:
        """Fill in what is measured, or why not."""
        request = self.request
        for phase in PHASES:
            changes: dict[str, dict[str, object]] = {name: {} for name in request.names}
            for name in request.names:
                try:
                    self._check_worth(phases[name][phase])
                    with self._stage(f"measuring memory, {phase} of {name}"):
                        memory, peaks = measure_memory(request, name, phase, self.here)
                    changes[name] = {key.removeprefix("peak_"): value for key, value in peaks.items() if key != "peak_rss_bytes"}
                    changes[name]["measured"] = memory
                except NotMeasured as why:
                    changes[name]["not_measured"] = str(why)
            kept = [name for name in request.names if "measured" in changes[name]]
            try:
                with self._stage(f"timing {phase} steps"):
                    for name, timing in (measure_times(request, kept, phase, self.here, self._show) if kept else {}).items():
                        changes[name]["timing"] = timing
            except NotMeasured:  # each fits alone
                for name in kept:
                    changes[name]["not_measured"] = "the backbones do not fit beside each other; profile them one at a time"
            for name in request.names:
                phases[name][phase] = phases[name][phase].model_copy(update=changes[name])

    def _check_worth(self, phase: Phase) -> None:
        """NotMeasured where a step is not worth trying on the device that is here."""
        predicted, usable = phase.predicted.num_bytes, self.here_usable_bytes
        if predicted > usable:
            raise NotMeasured(f"does not fit: {predicted / 2**30:.1f} GiB predicted, {usable / 2**30:.1f} usable")
        if (expected_s := self._expected_s(phase.step_flops)) > LONGEST_STEP_S:
            raise NotMeasured(f"a step would take about {expected_s:.0f} s")

    def _expected_s(self, step_flops: int) -> float:
        return step_flops / (EXPECTED_MFU * matmul_peak(self.here, DTYPES[self.request.precision]))

    # --- what fits

    def _fits(self, name: str) -> list[LargestFit]:
        found = []
        for phase, axis in itertools.product(PHASES, AXES):
            with self._stage(f"what fits: {axis}, {phase} of {name}"):
                step, most = (1, MOST_CLIPS) if axis == "batch" else _units(self.predictors[name], axis, self.request.point.shape)
                each = self._fit(name, phase, axis, step, most)
            if self._tries:
                with self._stage(f"trying what fits: {axis}, {phase} of {name}"):
                    each = each.model_copy(update=self._try(name, each, step, most))
            found.append(each)
        return found

    def _fit(self, name: str, phase: str, axis: str, step: int, most: int) -> LargestFit:
        """By prediction, in `step`s of the axis, at most `most` of them."""
        assert self.target.usable_bytes is not None
        predictor = self.predictors[name]
        units = fit.largest(lambda n: predictor.peak_bytes(phase, self._at(axis, n * step)), self.target.usable_bytes, most=most)
        return LargestFit(
            phase=phase,
            axis=axis,
            value=units * step,
            num_bytes=predictor.peak_bytes(phase, self._at(axis, max(1, units) * step)),
            limited_by=_limited_by(axis, units, most),
        )

    def _try(self, name: str, predicted: LargestFit, step: int, most: int) -> dict[str, object]:
        """By real steps, beginning with what was predicted: fields of a `LargestFit`."""
        phase, axis, fitted = predicted.phase, predicted.axis, dict[int, dict[str, int]]()
        if others := Neighbours(self.here).most_others:
            return {"not_tried": f"{others} other processes were on the card"}
        point = self._at(axis, max(predicted.value, step))
        step_flops = count_flops(name, self.request.spec, point.shape) * point.batch_size * (3 if phase == "training" else 1)
        if (expected_s := self._expected_s(step_flops)) > LONGEST_STEP_S:
            return {"not_tried": f"a step would take about {expected_s:.0f} s"}

        def fits(units: int) -> bool:
            self._show(f"trying what fits: {axis} {units * step}, {phase} of {name}")
            found = try_step(replace(self.request, point=self._at(axis, units * step)), name, phase, self.here)
            if found is not None:
                fitted[units] = found
            return found is not None

        units = fit.largest_tried(fits, guess=predicted.value // step, most=most)
        tried = TriedFit(
            value=units * step,
            limited_by=_limited_by(axis, units, most),
            predicted_bytes=self.predictors[name].peak_bytes(phase, self._at(axis, max(1, units) * step)),
            reserved_bytes=fitted[units].get("peak_reserved_bytes") if units else None,
            num_alloc_retries=fitted[units].get("num_alloc_retries") if units else None,
        )
        return {"tried": tried}

    def _at(self, axis: str, value: int) -> StepPoint:
        """The step that was asked for, with another value of an axis; of frames and sizes at batch 1."""
        point = self.request.point
        frames, height, width = point.shape
        return {
            "batch": StepPoint(batch_size=value, shape=point.shape),
            "frames": StepPoint(batch_size=1, shape=(value, height, width)),
            "size": StepPoint(batch_size=1, shape=(frames, value, value)),
        }[axis]

    def _frontier(self, name: str) -> list[tuple[int, int]]:
        """Most frames of a training step at batch 1, for sizes up to the largest that fits with the fewest frames."""
        assert self.target.usable_bytes is not None
        predictor, line, guess_voxels = self.predictors[name], [], 0
        for size in FRONTIER_SIZES:
            try:
                step, most = _units(predictor, "frames", (1, size, size))
            except Refusal:  # not a size of this backbone
                continue
            self._show(f"frontier of {name}: {size} x {size}")
            guess = max(2, guess_voxels // (size * size * step)) if guess_voxels else 16

            def cost(units: int, step: int = step, size: int = size) -> int:
                return predictor.peak_bytes("training", StepPoint(batch_size=1, shape=(units * step, size, size)))

            units = fit.largest(cost, self.target.usable_bytes, most=most, guess=guess)
            if not units:
                break
            line.append((size, units * step))
            guess_voxels = units * step * size * size
        self._done += 1
        return line

    # --- where they cross

    def _cross(self) -> Cross:
        names = self.request.names[:2]
        pair = [self.predictors[name] for name in names]
        shape = self.request.point.shape
        sizes = [_units(predictor, "size", shape) for predictor in pair]
        frames = [_units(predictor, "frames", shape) for predictor in pair]
        size_unit, frame_unit = (math.lcm(*(step for step, _ in units)) for units in (sizes, frames))
        most_size, most_frames = (min(step * most for step, most in units) for units in (sizes, frames))
        shapes = grid(shape, size_unit, frame_unit, most_size // size_unit * size_unit, most_frames // frame_unit * frame_unit)
        self._total += 2 * len(shapes)
        counted = []
        for each in shapes:
            with self._stage(f"crossing: latents {shape_text(each)}"):
                flops = [count_flops(name, self.request.spec, each) for name in names]
                peaks = [predictor.peak_bytes("training", StepPoint(batch_size=1, shape=each)) for predictor in pair]
            counted.append(CrossPoint(shape=each, flops=(flops[0], flops[1]), peak_bytes=(peaks[0], peaks[1]), pairs_s=[]))
        points = self._time_cross(counted)
        return Cross(names=(names[0], names[1]), measured_on=device_name(self.here), points=points, crossings=crossings(points))

    def _time_cross(self, points: list[CrossPoint]) -> list[CrossPoint]:
        """The same points with measured times where a step is short and fits."""
        request, timed = self.request, []
        try:
            with out_of_memory():
                backbones = [build(name, request.spec, self.here).train() for name in request.names[:2]]
                steppers = [Stepper(backbone, self.here, request.precision, trains=True) for backbone in backbones]
        except NotMeasured:
            return points
        for point in points:
            expected_s = max(self._expected_s(3 * flops) for flops in point.flops)
            pairs: list[tuple[float, float]] = []
            with self._stage(f"timing at latents {shape_text(point.shape)}"), contextlib.suppress(NotMeasured):
                if expected_s <= LONGEST_CROSS_STEP_S and sum(point.peak_bytes) <= self.here_usable_bytes:
                    pairs = measure_pairs(steppers, request.spec, StepPoint(batch_size=1, shape=point.shape), CROSS_PAIRS)
            timed.append(point.model_copy(update={"pairs_s": pairs}))
        return timed

    # --- telling how far it is

    def _show(self, what: str) -> None:
        self._progress(min(self._done, self._total), self._total, what)

    @contextlib.contextmanager
    def _stage(self, what: str) -> Iterator[None]:
        self._show(what)
        start_s = time.perf_counter()
        yield
        self._done += 1
        self._show(f"{what}, {time.perf_counter() - start_s:.0f} s")


def has_card(target: Target, here: torch.device) -> bool:
    """Whether what fits can be tried: on a CPU the system gives more than there is, and then slows down or kills."""
    return target.is_here and here.type == "cuda"


def _limited_by(axis: str, units: int, most: int) -> LimitedBy:
    return "memory" if units < most else "search" if axis == "batch" else "backbone"


def _units(predictor: Predictor, axis: str, shape: Shape) -> tuple[int, int]:
    """(smallest step of the axis that the backbone takes, most of such steps)."""

    def check(value: int) -> None:
        predictor.check((value, *shape[1:]) if axis == "frames" else (shape[0], value, value))

    step = fit.unit(check)
    return step, fit.most_units(check, step)
