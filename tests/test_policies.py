"""A batching policy and a budget axis are one object each: nothing asks for one by its name, and one from outside is like ours."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from report_factory import study, write_run

from bench.commands.audit.account import accounts
from bench.commands.audit.subject import FolderOptions, of_matrix
from bench.data.plugin import registered
from bench.data.policy.config import Batching
from bench.data.policy.table import POLICIES, UNIFORM
from bench.report import build
from bench.report.load import load_run
from bench.report.page import tables
from bench.report.render.budget import budget_text
from bench.report.verdicts import compare, findings
from bench.report.verdicts.claim_table import claim_of
from bench.run.checks import check_cell
from bench.shapes import Refusal
from bench.study.budget import BUDGETS, Budget, Spent
from bench.study.cell import Cell
from bench.study.matrix import load_study
from tests.tiny import linear_trainer, mixed_set, tiny_cell

ROOT = Path(__file__).parents[1]
ROOMS = {"bench/data/policy", "bench/study/budget.py"}  # where the objects are
MODULE = '''
from bench.data.policy.contract import BatchingPolicy
from bench.data.policy.own_shapes import at_own_shapes
from bench.study.budget import BudgetAxis


def pairs(order, shapes, cost, voxel_budget):
    """Two by two, padded, as they come; a last one waits."""
    return [list(order[place : place + 2]) for place in range(0, len(order) - 1, 2)]


PAIRS = BatchingPolicy(
    name="pairs", word="pairs", family="pairs", fit=at_own_shapes, plan=pairs, pads=True, against="pad"
)
STRANGER = BatchingPolicy(name="other", word="others", family="others", fit=at_own_shapes, plan=pairs)
FORWARD = BudgetAxis(
    name="giga_macs", used=lambda spent: spent.forward_flops / 2e9, words="GMAC of forward passes", whole=False, measurement="train_flops"
)
'''
METADATA = """[unet_vs_dit.policies]
pairs = outside_plugin:PAIRS
crop = outside_plugin:STRANGER
misnamed = outside_plugin:STRANGER
absent = outside_plugin:ABSENT
gone = no_such_module:THING

[unet_vs_dit.budgets]
giga_macs = outside_plugin:FORWARD
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another distribution, installed: a module, and beside it the metadata that names its objects."""
    site = tmp_path / "site"
    info = site / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(METADATA)
    (site / "outside_plugin.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(site))
    registered.cache_clear()
    yield
    registered.cache_clear()


def named_in(tree: ast.AST, names: set[str]) -> list[tuple[int, str]]:
    """Lines of a syntax tree that compare with one of `names`, look one up in a table, or have a table of them."""
    found = []
    for node in ast.walk(tree):
        parts: list[Any] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Match):
            parts = [case.pattern for case in node.cases]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]
        inner = [leaf for part in parts for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)]
        found += [(leaf.lineno, leaf.value) for leaf in inner if isinstance(leaf.value, str) and leaf.value in names]
    return found


def test_nothing_asks_for_a_policy_by_its_name() -> None:
    """Sets and tuples of names on the right of `in` count; so do keys of a table."""
    names, found = set(POLICIES.own), {}
    for path in sorted((ROOT / "bench").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not any(name.startswith(room) for room in ROOMS) and (lines := named_in(ast.parse(path.read_text()), names)):
            found[name] = lines
    assert found == {}


def test_nothing_has_a_second_table_of_budgets() -> None:
    axes, found = set(BUDGETS.own), {}
    for path in sorted((ROOT / "bench").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        lines = named_in(ast.parse(path.read_text()), axes)
        if name not in ROOMS and len({axis for _, axis in lines}) > 1:
            found[name] = lines
    assert found == {}


def test_the_reader_of_names_sees_them() -> None:
    for text in ('a == "pack"', 'a in ("x", "pad")', '{"crop": 1}', 't["bucket"]', 'match a:\n case "pad":\n  pass', '{(b, "pack")} <= c'):
        assert len(named_in(ast.parse(text), set(POLICIES.own))) == 1, text
    assert not named_in(ast.parse('a = "pack"\nf("crop")'), set(POLICIES.own))


def test_ours_by_hand() -> None:
    assert list(POLICIES.own) == ["crop", "bucket", "pack", "pad"] and UNIFORM == ("bucket", "pad")
    of = {field: [name for name, policy in POLICIES.own.items() if getattr(policy, field)] for field in vars(POLICIES.find("crop"))}
    assert (of["pads"], of["needs_ragged"], of["one_shape"], of["baseline"]) == (["pad"], ["pack"], ["crop"], ["crop"])
    assert (of["drops_tokens"], of["takes_buckets"], of["full_batches"]) == (["pack"], ["bucket"], ["crop", "bucket"])
    assert POLICIES.find("pad").given([(1, 6, 8), (4, 8, 2)]) == ((4, 8, 8),) * 2
    assert POLICIES.find("pack").given([(1, 6, 8), (4, 8, 2)]) == ((1, 6, 8), (4, 8, 2))
    spent = Spent(steps=3, samples=5, latent_voxels=70, forward_flops=11, seconds=0.5)
    assert {name: axis.used(spent) for name, axis in BUDGETS.own.items()} == {
        "steps": 3, "samples": 5, "latent_voxels": 70, "train_flops": 33, "seconds": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "dumped"),
    [({"steps": 4}, '{"steps":4}'), ({"steps": 4.0, "seconds": None}, '{"steps":4}'), ({"seconds": 200}, '{"seconds":200.0}')],
)
def test_a_budget_is_stored_as_its_one_axis(given: dict[str, Any], dumped: str) -> None:
    budget = Budget(**given)
    assert budget.model_dump_json() == dumped and Budget.model_validate_json(dumped) == budget
    assert budget.model_dump() == json.loads(dumped) == {budget.axis: budget.amount}
    assert Budget(steps=4) != Budget(steps=5) and budget.parts == (4 if "steps" in dumped else 1000)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.steps=0", "budget.steps 0 samples weights as they are, and these are random; give initialise: pretrained"),
        ("budget.steps=2.5", "budget.steps must be a whole number from 1 to 10^18, got 2.5"),
        ("budget.seconds=-1", "budget.seconds must be a number above 0, got -1"),
        ("budget.seconds=.inf", "budget.seconds must be a number above 0, got inf"),
        (
            "budget={steps: 3, seconds: 4}",
            "budget needs exactly one of steps, samples, latent_voxels, train_flops, seconds, got steps, second",
        ),
        ("budget.secs=4", "unknown budget axis 'secs' (did you mean 'seconds'?); there are steps, samples"),
        ("batching.policy=pakc", "unknown batching policy 'pakc' (did you mean 'pack'?); there are crop, bucket, pack, pad"),
    ],
)
def test_what_is_no_policy_and_no_budget_is_told_what_would_be(override: str, message: str) -> None:
    with pytest.raises(Refusal) as error:
        load_study("quick", [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_budget_may_be_given_whole() -> None:
    assert load_study("quick", ["budget={steps: 3}"]).cells[0].cell.budget == Budget(steps=3)


@pytest.mark.usefixtures("outside")
def test_a_cell_trains_with_a_policy_and_a_budget_from_outside(tmp_path: Path) -> None:
    cell = tiny_cell(batching={"policy": "pairs", "voxel_budget": 48}, budget={"giga_macs": 1.5e-6 * 5})
    assert Cell.model_validate_json(cell.model_dump_json()) == cell
    assert cell.fingerprint() != tiny_cell(batching={"policy": "pad", "voxel_budget": 48}, budget={"giga_macs": 1.5e-6 * 5}).fingerprint()
    data = mixed_set([(4, 3, 4, 2), (4, 1, 4, 4), (4, 3, 2, 2), (4, 2, 4, 2), (4, 1, 2, 2)])
    seen = []
    trainer = linear_trainer(cell, tmp_path, train=data, val=data, progress=lambda done, total, what: seen.append((done, total)))
    training = trainer.train()
    # Two clips of 1000 FLOPs a step, 1e-6 GMAC: the budget of 7.5 is used after eight.
    assert (training.num_steps, training.num_samples) == (8, 16)
    assert seen[:2] == [(133, 1000), (266, 1000)] and seen[-1] == (1000, 1000)
    assert all(len({tuple(clip.shape) for clip in trainer.draw(step).latents}) == 1 for step in range(4))  # padded
    assert training.validation[-1].loss > 0


@pytest.mark.usefixtures("outside")
def test_a_policy_from_outside_has_an_account(tmp_path: Path) -> None:
    fields = ["data.num_train=9", "budget={giga_macs: 1}", "batching.voxel_budget=4320"]
    matrix = (ROOT / "bench/study/matrices/shapes.yaml").read_text().replace("batching.policy: bucket", "batching.policy: pairs")
    (tmp_path / "own.yaml").write_text(matrix)
    named = load_study(str(tmp_path / "own.yaml"), fields)
    for each in named.cells:
        check_cell(each.cell)
    options = FolderOptions(shape=None, voxel_budget=None, backbones=(), policies=(), stride=None, multiple=None)
    subject = of_matrix(named, options, tmp_path, lambda done, total, what: None)
    found = {account.policy.name: account for account in accounts(subject)}
    assert "pairs" in found and found["pairs"].policy.refused is None
    account = found["pairs"].policy.ledger
    assert account is not None and account.steps_per_epoch == 4 and account.pixels.remainder > 0 and account.room.padding > 0
    assert all(len(set(batch)) == 1 and len(batch) == 2 for batch in found["pairs"].batches)


@pytest.mark.usefixtures("outside")
def test_a_report_speaks_of_both(tmp_path: Path) -> None:
    unet, dit = "baselines:UNet-XS", "dit:DiT-XS/2"
    values = {(name, policy): [own + seed for seed in (0.0, 0.1, 0.3)] for name in (unet, dit)
              for policy, own in (("crop", 30.0), ("pad", 20.0), ("pairs", 10.0))}  # fmt: skip
    run = load_run(write_run(tmp_path, study(values), claim="shapes", sheets=False))
    found = findings.find(run)
    assert list(dict.fromkeys(block.design.pipeline for block in found.blocks)) == ["own shapes", "pairs"]
    shown = claim_of("shapes").ratios(run, found)
    assert shown is not None and shown.others == ("own shapes", "pairs") and [ratio.value for ratio in shown.rows[0].ratios][1] > 2.9
    contrasts = {line[1]: line[3] for line in tables.contrast_table(found.contrasts).rows}
    assert contrasts["UNet-XS pairs \u2212 UNet-XS pad"].startswith("pairs better, carried")
    assert build([tmp_path / "invented"], tmp_path / "out")
    assert budget_text("giga_macs", 3.0) == "3 GMAC of forward passes"
    budget = SimpleNamespace(axis="giga_macs", amount=3.0)
    record = SimpleNamespace(cell=SimpleNamespace(budget=budget))
    fixed: Any = SimpleNamespace(cells=[SimpleNamespace(record=record, further=False)])
    assert compare.fixed_by_budget(fixed, "train_flops") and not compare.fixed_by_budget(fixed, "train_steps")


@pytest.mark.usefixtures("outside")
def test_what_is_registered_never_takes_the_place_of_ours_and_says_what_is_wrong_with_it() -> None:
    assert POLICIES.names() == ["crop", "bucket", "pack", "pad", "absent", "gone", "misnamed", "pairs"]
    assert POLICIES.find("crop").word == "crops"
    assert [policy.name for policy in POLICIES.among(["pairs", "pad", "unheard"])] == ["pad", "pairs"]
    for name, message in (("gone", "there is no module 'no_such_module'; install it"), ("absent", "no BatchingPolicy; mend")):
        with pytest.raises(Refusal, match=message):
            POLICIES.find(name)
    with pytest.raises(ValidationError, match="'misnamed' is registered for an object that is called"):
        Batching(policy="misnamed", voxel_budget=9)


def test_a_report_of_what_is_not_installed_keeps_its_words() -> None:
    assert budget_text("giga_macs", 3.0) == "3 giga_macs"
    assert [budget_text(*budget) for budget in (("steps", 1200), ("seconds", 90.0), ("train_flops", 1.2e15))] == [
        "1,200 training steps", "90 seconds of training", "1.20 training PFLOP",
    ]  # fmt: skip
