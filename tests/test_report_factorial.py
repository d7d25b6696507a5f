"""How much is the backbone, how much the data pipeline: effects by hand, what carries one, and what is said where cells are missing."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scipy.stats
from matplotlib.figure import Figure
from report_factory import pair, renamed, study, write_run

from bench.records.record import Canary, Record
from bench.report import build
from bench.report.grid import shape_figures
from bench.report.load import load_run
from bench.report.render.catalogue import MINUS
from bench.report.verdicts import answer, compare, factorial
from bench.report.verdicts.claims import Effect
from bench.report.verdicts.factorial import WEIGHTS, DesignRow
from bench.report.verdicts.findings import find

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
NAME = "fd_random3d@64"  # lower is better
VALUES = {
    (UNET, "crop"): [10.0, 12.0, 14.0],
    (UNET, "bucket"): [9.0, 9.5, 10.0],
    (UNET, "pad"): [8.0, 9.0, 10.0],
    (DIT, "crop"): [6.0, 7.0, 8.0],
    (DIT, "bucket"): [6.5, 7.0, 7.5],
    (DIT, "pack"): [1.0, 0.0, 2.0],
}
UNBUCKETED = {key: series for key, series in VALUES.items() if key[1] != "bucket"}


def blocks_of(folder: Path) -> list[DesignRow]:
    return find(load_run(folder)).blocks


def own(folder: Path) -> DesignRow:
    """The 2 x 2 of own shapes."""
    return next(block for block in blocks_of(folder) if block.design.pipeline == "own shapes")


def effect_of(block: DesignRow, kind: str) -> Effect:
    found = block.effect(kind)
    assert found is not None
    return found


def few(num_seeds: int) -> dict[tuple[str, str], list[float]]:
    return {key: series[:num_seeds] for key, series in VALUES.items()}


def replaced(records: list[Record | None], backbone: str, policy: str, seed: int, **changes: Any) -> list[Record | None]:
    """The records with one of them changed."""
    return [
        made.model_copy(update=changes)
        if made and (made.cell.backbone, made.cell.batching.policy, made.cell.seed) == (backbone, policy, seed)
        else made
        for made in records
    ]


# --- the arithmetic


def test_effects_by_hand(tmp_path: Path) -> None:
    block = own(write_run(tmp_path, study(VALUES)))
    assert block.design.cells == (("UNet-XS crop", "UNet-XS pad"), ("DiT-XS/2 crop", "DiT-XS/2 pack"))
    assert block.means == ((12.0, 9.0), (7.0, 1.0))
    by_seed = {kind: dict(effect_of(block, kind).by_seed) for kind in WEIGHTS}
    assert by_seed["backbone"] == {0: -5.5, 1: -7.0, 2: -7.0}  # ((6 - 10) + (1 - 8)) / 2, ...
    assert by_seed["pipeline"] == {0: -3.5, 1: -5.0, 2: -5.0}  # ((8 - 10) + (1 - 6)) / 2, ...
    assert by_seed["interaction"] == {0: -3.0, 1: -4.0, 2: -2.0}  # (1 - 6) - (8 - 10), ...
    # Four groups of three, variances 4, 1, 1, 1: Satterthwaite's degrees of freedom are 7^2 / (19 / 2).
    error, quantile = math.sqrt(7 / 3), float(scipy.stats.t.ppf(0.975, 98 / 19))
    half = {"backbone": error / 2, "pipeline": error / 2, "interaction": error}
    for kind, mean in {"backbone": -6.5, "pipeline": -4.5, "interaction": -3.0}.items():
        found = effect_of(block, kind).difference
        assert (found.value, found.low, found.high) == pytest.approx((mean, mean - quantile * half[kind], mean + quantile * half[kind]))
        assert found.p_value == pytest.approx(2 * scipy.stats.t.cdf(mean / half[kind], 98 / 19))
    assert [effect_of(block, kind).carried for kind in WEIGHTS] == [True, True, False]


def test_first_design_is_of_buckets(tmp_path: Path) -> None:
    first, second = blocks_of(write_run(tmp_path, study(VALUES)))
    assert (first.design.pipeline, second.design.pipeline) == ("buckets", "own shapes")
    assert first.design.contenders == ("UNet-XS crop", "UNet-XS bucket", "DiT-XS/2 crop", "DiT-XS/2 bucket")
    assert [value for _, value in effect_of(first, "pipeline").by_seed] == [(-1 + 0.5) / 2, (-2.5 + 0) / 2, (-4 - 0.5) / 2]


def test_whom_an_effect_favours_follows_the_direction(tmp_path: Path) -> None:
    lower = own(write_run(tmp_path / "a", study(VALUES)))
    higher = own(write_run(tmp_path / "b", study(VALUES, "subject_whole_rate")))
    assert [effect.favours for effect in lower.effects] == ["DiT-XS/2", "own shapes", "DiT-XS/2"]
    assert [effect.favours for effect in higher.effects] == ["UNet-XS", "crops", "UNet-XS"]
    same = own(write_run(tmp_path / "c", study({key: [1.0] * 3 for key in VALUES})))
    assert {effect.favours for effect in same.effects} == {None}
    assert factorial.share_text(same) == "neither moves it"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ((10, 4), (8, 2), "the pipeline moves it 3.0 times as much as the backbone"),
        ((10, 8), (4, 2), "the backbone moves it 3.0 times as much as the pipeline"),
        ((10, 8), (8, 6), "the pipeline moves it as much as the backbone"),
        ((10, 8), (10, 8), "the pipeline moves it, the backbone hardly"),
    ],
)
def test_share_in_words(tmp_path: Path, first: tuple[int, int], second: tuple[int, int], text: str) -> None:
    values = {(UNET, "crop"): [first[0]], (UNET, "pad"): [first[1]], (DIT, "crop"): [second[0]], (DIT, "pack"): [second[1]]}
    assert factorial.share_text(own(write_run(tmp_path, study(values)))) == text


# --- what carries an effect


def test_two_seeds_show_an_interval_and_are_inconclusive_by_rule(tmp_path: Path) -> None:
    block = own(write_run(tmp_path, study(few(2))))
    effect = effect_of(block, "backbone")
    assert effect.difference.low is not None
    assert (effect.outcome, effect.carried) == ("inconclusive", False)
    assert effect.reason == "2 seeds; a claim needs at least 3"
    single = effect_of(own(write_run(tmp_path / "one", study(few(1)))), "backbone")
    assert single.difference.low is None
    assert "1 seed;" in single.reason


def test_what_may_be_chance_is_not_carried(tmp_path: Path) -> None:
    block = own(write_run(tmp_path, study(VALUES | {(DIT, "pack"): [1.0, 9.0, 20.0]})))
    assert effect_of(block, "pipeline").reason.startswith("may be chance: 3 seeds, p = ")
    assert not effect_of(block, "pipeline").carried


def test_seeds_without_spread_carry_nothing(tmp_path: Path) -> None:
    block = own(write_run(tmp_path, study({key: [series[0]] * 3 for key, series in VALUES.items()})))
    assert effect_of(block, "backbone").outcome == "inconclusive"
    assert "the same in all 3 seeds" in effect_of(block, "backbone").reason


def test_a_failed_seed_counts(tmp_path: Path) -> None:
    values = {key: [*series, series[0]] for key, series in VALUES.items()}
    records = replaced(study(values), DIT, "pack", 3, status="oom", reason="CUDA out of memory", measurements=[], training=None)
    block = own(write_run(tmp_path, records))
    assert block.missing == "DiT-XS/2 pack: seed 3 oom"
    assert [seed for seed, _ in effect_of(block, "pipeline").by_seed] == [0, 1, 2]
    assert {effect.outcome for effect in block.effects} == {"inconclusive"}
    assert "DiT-XS/2 pack: seed 3 oom" in effect_of(block, "pipeline").reason
    assert "not told apart (seeds without a value count too)" in factorial.says(block)
    assert effect_of(block, "pipeline").difference.value == pytest.approx(-4.5)


def test_a_seed_that_the_matrix_lacks_is_said(tmp_path: Path) -> None:
    block = own(write_run(tmp_path, study(VALUES | {(UNET, "pad"): [8.0, 9.0]})))
    assert block.missing == "UNet-XS pad: seed 2 not in the matrix"
    assert len(effect_of(block, "backbone").by_seed) == 2
    assert not any(effect.carried for effect in block.effects)


def test_no_seed_with_all_four(tmp_path: Path) -> None:
    records = study(few(1))
    records = replaced(records, DIT, "pack", 0, status="failed", reason="x", measurements=[])
    folder = write_run(tmp_path, records, claim="shapes")
    block = own(folder)
    assert (block.effects, block.means) == ((), None)
    assert factorial.says(block) == "no seed has all four values"
    build([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no seed has all four values" in text


def test_other_protocols_are_not_compared(tmp_path: Path) -> None:
    records = study(VALUES)
    made = next(made for made in records if made and made.cell.batching.policy == "pack")
    other = [m.model_copy(update={"protocol": {"measure": "another"}}) for m in made.measurements]
    buckets, first = blocks_of(write_run(tmp_path, replaced(records, DIT, "pack", 0, measurements=other)))
    assert {effect.outcome for effect in first.effects} == {"not compared"}
    assert "different protocols" in first.effects[0].reason
    assert effect_of(buckets, "backbone").outcome != "not compared"  # the pack cell is none of its four


def test_a_failed_canary_carries_nothing(tmp_path: Path) -> None:
    canaries = [Canary(name="resumed equals uninterrupted", passed=False, detail="0.3")]
    folder = write_run(tmp_path, replaced(study(VALUES), DIT, "pack", 1, canaries=canaries), claim="shapes")
    for block in blocks_of(folder):  # not in those of its own four alone
        assert {effect.outcome for effect in block.effects} == {"not compared"}
        assert effect_of(block, "backbone").reason == "a canary of DiT-XS/2 pack failed"
    build([folder], tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "tables" / "claim.csv")["carried"].tolist() == [False]


def test_whoever_fails_does_not_choose_what_decides(tmp_path: Path) -> None:
    """All seeds of buckets fail: own shapes, which would be carried, do not take their place."""
    records = study(VALUES)
    for seed in range(3):
        records = replaced(records, DIT, "bucket", seed, status="diverged", reason="x", measurements=[], training=None)
    conclusion = find(load_run(write_run(tmp_path, records, claim="shapes"))).conclusion
    assert (conclusion.state, [part.key and part.key[1] for part in conclusion.parts]) == ("inconclusive", ["buckets"])


# --- which runs have one


def test_runs_without_two_backbones_and_policies_have_none(tmp_path: Path) -> None:
    assert blocks_of(write_run(tmp_path / "backbones", pair(1))) == []
    one = {key: series for key, series in few(1).items() if key[0] == UNET}
    assert blocks_of(write_run(tmp_path / "one", study(one))) == []
    third = [
        made.model_copy(update={"cell": renamed(made, "other:Third"), "name": f"third-{k}", "fingerprint": f"{k}" * 64})
        for k, made in enumerate(study(one))
        if made
    ]
    assert blocks_of(write_run(tmp_path / "three", [*study(few(1)), *third])) == []
    build([write_run(tmp_path / "plain", pair(1))], tmp_path / "out")
    assert not list((tmp_path / "out" / "tables").glob("factorial*"))
    assert "data pipeline" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_third_axis_takes_it_away(tmp_path: Path) -> None:
    folder = write_run(tmp_path, study(few(1)))
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"batching.policy": "pad"', '"batching.policy": "pad", "sampler.num_steps": 4'))
    assert blocks_of(folder) == []


def test_own_shapes_are_packed_where_a_backbone_is_packed(tmp_path: Path) -> None:
    both = VALUES | {(DIT, "pad"): [5.0, 5.0, 5.0]}
    assert own(write_run(tmp_path / "a", study(both))).design.cells[1] == ("DiT-XS/2 crop", "DiT-XS/2 pack")
    without = {key: series for key, series in both.items() if key[1] != "pack"}
    assert own(write_run(tmp_path / "b", study(without))).design.cells[1] == ("DiT-XS/2 crop", "DiT-XS/2 pad")
    crops = {key: series for key, series in VALUES.items() if key[1] != "pad"}
    assert [block.design.pipeline for block in blocks_of(write_run(tmp_path / "c", study(crops)))] == ["buckets"]


# --- how it is shown


def test_tables_hold_means_and_effects(tmp_path: Path) -> None:
    build([write_run(tmp_path, study(VALUES), claim="shapes")], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "tables" / "factorial-own-shapes.csv").set_index(["measurement", "effect"])
    assert table.loc[(NAME, "pipeline"), "value"] == pytest.approx(-4.5)
    assert table.loc[(NAME, "pipeline"), "mean of UNet-XS pad"] == pytest.approx(9.0)
    assert table.loc[(NAME, "interaction"), "low"] == pytest.approx(-3 - scipy.stats.t.ppf(0.975, 98 / 19) * math.sqrt(7 / 3))
    assert table.loc[(NAME, "pipeline"), "corrected_p"] > table.loc[(NAME, "pipeline"), "p_value"]
    assert table.loc[(NAME, "backbone"), "values"] == "-5.5 -7.0 -7.0"
    assert table["outcome"].tolist() == ["carried", "carried", "inconclusive"]
    markdown = (tmp_path / "out" / "tables" / "factorial-own-shapes.md").read_text(encoding="utf-8")
    assert r"-4.50 \[-6.45, -2.55\] (-3.50, -5.00, -5.00)".replace("-", MINUS) in markdown
    assert (tmp_path / "out" / "tables" / "factorial-buckets.tex").exists()
    ElementTree.parse(tmp_path / "out" / "pictures" / "interaction.svg")


def test_figure_has_a_panel_a_measurement_and_a_line_a_backbone(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, study(VALUES)))
    drawing = shape_figures.interaction(factorial.blocks(run, compare.compare(run)))
    assert drawing is not None
    for word in (NAME, "crops", "buckets", "own", "UNet-XS", "DiT-XS/2"):
        assert f">{word}" in drawing.svg or f"> {word}" in drawing.svg, word
    assert shape_figures.interaction([]) is None


def test_lines_of_a_panel_join_the_means_from_crops_to_own_shapes(tmp_path: Path) -> None:
    blocks = blocks_of(write_run(tmp_path, study(VALUES)))
    axes = Figure().subplots()
    shape_figures._panel(axes, blocks[0].row, [block.design for block in blocks])
    thick = [line for line in axes.lines if line.get_alpha() is None]
    assert [list(line.get_ydata()) for line in thick] == [[12.0, 9.5, 9.0], [7.0, 7.0, 1.0]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["crops", "buckets", "own\nshapes"]
    faint = [list(line.get_ydata()) for line in axes.lines if line.get_alpha() is not None]
    assert faint[0] == [10.0, 9.0, 8.0]
    assert len(faint) == 6


def test_names_are_escaped(tmp_path: Path) -> None:
    records = [
        made.model_copy(update={"cell": renamed(made, "x:<b>$_&")}) if made and made.cell.backbone == UNET else made
        for made in study(few(1))
    ]
    for path in build([write_run(tmp_path, records, claim="shapes")], tmp_path / "out"):
        if path.suffix == ".svg":
            ElementTree.parse(path)
        if path.suffix in (".html", ".svg", ".md"):
            assert "<b>$" not in path.read_text(encoding="utf-8"), path


# --- the answer


def said(folder: Path, records: list[Record | None], **changes: Any) -> list[str]:
    """The sentences that the page of a study opens with."""
    build([write_run(folder, records, claim="shapes", **changes)], folder / "out")
    run = load_run(folder / "invented")
    return list(answer.answer(run, find(run)).sentences)


def test_claim_is_supported_where_own_shapes_are_carried(tmp_path: Path) -> None:
    (text,) = said(tmp_path, study(UNBUCKETED))
    assert text.startswith("Cropping costs quality: models trained on own shapes make clips that are nearer to real ones (p = 0.00")
    assert find(load_run(tmp_path / "invented")).conclusion.carried


def test_buckets_answer_where_the_run_has_them(tmp_path: Path) -> None:
    """Under buckets both backbones do the same, so what padding costs one of them cannot be taken for what cropping saves."""
    padding_costs = VALUES | {(UNET, "pad"): [30.0, 31.0, 32.0]}
    text, more = said(tmp_path, study(padding_costs))
    assert text.startswith("Whether cropping costs quality, three seeds cannot tell: models trained on buckets") and "more seed" in more
    assert text.endswith("p = 0.15.")
    table = pd.read_csv(tmp_path / "out" / "tables" / "factorial-own-shapes.csv").set_index("effect")
    assert table.loc["pipeline", "value"] == pytest.approx(6.5)


def test_packs_are_held_against_buckets_of_the_same_backbone(tmp_path: Path) -> None:
    said(tmp_path / "a", study(VALUES))
    text = (tmp_path / "a" / "out" / "report.html").read_text(encoding="utf-8").replace(MINUS, "-")
    assert "DiT-XS/2 pack - DiT-XS/2 bucket" in text and "-6.00 [-8.08, -3.92]" in text and "packs better, carried, p = " in text
    said(tmp_path / "b", replaced(study(VALUES), DIT, "pack", 2, status="oom", reason="CUDA out of memory", measurements=[]))
    text = (tmp_path / "b" / "out" / "report.html").read_text(encoding="utf-8")
    assert "packs better, inconclusive, seeds without a value count too" in text
    said(tmp_path / "c", study(UNBUCKETED))
    assert not (tmp_path / "c" / "out" / "tables" / "contrasts.csv").exists()


def test_claim_is_not_supported_where_crops_are_carried(tmp_path: Path) -> None:
    swapped = {"crop": "pad", "pad": "crop", "pack": "crop"}
    values = {(b, {"crop": "pack"}.get(p, swapped.get(p, p)) if b == DIT else swapped.get(p, p)): v for (b, p), v in UNBUCKETED.items()}
    assert said(tmp_path, study(values))[0].startswith("Cropping costs no quality: models trained on crops make clips that are nearer")


def test_claim_of_two_seeds_is_inconclusive(tmp_path: Path) -> None:
    text, _ = said(tmp_path, study(few(2)))
    assert text.startswith("Whether cropping costs quality, two seeds cannot tell") and "p =" not in text
    assert '<header class="first open">' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def with_more(name: str, factor: float) -> list[Record | None]:
    """The study with a second measurement, whose values are the first's times a factor."""
    more = []
    for made in study(UNBUCKETED):
        assert made is not None
        first = made.measurements[0]
        second = first.model_copy(update={"name": name, "value": factor * first.value})
        more.append(made.model_copy(update={"measurements": [first, second]}))
    return more


def test_composition_has_its_own_verdict(tmp_path: Path) -> None:
    both = said(tmp_path / "a", with_more("saliency_distance", 0.01))
    assert [text.partition(":")[0] for text in both] == ["Cropping costs quality", "Cropping costs composition"]
    noisy = with_more("saliency_distance", 0.01)
    noisy = [
        made.model_copy(update={"measurements": [made.measurements[0], made.measurements[1].model_copy(update={"value": value})]})
        for made, value in zip(noisy, [3, 9, 1, 5, 8, 2, 7, 1, 9, 2, 4, 8], strict=True)
        if made
    ]
    carried, unknown, _ = said(tmp_path / "b", noisy)
    assert carried.startswith("Cropping costs quality") and unknown.startswith(
        "Whether cropping costs composition, three seeds cannot tell"
    )


def test_what_is_carried_is_said_first(tmp_path: Path) -> None:
    """Also where it is not the primary measure; shares of clips are counted."""
    records: list[Record | None] = []
    for made, noise in zip(study(UNBUCKETED), [3, 9, 1, 5, 8, 2, 7, 1, 9, 2, 4, 8], strict=True):
        assert made is not None
        (one,) = made.measurements
        whole = one.model_copy(update={"name": "subject_whole_rate", "value": 0.02 * (20 - one.value), "better": "higher"})
        records.append(made.model_copy(update={"measurements": [one.model_copy(update={"value": noise}), whole]}))
    first, second, _ = said(tmp_path, records)
    assert first.startswith(
        "Cropping costs composition: models trained on own shapes make 1.4 times as many clips that show their subject whole"
    )
    assert second.startswith("Whether cropping costs quality, three seeds cannot tell")


def test_other_measures_cannot_turn_the_answer(tmp_path: Path) -> None:
    """A measure that says the opposite, and surer, is shown; what decides was named before."""
    (text,) = said(tmp_path, with_more("val_loss", -1.0))
    assert text.startswith("Cropping costs quality")
    assert "carried" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_parts_of_the_claim_that_disagree_split_it(tmp_path: Path) -> None:
    both = said(tmp_path, with_more("saliency_distance", -0.01))
    assert [text.partition(":")[0] for text in both] == ["Cropping costs quality", "Cropping costs no composition"]
    table = pd.read_csv(tmp_path / "out" / "tables" / "claim.csv")
    assert table["state"].tolist() == ["supported", "not supported"] and table["carried"].tolist() == [True, True]
    assert (table["corrected_p"] < table["level"]).all()


def test_claim_without_its_cells_is_not_tested(tmp_path: Path) -> None:
    (text,) = said(tmp_path, pair(3))
    why = "the run has no two backbones under crop and another policy, all else equal"
    assert text == f"What cropping costs was not tested: {why}."


def test_a_failed_canary_comes_first(tmp_path: Path) -> None:
    canaries = [Canary(name="resumed equals uninterrupted", passed=False, detail="0.3")]
    (text,) = said(tmp_path, replaced(study(VALUES), DIT, "pack", 1, canaries=canaries))
    assert text == "Nothing here is to be believed: a self-check failed (resumed equals uninterrupted of DiT-XS/2 pack)."


def test_other_claims_keep_their_answer(tmp_path: Path) -> None:
    build([write_run(tmp_path, study(VALUES), claim="backbone")], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert (
        "Which makes the best clips, three seeds cannot tell: DiT-XS/2 pack's are nearer" in text or "DiT-XS/2 pack makes the best" in text
    )
    assert "Backbone and data pipeline: own shapes against crops" in text
