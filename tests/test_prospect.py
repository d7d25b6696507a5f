"""What would decide: seeds of known power, minutes and clips by hand, the command as a shell takes it, no promise that nothing backs."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from bench.records.record import Measurement
from bench.report.load import Run, load_run
from bench.report.verdicts import findings, prospect
from bench.report.verdicts.claims import LEVELS
from bench.report.verdicts.prospect import MOST, Gap, Prospect, clips_needed, of_effect, of_headline, of_row, seeds_needed, with_seeds
from bench.report.verdicts.spending import share
from bench.study.looks import Looks
from tests.report_factory import PROTOCOL, pair, record, study, write_run

LEVEL = LEVELS["headline"]


def values_of(mean: float, seeds: int, spread: float = 1.0) -> list[float]:
    """Values of this very mean and deviation."""
    raw = np.random.default_rng(seeds).standard_normal(seeds)
    return (mean + spread * (raw - raw.mean()) / raw.std(ddof=1)).tolist() if seeds > 1 else [mean]


def gap(value: float, *deviations: float) -> Gap:
    return Gap(value=value, variances=tuple(d**2 for d in deviations), weights=(1.0, -1.0))


# --- how many seeds


@pytest.mark.parametrize(
    ("size", "seeds", "power"),
    [(0.5, 64, 0.80), (0.8, 26, 0.81), (1.0, 17, 0.80), (1.4, 9, 0.79), (1.4, 10, 0.84)],  # Cohen 1988, tables 2.3.5 and 2.4.1
)
def test_power_as_it_is_tabled(size: float, seeds: int, power: float) -> None:
    assert gap(size, 1.0, 1.0).power(seeds, 0.05) == pytest.approx(power, abs=0.011)


def test_power_of_unequal_spreads_is_what_welchs_test_has() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 20_000, 6)) * np.array([[[0.5]], [[1.5]]])
    found = (scipy.stats.ttest_ind(first + 2, second, axis=1, equal_var=False).pvalue < LEVEL).mean()
    assert gap(2.0, 0.5, 1.5).power(6, LEVEL) == pytest.approx(found, abs=0.015)
    assert gap(-2.0, 0.5, 1.5).power(6, LEVEL) == gap(2.0, 0.5, 1.5).power(6, LEVEL)


def test_seeds_are_the_fewest_that_find_it() -> None:
    number = seeds_needed([gap(1.5, 1.0, 1.0)], lambda _: 0.05, 3)
    assert number == 9 and gap(1.5, 1.0, 1.0).power(8, 0.05) < 0.8 <= gap(1.5, 1.0, 1.0).power(9, 0.05)
    assert seeds_needed([gap(9.0, 1.0, 1.0)], lambda _: 0.05, 5) == 6  # more than there are
    assert seeds_needed([gap(0.1, 1.0, 1.0)], lambda _: 0.05, 3) is None


def test_all_rivals_must_be_beaten() -> None:
    both = seeds_needed([gap(1.5, 1.0, 1.0), gap(1.5, 1.0, 1.0)], lambda _: 0.05, 3)
    assert both is not None and both > 9
    assert seeds_needed([gap(1.5, 1.0, 1.0), gap(20.0, 1.0, 1.0)], lambda _: 0.05, 3) == 9


def test_few_seeds_share_their_spread_and_one_has_the_usual() -> None:
    pooled = Gap.of(([1.0, 3.0], [10.0, 14.0]))
    assert pooled is not None and pooled.variances == (5.0, 5.0) and pooled.value == -10
    own = Gap.of(([1.0, 2.0, 3.0], [10.0, 14.0, 12.0]))
    assert own is not None and own.variances == (1.0, 4.0) and own.spreads == pytest.approx(10 / 2.5**0.5)
    usual = Gap.of(([100.0], [200.0]), usual=0.1)
    assert usual is not None and usual.variances == (100.0, 400.0)
    assert Gap.of(([100.0], [200.0])) is None


def test_the_chance_averages_over_what_the_difference_may_be() -> None:
    """Whatever the true difference: those that look so at five seeds are carried at ten about as often as it says, rather more."""
    rng, level = np.random.default_rng(0), 0.05
    truth = rng.uniform(-6, 6, 40_000)
    first, second = rng.standard_normal((2, 40_000, 10))
    second += truth[:, None]
    early = scipy.stats.ttest_ind(first[:, :5], second[:, :5], axis=1, equal_var=False).pvalue
    late = scipy.stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue < level
    for low, high in ((0.06, 0.1), (0.15, 0.25), (0.6, 1.0)):
        alike = (low < early) & (early < high)
        said = np.mean([prospect.chance_of(p, 5, 10, lambda _: level) for p in early[alike]])
        assert said - 0.03 < late[alike].mean() < said + 0.1


# --- pages


def run_of(path: Path, *series: list[float], looks: Looks | None = None, **changes: Any) -> Run:
    """Of the primary measure alone."""
    block = {"unit": "1", "better": "lower", "protocol": PROTOCOL}
    made = []
    for name, values in zip(("dit:DiT-XS/2", "baselines:UNet-XS"), series, strict=True):
        for seed, value in enumerate(values):
            measured = [Measurement.model_validate({"name": "fd_random3d@64", "value": value, **block})]
            made.append(record(name, seed, measurements=measured, time_split_s={"training": 90.0 if "dit" in name else 60.0}))
    return load_run(write_run(path, made, until_decided=looks, sheets=False, **changes))


def headline(run: Run) -> Prospect:
    found = of_headline(run, findings.find(run))
    assert found is not None
    return found


def test_it_says_seeds_minutes_and_command(tmp_path: Path) -> None:
    run = run_of(
        tmp_path, values_of(10.0, 5), values_of(11.6, 5), command="python -m bench run quick --results 'my results' budget.seconds=9"
    )
    found = headline(run)
    number = seeds_needed([gap(1.6, 1.0, 1.0)], lambda _: LEVEL / 2, 5)  # extended, it is held at half
    assert number is not None and found.more == number - 5 == 6
    assert found.minutes == pytest.approx(6 * 2.5) and found.spreads == pytest.approx(1.6)
    assert found.sentence == "Six more seeds each, about 15 minutes, would probably decide"
    assert found.command == "python -m bench run quick 'seeds=[0,1,2,3,4,5,6,7,8,9,10]' --results 'my results' budget.seconds=9"
    assert shlex.split(found.command)[5] == "seeds=[0,1,2,3,4,5,6,7,8,9,10]"


def test_a_weak_promise_says_how_weak(tmp_path: Path) -> None:
    found = headline(run_of(tmp_path, values_of(10.0, 3), values_of(11.3, 3)))
    assert found.said == "may" and found.chance is not None and 0.5 < found.chance < 0.6
    assert found.sentence.endswith("would decide in about 6 of 10 cases")


def test_few_seeds_that_look_alike_exclude_nothing(tmp_path: Path) -> None:
    found = headline(run_of(tmp_path, values_of(10.0, 3), values_of(10.1, 3)))
    assert (found.said, found.more, found.minutes) == ("unknown", None, None)
    expected = (
        "Three seeds do not tell how many more would decide; as far as they do, the difference is a tenth of the spread between seeds"
    )
    assert found.sentence == expected
    assert found.command == "python -m bench run quick budget.seconds=120 --until-decided"


def test_many_seeds_that_look_alike_are_enough(tmp_path: Path) -> None:
    found = headline(run_of(tmp_path, values_of(10.0, 12), values_of(10.1, 12)))
    assert (found.said, found.more, found.command) == ("hardly", None, None)
    assert found.sentence == "More seeds will hardly decide: the difference is a tenth of the spread between seeds"


def test_one_seed_says_little(tmp_path: Path) -> None:
    found = headline(run_of(tmp_path / "a", [10.0], [12.0]))
    assert (found.said, found.more, found.chance) == ("first", 2, None)
    assert found.sentence == "Two more seeds each, about 5 minutes, are the least that can carry it"  # nothing is known of this measure
    both = load_run(write_run(tmp_path / "b", pair(1), primary="val_loss", sheets=False))
    table = findings.find(both)
    (row,) = (row for row in table.rows if row.name == "val_loss")
    told = of_row(both, table, row)
    assert told is not None and told.sentence.endswith("would probably decide, at the spread usual for this measure")
    assert headline(run_of(tmp_path / "c", values_of(10.0, 2), values_of(16.0, 2))).sentence.endswith(
        "at the spread between the two there are"
    )


def test_a_run_that_adds_seeds_by_itself_goes_on(tmp_path: Path) -> None:
    looks = Looks()
    run = run_of(tmp_path / "a", values_of(10.0, 5), values_of(11.8, 5), looks=looks, command="python -m bench run quick --until-decided")
    found = headline(run)
    assert found.command == run.command and found.more is not None and found.seeds + found.more <= looks.most
    level = LEVEL * share(looks, 0, found.seeds + found.more)
    assert found.more == (seeds_needed([gap(1.8, 1.0, 1.0)], lambda n: LEVEL * share(looks, 0, n), 5) or 0) - 5
    assert gap(1.8, 1.0, 1.0).power(found.seeds + found.more, level) >= 0.8
    ended = headline(run_of(tmp_path / "b", values_of(10.0, 12), values_of(10.7, 12), looks=looks))
    assert (ended.sentence, ended.command) == ("All 12 seeds that its looks may take are taken", None)


def test_nothing_would_decide_what_is_decided_or_what_failed(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", values_of(10.0, 5), values_of(20.0, 5))
    assert of_headline(run, findings.find(run)) is None
    cells = pair(3)
    cells[0] = record("baselines:UNet-XS", 0, status="oom", measurements=[], training=None)
    failed = load_run(write_run(tmp_path / "b", cells, sheets=False))
    assert of_headline(failed, findings.find(failed)) is None
    still = run_of(tmp_path / "c", [10.0] * 3, [11.0] * 3)
    assert of_headline(still, findings.find(still)) is None


def test_an_effect_takes_the_seeds_of_its_four(tmp_path: Path) -> None:
    cells = {
        (name, policy): values_of(10.0 + (policy == "crop"), 5)
        for name in ("baselines:UNet-XS", "dit:DiT-XS/2")
        for policy in ("crop", "bucket")
    }
    run = load_run(write_run(tmp_path, study(cells), claim="shapes", primary="fd_random3d", sheets=False))
    found = findings.find(run)
    (block,) = found.blocks
    told = of_headline(run, found)
    effect = block.effect("pipeline")
    assert effect is not None and told == of_effect(run, found, block, effect) and told is not None
    four = Gap(value=1.0, variances=(1.0,) * 4, weights=(-0.5, 0.5, -0.5, 0.5))
    assert told.seeds + (told.more or 0) == seeds_needed([four], lambda _: LEVEL / 2, 5)
    assert told.spreads == pytest.approx(1 / (4 * 0.25 / 2) ** 0.5)


def test_other_tests_need_more(tmp_path: Path) -> None:
    """Beside what decides, a test is held at its part of the other level."""
    block = {"unit": "1", "better": "lower", "protocol": PROTOCOL}
    made = [
        record(
            name,
            seed,
            measurements=[Measurement.model_validate({"name": each, "value": value, **block}) for each in ("fd_random3d@64", "kvd@64")],
        )
        for name, mean in (("dit:DiT-XS/2", 10.0), ("baselines:UNet-XS", 11.6))
        for seed, value in enumerate(values_of(mean, 5))
    ]
    run = load_run(write_run(tmp_path, made, sheets=False))
    found = findings.find(run)
    first, second = (of_row(run, found, row) for name in ("fd_random3d@64", "kvd@64") for row in found.rows if row.name == name)
    assert first is not None and second is not None and (second.more or MOST) > (first.more or MOST)


# --- clips


def test_clips_that_make_the_bias_a_third_by_hand() -> None:
    """At 64 clips 20, of which 10 are bias; at 128 the bias is 5 and the distance 15."""
    assert clips_needed(20.0, 10.0, 64) == 128
    assert clips_needed(20.0, 10.0, 65) == 192  # rounded up
    assert clips_needed(9.0, 10.0, 64) is None and clips_needed(10.0001, 10.0, 64) is None


def test_a_distance_that_is_mostly_bias_needs_clips_too(tmp_path: Path) -> None:
    values, block = ((10.0, 11.0, 12.0), (13.0, 10.5, 12.5)), {"unit": "1", "better": "lower", "protocol": PROTOCOL}
    for name, clips in (("fd_random3d@64", 192), ("kvd@64", None)):  # a kernel distance has no bias
        made = []
        for backbone, series in zip(("dit:DiT-XS/2", "baselines:UNet-XS"), values, strict=True):
            for seed, value in enumerate(series):
                both = [{"name": name, "value": value, **block}, {"name": name, "subject": "real", "value": 6.0, **block}]
                made.append(record(backbone, seed, measurements=[Measurement.model_validate(each) for each in both]))
        run = load_run(write_run(tmp_path / name, made, primary=name.partition("@")[0], sheets=False))
        found = headline(run)
        assert found.clips == clips
        assert ("64 clips are few for it, 192 would make their bias a third of the best distance" in found.sentence) == bool(clips)


def test_commands_are_asked_anew() -> None:
    assert with_seeds(["bench", "run", "quick"], [0, 1]) == "bench run quick 'seeds=[0,1]'"
    assert with_seeds(["bench", "run", "my study.yaml", "seeds=[5]", "a=1"], [5, 6]) == "bench run 'my study.yaml' 'seeds=[5,6]' a=1"
    assert with_seeds(["bench"], [0]) == "bench 'seeds=[0]'"
