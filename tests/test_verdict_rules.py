"""What a page may claim: the rule of each claim, the correction of all else, and by simulation how often either is wrong."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.perf.evidence import verdict_page, verdicts
from bench.perf.evidence.seed_noise import SeedNoise, correlations, recorded
from bench.perf.evidence.verdicts import StudyDesign, Tally, findings_of, simulate, studies_of
from bench.report.load import load_run
from bench.report.verdicts import claims, findings
from bench.report.verdicts.claim_table import CLAIMS, DEFAULT, claim_of
from bench.report.verdicts.claims import LEVELS, Effect, settle
from bench.report.verdicts.stats import Difference, Verdict
from bench.shapes import Refusal
from tests.report_factory import shapes_record, study, write_run

MEASURES = ("fd_motion", "fvd", "val_loss", "train_clips_per_s", "subject_whole_rate")
BETTER = dict(zip(MEASURES, ("lower", "lower", "lower", "higher", "higher"), strict=True))
ALIKE = np.linalg.cholesky(0.5 * np.eye(5) + 0.5)  # measures that correlate by half
ROWS = np.random.default_rng(0).standard_normal((40, 5)) @ ALIKE.T
NOISE = SeedNoise(MEASURES, BETTER, (ROWS - ROWS.mean(0)) / ROWS.std(0))


def counted(design: StudyDesign, studies: int) -> Tally:
    return simulate(design, np.random.default_rng(1), noise=NOISE, primary="fd_motion", studies=studies)


def opened(p_value: float, leader: str = "a") -> Verdict:
    return Verdict(outcome="open", reason="3 seeds each", leader=leader, rival="b", p_value=p_value)


def test_the_headline_stands_alone_and_the_rest_is_corrected() -> None:
    leads = {("lead", "fd_motion@64"): opened(0.02), ("lead", "fvd@64"): opened(0.001, "b"), ("lead", "val_loss"): opened(0.012, "b")}
    decided, conclusion = settle(claim_of("backbone"), leads, "fd_motion")
    assert (conclusion.state, conclusion.carried, conclusion.parts[0].key) == ("leads", True, ("lead", "fd_motion@64"))
    assert {key[1]: finding.outcome for key, finding in decided.items()} == {
        "fd_motion@64": "leads", "fvd@64": "leads", "val_loss": "leads",
    }  # fmt: skip
    more = leads | {("lead", f"other {k}"): opened(0.5) for k in range(2)}
    decided, conclusion = settle(claim_of("backbone"), more, "fd_motion")
    assert conclusion.carried and decided["lead", "val_loss"].outcome == "inconclusive"  # 3 times 0.012 among four
    assert decided["lead", "fvd@64"].carried and "among 4 tests 0.004, below 0.015" in decided["lead", "fvd@64"].reason


@pytest.mark.parametrize("primary", [None, "kvd"])
def test_without_what_decides_nothing_is_concluded(primary: str | None) -> None:
    _, conclusion = settle(claim_of(None), {("lead", "fvd"): opened(1e-6)}, primary)
    assert (conclusion.state, conclusion.carried) == ("not tested", False)


def effect(p_value: float, favours: str = "buckets") -> Effect:
    difference = Difference(value=-1.0, low=None, high=None, p_value=p_value)
    return Effect(kind="pipeline", by_seed=(), difference=difference, outcome="open", reason="3 seeds", favours=favours)


def of_shapes(**p_values: float) -> dict[claims.Key, claims.Finding]:
    return {("effect", "buckets", name, "pipeline"): effect(p_value) for name, p_value in p_values.items()}


def test_two_parts_of_a_claim_share_its_level() -> None:
    """p = 0.02 carries alone, and not as the better of two."""
    _, alone = settle(CLAIMS["shapes"], of_shapes(fd_motion=0.02), "fd_motion")
    _, both = settle(CLAIMS["shapes"], of_shapes(fd_motion=0.02, subject_whole_rate=0.5), "fd_motion")
    assert (alone.state, both.state) == ("supported", "inconclusive")


def test_the_first_measure_of_composition_decides() -> None:
    found = of_shapes(saliency_distance=1e-6, fd_motion=0.5, framing_distance=1e-6, subject_whole_rate=0.5)
    _, conclusion = settle(CLAIMS["shapes"], found, "fd_motion")
    assert [part.key[2] for part in conclusion.parts if part.key] == ["fd_motion", "subject_whole_rate"]
    assert conclusion.state == "inconclusive"


@pytest.mark.parametrize("primary", [None, "kvd"])
def test_half_a_claim_is_none(primary: str | None) -> None:
    """Composition alone does not carry that cropping costs quality and composition."""
    _, conclusion = settle(CLAIMS["shapes"], of_shapes(fd_motion=1e-6, subject_whole_rate=1e-6), primary)
    assert (conclusion.state, conclusion.carried) == ("not tested", False)


def test_rivals_correlate_as_designed() -> None:
    rng = np.random.default_rng(5)
    for design, expected in (
        (StudyDesign(claim="backbone", contenders=2, seeds=4000, law="normal", rivals=0.5), 0.5),
        (StudyDesign(claim="shapes", contenders=4, seeds=4000, law="normal", within=0.3), 0.0),
    ):
        drawn = NOISE.draw(rng, design.among(), design.seeds, design.law)
        assert np.corrcoef(drawn[0, :, 0], drawn[1, :, 0])[0, 1] == pytest.approx(expected, abs=0.05)
        assert drawn.std(1) == pytest.approx(1, abs=0.1)
        if design.within:
            assert np.corrcoef(drawn[0, :, 0], drawn[2, :, 0])[0, 1] == pytest.approx(0.3, abs=0.05)
    resampled = NOISE.draw(rng, np.eye(2), 4000, "resampled")
    assert resampled.std(1) == pytest.approx(1, abs=0.06)


def test_unknown_claims_are_judged_by_who_leads() -> None:
    assert claim_of("anything") is DEFAULT and claim_of("shapes") is CLAIMS["shapes"]
    assert sum(LEVELS.values()) <= claims.ALPHA


@pytest.mark.parametrize(("claim", "contenders"), [("backbone", 2), ("backbone", 4), ("shapes", 4), ("physics", 2)])
def test_equal_contenders_are_rarely_told_apart(claim: str, contenders: int) -> None:
    found = counted(StudyDesign(claim=claim, contenders=contenders, seeds=3, law="normal"), 400)
    assert found.page / 400 < 0.075  # 5 % and two of its standard errors
    assert found.headline <= found.page


@pytest.mark.parametrize("claim", ["backbone", "shapes"])
def test_true_differences_are_found(claim: str) -> None:
    design = StudyDesign(claim=claim, contenders={"backbone": 2, "shapes": 4}[claim], seeds=5, law="resampled", shift=2.5)
    found = counted(design, 200)
    assert found.right / 200 > 0.74  # 80 % less two standard errors
    assert found.headline - found.right < 4


def test_models_far_below_the_floors_have_learnt_and_models_at_the_floors_have_not() -> None:
    far = counted(StudyDesign(claim="physics", contenders=2, seeds=4, law="normal", shift=10.0), 200)
    assert far.right / 200 > 0.8
    none = counted(StudyDesign(claim="physics", contenders=2, seeds=4, law="normal"), 400)
    assert none.right / 400 <= 0.05 and none.headline / 400 <= 0.05


def test_an_uncorrected_page_would_break_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation sees the fault that it is there for."""
    monkeypatch.setattr(claims, "holm", list)
    found = counted(StudyDesign(claim="shapes", contenders=4, seeds=4, law="normal"), 400)
    assert found.page / 400 > 0.09  # nearly twice what is promised


def test_the_page_says_what_the_simulation_counts(tmp_path: Path) -> None:
    """The same values through records, report and rules, and through the rules alone."""
    design = StudyDesign(claim="shapes", contenders=4, seeds=3, law="normal", shift=4.0)
    backbones, policies = (
        dict(zip(verdicts.BACKBONES, ("baselines:UNet-XS", "dit:DiT-XS/2"), strict=True)),
        {"crops": "crop", "buckets": "bucket"},
    )
    for k, values in enumerate(studies_of(design, NOISE, "fd_motion", 6, np.random.default_rng(4))):
        one = {name: values["fd_motion"][name] for name in values["fd_motion"]}
        cells = {(backbones[name.split()[0]], policies[name.split()[1]]): series for name, series in one.items()}
        run = load_run(write_run(tmp_path / str(k), study(cells, "fd_motion@64"), claim="shapes", primary="fd_motion", sheets=False))
        page = findings.find(run)
        alone, conclusion = settle(
            claim_of("shapes"), findings_of("shapes", {"fd_motion": one}, BETTER, list(one), "fd_motion"), "fd_motion"
        )
        assert page.conclusion.state == conclusion.state
        effects = {effect.kind: effect for block in page.blocks for effect in block.effects}
        for (_, _, _, kind), finding in ((key, finding) for key, finding in alone.items() if key[0] == "effect"):
            assert effects[kind].p_value == pytest.approx(finding.p_value) and effects[kind].carried == finding.carried
        lead = alone["lead", "fd_motion"]
        (row,) = (row for row in page.rows if row.name == "fd_motion@64")
        assert row.verdict is not None and row.verdict.p_value == pytest.approx(lead.p_value)


def test_noise_of_recorded_studies(tmp_path: Path) -> None:
    values = {("baselines:UNet-XS", "crop"): [1.0, 2.0, 3.0] * 2, ("dit:DiT-XS/2", "crop"): [5.0, 7.0, 9.0]}
    run = load_run(write_run(tmp_path, study(values, "fd_motion@64"), sheets=False))
    table = recorded([("invented", run.measurements)])
    assert table["name"].tolist() == ["fd_motion"] * 9
    noise = SeedNoise.of(table)  # of the one that has seeds enough
    assert noise.residuals[:, 0] == pytest.approx(np.sqrt(1.5) * np.array([-1, 0, 1, -1, 0, 1]))
    with pytest.raises(Refusal, match="no contender has 6 seeds, at most 3"):
        SeedNoise.of(table[table["contender"] == "DiT-XS/2 crop"])
    (line,) = correlations(table).to_dict("records")
    assert (line["pairs"], line["seeds"], line["correlation"]) == (1, 3, pytest.approx(1.0))


def test_noise_that_lacks_a_part_of_the_claim_is_refused_in_a_line(tmp_path: Path) -> None:
    values = {("baselines:UNet-XS", "crop"): [1.0, 2.0, 4.0] * 2, ("dit:DiT-XS/2", "crop"): [5.0, 7.0, 9.0] * 2}
    run = write_run(tmp_path, study(values, "fd_motion@64"), sheets=False)
    with pytest.raises(SystemExit, match="error: the seed noise is of fd_motion, and needs fd_motion and one of subject_whole_rate"):
        verdicts.command([run], tmp_path / "out")
    with pytest.raises(SystemExit, match="error: no seed noise in"):
        verdicts.command(None, tmp_path / "none")
    assert not list(tmp_path.glob("out/*"))  # noise of before would stand there, and count


def test_noise_of_one_contender_is_refused_before_anything_is_simulated(tmp_path: Path) -> None:
    values = [{"fd_motion@64": 5.0 + seed, "subject_whole_rate": 0.5 + seed**2 / 99} for seed in range(6)]
    records = [shapes_record("dit:DiT-XS/2", "crop", seed, each) for seed, each in enumerate(values)]
    run = write_run(tmp_path, records, sheets=False)
    with pytest.raises(SystemExit, match="error: the seed noise has no two contenders that share seeds"):
        verdicts.command([run], tmp_path / "out")


def test_the_page_of_the_simulation_says_whether_promises_are_kept() -> None:
    shares = ((0.0, 0.0, 0.02, 0.01, 0.06), (0.0, 2.5, 0.9, 0.88, 0.9), (-0.15, 0.0, 0.03, 0.01, 0.07))
    rows = pd.DataFrame(shares, columns=["rivals", "shift", "headline", "right", "page"])
    rows = rows.assign(claim="backbone", contenders=2, seeds=5, law="normal", within=0.0, spread=verdicts.SPREAD)
    gate = pd.DataFrame([{"seeds": 3, "noise": 0.05, "called": 0.01}])
    tests = pd.DataFrame([{"seeds": 3, "rivals": 0.0, "welch": 0.5, "paired": 0.4}])
    rivals = pd.DataFrame([{"study": "s", "measure": "fvd", "group": "quality", "pairs": 1, "seeds": 3, "correlation": 0.1, "error": None}])
    page = verdict_page.to_markdown(rows, gate, tests, rivals, 2000)
    assert "at most 6.0% (backbone, 2 contenders, 5 seeds, normal) | **no** |" in page
    assert "at least 88.0% | yes |" in page and "at most 1.0% | yes |" in page
    assert verdict_page.picture(rows).startswith("<?xml")
