"""Matrices: expansion, overrides, and one clear line for whatever is wrong."""

from pathlib import Path

import pytest
import yaml

from bench.matrix import MatrixError, check_cell, load_study, shipped
from tests.tiny import cell_fields


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
        check_cell(named)


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
        (["data.num_trian=3"], "did you mean 'num_train'"),
        (["sampler.solver=eular"], "'euler'"),
        (["optimizer.learning_rat=3"], "did you mean 'learning_rate'"),
        (["batching.batch_size=0"], "batching.batch_size"),
        (["seed=1"], "seeds=[1]"),
        (["nonsense"], "not key=value"),
        (["sampler.solver=ddim"], "cannot sample rectified_flow"),
        (["evaluation.num_samples=1"], "evaluation.num_samples"),
        (["evaluation.num_samples=400"], "num_val"),
        (["autoencoder.kind=trainde"], "trained"),
        (["autoencoder.widht=3"], "did you mean 'width'"),
        (["data.source=wrlds"], "did you mean 'worlds'"),
        (["axes.backbone=[]"], "no cells"),
    ],
)
def test_bad_overrides_name_the_thing_and_the_remedy(tmp_path: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(MatrixError) as error:
        load_study(write(tmp_path), overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_matrix_field_and_name(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="did you mean 'seeds'"):
        load_study(write(tmp_path, seedz=[1]))
    with pytest.raises(MatrixError, match="did you mean 'quick'"):
        load_study("quik")
    with pytest.raises(MatrixError, match="no matrix file"):
        load_study(str(tmp_path / "absent.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(MatrixError, match="not readable as YAML"):
        load_study(str(tmp_path / "broken.yaml"))


def test_same_cell_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MatrixError, match="two cells have the content of UNet-XS-seed0"):
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
    ],
)
def test_preflight_names_backbone_and_size(tmp_path: Path, overrides: list[str], expected: str) -> None:
    study = load_study(write(tmp_path), overrides)
    with pytest.raises(MatrixError, match="cell ") as error:
        for named in study.cells:
            check_cell(named)
    assert expected in str(error.value)
