"""The command: what is counted, measured, predicted or bounded is right and says so; what cannot be done is said in one line."""

import sys
import weakref
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from typer.testing import CliRunner

from bench.cli import app
from bench.commands.profile import command, cross, fit, measure, study
from bench.commands.profile.command import show, write
from bench.commands.profile.figures import all_figures
from bench.commands.profile.fit import CLOSE
from bench.commands.profile.measure import Request
from bench.commands.profile.result import AXES, PHASES, ProfileResult, Timing
from bench.commands.profile.tables import all_tables, costs
from bench.meters.flops import count_flops
from bench.meters.memory import PhaseMemory
from bench.report.render.catalogue import bytes_text
from bench.shapes import LatentSpec, Shape, check_divisible, num_voxels, parse_shape
from bench.training.predict import Predictor
from bench.training.step import StepPoint
from tests.fake_card import CUDA, FakeCard

SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=0)


class Cells(nn.Module):
    """A few channels at every cell: memory and FLOPs grow with cells, in units of two frames and four cells a side."""

    ragged = False
    width = 16

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(spec.latent_channels, self.width), nn.GELU(), nn.Linear(self.width, spec.latent_channels))

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        self.check((latents[0].shape[1], latents[0].shape[2], latents[0].shape[3]))
        return list(self.layers(torch.stack(latents).movedim(1, -1)).movedim(-1, 1))

    def num_tokens(self, shape: Shape) -> int:
        return num_voxels(shape)

    def check(self, shape: Shape) -> None:
        check_divisible("Cells", shape, (2, 4, 4))
        if shape[0] > 64:
            raise ValueError(f"Cells has positions for latent frames up to 64, got {shape[0]}")


class Frames(Cells):
    """Attention of every frame to every frame, of frames as wholes: the longer the clip, the dearer."""

    width = 4

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        clips = torch.stack(super().forward(latents, timesteps, labels))
        rows = clips.movedim(1, 2).flatten(2)  # (B, T, C H W)
        return list((rows @ rows.mT @ rows).unflatten(2, (4, *clips.shape[3:])).movedim(2, 1))


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("small_plugin")
    module.BACKBONES = {"Cells": Cells, "Frames": Frames}
    monkeypatch.setitem(sys.modules, "small_plugin", module)
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    monkeypatch.setattr(study, "MOST_CLIPS", 64)
    for user in (command, study):
        monkeypatch.setattr(user, "matmul_peak", lambda device, dtype: 1e11)


CELLS, FRAMES = "small_plugin:Cells", "small_plugin:Frames"


def profile(*names: str, **changes: Any) -> ProfileResult:
    point = StepPoint(batch_size=3, shape=parse_shape(changes.pop("latents", "4x8x8"), "--latents"))
    request = Request(names=names or (CELLS,), spec=SPEC, point=point, precision=changes.pop("precision", "fp32"))
    options: dict[str, Any] = {"device": "cpu", "card": None, "progress": lambda done, total, what: None}
    return command.run(request, **{**options, **changes})


def small(*names: str) -> Request:
    return Request(names=names, spec=SPEC, point=StepPoint(batch_size=1, shape=(2, 4, 4)), precision="fp32")


def cells(table: Any) -> dict[tuple[str, str], tuple[str, ...]]:
    """(title, how) -> values of each backbone."""
    return {(row[0], row[-1]): row[1:-1] for row in table.rows}


def test_a_device_that_is_here_is_measured() -> None:
    result = profile(CELLS, FRAMES)
    assert result.target.is_here
    assert result.target.matmul_flops
    for contender in result.contenders:
        assert contender.flops_per_clip == count_flops(contender.name, SPEC, (4, 8, 8))
        for phase in PHASES:
            found = contender.phases[phase]
            assert found.step_flops == 3 * contender.flops_per_clip * (3 if phase == "training" else 1)
            assert found.measured is not None
            assert found.timing is not None
            assert found.measured.num_bytes == found.predicted.num_bytes
            assert len(found.timing.step_time_s) >= measure.FEWEST_ROUNDS
            assert set(found.timing.parts_s) == ({"forward", "backward", "optimiser"} if phase == "training" else set())
            assert found.least_step_time_s is None
    rows = cells(costs(result))
    assert rows["training: peak storage", "measured"] == rows["training: peak storage", "predicted"]
    assert rows["training: FLOPs of a step", "counted, 3 x forward"]
    assert ("training: time of a step", "at least") not in rows


def test_a_device_that_is_not_here_is_predicted_and_bounded() -> None:
    result = profile(card="T4")
    (contender,) = result.contenders
    assert not result.target.is_here
    for phase in PHASES:
        found = contender.phases[phase]
        assert (found.measured, found.timing) == (None, None)
        assert found.least_step_time_s == pytest.approx(found.step_flops / 8.1e12)
    rows = cells(costs(result))
    assert not [how for _, how in rows if how.startswith("measured")]
    assert {how for title, how in rows if "time" in title} == {"at least"}
    assert {how for title, how in rows if "peak" in title or "..." in title} == {"predicted"}
    assert profile(card="24GiB").contenders[0].phases["training"].least_step_time_s is None  # a size has no rate


def test_cuda_that_is_not_here_has_no_memory_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--fits asks what fits a CUDA device, whose memory is not known here; name a card with --card"):
        profile(device="cuda", fits=True)
    result = profile(device="cuda", draws=True)
    assert (result.target.is_here, result.target.name, result.target.usable_bytes) == (False, "a CUDA device", None)
    assert result.contenders[0].fits == []


def test_what_fits_fits_and_the_next_does_not() -> None:
    result = profile(card="1.1GiB", fits=True, draws=True)
    (contender,) = result.contenders
    usable = result.target.usable_bytes
    assert usable is not None
    assert {(each.phase, each.axis) for each in contender.fits} == {(phase, axis) for phase in PHASES for axis in AXES}
    predictor = Predictor(CELLS, SPEC, "fp32", "cpu")
    for each in contender.fits:

        def peak(value: int, each: Any = each) -> int:
            point = {
                "batch": StepPoint(batch_size=value, shape=(4, 8, 8)),
                "frames": StepPoint(batch_size=1, shape=(value, 8, 8)),
                "size": StepPoint(batch_size=1, shape=(4, value, value)),
            }[each.axis]
            return predictor.peak_bytes(each.phase, point)

        assert peak(each.value) == each.num_bytes <= usable
        if each.limited_by == "memory" and each.num_bytes < (1 - CLOSE) * usable:
            assert peak(each.value + {"batch": 1, "frames": 2, "size": 4}[each.axis]) > usable
    limits = {(each.phase, each.axis): (each.value, each.limited_by) for each in contender.fits}
    assert limits["training", "frames"] == (64, "backbone")
    assert limits["training", "batch"] == (64, "search")
    assert limits["training", "size"][1] == "memory"
    assert limits["training", "size"][0] % 4 == 0
    sizes, frames = zip(*contender.frontier, strict=True)
    assert sizes[:3] == (8, 16, 32)
    assert list(frames) == sorted(frames, reverse=True)
    for size, num_frames in contender.frontier:
        num_bytes = predictor.peak_bytes("training", StepPoint(batch_size=1, shape=(num_frames, size, size)))
        assert num_bytes <= usable
        if num_frames < 64 and num_bytes < (1 - CLOSE) * usable:
            assert predictor.peak_bytes("training", StepPoint(batch_size=1, shape=(num_frames + 2, size, size))) > usable


class SmallCard(FakeCard):
    """A GPU of so many voxels a step, whose tensors are on the CPU; every step is kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most_voxels: int):
        super().__init__(monkeypatch)
        self.steps: list[tuple[str, int, Shape]] = []
        step = measure.Stepper.step

        def taken(stepper: Any, phase: str, batch: Any) -> None:
            if isinstance(batch.latents[0], FakeTensor):  # a prediction
                return step(stepper, phase, batch)
            shape = batch.latents[0].shape[1:]
            self.steps.append((phase, len(batch.latents), tuple(shape)))
            if len(batch.latents) * num_voxels(shape) > most_voxels:
                self.ooms += 1
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.reserved = max(self.reserved, 100 * len(batch.latents))
            self.retries += len(batch.latents) == 21
            return step(stepper, phase, batch)

        monkeypatch.setattr(measure.Stepper, "step", taken)
        monkeypatch.setattr(measure, "PhaseMemory", lambda device: PhaseMemory(CUDA))
        monkeypatch.setattr(measure, "let_go", lambda device: self.done.append("emptied"))
        monkeypatch.setattr(study, "has_card", lambda target, here: True)


@pytest.fixture
def predicted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 units of every axis are what is predicted to fit: the search is not looked at here."""
    monkeypatch.setattr(fit, "largest", lambda cost, limit, *, most: min(20, most))


@pytest.mark.usefixtures("predicted_at_once")
def test_on_its_own_card_what_fits_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """21 clips of 4x8x8, 84 frames of 8x8 were there positions for them, 4 frames of 36x36."""
    card = SmallCard(monkeypatch, most_voxels=21 * 4 * 8 * 8)
    result = profile(card="1.1GiB", fits=True)
    found = {(each.phase, each.axis): each for each in result.contenders[0].fits}
    predictor = Predictor(CELLS, SPEC, "fp32", "cpu")
    for phase in PHASES:
        tried = {axis: found[phase, axis].tried for axis in AXES}
        assert {axis: each and (each.value, each.limited_by) for axis, each in tried.items()} == {
            "batch": (21, "memory"),
            "frames": (64, "backbone"),
            "size": (36, "memory"),
        }
        assert tried["batch"] is not None and tried["size"] is not None
        assert (tried["batch"].reserved_bytes, tried["batch"].num_alloc_retries, tried["size"].num_alloc_retries) == (2100, 2, 0)
        assert tried["batch"].predicted_bytes == predictor.peak_bytes(phase, StepPoint(batch_size=21, shape=(4, 8, 8)))
        first = next(step for step in card.steps if step[0] == phase)
        assert first[1] == found[phase, "batch"].value == 20  # from what is predicted on
    (table,) = (table for table in all_tables(result) if table.title.startswith("What fits"))
    rows = [row for row in table.rows if row[2] == "tried"]
    assert rows[0] == ("... on the card", "21 (1.05 x predicted, 2.05 KiB reserved, retries: 2)", "tried")
    assert rows[1][1].startswith("64, its limit (1.6 x predicted") and len(rows) == 6
    assert result.target.memory_bytes is not None
    left = [row[1] for row in table.rows if row[0] == "... memory left there"]
    assert left[0] == bytes_text(result.target.memory_bytes - found["training", "batch"].tried.predicted_bytes)  # type: ignore[union-attr]
    assert left[1] == "\N{EN DASH}"  # there the card was not full
    assert "the reserve that would have been right; 1.01 GiB is taken" in table.notes[1]
    assert ProfileResult.model_validate_json(result.model_dump_json()) == result


def test_between_tries_the_allocator_is_emptied_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SmallCard(monkeypatch, most_voxels=32)
    kept: list[Any] = []
    prepare = measure._prepare

    def watched(*arguments: Any) -> Any:
        stepper, batch = prepare(*arguments)
        kept.append(weakref.ref(batch.latents[0]))
        return stepper, batch

    monkeypatch.setattr(measure, "_prepare", watched)
    monkeypatch.setattr(measure, "let_go", lambda device: card.done.append("held" if kept and kept[-1]() is not None else "empty"))
    for point, fits in ((StepPoint(batch_size=1, shape=(2, 4, 4)), True), (StepPoint(batch_size=2, shape=(2, 4, 4)), False)):
        card.done.clear()
        request = Request(names=(CELLS,), spec=SPEC, point=point, precision="fp32")
        found = measure.try_step(request, CELLS, "training", torch.device("cpu"))
        assert (found is not None) == fits and card.done == ["empty", "emptied", "reset", "empty"]


def test_a_bug_in_a_try_is_no_full_card(monkeypatch: pytest.MonkeyPatch) -> None:
    SmallCard(monkeypatch, most_voxels=0)

    def broken(*_: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(measure.Stepper, "step", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        measure.try_step(small(CELLS), CELLS, "training", torch.device("cpu"))


@pytest.mark.usefixtures("predicted_at_once")
@pytest.mark.parametrize(("changed", "why"), [("others", "2 other processes were on the card"), ("slow", "a step would take about ")])
def test_what_is_not_tried_says_why(monkeypatch: pytest.MonkeyPatch, changed: str, why: str) -> None:
    card = SmallCard(monkeypatch, most_voxels=0)
    if changed == "others":
        monkeypatch.setattr(study, "Neighbours", lambda device: SimpleNamespace(most_others=2))
    else:
        monkeypatch.setattr(study, "LONGEST_STEP_S", 0.0)
    result = profile(card="1.1GiB", fits=True)
    assert card.steps == []
    for each in result.contenders[0].fits:
        assert each.tried is None and each.not_tried is not None and each.not_tried.startswith(why)
    (table,) = (table for table in all_tables(result) if table.title.startswith("What fits"))
    assert next(row[1] for row in table.rows if row[2] == "tried").startswith(f"not tried: {why}") and len(table.notes) == 1


@pytest.mark.usefixtures("predicted_at_once")
def test_away_from_the_card_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "try_step", lambda *_: pytest.fail("it was tried"))
    for options in ({"card": "1.1GiB"}, {"device": "cpu", "card": None}):
        if options["card"] is None:
            monkeypatch.setattr(command.psutil, "virtual_memory", lambda: SimpleNamespace(total=int(1.1 * 2**30)))
        result = profile(fits=True, **options)
        assert {(each.tried, each.not_tried) for each in result.contenders[0].fits} == {(None, None)}
        (table,) = (table for table in all_tables(result) if table.title.startswith("What fits"))
        assert {row[2] for row in table.rows} == {"predicted"} and len(table.notes) == 1


def test_what_takes_many_predictions_is_left_out_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "largest", lambda *arguments, **options: pytest.fail("searched"))
    result = profile(CELLS, FRAMES, card="1.1GiB", draws=True)
    assert all(contender.fits == contender.frontier == [] for contender in result.contenders) and result.cross is None
    assert [table.title for table in all_tables(result)] == ["Costs", "Where the memory of a training step is, predicted"]


def test_stages_are_shown_as_they_begin_and_with_their_time_when_they_end() -> None:
    said: list[tuple[int, int, str]] = []
    profile(CELLS, card="1.1GiB", fits=True, progress=lambda *line: said.append(line))
    whats = [what for _, _, what in said]
    assert whats[:2] == [f"building {CELLS}", f"building {CELLS}, 0 s"]
    assert whats.index(f"what fits: size, sampling of {CELLS}") == len(whats) - 2
    done, total, _ = said[-1]
    assert done == total == 2 + 6


def test_where_two_backbones_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "CROSS_PAIRS", 1)
    result = profile(CELLS, FRAMES, cross=True, card="1.1GiB")
    found = result.cross
    assert found is not None
    shapes = {point.shape for point in found.points}
    assert shapes == {(t, s, s) for t in (2, 4, 8, 16) for s in (4, 8, 16, 32)}
    for point in found.points:
        assert point.flops == (count_flops(CELLS, SPEC, point.shape), count_flops(FRAMES, SPEC, point.shape))
        assert len(point.pairs_s) == 1
    # 2 x 4 x 16 x 2 of a cell against 2 x 4 x 4 x 2 + 2 x 2 x 4 T: equal at 12 frames, at any size.
    frames = [each for each in found.crossings if each.quantity == "flops" and each.along == "frames"]
    assert len(frames) == 4
    assert all(each.at == pytest.approx([12.0], rel=0.02) and each.first > 1 > each.last for each in frames)
    assert all(each.at == [] for each in found.crossings if each.quantity == "flops" and each.along == "size")
    words = {row[:3]: row[3] for table in all_tables(result) if table.title == "Where they cross" for row in table.rows}
    assert words["FLOPs, counted", "frames", "8 x 8"].startswith("at 1")
    assert words["FLOPs, counted", "frames", "8 x 8"].endswith(f"{CELLS} costs more below")
    assert words["FLOPs, counted", "size", "2 latent frames"] == f"does not cross from 4 to 32: {CELLS} costs more throughout"


def test_steps_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def step(stepper: Any, batch: Any, phase: str) -> tuple[float, dict[str, float]]:
        order.append(type(stepper.backbone).__name__)
        return 1.0, {}

    monkeypatch.setattr(measure, "timed_step", step)
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    measure.measure_times(small(CELLS, FRAMES), (CELLS, FRAMES), "training", torch.device("cpu"), lambda what: None)
    assert order == ["Cells", "Frames", "Frames", "Cells", "Cells", "Frames"]


def test_a_rate_is_two_totals_over_the_steady_steps() -> None:
    result = profile()
    timing = Timing(step_time_s=[9.0, 2.0, 4.0], parts_s={"forward": [8.0, 1.0, 2.0], "backward": [1.0, 1.0, 2.0]}, num_warmup_steps=1)
    contender = result.contenders[0]
    changed = contender.phases["training"].model_copy(update={"timing": timing})
    contender = contender.model_copy(update={"phases": {**contender.phases, "training": changed}})
    target = result.target.model_copy(update={"matmul_flops": changed.step_flops / 1.5})
    rows = cells(costs(result.model_copy(update={"contenders": [contender], "target": target})))
    assert rows["training: time of a step", "measured"] == ("3.00 s",)
    assert rows["training: ... forward", "measured"] == ("1.50 s",)
    assert rows["training: clips/s", "measured"] == ("1.00",)
    assert rows["training: latent frames/s", "measured"] == ("4.00",)
    assert rows["training: tokens/s", "measured"] == ("256",)
    assert [value for (title, _), value in rows.items() if title == "training: MFU"] == [("50.0%",)]


def test_what_is_not_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LONGEST_STEP_S", 0.0)
    result = profile()
    assert result.contenders[0].phases["training"].measured is None
    assert cells(costs(result))["training: not measured", "why"][0].startswith("a step would take about")


def test_a_step_without_room_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measure.Stepper, "step", lambda *_: full())
    with pytest.raises(measure.NotMeasured):
        measure.measure_memory(small(CELLS), CELLS, "training", torch.device("cpu"))


def test_it_is_written_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "CROSS_PAIRS", 1)
    monkeypatch.setattr(study, "FRONTIER_SIZES", (8, 16))
    monkeypatch.setattr(cross, "FACTORS", (1, 2))
    result = profile(CELLS, FRAMES, cross=True, fits=True, draws=True, card="1.1GiB")
    paths = write(result, tmp_path)
    assert [path.name for path in paths] == [
        "profile.md", "profile.json", "frontier.svg", "cross-flops.svg", "cross-peak-bytes.svg", "cross-step-time.svg",
    ]  # fmt: skip
    assert ProfileResult.model_validate_json((tmp_path / "profile.json").read_text()) == result
    text = (tmp_path / "profile.md").read_text()
    for name in (path.name for path in paths[2:]):
        assert f"]({name})" in text
        ElementTree.fromstring((tmp_path / name).read_text())
    assert f"predicted for 1.1GiB: 1.1 GiB, of which {0.1 * 0.95:.1f} are usable" in text
    assert all_figures(result) == all_figures(result)
    console = Console(width=100, record=True)
    show(result, console)
    assert "Where they cross" in console.export_text()


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([CELLS], {"latents": "16x32"}, "--latents '16x32' is not TxHxW"),
        ([CELLS], {"latents": "0x8x8"}, "--latents '0x8x8' is not TxHxW"),
        ([CELLS], {"latents": "4x8x6"}, "Cells needs latent width divisible by 4, got 6"),
        (["small_plugin:Cell"], {}, r"unknown backbone 'small_plugin:Cell' \(did you mean 'small_plugin:Cells'\?\)"),
        (["Cells"], {}, "backbone 'Cells' is not of the form module:config"),
        ([CELLS, CELLS], {}, "a backbone is named twice"),
        ([CELLS], {"cross": True}, "--cross compares the first two backbones, got only small_plugin:Cells"),
        ([CELLS], {"card": "H100"}, r"unknown card 'H100' \(did you mean 'H100-80GB'\?\)"),
        ([CELLS], {"card": "T4", "precision": "bf16"}, "card T4 has no units for bf16; use --precision fp32"),
        ([CELLS], {"precision": "fp8"}, "unknown precision 'fp8'; use one of fp32, bf16"),
        ([CELLS], {"device": "tpu"}, "unknown device 'tpu'; use auto, cpu or cuda"),
        (["dit:DiT-XS/2"], {"card": "1.001GiB", "fits": True}, "nothing fits 1.001GiB: of 0.00 usable GiB the least step needs 0.01"),
    ],
)
def test_bad_input_is_one_line(names: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        profile(*names, **options)
    assert "\n" not in str(caught.value)


def test_latents_as_text() -> None:
    assert parse_shape("16x32x24", "--latents") == (16, 32, 24)


def test_the_command_line(tmp_path: Path) -> None:
    arguments = ["profile", CELLS, "--latents", "2x4x4", "--batch-size", "1", "--card", "T4", "--json"]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert ProfileResult.model_validate_json(outcome.stdout).target.name == "T4"
    assert isinstance(CliRunner().invoke(app, ["profile", CELLS, "--latents", "no"]).exception, ValueError)
    assert CliRunner().invoke(app, ["profile"]).exit_code == 2
