"""Several processes for one cell: they see what one would see, and come to the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.backbone import load_backbone
from bench.shapes import Refusal
from bench.study.cell import Parallel
from bench.training.draws import Drawer
from bench.training.ranks import ALONE, balanced, check_sharded
from tests.commands import here, write_matrix
from tests.several import BATCH, SCENARIOS, SPEC, cell, differences, result, several, trainer
from tests.tiny import Linear, latent_set, mixed_set, tiny_cell

CPU = torch.device("cpu")
# Parts of weights are gathered alike whatever batches are made of: of policies whose batches are of one shape, crop stands for those two.
ONLY_WHOLE = ("dit-bucket", "unet-pad")
EVERY = [f"{name}:{kind}" for name in SCENARIOS for kind in (("ddp",) if name in ONLY_WHOLE else ("ddp", "fsdp"))]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def by(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every scenario by one process as ever, and by two; some by four."""
    folder = tmp_path_factory.mktemp("several")
    for scenario in SCENARIOS:
        result(trainer(cell(scenario, "none", 1), folder / scenario), folder / f"{scenario}-none-1.safetensors")
    several(2, folder, *EVERY, "dit-crop:fsdp:stop", "unet-crop:ddp:stop")
    several(4, folder, "dit-pack:ddp", "unet-crop:fsdp", "dit-crop:fsdp:resume", "unet-crop:ddp:resume")
    return folder


@pytest.mark.parametrize("scenario", EVERY)
def test_two_processes_come_to_what_one_comes_to(by: Path, scenario: str) -> None:
    name, kind = scenario.split(":")
    assert max(differences(by / f"{name}-none-1.safetensors", by / f"{name}-{kind}-2.safetensors").values()) < CLOSE
    work = [json.loads((by / f"{name}-{way}.json").read_text())["work"] for way in ("none-1", f"{kind}-2")]
    assert work[0] == work[1]  # of all processes


@pytest.mark.parametrize("scenario", ["dit-pack-ddp-4", "unet-crop-fsdp-4"])
def test_four_do(by: Path, scenario: str) -> None:
    one = scenario.rsplit("-", 2)[0]
    assert max(differences(by / f"{one}-none-1.safetensors", by / f"{scenario}.safetensors").values()) < CLOSE


@pytest.mark.parametrize("scenario", ["dit-crop-fsdp", "unet-crop-ddp"])
def test_what_two_began_four_go_on_with(by: Path, scenario: str) -> None:
    one = scenario.rsplit("-", 1)[0]
    assert max(differences(by / f"{one}-none-1.safetensors", by / f"{scenario}-4-resumed.safetensors").values()) < CLOSE
    kept = sorted(path.name for path in (by / scenario).glob("*checkpoint*"))
    assert kept == (["checkpoint-4"] if scenario.endswith("fsdp") else ["checkpoint.pt"])


def test_the_imbalance_of_packs_is_told(by: Path) -> None:
    """Clips of one shape split evenly; others nearly."""
    even, packs = (json.loads((by / f"{name}.json").read_text())["imbalance"] for name in ("dit-crop-ddp-2", "dit-pack-ddp-2"))
    assert even == [0.0] * 4 and len(packs) == 4 and min(packs) >= 0 and max(packs) < 0.7


@pytest.mark.parametrize("scenario", ["dit-crop-ddp-2", "dit-crop-fsdp-2", "unet-crop-fsdp-4", "unet-crop-ddp-4-resumed"])
def test_the_memory_of_every_process_is_told(by: Path, scenario: str) -> None:
    """Where other processes began, of those that ended it."""
    peaks = json.loads((by / f"{scenario}.json").read_text())["peaks"]
    assert list(peaks) == ["peak_rss_bytes"] and len(peaks["peak_rss_bytes"]) == int(scenario.split("-")[3])
    assert min(peaks["peak_rss_bytes"]) > 2**25 and len(set(peaks["peak_rss_bytes"])) > 1
    assert json.loads((by / "dit-crop-none-1.json").read_text())["peaks"] == {}


@pytest.mark.parametrize("num", [1, 2, 3, 5])
def test_each_clip_of_a_batch_is_one_processs(num: int) -> None:
    """With the noise and the timestep of its place among all draws."""
    own = tiny_cell(batching={"policy": "pack", "voxel_budget": 160})
    drawer = Drawer(own, mixed_set([(4, 2, 4, 4), (4, 1, 4, 8), (4, 4, 4, 4)]), Linear(), CPU)
    batch = drawer.stream.batch(1)
    whole = drawer.draw(batch)
    costs = drawer.shapes_of(batch).flops(lambda shape: shape[0] * shape[1] * shape[2], lambda shape: 1)
    parts = balanced(costs, num)
    assert sorted(place for part in parts for place in part) == list(range(len(batch.items)))
    for part in parts:
        drawn = drawer.draw(batch, part, num)
        for place, clip, target in zip(part, drawn.latents, drawn.targets, strict=bool(part)):
            assert torch.equal(clip, whole.latents[place]) and torch.equal(target, whole.targets[place])
        assert drawn.num_values == whole.num_values and drawn.factor == (num if part else 0)
        assert drawn.work(lambda shape: 1, lambda shape: 2) == whole.work(lambda shape: 1, lambda shape: 2)


def test_the_losses_of_all_parts_average_to_that_of_the_batch() -> None:
    own = tiny_cell(batching={"batch_size": BATCH})
    drawer, net = Drawer(own, latent_set(), Linear(), CPU), Linear()
    batch = drawer.stream.batch(0)
    parts = [drawer.draw(batch, places, 3).loss(net).item() for places in ([0, 2, 3], [1], [])]
    assert sum(parts) / 3 == pytest.approx(drawer.draw(batch).loss(net).item(), rel=1e-6)


def test_the_dearest_clips_are_spread_first() -> None:
    costs = [8, 7, 6, 5, 4, 3, 2, 1]
    parts = balanced(costs, 3)
    loads = [sum(costs[place] for place in part) for part in parts]
    assert max(loads) - min(loads) <= 2 and sum(loads) == 36
    assert balanced([1] * 7, 2) == [[0, 2, 4, 6], [1, 3, 5]]  # the same in every process


@pytest.mark.parametrize("name", ["tests.small:DiT-XXS/2", "tests.small:UNet-XXS"])
def test_every_weight_is_in_one_unit_at_most_and_most_are_in_one(name: str) -> None:
    """Inner units come before those that they are in, whose own weights are then the rest."""
    backbone: Any = load_backbone(name, SPEC)
    units, seen = backbone.shard_units(), set[int]()
    for unit in units:
        assert all(isinstance(module, nn.Module) for module in unit)
        weights = {id(weight) for module in unit for weight in module.parameters()} - seen
        assert weights
        seen |= weights
    sizes = {id(weight): weight.numel() for weight in backbone.parameters()}
    assert sum(sizes[weight] for weight in seen) > 0.8 * sum(sizes.values())


def test_alone_nothing_is_communicated() -> None:
    """There is no group of processes here: anything that asks for one raises."""
    assert ALONE.total(torch.ones(2)).tolist() == [1, 1] and ALONE.lists(3) == [3] and ALONE.of_leader([2.5]) == [2.5]
    assert ALONE.counts({"a": 2**40 + 1}, ("a", "b")) == {"a": [2**40 + 1]}
    assert ALONE.any(True) and not ALONE.any(False) and ALONE.own(3) == [0, 1, 2] and ALONE.leads
    ALONE.wait()


def test_a_backbone_that_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(
        Refusal, match=r"parallel.kind=fsdp needs a backbone with shard_units\(\), and Linear has none; use parallel.kind=ddp"
    ):
        check_sharded(Linear())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["parallel.kind=ddp", "parallel.processes=3"], "parallel.processes 3 is more than the 2 clips of a batch"),
        (["parallel.processes=2"], "parallel.processes 2 needs a way to spread the weights; give parallel.kind=ddp or fsdp"),
        (["parallel.kind=ddp", "acceleration.compile=auto"], "acceleration.compile 'auto' is for one process"),
        (["parallel.kind=fsdp", "parallel.processes=2", "backbone=tests.unsharded:Linear"], "needs a backbone with shard_units()"),
    ],
)
def test_what_cannot_be_spread_is_refused_in_a_line(tmp_path: Path, overrides: list[str], told: str) -> None:
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "r", "match=null", *overrides)
    assert done.returncode == 2 and told in done.stderr, done.stderr


def test_a_cell_of_one_process_keeps_its_fingerprint() -> None:
    """Records of before name it."""
    plain = tiny_cell()
    assert "parallel" not in plain.model_dump() and plain.parallel == Parallel()
    other = tiny_cell(parallel={"kind": "ddp", "processes": 2})
    assert other.model_dump()["parallel"] == {"kind": "ddp", "processes": 2} and other.fingerprint() != plain.fingerprint()
