"""Matrices: expansion, overrides, and one clear line for whatever is wrong."""

import re
from pathlib import Path

import pytest
import yaml

from bench.commands.listing import print_study
from bench.run.checks import check_all, check_cell
from bench.shapes import Refusal, lines_of
from bench.study.cell import Cell
from bench.study.matrix import MATRICES, NamedCell, load_study, shipped
from tests.tiny import cell_fields, tiny_cell


def write(tmp_path: Path, **changes: object) -> str:
    defaults = cell_fields()
    del defaults["backbone"]
    matrix = {
        "description": "d",
        "axes": {"backbone": ["baselines:UNet-XS", "dit:DiT-XS/2"]},
        "seeds": [0, 1],
        "defaults": defaults,
        **changes,
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(matrix))
    return str(path)


@pytest.mark.parametrize("name", shipped())
def test_shipped_matrices_resolve_and_take_their_shapes(name: str) -> None:
    study = load_study(name)
    assert study.cells
    for named in study.cells:
        check_cell(named.cell)


def test_cells_are_the_product_of_axes_and_seeds(tmp_path: Path) -> None:
    study = load_study(write(tmp_path))
    assert [named.name for named in study.cells] == ["UNet-XS-seed0", "UNet-XS-seed1", "DiT-XS_2-seed0", "DiT-XS_2-seed1"]
    assert [(a.name, b.name) for a, b in study.rivals()] == [("UNet-XS-seed0", "DiT-XS_2-seed0"), ("UNet-XS-seed1", "DiT-XS_2-seed1")]
    assert len({named.cell.fingerprint() for named in study.cells}) == 4


def test_include_and_exclude(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        include=[{"backbone": "dit:DiT-XS/2-sincos", "budget": {"steps": 9}}],
        exclude=[{"backbone": "baselines:UNet-XS", "seed": 1}],
    )
    study = load_study(path)
    assert [named.name for named in study.cells] == [
        "UNet-XS-seed0", "DiT-XS_2-seed0", "DiT-XS_2-seed1", "DiT-XS_2-sincos-steps=9-seed0", "DiT-XS_2-sincos-steps=9-seed1",
    ]  # fmt: skip
    assert study.cells[-1].cell.budget.steps == 9


def test_a_backbone_may_carry_changes_as_text_or_as_a_mapping(tmp_path: Path) -> None:
    deeper = "dit:DiT-XS/2{depth: 5, hidden_size: 160}"
    for written in ("dit:DiT-XS/2{hidden_size: 160,depth: 5}", {"name": "dit:DiT-XS/2", "hidden_size": 160, "depth": 5}):
        study = load_study(write(tmp_path, axes={"backbone": ["dit:DiT-XS/2", written]}, seeds=[0]))
        assert [named.name for named in study.cells] == ["DiT-XS_2-seed0", "DiT-XS_2-depth=5-hidden_size=160-seed0"]
        assert [named.cell.backbone for named in study.cells] == ["dit:DiT-XS/2", deeper]
        assert study.cells[1].axes == {"backbone": deeper}
        assert len(study.rivals()) == 1
        for named in study.cells:
            check_cell(named.cell)
        path = write(tmp_path, axes={"backbone": ["dit:DiT-XS/2"]}, seeds=[0], include=[{"backbone": written}])
        included = load_study(path).cells
        assert tuple(named.model_copy(update={"further": False}) for named in included) == study.cells
        assert [named.further for named in included] == [False, True]
        without = load_study(write(tmp_path, include=[{"backbone": written}], exclude=[{"backbone": written}]))
        assert without.cells == load_study(write(tmp_path)).cells
    study = load_study(write(tmp_path), [f"backbone=['{deeper}']", "seeds=[0]"])
    assert [named.cell.backbone for named in study.cells] == [deeper]


def test_one_field_of_a_backbone_may_be_an_axis(tmp_path: Path) -> None:
    defaults = {**cell_fields(), "backbone": {"name": "dit:DiT-XS/2"}}
    study = load_study(write(tmp_path, defaults=defaults, axes={"backbone.depth": [2, 3]}, seeds=[0]))
    assert [(named.name, named.cell.backbone) for named in study.cells] == [
        ("depth=2-seed0", "dit:DiT-XS/2{depth: 2}"),
        ("depth=3-seed0", "dit:DiT-XS/2{depth: 3}"),
    ]
    exclude = [{"backbone": {"name": "dit:DiT-XS/2", "depth": 3}}]
    path = write(tmp_path, defaults=defaults, axes={"backbone.depth": [2, 3]}, seeds=[0], exclude=exclude)
    assert load_study(path).cells == study.cells[:1]


def test_folder_names_stay_short_and_distinct(tmp_path: Path) -> None:
    names = [f"baselines:UNet-XS{{block_channels: [32, {width}]}}" for width in (80, 96)]
    long = {"block_channels": [32, 64, 80, 96, 112], "context_width": 256, "head_dim": 16, "norm_groups": 8, "num_res_blocks": 3}
    long_names = [{"name": "baselines:UNet-XS", **long, "context_width": width} for width in (256, 257)]
    study = load_study(write(tmp_path, axes={"backbone": [*names, *long_names]}, seeds=[0]))
    slugs = [named.name for named in study.cells]
    assert slugs[:2] == ["UNet-XS-block_channels=32_80-seed0", "UNet-XS-block_channels=32_96-seed0"]
    assert all(re.fullmatch("UNet-XS-[0-9a-f]{8}-seed0", slug) for slug in slugs[2:])
    assert len(set(slugs)) == 4
    # With a colon among the changes, and the module kept where two modules share a name.
    study = load_study(write(tmp_path, axes={"backbone": ["a:X{b: 'c:d'}", "b:X{b: 'c:d'}"]}, seeds=[0]))
    assert [named.name for named in study.cells] == ["a_X-b=c_d-seed0", "b_X-b=c_d-seed0"]


def test_excluded_cells_need_not_be_valid(tmp_path: Path) -> None:
    path = write(tmp_path, axes={"backbone": ["dit:DiT-XS/2"], "batching.batch_size": [0, 2]}, exclude=[{"batching.batch_size": 0}])
    assert len(load_study(path).cells) == 2


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path)
    study = load_study(path, ["optimizer.learning_rate=1e-4", "budget.seconds=5", "seeds=[3]", "backbone=dit:DiT-XS/2", "data.height=32"])
    assert [named.name for named in study.cells] == ["DiT-XS_2-seed3"]
    cell = study.cells[0].cell
    assert (cell.optimizer.learning_rate, cell.budget.axis, cell.budget.amount, cell.data.height) == (1e-4, "seconds", 5, 32)


def test_overrides_change_the_fingerprint_of_their_cells(tmp_path: Path) -> None:
    path = write(tmp_path)
    before, after = load_study(path).cells[0].cell, load_study(path, ["optimizer.grad_clip=2"]).cells[0].cell
    assert before.fingerprint() != after.fingerprint()
    assert load_study(path).cells[0].cell.fingerprint() == before.fingerprint()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["budgets.steps=3"], "did you mean 'budget'"),
        (["budget.stepz=3"], "did you mean 'steps'"),
        (["lr=0.001"], "unknown field 'lr' (did you mean autoencoder.learning_rate or optimizer.learning_rate?)"),
        (["num_steps=3"], "did you mean autoencoder.num_steps or sampler.num_steps?"),
        (["seeds=3"], "seeds: Input should be a valid list, such as [3]"),
        (["evaluation.extractors=motion"], "Input should be a valid tuple, such as [motion]"),
        (["sampler.num_steps=[2,4]"], "a list makes an axis only under `axes` of a matrix file"),
        (["data.num_trian=3"], "did you mean 'num_train'"),
        (["sampler.solver=eular"], "'euler'"),
        (["optimizer.learning_rat=3"], "did you mean 'learning_rate'"),
        (["batching.batch_size=0"], "batching.batch_size"),
        (["seed=1"], "seeds=[1]"),
        (["nonsense"], "not key=value"),
        (["sampler.solver=ddim"], "cannot sample rectified_flow"),
        (["evaluation.num_samples=1"], "num_samples must be 0 or 2 and more"),
        (["evaluation.points=[0.5, 0.2]"], "between 0 and 1, in their order"),
        (["evaluation.num_samples=400"], "num_val"),
        (["autoencoder.kind=trainde"], "trained"),
        (["autoencoder.widht=3"], "did you mean 'width'"),
        (["data.source=wrlds"], "did you mean 'worlds'"),
        (["axes.backbone=[]"], "no cells"),
        (["data=worlds"], "data is 'worlds', not a mapping; write {source: worlds, ...}"),
        (["match={a: 1}"], "unknown field 'match.a'"),
        (["optimizer.learning_rate=.inf"], "optimizer.learning_rate: Input should be a finite number"),
        (["data.num_train=1000000000000"], "num_train: Input should be less than or equal to 10000000 (got 1000000000000)"),
        (["backbone=dit:DiT-XS/2{depth: 5}"], "in quotes"),
        (["backbone=['dit:DiT-XS/2{depth:5}']"], "with a space behind each colon"),
        (["backbone=[{depth: 5}]"], "has no name"),
        (["backbone.depth=5"], "'backbone' is an axis of this matrix"),
    ],
)
def test_bad_overrides_name_the_thing_and_the_remedy(tmp_path: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(Refusal) as error:
        load_study(write(tmp_path), overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_too_many_cells_are_refused_before_any_is_made(tmp_path: Path) -> None:
    axes = {f"optimizer.field{place}": list(range(100)) for place in range(8)}
    with pytest.raises(Refusal, match=r"20,000,000,000,000,000 cells, at most 10,000 can be"):
        load_study(write(tmp_path, axes=axes))


def test_unknown_matrix_field_and_name(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="did you mean 'seeds'"):
        load_study(write(tmp_path, seedz=[1]))
    with pytest.raises(Refusal, match="did you mean 'quick'"):
        load_study("quik")
    with pytest.raises(Refusal, match="no matrix file"):
        load_study(str(tmp_path / "absent.yaml"))
    for content in (b"a: [", "description: \u00e9".encode("latin-1"), b"a: " + b"[" * 3000 + b"]" * 3000):
        (tmp_path / "broken.yaml").write_bytes(content)
        with pytest.raises(Refusal, match=r"not readable as (YAML|text)|more than 50 deep"):
            load_study(str(tmp_path / "broken.yaml"))


def test_same_cell_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="two cells have the content of UNet-XS-seed0"):
        load_study(write(tmp_path, seeds=[0, 0]))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["backbone=dit:DiT-SX/2"], "did you mean 'dit:DiT-S"),
        (["backbone=diit:DiT-XS/2"], "did you mean 'dit'"),
        (["backbone=DiT-XS/2"], "module:config"),
        (["backbone=os:DiT"], "no dict BACKBONES"),
        (["backbone=dit:DiT-XS/2", "data.height=20"], "height divisible by 2, got 5"),
        (["backbone=baselines:UNet-XS", "data.width=20"], "width divisible by 2, got 5"),
        (["data.width=18"], "width 18 is not a multiple"),
        (["backbone=['dit:DiT-XS/2{depht: 5}']"], "no field 'depht' (did you mean 'depth'?)"),
        (["backbone=['dit:DiT-XS/2{patch_size: [4, 2, 2]}']", "data.num_frames=6"], "frames divisible by 4, got 6"),
    ],
)
def test_preflight_names_backbone_and_size(tmp_path: Path, overrides: list[str], expected: str) -> None:
    study = load_study(write(tmp_path), overrides)
    with pytest.raises(ValueError, match="cell ") as error:
        check_all(study.cells, check_cell)
    assert expected in str(error.value)


def test_an_override_that_included_cells_would_undo_is_refused() -> None:
    for override in ("batching.policy=pack", "batching={policy: pack, voxel_budget: 9}", "backbone=[dit:DiT-XS/2]"):
        with pytest.raises(Refusal, match=r"have their own '(batching\.policy|backbone)', which would win"):
            load_study("shapes", [override])
    assert len(load_study("shapes", ["batching.voxel_budget=2000"]).cells) == 18


@pytest.mark.parametrize(
    ("override", "now"), [("batching.cell_budget=100", "'voxel_budget'"), ("budget.latent_cells=100", "'latent_voxels'")]
)
def test_old_words_are_told_the_new_ones(override: str, now: str) -> None:
    with pytest.raises(Refusal, match=f"did you mean {now}"):
        load_study("shapes", [override])


@pytest.mark.parametrize("override", ["budgets.steps=3", "seed=3", "steps", "budget.steps=["])
def test_an_override_that_cannot_be_is_named(override: str) -> None:
    with pytest.raises(Refusal, match=f"^override {re.escape(repr(override))}: "):
        load_study("smoke", [override])


def test_what_is_wrong_with_several_cells_is_said_once_with_their_names() -> None:
    def check(cell: Cell) -> None:
        if cell.seed < 3:
            raise Refusal("even seeds are odd" if cell.seed % 2 == 0 else "odd seeds are even")

    named = [NamedCell(name=f"c{seed}", axes={}, cell=tiny_cell(seed=seed)) for seed in range(5)]
    with pytest.raises(Refusal) as caught:
        check_all(named, check, alike=Cell.fingerprint)
    assert lines_of(caught.value) == ["cell c0, c2: even seeds are odd", "cell c1: odd seeds are even"]
    check_all(named[3:], check, alike=Cell.fingerprint)


HUGE = "1" + 399 * "0"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (f"data.seed={HUGE}", "a number of 400 digits, 10000000...; at most 100 are read"),
        (f"budget.steps={20 * HUGE}", "at most 100 are read"),
        ("data.num_val=1000000000000", "num_val: Input should be less than or equal to 10000000 (got 1000000000000)"),
        ("data.num_frames=1000000000000", "num_frames: Input should be less than or equal to 1000000"),
        (f"data.height={10**90}", "height: Input should be less than or equal to 32768"),
        (
            "data={source: worlds, num_frames: 900000, height: 90, width: 90, num_train: 1, num_val: 99, num_test: 99}",
            "2,147,483,648 pixels",
        ),
        (
            "data={source: worlds, num_frames: 1000, height: 16, width: 16, num_train: 100000, num_val: 9, num_test: 9}",
            "at most 100,000,000 can",
        ),
        ("data.shapes=[[1000000000000,16,16]]", "at most (1000000, 32768, 32768)"),
        ("evaluation.grid=[[4,16,1000000000000]]", "grid has (4, 16, 1000000000000)"),
        ("batching.batch_size=1000000000000", "batch_size: Input should be less than or equal to 1000000"),
        ("autoencoder.width=1000000000000", "width: Input should be less than or equal to 4096"),
        ("autoencoder.learning_rate=.inf", "learning_rate: Input should be a finite number"),
        ("optimizer.learning_rate=1e400", "learning_rate: Input should be a finite number"),
        ("timeout_s=1e300", "timeout_s: Input should be less than or equal to 2000000"),
        ("data=" + 100_000 * "[", "lists and mappings more than 50 deep in each other"),
        ("data=" + 900 * "{a: ", "lists and mappings more than 50 deep in each other"),
        ("seeds=[!!int '3']", "the YAML tag 'tag:yaml.org,2002:int' is not read; write the plain value"),
        ("data=worlds", "data is 'worlds', not a mapping; write {source: worlds, ...}"),
        ("match={a: 1}", "field 'match.by' is missing"),
        ("backbone=['dit:DiT-XS/2{" + 900 * "a: {" + "']", "letters, at most 1000 are read"),
    ],
)
def test_what_is_too_large_or_too_deep_is_refused_before_anything_is_made_of_it(override: str, expected: str) -> None:
    with pytest.raises(Refusal) as caught:
        load_study("smoke", [override])
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_file_that_is_no_matrix_is_named(tmp_path: Path) -> None:
    bomb = "\n".join(["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", *(f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]" for n in range(1, 9))])
    for content, expected in {
        b"description: caf\xe9": "not readable as text in UTF-8",
        bomb.encode(): "more than 100,000 values, its aliases written out",
        1_000_001 * b"#": "1,000,001 letters, at most 1,000,000 are read",
        100_000 * b"- ": "lists and mappings more than 50 deep",
    }.items():
        (tmp_path / "odd.yaml").write_bytes(content)
        with pytest.raises(Refusal, match=re.escape(f"matrix {tmp_path / 'odd.yaml'}: {expected}")):
            load_study(str(tmp_path / "odd.yaml"))


def test_brackets_in_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(write(tmp_path, description="of [red]colour[/red] and [/]")).rename(tmp_path / "a[bold]b.yaml")
    print_study(load_study(str(path)))
    assert "a[bold]b: of [red]colour[/red] and [/]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["..", ".x", "cache", "reference", "a\nb", "\x1b[31m", "\udcff"])
def test_a_matrix_whose_name_cannot_be_that_of_a_run_is_refused(tmp_path: Path, name: str) -> None:
    """`...yaml` would put its run beside the results folder, `cache.yaml` among the caches."""
    path = tmp_path / f"{name}.yaml"
    path.write_text((MATRICES / "smoke.yaml").read_text())
    with pytest.raises(Refusal, match="rename the file"):
        load_study(str(path))


@pytest.mark.parametrize("text", ["1", "a", "2001-01-01", "'x'"])
def test_a_matrix_that_is_a_plain_value_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(Refusal, match="mapping"):
        load_study(str(path))


@pytest.mark.parametrize("first", ["defaults=2001-01-01", "axes=1", "include=3", "include=[x]", "include={a: 1}"])
def test_an_override_of_a_part_that_is_none_is_refused(first: str) -> None:
    with pytest.raises(Refusal, match=r"override 'sampler.num_steps=2'.*of the matrix is"):
        load_study("smoke", [first, "sampler.num_steps=2"])
