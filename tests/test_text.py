"""Cells with text: captions as a table, the encoder of words, dropout and guidance, canaries, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.backbone import load_backbone
from bench.data.latents.latents import LatentSet
from bench.data.progress import Reporter, silent
from bench.data.text.config import WordText
from bench.data.text.encoder import caption_table
from bench.data.text.table import CaptionTable, unknown_words, word_tokens
from bench.meters import peak
from bench.meters.flops import count_flops
from bench.records.record import Record
from bench.records.store import latest
from bench.run.cell_run import CellRun
from bench.run.checks import check_cell, check_prompts, latent_spec
from bench.run.job import CellJob, SampleJob
from bench.run.preflight import _size
from bench.run.samples import sample_more
from bench.run.stages import training_set
from bench.shapes import LatentSpec, Refusal
from bench.study.cell import Cell
from bench.study.matrix import NamedCell
from bench.training.canary import batch_against_single, resumed_against_uninterrupted
from bench.training.captioned import Captioned, with_captions
from bench.training.captured import CapturedPass
from bench.training.draws import Drawer
from bench.training.half_weights import HalfWeights
from bench.training.predict import Predictor
from bench.training.sampling import guided
from bench.training.step import OPTIONS, Stepper, StepPoint, TrainStep, make_batch
from bench.training.trainer import Trainer
from bench.training.validation import validation_losses
from tests.tiny import tiny_cell

CPU = torch.device("cpu")
WORDS: dict[str, Any] = {"encoder": "words", "width": 16, "depth": 1, "max_tokens": 6}
DATA: dict[str, Any] = {"source": "tests.told_source", "num_frames": 2, "height": 16, "width": 16, "num_val": 4, "num_test": 4}
TEXTS = ("a red disc", "a green ring falls", "all blue")
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=3).with_text(16, 6)
NAMES = ("tests.small:DiT-XXS/2", "tests.small:UNet-XXS")


def told_cell(**changes: Any) -> Cell:
    return tiny_cell(**{"data": DATA, "text": WORDS, "backbone": NAMES[0], **changes})


def table(captions: Sequence[str] = TEXTS, config: dict[str, Any] = WORDS) -> CaptionTable:
    return caption_table(WordText.model_validate(config), captions, TEXTS, Path("nowhere"), CPU, silent)


def captioned(name: str = NAMES[0], spec: LatentSpec = SPEC, seed: int = 0) -> Captioned:
    torch.manual_seed(0)
    backbone: Any = load_backbone(name, spec)
    for weight in backbone.parameters():
        if not bool(weight.any()):
            nn.init.normal_(weight, std=0.05)
    return with_captions(backbone, WordText.model_validate(WORDS), table(), seed)


def told_set(num: int = 8, seed: int = 0, shape: tuple[int, ...] = (4, 2, 4, 4)) -> LatentSet:
    generator = np.random.default_rng(seed)
    latents = generator.standard_normal((num, *shape)).astype(np.float32)
    captions = np.arange(num) % 3
    return LatentSet(latents=latents, labels=generator.integers(3, size=num), null_label=3, captions=captions, empty_caption=3)


# --- captions as a table


def test_each_caption_is_once_in_the_table_and_the_empty_one_last() -> None:
    found = table(["b red", "all blue", "", "all blue"])
    assert found.texts == ("all blue", "b red", "") and found.empty == 2
    assert found.places(["", "all blue", "b red"]).tolist() == [2, 0, 1]


def test_words_are_those_of_training_captions_and_others_are_left_out() -> None:
    found = table(["A RED, red purple disc!", ""])
    words = ["", "", *found.vocabulary]  # none, and the first token
    rows = [[words[token] for token in row if token > 1] for row in found.values]
    assert rows == [["a", "red", "red", "disc"], []]
    assert found.mask.sum(1).tolist() == [5, 1]
    assert unknown_words(["a purple disc", "PURPLE sky"], found.vocabulary) == ["purple", "sky"]
    assert table(["a red disc"]).key == table(["other"]).key  # of the vocabulary, which is that of the training captions


def test_a_long_caption_is_cut_and_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a red disc falls all a red disc"
    tokens, mask = word_tokens(WordText.model_validate(WORDS), [long], table().vocabulary)
    assert mask.all() and tokens.shape == (1, 6)
    assert capsys.readouterr().err == ""
    table([long])
    assert "1 of 2 captions have more than 5 words" in capsys.readouterr().err
    with pytest.raises(Refusal, match="no training clip has a caption with a word"):
        caption_table(WordText.model_validate(WORDS), ["x"], ["", "..."], Path("nowhere"), CPU, silent)


# --- the module around a backbone


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_clip_is_told_its_caption_and_no_other(name: str) -> None:
    network = captioned(name).eval()
    latents = [torch.randn(4, 2, 4, 4)] * 3
    args: Any = (latents, torch.full((3,), 0.5), torch.full((3,), 1))
    by_caption = network(*args, captions=torch.tensor([0, 1, 3]))
    assert not torch.allclose(by_caption[0], by_caption[1], atol=1e-6) and not torch.allclose(by_caption[0], by_caption[2], atol=1e-6)
    again = network(*args, captions=torch.tensor([3, 1, 0]))
    torch.testing.assert_close(again[2], by_caption[0])
    other = table(["all blue", "a red disc"])  # the same texts at other places
    with network.reading(other):
        places = torch.from_numpy(other.places(["a red disc", "all blue", ""]))
        torch.testing.assert_close(network(*args, captions=places)[0], network(*args, captions=torch.tensor([0, 1, 2]))[0])
        torch.testing.assert_close(network(*args, captions=places)[2], by_caption[2])
    torch.testing.assert_close(network(*args, captions=torch.tensor([0, 1, 3])), by_caption)


def test_it_says_what_its_backbone_says() -> None:
    dit, unet = captioned(NAMES[0]), captioned(NAMES[1])
    assert dit.ragged and not unet.ragged
    assert dit.num_tokens((2, 4, 4)) == 8 and hasattr(dit, "kept_voxels") and not hasattr(unet, "kept_voxels")
    assert len(dit.repeated_blocks()) == 2 and dit.shard_units()
    with pytest.raises(AttributeError):
        dit.nothing_such  # noqa: B018
    assert not [key for key in dit.state_dict() if "values" in key or "mask" in key]  # no captions in a file of weights


def test_the_encoder_starts_alike_under_every_backbone() -> None:
    weights = [dict(captioned(name).words.named_parameters()) for name in NAMES]  # type: ignore[union-attr]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    other = dict(captioned(seed=1).words.named_parameters())  # type: ignore[union-attr]
    assert not torch.equal(other["embed.weight"], weights[0]["embed.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_the_encoder_learns(name: str) -> None:
    network = captioned(name)
    predictions = network([torch.randn(4, 2, 4, 4)] * 3, torch.rand(3), torch.zeros(3, dtype=torch.long), captions=torch.tensor([0, 1, 3]))
    sum(clip.square().sum() for clip in predictions).backward()
    assert network.words is not None
    assert not [key for key, weight in network.words.named_parameters() if weight.grad is None or not bool(weight.grad.any())]


# --- training


def test_a_draw_decides_which_captions_are_dropped_and_labels_go_with_them() -> None:
    cell = told_cell(text=WORDS | {"dropout": 0.5}, objective={"label_dropout": 0.2}, batching={"batch_size": 64})
    drawer = Drawer(cell, told_set(256), captioned(), CPU)
    drawn = drawer.draw(drawer.stream.batch(0))
    captions, labels = drawn.told["captions"], drawn.labels
    assert labels is not None and captions.shape == (64,)
    untold = captions == 3
    assert 16 < int(untold.sum()) < 48
    assert bool((labels[untold] == 3).all())  # so that guidance knows the model without either
    assert 0 < int((labels[~untold] == 3).sum()) < 24 and int((labels[~untold] != 3).sum()) > 8
    kept = [int(item) % 3 for item, lost in zip(drawer.stream.batch(0).items, untold, strict=True) if not lost]
    assert captions[~untold].tolist() == kept  # each its own
    again = drawer.draw(drawer.stream.batch(0))
    assert torch.equal(again.told["captions"], captions)
    plain = Drawer(told_cell(text=None, batching={"batch_size": 64}), told_set(256), captioned(), CPU)
    assert plain.draw(plain.stream.batch(0)).told == {}


@pytest.mark.parametrize("name", NAMES)
def test_canaries_cover_captions(name: str) -> None:
    network = captioned(name)
    assert batch_against_single(network, SPEC, (2, 4, 4), CPU) < 1e-5
    cell = told_cell(backbone=name)
    assert resumed_against_uninterrupted(cell, network, told_set(), told_set(4), CPU) == 0.0


def test_a_canary_catches_captions_of_other_clips() -> None:
    class Mixed(Captioned):
        def forward(self, latents: Any, timesteps: Any, labels: Any, *, captions: Tensor, **more: Any) -> Any:
            return super().forward(latents, timesteps, labels, captions=captions.flip(0), **more)

    sound = captioned()
    assert batch_against_single(Mixed(sound.backbone, sound.words, table()).eval(), SPEC, (2, 4, 4), CPU) > 1e-3


def test_half_weights_serve_the_encoder_too() -> None:
    network = captioned()
    batch = (told_set(2), torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))
    latents = [torch.from_numpy(clip) for clip in batch[0].latents]

    def losses(step: TrainStep) -> list[float]:
        def loss(predict: Any) -> Tensor:
            return torch.stack(
                [clip.float().square().mean() for clip in predict(latents, *batch[1:], captions=torch.tensor([0, 3]))]
            ).mean()

        return [float(step(loss, number, 0.0)[0]) for number in range(3)]

    step = TrainStep(network, OPTIONS, CPU, torch.bfloat16)
    assert isinstance(step._half_weights, HalfWeights)
    found = losses(step)
    plain = TrainStep(captioned(), OPTIONS, CPU, torch.bfloat16)
    plain._half_weights = None
    assert found == losses(plain) and found[2] < found[0]


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1])])
def test_a_captured_pass_is_given_captions(monkeypatch: pytest.MonkeyPatch, labels: Tensor | None) -> None:
    """The tensors of a graph are matched by place; here it is run as it is."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, sample, **options: module)

    def run(latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, captions: Tensor) -> list[Tensor]:
        return [
            clip + 10 * label + caption
            for clip, label, caption in zip(latents, torch.zeros(2) if labels is None else labels, captions, strict=True)
        ]

    first, second = torch.tensor([1, 2]), torch.tensor([3, 4])
    captured = CapturedPass(nn.Identity(), run, [torch.zeros(1)] * 2, torch.zeros(2), labels, {"captions": first})
    found = captured([torch.zeros(1)] * 2, torch.zeros(2), labels, captions=second)
    assert [float(each) for each in found] == ([3.0, 4.0] if labels is None else [3.0, 14.0])


def test_counts_and_predictions_know_of_text() -> None:
    plain = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=3)
    for name in NAMES:
        assert count_flops(name, SPEC, (2, 4, 4)) > count_flops(name, plain, (2, 4, 4))
        point = StepPoint(batch_size=2, shape=(2, 4, 4))
        predicted = Predictor(name, SPEC, "fp32", "cpu").peak("training", point).num_bytes
        torch.manual_seed(0)
        backbone: Any = load_backbone(name, SPEC)
        stepper = Stepper(backbone.train(), CPU, "fp32", trains=True)
        batch = make_batch(SPEC, point, "training", CPU)
        stepper.step("training", batch)
        with stepper.meter("training", batch) as meter:
            stepper.step("training", batch)
        assert predicted == meter.peak_bytes


def test_a_step_of_a_cell_with_text_is_predicted(tmp_path: Path) -> None:
    cell = told_cell()
    network = captioned()
    trainer = Trainer(cell, network, train=told_set(), val=told_set(4), inputs="x", folder=tmp_path, flops_of=lambda shape: 1, device=CPU)
    predicted = Predictor(cell.backbone, SPEC, "fp32", "cpu").peak_drawn(trainer.draw(1)).num_bytes
    trainer.train()
    assert 0.5 * trainer.state.peak_storage_bytes < predicted <= trainer.state.peak_storage_bytes  # without the encoder


def test_validation_reads_captions() -> None:
    network, data, cell = captioned().eval(), told_set(4), told_cell()
    before = validation_losses(network, data, 4, cell, CPU)
    with network.reading(table(["a", "disc", "ring"])):
        assert validation_losses(network, data, 4, cell, CPU) != before
    assert validation_losses(network, data, 4, cell, CPU) == before


# --- guidance


def test_guidance_is_against_neither_label_nor_caption() -> None:
    def by_number(latents: list[Tensor], timesteps: Tensor, labels: Tensor | None, captions: Tensor) -> list[Tensor]:
        own = captions if labels is None else 10 * labels + captions
        return [value.float() for value in own]

    latents, captions = [torch.zeros(1)] * 2, torch.tensor([1, 2])
    both = guided(by_number, latents, torch.ones(2), torch.tensor([0, 1]), 3, 2.0, captions, 5)
    assert [float(each) for each in both] == [35 + 2 * (1 - 35), 35 + 2 * (12 - 35)]
    alone = guided(by_number, latents, torch.ones(2), None, 0, 2.0, captions, 5)
    assert [float(each) for each in alone] == [5 + 2 * (1 - 5), 5 + 2 * (2 - 5)]
    assert [float(each) for each in guided(by_number, latents, torch.ones(2), None, 0, 1.0, captions, 5)] == [1.0, 2.0]


# --- a cell, and prompts


def run(folder: Path, cell: Cell) -> tuple[Path, Record]:
    named = NamedCell(name="c", axes={}, cell=cell)
    place = folder / "m" / named.folder
    place.mkdir(parents=True, exist_ok=True)
    CellRun(CellJob(matrix="m", results=folder, label="c", cell=named), Reporter("c"), lambda: False).run()
    record = latest(place)
    assert record is not None and record.status == "ok", record and record.reason
    return place, record


@pytest.fixture(autouse=True)
def quick_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peak.SIDES, "cpu", 64)


def test_a_model_makes_what_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without classes nothing but the caption says which colour a clip has."""
    cell = told_cell(
        batching={"batch_size": 12},
        budget={"steps": 200},
        autoencoder={"kind": "trained", "num_steps": 150, "width": 16},
        optimizer={"learning_rate": 4e-3, "warmup_steps": 5, "ema_decay": 0.9},
        sampler={"num_steps": 6, "guidance_scale": 1.5},
        evaluation={"extractors": ["random3d"], "num_samples": 4, "untrained": False, "grid": [[2, 16, 24]], "grid_samples": 2},
    )
    folder, record = run(tmp_path, cell)
    assert record.text is not None and record.text.num_words == 4 and record.text.num_captions == 4 and record.text.num_params > 0
    assert [canary.passed for canary in record.canaries] == [True] * len(record.canaries)
    assert record.grid[0].measurements, record.grid[0].reason
    sheet = dict(np.load(folder / "sheet.npz"))
    named = {"All red": 0, "All green": 1, "All blue": 2}
    assert sheet["told"].tolist() == ["All red", "All green", "All blue", "All red"]
    for kind in ("real", "generated"):
        assert sheet[kind].astype(float).mean((1, 2, 3)).argmax(1).tolist() == [named[caption] for caption in sheet["told"]]
    capsys.readouterr()
    out = tmp_path / "more.npz"
    prompts = ("all blue", "all red", "ALL green purple")
    sample_more(
        SampleJob(label="c", matrix="m", results=tmp_path, cell=cell, folder=folder, num_clips=7, shape=None, out=out, prompts=prompts),
        Reporter("c"),
    )
    assert "no training caption has purple, which is left out; known words: all, blue, green, red" in capsys.readouterr().err
    arrays = dict(np.load(out))
    assert arrays["prompts"].tolist() == [prompts[index % 3] for index in range(7)]
    brightest = arrays["frames"].astype(float).mean((1, 2, 3)).argmax(1)  # of red, green and blue
    assert brightest.tolist() == [2, 0, 1, 2, 0, 1, 2]


def test_inputs_of_a_cell_are_its_words_too(tmp_path: Path) -> None:
    from bench.run.samples import inputs_of

    found = training_set(told_cell(), tmp_path, CPU, silent)
    assert found.table is not None and found.captions is not None
    assert [found.table.texts[place] for place in found.captions] == ["All red", "All green", "All blue", "All red"]
    assert found.train.captions is not None and found.table.texts[found.train.captions[5]] == ""
    plain = training_set(told_cell(text=None), tmp_path, CPU, silent)
    assert plain.table is None and plain.train.captions is None and plain.spec.text_width == 0
    assert inputs_of(told_cell(), found) != inputs_of(told_cell(), plain)


# --- what is refused, and what stays as it was


def test_a_cell_without_text_keeps_its_fingerprint() -> None:
    assert "text" not in tiny_cell().model_dump(mode="json")
    assert told_cell().fingerprint() != told_cell(text=None).fingerprint()


def test_mistakes_are_told_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text.encoder words needs clips with captions; give data.captions, or leave out text"):
        told_cell(data=DATA | {"captions": None})
    cell = told_cell(data={**DATA, "source": "physics", "world": "motion", "height": 40, "width": 40, "num_train": 4})
    job: Any = type("Job", (), {"results": tmp_path})
    with pytest.raises(Refusal, match="source 'physics' gives none"):
        _size(cell, job, Reporter("c"))
    with pytest.raises(Refusal, match="needs a backbone that takes captions, 'diffusers:AllegroTransformer3DModel' does not"):
        check_cell(told_cell(backbone="diffusers:AllegroTransformer3DModel"))
    check_cell(told_cell())
    spec = latent_spec(told_cell(), 0)
    assert spec is not None and (spec.text_width, spec.text_tokens) == (16, 6)
    with pytest.raises(ValueError, match=r"union_tag|Input tag 'bert'"):
        told_cell(text={"encoder": "bert"})


def test_guidance_needs_a_caption_that_was_dropped() -> None:
    with pytest.raises(ValueError, match=r"guidance_scale 2 is against the empty caption, never shown by text\.dropout 0"):
        told_cell(text={**WORDS, "dropout": 0}, sampler={"guidance_scale": 2})


def test_prompts_are_for_cells_that_can_follow_them() -> None:
    with pytest.raises(Refusal, match="was given no captions"):
        check_prompts(told_cell(text=None), has_labels=False)
    check_prompts(told_cell(objective={"label_dropout": 0}), has_labels=False)
    with pytest.raises(Refusal, match=r"objective.label_dropout 0"):
        check_prompts(told_cell(objective={"label_dropout": 0}), has_labels=True)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    from bench.commands.prompts import read_prompts

    file = tmp_path / "prompts.txt"
    file.write_text("a red disc\n\n  all   blue \n")
    assert read_prompts(["first"], file) == ("first", "a red disc", "all blue")
    assert read_prompts([], None) == ()
    file.write_text("\n\n")
    with pytest.raises(Refusal, match="has no prompt in it"):
        read_prompts([], file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Refusal, match="cannot be read as text"):
        read_prompts([], file)
    with pytest.raises(Refusal, match="says nothing"):
        read_prompts([" "], None)
