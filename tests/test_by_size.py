"""Learning rates by size: the least of a parabola, a line through a family's tuned sizes, within bounds, told and recorded."""

import math
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import BackboneFacts, Measurement, Record
from bench.records.store import write_record, write_run
from bench.run.launch import _snapshot
from bench.run.tune.by_size import RATE, best_rate, rule_of
from bench.run.tune.resolve import tuned
from bench.shapes import Refusal
from bench.study.budget import Budget
from bench.study.matrix import Study, load_study
from bench.study.trials import points, trial_study
from bench.study.tune import SizeRule, Tune, Tuning, TuningTrial
from tests.commands import write_matrix
from tests.report_factory import environment
from tests.scaled import NAMES, matrix_of, params_of

GRID = [1e-3, 2e-3, 4e-3, 8e-3]


def tuning_of(losses: dict[float, float | None]) -> Tuning:
    trials = tuple(TuningTrial(point={RATE: rate}, budget=Budget(samples=4), losses=((9, loss),)) for rate, loss in losses.items())
    best = min((rate for rate, loss in losses.items() if loss is not None), key=lambda rate: losses[rate] or 0)
    return Tuning(by="val_loss", study="x", trials=trials, chosen={RATE: best})


def test_the_best_rate_is_the_least_of_a_parabola_in_its_logarithm() -> None:
    true = 2.7e-3
    assert best_rate(tuning_of({rate: 1 + math.log(rate / true) ** 2 for rate in GRID})) == pytest.approx(true)
    assert best_rate(tuning_of({1e-3: 2.0, 2e-3: 1.0, 4e-3: 2.0})) == pytest.approx(2e-3)
    assert best_rate(tuning_of({1e-3: 1.0, 2e-3: 2.0, 4e-3: 3.0})) == 1e-3  # at the edge there is no parabola
    assert best_rate(tuning_of({1e-3: 2.0, 2e-3: 1.0, 4e-3: None})) == 2e-3  # nor through what diverged


def facts(params: int) -> BackboneFacts:
    return BackboneFacts(num_params=params, flops_per_clip=1, tokens_per_clip=1, peak_flop_per_s=1.0, latent_shape=(1, 1, 1, 1))


def found(best: dict[int, float]) -> Any:
    class Stored:
        def __init__(self, params: int):
            self.backbone = facts(params)

    return [(Stored(params), tuning_of({rate / 2: 2.0, rate: 1.0, rate * 2: 2.0})) for params, rate in best.items()]


@pytest.mark.parametrize(
    ("best", "exponent", "rates"),
    [
        ({10_000: 8e-3, 160_000: 4e-3}, -0.25, {10_000: 8e-3, 160_000: 4e-3, 2_560_000: 2e-3}),
        ({10_000: 4e-3, 40_000: 8e-3}, 0.0, {10_000: 32**0.5 * 1e-3, 10**7: 32**0.5 * 1e-3}),  # it never rises
        ({10_000: 8e-3, 20_000: 1e-3}, -0.5, {14_142: 8**0.5 * 1e-3, 4 * 14_142: 8**0.5 * 5e-4}),  # nor falls faster than with a width
    ],
)
def test_the_line_is_through_the_tuned_sizes_and_within_bounds(best: dict[int, float], exponent: float, rates: dict[int, float]) -> None:
    rule = rule_of("dit:DiT/2", found(best))
    assert rule.exponent == pytest.approx(exponent) and rule.best == tuple((size, pytest.approx(rate)) for size, rate in best.items())
    for params, rate in rates.items():
        assert rule.rate(params) == pytest.approx(rate, rel=1e-3)
    assert ("tuned sizes alone" in rule.text) == (rule.exponent != rule.seen)


def test_one_tuned_size_is_no_line() -> None:
    with pytest.raises(Refusal, match="tuned_rule size needs two tuned sizes of DiT/2, there is one; tune another"):
        rule_of("dit:DiT/2", found({10_000: 1e-3}))


def tuning_run(folder: Path, backbones: list[str], best: dict[str, float], tune: dict[str, Any] | None = None) -> Path:
    """A finished tuning of these backbones, whose best rates are as given."""
    asked = Tune.model_validate(tune or {"learning_rate": GRID, "seeds": [9]})
    parent = load_study(str(matrix_of(folder, axes={"backbone": [*backbones]}, forecast=None, branches=[], seeds=[0])))
    study = trial_study(parent, asked, {key: points(asked.grid) for key in _contenders(parent, asked)})
    study = study.model_copy(update={"name": "rates-tuning"})
    for named in study.cells:
        backbone, rate = named.cell.backbone, named.cell.optimizer.learning_rate
        loss = 1 + math.log(rate / best[backbone]) ** 2
        write_record(
            folder / "rates-tuning" / named.folder,
            Record(
                matrix=study.name, name=named.name, fingerprint=named.cell.fingerprint(), cell=named.cell, attempt=1, status="ok",
                started_at="2026-01-01", ended_at="2026-01-01", environment=environment(), backbone=facts(params_of(backbone)),
                measurements=[Measurement(name="val_loss", value=loss, unit="1", better="lower", protocol={"clips": 4})],
            ),
        )  # fmt: skip
    write_run(folder, _snapshot(study, "2026-01-01", "c"))
    return folder / "rates-tuning"


def _contenders(study: Study, tune: Tune) -> list[str]:
    from bench.study.trials import contender_of

    return [contender_of(named.cell, tune.grid) for named in study.cells]


def params(study: Study) -> dict[str, int]:
    return {named.cell.backbone: params_of(named.cell.backbone) for named in study.cells}


def test_every_size_has_the_rate_of_its_familys_rule_and_its_record_says_why(tmp_path: Path) -> None:
    small = [*NAMES["UNet"][:2], *NAMES["DiT/2"][:2]]
    folder = tuning_run(tmp_path, small, dict(zip(small, (4e-3, 2e-3, 3e-3, 3e-3), strict=True)))
    study, lines = load_study(str(matrix_of(tmp_path, tuned=str(folder), tuned_rule="size"))), list[str]()
    cells = tuned(study, lines.append, None, params).cells
    rates = {named.cell.backbone: named.cell.optimizer.learning_rate for named in cells}
    slope = math.log(0.5) / math.log(3)  # rates halve from 20,000 to 60,000 parameters, which is faster than the rule allows
    assert slope < -0.5
    middle = (4e-3 * 2e-3) ** 0.5
    assert rates[NAMES["UNet"][3]] == pytest.approx(middle * (600_000 / (20_000 * 60_000) ** 0.5) ** -0.5, rel=0.01)
    assert {rates[name] for name in NAMES["DiT/2"]} == {0.003}
    for named in cells:
        assert named.tuning and named.tuning.rule and named.tuning.chosen == {RATE: named.cell.optimizer.learning_rate}
        assert len(named.tuning.trials) == 8 and named.tuning.differs == ()
    assert lines[0].startswith(
        "UNet: learning rate 0.0028 (N / 34,641)^-0.50 (tuned sizes alone: -0.63), by the best of 0.004 at 20,000 and"
    )
    assert f"{NAMES['DiT/2'][3]}: learning_rate 0.003, of 800,000 parameters" in lines


@pytest.mark.parametrize(
    ("backbones", "tune", "words"),
    [
        (NAMES["UNet"][:2], None, "tuned_rule size: no size of DiT/2 was tuned; tune two, or give tuned_rule=same"),
        (
            NAMES["UNet"][:2],
            {"weight_decay": [0.0, 0.1], "seeds": [9]},
            "is of the learning rate alone, and the tuning chose optimizer.weight",
        ),
    ],
)
def test_what_makes_no_rule_is_refused(tmp_path: Path, backbones: list[str], tune: dict[str, Any] | None, words: str) -> None:
    folder = tuning_run(tmp_path, backbones, dict.fromkeys(backbones, 3e-3), tune)
    with pytest.raises(Refusal, match=words):
        tuned(load_study(str(matrix_of(tmp_path, tuned=str(folder), tuned_rule="size"))), lambda line: None, None, params)


def test_a_rule_without_a_tuning_is_refused(tmp_path: Path) -> None:
    study = load_study(str(write_matrix(tmp_path, tuned_rule="size")))
    with pytest.raises(Refusal, match="tuned_rule size needs the trials of a finished tuning; name it: tuned=results/tiny-rates-tuning"):
        tuned(study, lambda line: None, None, params)


def test_a_rule_is_part_of_a_record() -> None:
    rule = SizeRule(family="a:A", best=((1, 0.1), (2, 0.05)), exponent=-0.5, seen=-1.0, params=1.5, at=0.07)
    tuning = tuning_of({1e-3: 1.0}).model_copy(update={"rule": rule})
    assert Tuning.model_validate_json(tuning.model_dump_json()) == tuning
