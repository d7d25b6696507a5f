"""Training, validation and sampling of a backbone that generates units: its draws, its clean past, its loop, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.data.latents.latents import LatentSet
from bench.records.record import GIVEN_PAST, Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.checks import check_cell
from bench.run.job import CellJob
from bench.run.measure.costs import loss_protocol
from bench.run.samples import sampling_flops
from bench.shapes import LatentSpec, Refusal, Shape
from bench.study.cell import Sampler
from bench.study.matrix import NamedCell
from bench.training.draws import Drawer
from bench.training.objective import draw_noise, draw_uniform
from bench.training.sampling import SamplePlan, sample
from bench.training.step import TrainStep
from bench.training.trainer import Trainer
from bench.training.units import draw_times, unit_numbers
from bench.training.validation import validation_losses
from dit.unit_twin import small
from tests.test_units import config
from tests.tiny import latent_set, tiny_cell

CPU = torch.device("cpu")
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=3)
SHAPE = (4, 4, 2)
NAME = "dit:AR-XS/2-frame"


def data(num: int = 8) -> LatentSet:
    return latent_set(num, shape=(4, *SHAPE))


def drawer(backbone: Any, **changes: Any) -> Drawer:
    return Drawer(tiny_cell(backbone=NAME, **changes), data(), backbone, CPU)


# --- draws


def test_a_draw_has_a_time_a_unit_and_all_else_as_rivals_have_it() -> None:
    own, rival = (drawer(small(config(unit), SPEC)) for unit in ("frame", "clip"))
    batch = own.stream.batch(1)
    found, other = own.draw(batch), rival.draw(batch)
    assert found.timesteps.shape == (2, 4) and other.timesteps.shape == (2,)
    assert torch.equal(found.timesteps[:, 0], other.timesteps)  # a clip of one unit is the rival's
    assert len(found.timesteps.unique()) == 8
    assert torch.equal(torch.stack(found.targets), torch.stack(other.targets))  # the same clips and noise
    assert found.labels is not None and torch.equal(found.labels, other.labels)  # type: ignore[arg-type]
    assert found.told["clean"] is not None and "clean" not in other.told
    for clip, mixed, target, times in zip(found.told["clean"], found.latents, found.targets, found.timesteps, strict=True):
        assert_close(mixed, clip + times[:, None, None] * target)  # frame by frame on the line from the clip to noise
    again = own.draw(own.stream.batch(1))
    assert torch.equal(again.timesteps, found.timesteps)


def test_times_of_a_draw_are_its_own() -> None:
    assert float(draw_times(3, 7, 90)[0]) == draw_uniform(3, "timestep", 7)
    assert torch.equal(draw_times(3, 7, 90)[:10], draw_times(3, 7, 10))
    assert not torch.equal(draw_times(3, 8, 10), draw_times(3, 7, 10))


@pytest.mark.parametrize("unit", ["patch", "2f"])
def test_noise_is_by_the_unit_of_a_voxel(unit: str) -> None:
    model = small(config(unit), SPEC)
    found = drawer(model).draw(drawer(model).stream.batch(0))
    number = unit_numbers(tuple(model.units(SHAPE)), SHAPE)
    assert found.told["clean"] is not None
    for clip, mixed, target, times in zip(found.told["clean"], found.latents, found.targets, found.timesteps, strict=True):
        assert_close(mixed, clip + times[number] * target)


def test_parts_of_a_batch_are_the_batch() -> None:
    """What each of two processes draws is its part of what one draws."""
    own = drawer(small(config(), SPEC))
    batch = own.stream.batch(0)
    whole, second = own.draw(batch), own.draw(batch, [1], 2)
    assert torch.equal(second.timesteps, whole.timesteps[1:])
    assert whole.told["clean"] is not None and torch.equal(second.told["clean"][0], whole.told["clean"][1])


# --- the loss


def test_the_loss_is_of_the_noised_copy_given_the_clean_one() -> None:
    model = small(config(), SPEC)
    drawn = drawer(model).draw(drawer(model).stream.batch(0))
    expected = torch.stack(model(drawn.latents, drawn.timesteps, drawn.labels, clean=drawn.told["clean"])) - torch.stack(drawn.targets)
    assert_close(drawn.loss(model), expected.square().mean())
    blind = torch.stack(model(drawn.latents, drawn.timesteps, drawn.labels)) - torch.stack(drawn.targets)
    assert (blind.square().mean() - expected.square().mean()).abs() > 1e-3  # it looks at what it is given


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_half_precision_takes_the_same_arguments(precision: str) -> None:
    model = small(config(), SPEC).train()
    step = TrainStep(model, tiny_cell().optimizer, CPU, None if precision == "fp32" else torch.bfloat16)
    drawn = drawer(model).draw(drawer(model).stream.batch(0))
    before = model.clean.detach().clone() if model.clean is not None else None
    loss, norm = step(drawn.loss, 5, 0.0)
    assert loss.isfinite() and norm > 0 and before is not None and not torch.equal(before, model.clean)  # type: ignore[arg-type]
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_validation_is_given_the_past_and_one_time_for_all_units() -> None:
    calls: list[tuple[Tensor, list[Tensor] | None]] = []

    class Watched(torch.nn.Module):
        generates_units = True

        def forward(
            self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, clean: list[Tensor] | None = None
        ) -> list[Tensor]:
            calls.append((timesteps, clean))
            return latents

    val = data(2)
    validation_losses(Watched(), val, 2, tiny_cell(), CPU)
    assert len(calls) == 8
    for timesteps, clean in calls:
        assert timesteps.shape == (2,) and len(timesteps.unique()) == 1
        assert clean is not None and np.array_equal(torch.stack(clean).numpy(), val.latents[:2])


def test_a_loss_given_its_past_has_another_protocol() -> None:
    blocks = {unit: loss_protocol(tiny_cell(backbone=f"dit:AR-XS/2-{unit}"), "clips", 4, "a") for unit in ("frame", "clip")}
    assert blocks["frame"].pop("loss") == f"{GIVEN_PAST}, frame"
    assert blocks["frame"] == blocks["clip"] == loss_protocol(tiny_cell(), "clips", 4, "a")


def test_it_trains_stops_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    cell = tiny_cell(backbone=NAME, budget={"steps": 4})
    options: dict[str, Any] = {"train": data(), "val": data(2), "inputs": "x", "flops_of": lambda shape: 1, "device": CPU}
    training = Trainer(cell, small(config(), SPEC).train(), folder=tmp_path, **options).train()
    assert training.num_steps == 4 and all(np.isfinite(training.loss))


# --- sampling


class Shift:
    """Knows that each unit of the data is the one before it plus one, the first being 0: right only with the past it was given."""

    ragged, generates_units = False, True

    def units(self, shape: Shape) -> list[Any]:
        return [(slice(t, t + 1), slice(0, shape[1]), slice(0, shape[2])) for t in range(shape[0])]

    def generate(self, shape: Shape, labels: Tensor | None, num_clips: int) -> Any:
        outer = self

        class Making:
            cache_bytes = 0
            past = -1.0

            def predict(self, latents: Tensor, timestep: float) -> Tensor:
                assert len(latents) == num_clips
                return (latents - (self.past + 1)) / timestep  # the velocity to the only data there is

            def keep(self, latents: Tensor) -> None:
                self.past = float(latents.mean())

        outer.labels = labels  # type: ignore[attr-defined]
        return Making()


@pytest.mark.parametrize("solver", ["euler", "dpmsolver++"])
def test_units_follow_from_those_before_them(solver: str) -> None:
    cell = tiny_cell(backbone=NAME, sampler=Sampler(num_steps=6, solver=solver))  # type: ignore[arg-type]
    clips, course = sample(Shift(), SamplePlan(cell=cell, spec=SPEC, shapes=[(5, 2, 2)] * 3, labels=[0, 1, 2]), CPU)
    for clip in clips:
        assert_close(clip[0, :, 0, 0], torch.arange(5.0), atol=5e-3, rtol=0)
    assert course.num_evals == 5 * 6 + 4


def test_guidance_has_two_pasts() -> None:
    backbone = Shift()
    cell = tiny_cell(backbone=NAME, sampler=Sampler(num_steps=3, guidance_scale=2.0))
    _, course = sample(backbone, SamplePlan(cell=cell, spec=SPEC, shapes=[(2, 2, 2)] * 2, labels=[0, 1]), CPU)
    assert backbone.labels.tolist() == [0, 1, 3, 3]  # type: ignore[attr-defined]
    assert course.num_evals == 2 * (2 * 3 + 1)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_clips_are_those_of_the_loop_without_a_cache(scale: float) -> None:
    """Generated once more by training passes of whole clips: each unit's noise is its part of the clip's, each step sees what was made."""
    model, steps = small(config(), SPEC), 2
    cell = tiny_cell(backbone=NAME, sampler=Sampler(num_steps=steps, guidance_scale=scale))
    found, _ = sample(model, SamplePlan(cell=cell, spec=SPEC, shapes=[SHAPE] * 2, labels=[0, 2]), CPU)
    clips = torch.stack([draw_noise(0, "sample_noise", index, (4, *SHAPE)) for index in range(2)])
    clean = torch.zeros_like(clips)
    with torch.no_grad():
        for box in model.units(SHAPE):
            for step in range(steps):
                time = torch.full((2,), 1 - step / steps)
                labels = torch.tensor([0, 2])
                cond = torch.stack(model(list(clips), time, labels, clean=list(clean)))
                uncond = torch.stack(model(list(clips), time, torch.tensor([3, 3]), clean=list(clean)))
                velocity = uncond + scale * (cond - uncond)
                clips[:, :, *box] -= velocity[:, :, *box] / steps
            clean[:, :, *box] = clips[:, :, *box]
    assert_close(torch.stack(found), clips, atol=1e-4, rtol=1e-4)


def test_clips_do_not_depend_on_neighbours_or_shapes_beside_them() -> None:
    model = small(config(), SPEC)
    cell = tiny_cell(backbone=NAME, sampler=Sampler(num_steps=2))
    whole, course = sample(model, SamplePlan(cell=cell, spec=SPEC, shapes=[SHAPE, (2, 4, 4), SHAPE], labels=[0, 1, 2]), CPU)
    alone, _ = sample(model, SamplePlan(cell=cell, spec=SPEC, shapes=[SHAPE], labels=[2], first_clip=2), CPU)
    assert_close(whole[2], alone[0], atol=1e-5, rtol=1e-5)
    assert course.num_evals == round((11 + 5 + 11) / 3)
    flops = sampling_flops(cell, whole, model, SPEC)
    assert flops is not None and flops > 0 and sampling_flops(cell, whole, small(config("clip"), SPEC), SPEC) is None


# --- refusals, and a whole cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"name": "v_prediction"}, "sampler": {"solver": "ddim"}}, "objective.name 'v_prediction': .* rectified_flow alone"),
        ({"objective": {"known_frames": 1}}, "objective.known_frames 1 needs a backbone that takes known frames"),
        ({"batching": {"policy": "pack", "voxel_budget": 512}}, "batching.policy 'pack' mixes shapes in a batch"),
        (
            {"batching": {"policy": "pad", "voxel_budget": 512}},
            "batching.policy 'pad' pads clips, .* padding would be a past; use 'crop' or 'bucket'",
        ),
        ({"backbone": "dit:AR-XS/2-2f", "data": {**tiny_cell().data.model_dump(), "num_frames": 5}}, "unit '2f' needs latent frames divis"),
    ],
)
def test_what_units_cannot_do_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        check_cell(tiny_cell(**{"backbone": NAME} | changes))


def test_a_whole_cell(tmp_path: Path) -> None:
    """Canaries, training, sampling, judging: the record says what was called, and that the loss is given its past."""
    record = run_cell(tmp_path, NAME)
    assert record.sampling is not None and record.sampling.num_evals == 4 * 2 + 3
    assert record.sampling.flops is not None and record.backbone is not None
    assert all(canary.passed for canary in record.canaries)
    assert {"unit = clip equals the DiT", "cached sampling equals the training pass"} <= {canary.name for canary in record.canaries}
    loss, tflops = record.measurement("val_loss"), record.measurement("sample_tflop_per_s")
    assert loss is not None and loss.protocol is not None and loss.protocol["loss"] == f"{GIVEN_PAST}, frame"
    assert tflops is not None and tflops.value == pytest.approx(record.sampling.flops / sum(record.sampling.batch_time_s) / 1e12)
    storage = record.measurement("sample_peak_storage_bytes")
    assert storage is not None and storage.value > 4 * record.backbone.num_params


def run_cell(folder: Path, backbone: str, **changes: Any) -> Record:
    """The record of a tiny cell of a small model."""
    cell = NamedCell(name="c", axes={}, cell=tiny_cell(backbone=f"{backbone}{{depth: 2}}", **changes))
    job = CellJob(matrix="m", results=folder, label="c", cell=cell)
    place = folder / "m" / cell.folder
    place.mkdir(parents=True)
    CellRun(job, lambda *args: None, lambda: False).run()
    record = latest(place)
    assert record is not None and record.status == "ok", record and record.reason
    return record


def test_a_captured_pass_is_given_clean_clips_where_there_are_any() -> None:
    """The arguments of a graph are tensors in a row: which is which does not depend on labels being there."""
    from bench.training.captured import _Captured, _tensors

    seen: list[Any] = []

    def run(latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, **more: Any) -> list[Tensor]:
        seen.append((labels, more))
        return latents

    clip, times, labels = torch.ones(1, 1, 1, 1), torch.rand(2, 3), torch.tensor([1, 2])
    for given in (labels, None):
        for clean in ([clip * 2, clip * 3], None):
            told = {} if clean is None else {"clean": clean}
            names = ([] if given is None else ["labels"]) + list(told)
            _Captured(torch.nn.Identity(), run, names)(*_tensors([clip, clip], times, given, told))
            found, more = seen.pop()
            assert (found is None) == (given is None)
            assert [float(each.mean()) for each in more.get("clean", [])] == ([] if clean is None else [2.0, 3.0])
