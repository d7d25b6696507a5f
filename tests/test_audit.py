"""The command: its numbers are the ledger's and the counted FLOPs', by hand on tiny files; what cannot be done is said in one line."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from test_data_video import write_video
from tiny import cell_fields
from torch import Tensor, nn
from typer.testing import CliRunner

from bench import cli
from bench.commands.audit import many
from bench.commands.audit.account import accounts
from bench.commands.audit.command import run, show, write
from bench.commands.audit.result import AuditResult, PolicyAudit, StepCost
from bench.commands.audit.subject import Audited, FolderOptions, of_folder, of_matrix, pretrained_spec
from bench.data.latents.config import PretrainedAutoencoder
from bench.data.policy.fitting import fit, training_rules
from bench.data.policy.ledger import ledger
from bench.data.source import load_clips
from bench.meters import peak
from bench.run import stages
from bench.shapes import LatentSpec, Shape, bounding_shape, check_divisible, num_voxels
from bench.study.matrix import load_study

PEAK = 1e6  # FLOP/s
SPEC = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=0)


class Cells(nn.Module):
    """256 FLOPs a latent voxel: two products of 4 x 16. Halves height and width once, as far as shapes are concerned."""

    ragged = False

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(spec.latent_channels, 16), nn.Linear(16, spec.latent_channels))

    def forward(self, latents: list[Tensor], timesteps: Tensor, labels: Tensor | None) -> list[Tensor]:
        return [self.layers(clip.movedim(0, -1)).movedim(-1, 0) for clip in latents]

    def num_tokens(self, shape: Shape) -> int:
        return num_voxels(shape) // 4

    def check(self, shape: Shape) -> None:
        check_divisible("Cells", shape, (1, 2, 2))


class Packed(Cells):
    ragged = True


class Coarse(Cells):
    def check(self, shape: Shape) -> None:
        check_divisible("Coarse", shape, (1, 4, 4))


class Factory:
    """A plug-in that says what it takes before it is built."""

    def __init__(self, backbone: type[Cells]):
        self.backbone = backbone

    def __call__(self, spec: LatentSpec) -> Cells:
        return self.backbone(spec)

    def check(self, shape: Shape) -> None:
        self.backbone.check(None, shape)  # type: ignore[arg-type]


CELLS, PACKED, COARSE = (f"audit_plugin:{name}" for name in ("Cells", "Packed", "Coarse"))


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("audit_plugin")
    module.BACKBONES = {backbone.__name__: Factory(backbone) for backbone in (Cells, Packed, Coarse)}
    monkeypatch.setitem(sys.modules, "audit_plugin", module)
    monkeypatch.setattr(peak, "matmul_peak", lambda device, dtype: PEAK)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(256, size=(*shape, 3), dtype=np.uint8)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Clips of 4x8x32 (2), 4x32x8 (2), 3x16x16 and 1x16x16 under a shape of 4x16x16: 20 frames of 256 pixels each."""
    folder = tmp_path / "videos"
    write_video(folder / "wide.mkv", noise(9, 8, 32))
    write_video(folder / "tall.mkv", noise(8, 32, 8))
    write_video(folder / "short.mkv", noise(3, 16, 16))
    Image.fromarray(noise(1, 16, 16)[0]).save(folder / "still.png")
    return folder


def quiet(done: int, total: int, what: str) -> None:
    return None


def folder(path: Path, **changes: Any) -> Audited:
    options: dict[str, Any] = {"shape": "4x16x16", "voxel_budget": 64, "backbones": (), "policies": (), "stride": 4, "multiple": None}
    return of_folder(path, FolderOptions(**{**options, **changes}), path.parent / "cache", quiet)


def by_name(result: AuditResult) -> dict[str, PolicyAudit]:
    return {policy.name: policy for policy in result.policies}


def command(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["audit", *map(str, arguments)])


def test_a_folder_by_hand(videos: Path, tmp_path: Path) -> None:
    outcome = command(videos, "--shape", "4x16x16", "--voxel-budget", 64, "--stride", 4, "--json", "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    result = AuditResult.model_validate_json(outcome.stdout)
    assert AuditResult.model_validate_json((tmp_path / "out" / "audit.json").read_text()) == result
    assert list(by_name(result)) == ["crop", "bucket", "pack", "pad"]
    found = {name: policy.ledger for name, policy in by_name(result).items()}
    crop, bucket, pack, pad = found["crop"], found["bucket"], found["pack"], found["pad"]
    assert crop and bucket and pack and pad
    # The wide and the tall keep 8x8 of each frame's 256 pixels, enlarged to 16x16; one image of four fills no batch.
    assert crop.pixels.used == pytest.approx(16 * 64 / (20 * 256)) and crop.pixels.cropped == pytest.approx(16 * 192 / (20 * 256))
    assert crop.pixels.short == pytest.approx(3 / 20) and crop.pixels.remainder == pytest.approx(1 / 20)
    assert (crop.frames_used, crop.clips_used, crop.steps_per_epoch) == (pytest.approx(16 / 20), pytest.approx(4 / 6), 4)
    assert crop.losses[0] == "clip short.mkv#0 has 3 frames, crop needs 4; lower the frames of --shape or use pack"
    assert crop.losses[1].startswith("bucket 1x16x16 has 1 items and a batch takes 4, so it is never trained on; lower --voxel-budget")
    assert bucket.pixels.used == pytest.approx(16 / 20) and bucket.pixels.short == pytest.approx(4 / 20)
    assert (pack.pixels.used, pack.room.clips, pack.steps_per_epoch) == (1, 1, 5)
    assert (pad.pixels.used, pad.steps_per_epoch) == (1, 6) and pad.room.unfilled == pytest.approx(1 / 6)
    assert crop.subject_kept is None
    lost = by_name(result)["bucket"].lost_clips
    assert {(entry.name, entry.kind) for entry in lost} == {("short.mkv#0", "short"), ("still.png#0", "short")}
    assert [(entry.shape, entry.num) for entry in by_name(result)["crop"].items] == [((4, 16, 16), 4), ((1, 16, 16), 1)]
    clips = result.clips
    assert (clips.num_clips, clips.num_pixels, len(clips.shapes)) == (6, 20 * 256, 4)
    assert (clips.aspect.least, clips.aspect.median, clips.aspect.most) == (0.25, 1, 4)
    assert (clips.area.least, clips.area.most, clips.num_frames.least, clips.num_frames.median) == (256, 256, 1, 4)
    assert clips.lost == {"frames in no clip for other reasons": 1}
    assert result.audited == "all 6 clips of the folder; a study holds some of them out"
    assert not result.costs and result.matmul_flops is None


def costs(result: AuditResult) -> dict[tuple[str, str], StepCost]:
    return {(cost.backbone, cost.policy): cost for cost in result.costs}


def test_costs_by_hand(videos: Path) -> None:
    found = costs(run(folder(videos, backbones=(CELLS, PACKED)), quiet))
    # Forward, of the mean batch; a step takes three times that; the clips' own pixels that it uses, in cells of 16.
    batch_voxels = {"crop": 64.0, "bucket": 64.0, "pack": 64.0, "pad": 320 / 6}
    used_voxels = {"crop": 16.0, "bucket": 64.0, "pack": 64.0, "pad": 320 / 6}
    for policy, cells in batch_voxels.items():
        cost = found[PACKED, policy]
        assert cost.refused is None and cost.forward_flops == pytest.approx(256 * cells)
        assert cost.least_step_time_s == pytest.approx(3 * 256 * cells / PEAK)
        assert cost.least_time_per_used_voxel_s == pytest.approx(3 * 256 * cells / PEAK / used_voxels[policy])
    tokens = found[PACKED, "pack"].num_tokens
    assert tokens and (tokens.least, tokens.median, tokens.most) == (4, 16, 16)
    assert found[CELLS, "pad"] == found[PACKED, "pad"].model_copy(update={"backbone": CELLS})
    assert found[CELLS, "pack"].refused == f"{CELLS} takes one shape at a time; use bucket or pad"
    assert found[CELLS, "pack"].forward_flops is None


def test_padding_is_paid_for(videos: Path) -> None:
    subject = folder(videos, policies=("pad",), voxel_budget=200, backbones=(CELLS,))
    (account,) = accounts(subject)
    assert account.policy.ledger
    assert account.policy.ledger.room.padding > 0
    for batch in account.batches:
        assert set(batch) == {bounding_shape(batch)} and sum(map(num_voxels, batch)) <= 200
    (cost,) = run(subject, quiet).costs
    assert cost.forward_flops == pytest.approx(256 * sum(num_voxels(s) for batch in account.batches for s in batch) / len(account.batches))


def test_a_shape_that_a_backbone_cannot_take_is_said(videos: Path) -> None:
    found = costs(run(folder(videos, backbones=(COARSE,), multiple=8), quiet))
    assert found[COARSE, "crop"].refused is None
    assert found[COARSE, "bucket"].refused == (
        "Coarse needs latent height divisible by 4, got 2 (latents (4, 2, 8)); use 4; sides are multiples of --multiple, 8 pixels"
    )


def test_sides_are_cut_to_what_the_backbones_need(videos: Path) -> None:
    assert {batching.side_multiple for batching in folder(videos, backbones=(CELLS,)).variants.values()} == {8}
    assert {batching.side_multiple for batching in folder(videos, backbones=(CELLS, COARSE)).variants.values()} == {16}


def test_a_policy_that_these_clips_cannot_do_is_said(videos: Path) -> None:
    result = run(folder(videos, voxel_budget=500, backbones=(PACKED,)), quiet)  # no four clips of a shape, which a batch would take
    refused = by_name(result)["crop"].refused
    assert refused and refused.startswith("no batch can be filled: --voxel-budget 500 holds more clips of each shape than there are")
    assert by_name(result)["pack"].refused is None
    assert {cost.policy for cost in result.costs} == {"pack", "pad"}
    console = Console(width=100, record=True)
    show(result, console)
    assert "crop cannot be done: no batch can be filled" in console.export_text()
    with pytest.raises(ValueError, match=r"no batching policy can use the clips of folder .*; crop: no batch can be filled"):
        run(folder(videos, voxel_budget=500, policies=("crop",)), quiet)


def matrix(path: Path, **changes: Any) -> str:
    """A matrix of worlds at four shapes under four policies."""
    data = {
        **{"source": "worlds", "num_frames": 4, "height": 16, "width": 16, "num_train": 40, "num_val": 4, "num_test": 4},
        **{"shapes": [[4, 16, 16], [4, 16, 40], [1, 16, 24], [2, 24, 16]], "placement": "edges", "radius": [0.2, 0.25]},
    }
    policies = [{"batching": {"policy": policy, "voxel_budget": 192}} for policy in ("crop", "bucket", "pack", "pad")]
    fields = {
        "description": "d",
        "defaults": cell_fields(data=data, backbone=PACKED, batching={}),
        "include": policies,
        "seeds": [3],
        **changes,
    }
    file = path / "small.yaml"
    OmegaConf.save(OmegaConf.create(fields), file)
    return str(file)


def no_options(**changes: Any) -> FolderOptions:
    options: dict[str, Any] = {"shape": None, "voxel_budget": None, "backbones": (), "policies": (), "stride": None, "multiple": None}
    return FolderOptions(**{**options, **changes})


def test_a_matrix_has_the_ledgers_that_its_records_would_have(tmp_path: Path) -> None:
    study = load_study(matrix(tmp_path))
    result = run(of_matrix(study, no_options(), tmp_path, quiet), quiet)
    assert result.audited == "the 40 clips of the training split" and result.subject == "matrix small"
    assert (result.clips.aspect.least, result.clips.aspect.most) == (16 / 24, 40 / 16)
    clips = load_clips(study.cells[0].cell.data, tmp_path)
    train = clips.splits["train"]
    for named in study.cells:
        cell = named.cell
        spec = LatentSpec(latent_channels=4, spatial_stride=4, temporal_stride=1, num_labels=4)
        fitted = fit(train.shapes, training_rules(cell.data, cell.batching, spec))
        boxes = stages.subject_boxes(clips, "train")
        expected = ledger(train.shapes, fitted, cell.batching, spec, cell.seed, boxes, train.clip_ids)
        found = by_name(result)[cell.batching.policy].ledger
        assert found == expected
        assert expected.subject_kept is not None and (expected.subject_kept < 0.9) == (cell.batching.policy == "crop")
    assert {cost.policy for cost in result.costs} == {"crop", "bucket", "pack", "pad"}


def test_a_batch_of_one_shape(tmp_path: Path) -> None:
    include = [{"batching": {"batch_size": size}} for size in (2, 5)]
    data = {**cell_fields()["data"], "num_train": 9}
    path = matrix(tmp_path, defaults=cell_fields(data=data, backbone=CELLS, batching={}), include=include)
    result = run(of_matrix(load_study(path), no_options(), tmp_path, quiet), quiet)
    assert list(by_name(result)) == ["crop, batch_size=2", "crop, batch_size=5"]
    first, second = (costs(result)[CELLS, name] for name in by_name(result))
    assert (first.forward_flops, second.forward_flops) == (2 * 64 * 256, 5 * 64 * 256)
    assert first.least_time_per_used_voxel_s == pytest.approx(3 * 256 / PEAK)  # all of the pixels, whatever the batch
    assert second.least_time_per_used_voxel_s == pytest.approx(3 * 256 / PEAK)
    account = by_name(result)["crop, batch_size=5"].ledger
    assert account and account.steps_per_epoch == 9 / 5


def test_a_matrix_of_several_data_sets_is_refused(tmp_path: Path) -> None:
    study = load_study(matrix(tmp_path, axes={"data.seed": [0, 1]}, include=[], defaults=cell_fields(backbone=CELLS)))
    with pytest.raises(ValueError, match="matrix small has several values of 'data', an audit is of one; give it by data="):
        of_matrix(study, no_options(), tmp_path, quiet)


def test_a_size_that_is_sought_is_said(tmp_path: Path) -> None:
    study = load_study(matrix(tmp_path, match={"by": "params", "to": PACKED}))
    assert f"not those that match {PACKED}" in of_matrix(study, no_options(), tmp_path, quiet).notes[-1]


def test_a_pretrained_latent_space_needs_no_weights(tmp_path: Path) -> None:
    import diffusers

    blocks = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    network = diffusers.AutoencoderKL(
        latent_channels=6, block_out_channels=(8, 8, 8), down_block_types=blocks[0], up_block_types=blocks[1], norm_num_groups=4
    )
    network.save_config(tmp_path)
    spec = pretrained_spec(PretrainedAutoencoder(kind="pretrained", name=str(tmp_path)), 5)
    assert spec == LatentSpec(latent_channels=6, spatial_stride=4, temporal_stride=1, num_labels=5)
    with pytest.raises(ValueError, match=r"autoencoder .*: its latent space cannot be read as that of AutoencoderXL"):
        pretrained_spec(PretrainedAutoencoder(kind="pretrained", name=str(tmp_path), class_name="AutoencoderXL"), 5)


def test_what_is_printed_and_written(videos: Path, tmp_path: Path) -> None:
    (videos / "a|b_<i>*.mkv").write_bytes(b"no video")
    write_video(videos / "[x](y)`z`.mkv", noise(2, 8, 8))
    result = run(folder(videos.rename(tmp_path / "[red]"), backbones=(CELLS, PACKED)), quiet)
    paths = write(result, tmp_path / "out")
    assert [path.name for path in paths] == ["audit.md", "audit.json", "ledger.svg"]
    text = paths[0].read_text()
    assert "a\\|b\\_&lt;i&gt;\\*.mkv gives no clip: cannot be read" in text and "\\[x\\](y)\\`z\\`.mkv#0 has 2 frames" in text
    assert "](ledger.svg)" in text
    assert all(line.count("|") - line.count("\\|") == 8 for line in text.splitlines() if line.startswith("| Packed"))
    console = Console(width=80, record=True)
    show(result, console)
    shown = console.export_text()
    assert "[red]. Audited" in "".join(shown.splitlines())
    for words in ("Clips as they come", "What each policy uses", "What a training step costs", "Lost whole, and what to change"):
        assert words in shown and f"## {words}" in text
    assert f"{by_name(result)['crop'].ledger.pixels.used:.1%}" in shown  # type: ignore[union-attr]
    assert max(map(len, shown.splitlines())) <= 80
    assert next(line for line in shown.splitlines() if line.startswith(" frames used")).count("%") == 4  # no column is cut off
    picture = paths[2].read_text()
    ElementTree.fromstring(picture)
    assert "prefers-color-scheme: dark" in picture and "var(--p0)" in picture and "currentColor" in picture and "#0400" not in picture


def fields(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Model -> its fields."""
    models = {"AuditResult": schema, **schema["$defs"]}
    return {name: sorted(model["properties"]) for name, model in models.items() if name not in ("Batching", "Environment", "TokenDropping")}


def test_the_json_keeps_its_fields() -> None:
    """Whoever reads audit.json relies on them: a change of names or meanings is a new SCHEMA_VERSION."""
    assert AuditResult.model_fields["schema_version"].default == 2
    assert fields(AuditResult.model_json_schema()) == {
        "AuditResult": [
            "audited", "clips", "commit", "costs", "environment", "matmul_flops", "mixed", "notes", "policies", "precision",
            "schema_version", "spec", "subject",
        ],
        "ClipsFound": ["area", "aspect", "fps", "lost", "notes", "num_clips", "num_frames", "num_pixels", "shapes", "skipped"],
        "LatentSpec": [
            "frame_step",
            "given_channels",
            "latent_channels",
            "num_labels",
            "spatial_stride",
            "temporal_stride",
            "text_tokens",
            "text_width",
        ],
        "Ledger": [
            "clips_used", "frames_used", "losses", "num_clips", "num_items", "num_shapes", "pixels", "room",
            "steps_per_epoch", "stills", "stills_per_epoch", "subject_kept", "subject_whole", "voxels_per_item",
        ],
        "NotUsed": ["kind", "name", "reason"],
        "Pixels": ["cropped", "frames", "large", "remainder", "scaled", "short", "small", "used"],
        "PolicyAudit": ["batching", "items", "ledger", "lost_clips", "name", "refused"],
        "Room": ["clips", "padding", "unfilled"],
        "ShapeCount": ["num", "shape"],
        "SizeRange": ["least", "median", "most"],
        "StepCost": [
            "backbone", "forward_flops", "least_step_time_s", "least_time_per_used_voxel_s", "num_tokens", "policy", "refused",
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "'nowhere' is neither a folder nor a matrix"),
        (["no/where"], "'no/where' is no folder; name one that holds videos"),
        (["quikc"], "(did you mean 'quick'?)"),
        (["nowhere.yaml"], "no matrix file nowhere.yaml"),
        (["{videos}"], "the audit of a folder needs --shape, as 16x64x64"),
        (["{videos}", "--shape", "4x16x16"], "the audit of a folder needs --voxel-budget, as 8192"),
        (["{videos}", "--shape", "4x16"], "the audit of a folder needs --voxel-budget"),
        (["{videos}", "--voxel-budget", "64", "--shape", "4x16"], "--shape '4x16' is not TxHxW"),
        (["{videos}", "--voxel-budget", "64", "--shape", "4x40x32"], "--shape: height 40 is not a multiple of --multiple 16; use 32 or 48"),
        (
            ["{videos}", "--voxel-budget", "9", "--shape", "4x16x16"],
            "--voxel-budget 9 holds no clip of --shape, which has 16 latent voxels; use",
        ),
        (
            ["{videos}", "--voxel-budget", "64", "--shape", "4x16x16", "--multiple", "12"],
            "--multiple 12 is not a multiple of --stride 8; use 8",
        ),
        (
            ["{videos}", "--voxel-budget", "64", "--shape", "4x16x16", "--policy", "packed"],
            "unknown batching policy 'packed' (did you mean 'pack'?)",
        ),
        (
            ["{videos}", "--voxel-budget", "64", "--shape", "4x16x16", "--backbone", "audit_plugin:Cell"],
            "(did you mean 'audit_plugin:Cells'?)",
        ),
        (["{videos}", "data.height=3"], "override 'data.height=3' is for a matrix"),
        (["{empty}", "--voxel-budget", "64", "--shape", "4x16x16"], "no video in "),
        (["{videos}", "--voxel-budget", "640", "--shape", "6x16x16"], "has fewer than three clips of 6 frames, and a study needs"),
        (["{videos}", "--voxel-budget", "640", "--shape", "20x16x16"], "no file is long enough for clips of 20x16x16"),
        (["quick", "--shape", "4x16x16"], "--shape is for a folder of videos; matrix quick says it itself"),
        (["quick", "--voxel-budget", "64"], "--voxel-budget is for a folder of videos"),
        (["quick", "data.heigth=3"], "did you mean 'height'?"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [argument.format(videos=videos, empty=tmp_path / "empty") for argument in arguments]
    monkeypatch.setattr("sys.argv", ["bench", "audit", *filled])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if not line.startswith("audit: ")]  # the rest is progress
    assert stopped.value.code == 2 and len(errors) == 1 and errors[0].startswith("error: ") and not said.out
    assert message in errors[0]


def test_counts_need_no_torch(videos: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from bench.cli import app\n"
        f"outcome = CliRunner().invoke(app, ['audit', {str(videos)!r}, '--shape', '4x16x16', '--voxel-budget', '64', '--json'])\n"
        "assert outcome.exit_code == 0, outcome.output\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


SHAPES = [(frames, height, width) for frames in (1, 2, 5, 8) for height in (2, 4, 6) for width in (2, 4, 8)]


@pytest.mark.parametrize(
    ("cost", "is_polynomial"),
    [
        (lambda t, h, w: 7 + 5 * t * h * w + 3 * t * (h * w) ** 2 + 2 * h * w * t * t + (t * h * w) ** 2, True),
        (lambda t, h, w: 11 * t * h * w, True),
        (lambda t, h, w: t * h * w * (h + w), False),  # attention along rows and columns
        (lambda t, h, w: t * -(-h // 4) * -(-w // 4), False),  # padded to windows
    ],
)
def test_few_counts_are_all_of_them_or_none(cost: Callable[[int, int, int], int], is_polynomial: bool) -> None:
    calls: list[Shape] = []

    def count(shape: Shape) -> int:
        calls.append(shape)
        return cost(*shape)

    told: list[tuple[int, int]] = []
    found = many.at_all(SHAPES, count, lambda done, total: told.append((done, total)))
    assert found == {shape: cost(*shape) for shape in SHAPES}
    assert len(calls) == len(set(calls)) == (len(many.POWERS) + many.PROOFS if is_polynomial else len(SHAPES))
    assert told[-1] == (told[-1][1],) * 2
    assert many.at_all(SHAPES[:3], count, lambda done, total: None) == {shape: cost(*shape) for shape in SHAPES[:3]}


@pytest.mark.parametrize("name", ["baselines:UNet-XS", "dit:DiT-XS/2"])
def test_our_backbones_cost_a_polynomial(name: str) -> None:
    from bench.backbone import load_backbone
    from bench.commands.audit.costs import _count

    with torch.device("meta"):
        backbone = load_backbone(name, SPEC)
    shapes = [(frames, height, width) for frames in (1, 4, 7) for height in (4, 8) for width in (4, 12, 16)]
    calls: list[Shape] = []

    def count(shape: Shape) -> int:
        calls.append(shape)
        return _count(backbone, SPEC, shape)

    found = many.at_all(shapes, count, lambda done, total: None)
    assert len(calls) < len(shapes)
    for shape in set(shapes) - set(calls):
        assert found[shape] == _count(backbone, SPEC, shape)


def test_json_is_only_json(videos: Path, tmp_path: Path) -> None:
    outcome = command(videos, "--shape", "4x16x16", "--voxel-budget", 64, "--stride", 4, "--out", tmp_path / "out", "--json")
    assert json.loads(outcome.stdout)["schema_version"] == 2
    assert outcome.stderr.splitlines()[-1].endswith("ledger.svg")
