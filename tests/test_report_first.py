"""The first screen: an answer of three sentences, ratios on one scale, clips; and that nothing below it is wider than a page."""

import html
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from report_factory import EXACT, LEDGER, pair, record, renamed, shapes_record, study, write_run

from bench.records.record import Measurement, QualityPoint, Record
from bench.report import build
from bench.report.load import load_run
from bench.report.page import figures, page, paper, ratio_picture, sheets
from bench.report.page.paper import MOST_ROWS
from bench.report.render.table import Table, stacked
from bench.report.verdicts import answer, compare, ratios, stats, warnings
from bench.report.verdicts.answer import Answer
from bench.report.verdicts.findings import find
from bench.report.verdicts.ratios import Ratio

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
WIDEST = 8  # columns of any table
EVIL = r"x:<b>$_&\{a: 1}^"


def answered(folder: Path) -> Answer:
    run = load_run(folder)
    return answer.answer(run, find(run))


def shown(folder: Path) -> dict[str, tuple[Ratio, ...]]:
    """Title of a row of the picture -> its ratios."""
    found = answered(folder).ratios
    assert found is not None
    return {row.title: row.ratios for row in found.rows}


def contenders(num: int, seeds: int = 3) -> list[Record | None]:
    """Records of so many, each its own size of everything."""
    found: list[Record | None] = []
    for k in range(num):
        for made in pair(seeds)[: 1 * seeds] if k % 2 else pair(seeds)[seeds:]:
            assert made is not None
            values = [m.model_copy(update={"value": m.value * (1 + 0.1 * k)}) if m.value > 0 else m for m in made.measurements]
            change = {"cell": renamed(made, f"x:C{k}"), "name": f"C{k}-seed{made.cell.seed}", "measurements": values}
            found.append(made.model_copy(update=change | {"fingerprint": f"{k:02d}{made.cell.seed}".ljust(64, "0")}))
    return found


def built(folder: Path, records: list[Record | None], **changes: object) -> tuple[str, Path]:
    """The page of a run without sheets, and where it is."""
    build([write_run(folder, records, sheets=False, **changes)], folder / "out")  # type: ignore[arg-type]
    return (folder / "out" / "report.html").read_text(encoding="utf-8"), folder / "out"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two contenders at three seeds, and their report in `out`."""
    folder = tmp_path_factory.mktemp("three")
    built(folder, pair(3))
    return folder


# --- the answer


def test_an_answer_has_at_most_three_sentences(tmp_path: Path) -> None:
    """Whatever the run: each a line, and no more on the page."""
    values = {(UNET, "crop"): [3.0, 9.0], (UNET, "bucket"): [2.0, 5.0], (DIT, "crop"): [2.0, 7.0], (DIT, "bucket"): [1.0, 2.0]}
    failed = record(DIT, 2, status="oom", reason="CUDA out of memory", measurements=[], training=None, artefacts={})
    noise = np.random.default_rng(0).uniform(0.2, 0.8, (4, 3, 2))
    open_parts = [
        shapes_record(*which, seed, {"fd_random3d@64": noise[k, seed, 0], "subject_whole_rate": noise[k, seed, 1]}, ledger=LEDGER)
        for k, which in enumerate(values)
        for seed in range(3)
    ]
    runs = {
        "one": pair(1), "three": pair(3), "wide": pair(3, spread=0.5), "alone": [record(UNET, 0)], "none": [],
        "failed": [*pair(3)[:5], failed], "five": contenders(5), "shapes": study(values), "shapes of all": open_parts,
    }  # fmt: skip
    for name, records in runs.items():
        claim = "shapes" if "shapes" in name else "backbone"
        sentences = answered(write_run(tmp_path / name, records, claim=claim, sheets=False)).sentences
        assert 1 <= len(sentences) <= 3, name
        for sentence in sentences:
            assert re.fullmatch(r"[^\n]{10,240}[.:]", sentence), sentence
    text, out = built(tmp_path / "page", runs["one"])
    sentences = answered(tmp_path / "one" / "invented").sentences
    assert len(re.findall(r"<p>", text[text.index('<div class="answer">') : text.index('<div class="pair">')])) == len(sentences)
    lines = (out / "report.md").read_text(encoding="utf-8").split("\n\n")
    assert [line for line in lines if line.startswith(sentences[0][:9])]


def test_a_difference_that_nobody_would_notice_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXACT[DIT], "peak_storage_bytes", int(0.97 * EXACT[UNET]["peak_storage_bytes"]))
    said = answered(write_run(tmp_path, pair(3), sheets=False)).sentences
    assert said[0] == "DiT-XS/2 trains 3.8 times as fast, samples 3.6 times as fast and needs a quarter of the FLOPs."


def test_costs_come_first_by_leader_with_numbers_as_people_say_them(tmp_path: Path) -> None:
    said = answered(write_run(tmp_path / "3", pair(3), sheets=False)).sentences
    assert said[0] == "DiT-XS/2 trains 3.8 times as fast in a third of the memory and samples 3.6 times as fast."
    one = answered(write_run(tmp_path / "1", pair(1), sheets=False)).sentences
    assert one[0].startswith("DiT-XS/2 trains in a third of the memory; in one run each, it also trains 3.")
    many = answered(write_run(tmp_path / "5", contenders(5), sheets=False)).sentences
    assert many[0].startswith("Against the next best of five, C4 trains ")


def test_what_would_decide_is_the_last_sentence_with_its_command(tmp_path: Path) -> None:
    text, out = built(tmp_path, pair(1))
    found = answered(tmp_path / "invented")
    assert found.sentences[-1].endswith(":") and "more seed" in found.sentences[-1]
    assert f"<code>{found.command.replace(chr(39), '&#39;')}</code>" in text and "seeds=[" in found.command
    assert found.command in (out / "report.md").read_text(encoding="utf-8")
    assert answered(write_run(tmp_path / "3", pair(3), sheets=False)).command == ""  # nothing is open


def test_seeds_without_a_value_leave_it_open(tmp_path: Path) -> None:
    failed = record(DIT, 2, status="oom", reason="CUDA out of memory", measurements=[], training=None, artefacts={})
    said = answered(write_run(tmp_path, [*pair(3)[:5], failed], sheets=False)).sentences
    assert said[-1] == "Which makes better clips is open: of DiT-XS/2 not every seed has a value."


def test_a_serious_warning_takes_the_green_away(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before the answer; more than two are folded."""
    text = (three / "out" / "report.html").read_text(encoding="utf-8")  # nobody tuned its rates
    assert '<header class="first open">' in text and answered(three / "invented").mark == "decided"
    assert text.index("Learning rates were not tuned") < text.index('<div class="answer">')
    assert "**Warning.** Learning rates were not tuned" in (three / "out" / "report.md").read_text(encoding="utf-8").split("# ")[1]
    many = tuple((f"w{k}", False, lambda run, found, k=k: [f"Odd <{k}>."]) for k in range(4))
    monkeypatch.setattr(warnings, "WARNINGS", many)
    text, _ = built(tmp_path / "b", pair(3))
    assert '<header class="first decided">' in text and "<summary>2 more</summary><p>Odd &lt;2&gt;.</p>" in text


def test_a_scaled_run_says_so_and_each_backbone_is_shown_at_its_best(tmp_path: Path) -> None:
    scaling = {"minutes": 5, "share": 0.1, "num_seeds": 1, "of": "x", "changes": ["budget.seconds 200 -> 20"]}
    rates = []
    for made in pair(1):
        assert made is not None
        for rate in (0.004, 0.008):
            cell = made.cell.model_copy(update={"optimizer": made.cell.optimizer.model_copy(update={"learning_rate": rate})})
            values = [m.model_copy(update={"value": m.value * 250 * rate}) if m.name == "val_loss" else m for m in made.measurements]
            change = {"cell": cell, "name": f"{made.name}-{rate}", "fingerprint": cell.fingerprint(), "measurements": values}
            rates.append(made.model_copy(update=change))
    axes = "optimizer.learning_rate"
    folder = write_run(tmp_path / "best", list(rates), sheets=False, match=None, scaling=scaling)
    snapshot = json.loads((folder / "run.json").read_text())
    for listed, made in zip(snapshot["cells"], rates, strict=True):
        listed["axes"][axes] = made.cell.optimizer.learning_rate
    (folder / "run.json").write_text(json.dumps(snapshot))
    build([folder], tmp_path / "best" / "out")
    text = (tmp_path / "best" / "out" / "report.html").read_text(encoding="utf-8")
    assert text.index("Scaled to 5 minutes: budget.seconds 200 -&gt; 20.") < text.index('<div class="answer">')
    assert "UNet-XS, learning_rate 0.004 better" in text and "learning_rate 0.008 better" not in text
    assert '<section id="tried">' in text and "learning_rate 0.008" in text[text.index('<section id="tried">') :]


# --- ratios


def test_the_interval_of_a_ratio_leaves_1_out_where_the_page_s_test_does() -> None:
    rng = np.random.default_rng(0)
    agreed = set()
    for _ in range(60):
        first, other = rng.normal(10, 2, 3).tolist(), rng.normal(12.5, 1, 5).tolist()
        value, low, high = ratios.of_means([other], [first])
        assert low is not None and high is not None and low < value < high
        p_value = stats.welch(first, other).p_value
        assert p_value is not None and (low > 1 or high < 1) == (p_value < 0.05)
        agreed.add(low > 1 or high < 1)
        for end in (low, high):
            if 0 < end < math.inf:
                again = stats.contrast([other, first], [1, -end]).p_value
                assert again == pytest.approx(0.05, abs=1e-6)
    assert agreed == {True, False}


def test_the_interval_of_a_ratio_covers_the_true_one() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        _, low, high = ratios.of_means([rng.normal(20, 2, 4).tolist()], [rng.normal(10, 1, 4).tolist()])
        assert low is not None and high is not None
        covered += low < 2 < high
    assert 0.92 < covered / 300 < 0.985


def test_the_interval_has_no_end_where_a_mean_may_be_0_and_none_at_one_seed() -> None:
    _, low, high = ratios.of_means([[10.0, 11.0, 12.0]], [[1.0, 9.0, 20.0]])
    assert low is not None and low > 0 and high == math.inf
    assert ratios.of_means([[10.0]], [[5.0]]) == (2.0, None, None)
    assert ratios.of_means([[0.1] * 3], [[0.3] * 3])[1:] == (None, None)  # counts, whose mean is rounded


def test_the_interval_of_spreads_is_f() -> None:
    first, other = [1.0, 2.0, 4.0, 8.0], [1.0, 5.0, 20.0]
    found = ratios.of_spreads([first], [other])
    assert found is not None
    value, low, high = found
    assert value == pytest.approx(np.std(first, ddof=1) / np.std(other, ddof=1))
    assert low == pytest.approx(value / math.sqrt(scipy.stats.f.ppf(0.975, 3, 2)))
    assert high == pytest.approx(value * math.sqrt(scipy.stats.f.ppf(0.975, 2, 3)))
    assert ratios.of_spreads([[1.0, 1.0]], [[1.0, 2.0]]) is None


@pytest.mark.parametrize("odd", [5e-324, 1e99, 0.0, -1.0])
def test_values_of_no_common_size_have_no_ratio(tmp_path: Path, odd: float) -> None:
    broken: list[Record | None] = []
    for made in pair(3)[3:]:
        assert made is not None
        changed = {name: {"value": odd * (1 + made.cell.seed)} for name in ("fd_random3d@64", "flops_per_clip")}
        values = [m.model_copy(update=changed.get(m.name, {})) for m in made.measurements]
        broken.append(made.model_copy(update={"measurements": values}))
    found = shown(write_run(tmp_path, [*pair(3)[:3], *broken], sheets=False))
    assert not {"Clip quality", "Cost of a clip"} & set(found) and "Training speed" in found


def test_better_is_always_to_one_side(tmp_path: Path) -> None:
    """The second has less distance, memory and FLOPs, and more clips a second: all above 1."""
    found = shown(write_run(tmp_path, pair(3), sheets=False))
    assert list(found) == ["Clip quality", "Training speed", "Sampling speed", "Memory, training", "Cost of a clip", "Stability"]
    for title, (ratio,) in found.items():
        assert ratio.value > 1 or title == "Stability", title
    assert found["Memory, training"][0].value == pytest.approx(701_234_176 / 233_111_552)
    assert found["Clip quality"][0].says == "60 % of the distance"


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_only_what_is_carried_or_exact_is_filled(tmp_path: Path, num_seeds: int) -> None:
    folder = write_run(tmp_path, pair(num_seeds), sheets=False)
    run, found = load_run(folder), answered(folder).ratios
    assert found is not None
    carried = {row.title for row in found.rows for ratio in row.ratios if ratio.carried}
    exact = {"Memory, training", "Cost of a clip"}
    assert carried == (exact if num_seeds == 1 else exact | {"Clip quality", "Training speed", "Sampling speed"})
    svg = ratio_picture.draw(run, found).svg
    hollow = sum(len(row.ratios) for row in found.rows) - len(carried)
    assert len(re.findall(r"<use [^>]*fill: var\(--page\)", svg)) == hollow + 1  # and the one that says what it means
    assert (
        found.one_run == (num_seeds == 1) and ("a single seed has no interval" in ratio_picture.draw(run, found).caption) == found.one_run
    )


def test_of_several_the_leader_and_counts_are_filled(tmp_path: Path) -> None:
    found = shown(write_run(tmp_path, contenders(5), sheets=False))
    leads = {ratio.whose for ratio in found["Training speed"] if ratio.carried}
    assert leads == {"C4"} and {ratio.whose for ratio in found["Memory, training"] if ratio.carried} == {"C1", "C2", "C3", "C4"}


def test_two_seeds_have_no_stability_and_other_machines_no_speed(tmp_path: Path) -> None:
    assert "Stability" not in shown(write_run(tmp_path / "2", pair(2), sheets=False))
    elsewhere = [
        made.model_copy(update={"environment": made.environment.model_copy(update={"cpu": "Another"})}) for made in pair(3)[3:] if made
    ]
    assert "Training speed" not in shown(write_run(tmp_path / "m", [*pair(3)[:3], *elsewhere], sheets=False))


def test_the_picture_of_shapes_holds_pipelines_against_crops(tmp_path: Path) -> None:
    values = {
        (UNET, "crop"): [10.0, 12.0, 14.0], (UNET, "bucket"): [5.0, 6.0, 7.0], (UNET, "pad"): [20.0, 24.0, 28.0],
        (DIT, "crop"): [6.0, 7.0, 8.0], (DIT, "bucket"): [3.0, 3.5, 4.0], (DIT, "pack"): [12.0, 14.0, 16.0],
    }  # fmt: skip
    folder = write_run(tmp_path, study(values), claim="shapes", sheets=False)
    found = answered(folder).ratios
    assert found is not None and (found.first, found.others) == ("crops", ("buckets", "own shapes"))
    assert [(ratio.whose, ratio.value) for ratio in found.rows[0].ratios] == [("buckets", 2.0), ("own shapes", 0.5)]
    assert [ratio.carried for ratio in found.rows[0].ratios] == [
        block.effect("pipeline").carried for block in find(load_run(folder)).blocks  # type: ignore[union-attr]
    ]  # fmt: skip


@pytest.mark.parametrize("num", [2, 3, 8, 12])
def test_the_picture_is_one_however_many_there_are(tmp_path: Path, num: int) -> None:
    folder = write_run(tmp_path, contenders(num), sheets=False)
    found = answered(folder).ratios
    assert found is not None
    drawing = ratio_picture.draw(load_run(folder), found)
    ElementTree.fromstring(drawing.svg)
    width, height = (float(side) for side in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing.svg)[0])
    assert width == 340 and height < 1.6 * width
    assert ("C0 better" in drawing.svg) and ("better than C0" in drawing.svg) == (num > 2)


def test_lines_of_a_row_stay_inside_it_and_the_picture(tmp_path: Path) -> None:
    """A note of many lines makes its row higher, and words that are wider than the room beside a mark go on below."""
    run = load_run(write_run(tmp_path, contenders(3), sheets=False))
    says = "three quarters of the distance"
    others = [Ratio(whose=name, value=1.3, low=None, high=None, carried=False, says=says) for name in ("C1", "C2")]
    note = "clips that show the shape, colour and direction in its first half they were told"
    found = ratios.AxisRatios(first="C0", others=("C1", "C2"), one_run=True, rows=tuple(
        ratios.RatioRow(title=title, note=note if own is others else "", ratios=tuple(own))
        for title, own in (("Clip quality", others), ("Clip speed", others[:1]), ("Clip cost", others))
    ))  # fmt: skip
    shown: dict[str, list[float]] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Axes, "text", lambda self, x, y, text, **rest: shown.setdefault(str(text), []).append(y))
        drawn = ratio_picture.draw(run, found)
    heights = [ratio_picture._height(row) for row in found.rows]
    top = ratio_picture.HEAD + 12.0
    lines = [place for line in ratio_picture._noted(found.rows[0]) for place in shown[line][:1]]
    assert len(lines) > 3 and shown["Clip quality"][0] - 4 >= top and lines[-1] + 4 <= top + heights[0]
    assert "viewBox" in drawn.svg and says not in shown
    assert len(shown["three quarters of the"]) == len(shown["distance"]) == 5
    places = sorted(shown["three quarters of the"] + shown["distance"])
    assert min(b - a for a, b in itertools.pairwise(places)) >= 9
    bounds = list(itertools.accumulate(heights, initial=top))
    assert all(min(abs(place - bound) for bound in bounds) >= 4 for place in places)


def test_an_interval_without_end_is_cut_at_the_scale() -> None:
    endless = Ratio(whose="b", value=2.0, low=0.0, high=math.inf, carried=False, says="")
    scale = ratio_picture.Scale([ratios.RatioRow(title="", note="", ratios=(endless,))])
    left, right = scale.clipped(0.0), scale.clipped(math.inf)
    assert left == (ratio_picture.SIDE, True) and right == (ratio_picture.SIDE + ratio_picture.MIDDLE, True)
    assert ratio_picture.SIDE < scale.at(2.0) < ratio_picture.SIDE + ratio_picture.MIDDLE and scale.at(1.0) == pytest.approx(
        ratio_picture.SIDE + ratio_picture.MIDDLE / 2
    )
    assert scale.ticks() == sorted(scale.ticks()) and 1.0 in scale.ticks()


# --- the clips


def test_the_first_sheet_is_of_real_clips_and_every_contender(tmp_path: Path) -> None:
    folder = write_run(tmp_path, pair(1))
    drawn, _ = sheets.draw(load_run(folder), 2_000_000)
    assert drawn is not None
    assert drawn.first.row_labels == ("Real", "UNet-XS", "DiT-XS/2") and len(drawn.first.column_widths) == sheets.FIRST_CLIPS
    assert len(drawn.full.row_labels) == 6 and drawn.first.column_labels == drawn.full.column_labels[: sheets.FIRST_CLIPS]
    build([folder], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert text.index('class="ratios"') < text.index('class="clips"') < text.index("<nav") < text.index('id="verdicts"')
    assert (tmp_path / "out" / "paper.tex").exists()
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} >= {"clips.webp", "samples.webp", "samples.png", "ratios.svg"}
    picture = (tmp_path / "out" / "pictures" / "ratios.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in picture and "DiT-XS/2 better" in picture


# --- below


class Columns(HTMLParser):
    """Cells of every row of every table of a page, spans counted."""

    def __init__(self, text: str):
        super().__init__()
        self.most, self._row, self._down = 0, 0, 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self._row = 0
        elif tag in ("td", "th"):
            self._row += int(dict(attrs).get("colspan") or 1)
            self.most = max(self.most, self._row)


@pytest.mark.parametrize("num", [3, 8])
def test_no_table_is_wider_than_a_page(tmp_path: Path, num: int) -> None:
    text, out = built(tmp_path, contenders(num, seeds=2), match=None)
    assert Columns(text).most <= WIDEST
    for path in (out / "tables").glob("*.tex"):
        if path.stem != "measurements":
            (columns,) = re.findall(r"\\begin\{tabular\}\{(l+)\}", path.read_text(encoding="utf-8"))
            assert len(columns) <= WIDEST, path.name
    for line in (out / "report.md").read_text(encoding="utf-8").splitlines():
        assert not line.startswith("|--") or line.count("|") - 1 <= WIDEST
    comparison = (out / "tables" / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert len(comparison[0].split(",")) > 6 * num  # a line a measurement, as ever


def test_stacked_values_keep_their_owners_and_what_is_bold() -> None:
    wide = Table(
        "t",
        "",
        ("size", "a", "b", "c", "d", "floor"),
        (("x", "1", "1", "2", "1", "0"), ("y", "3", "3", "3", "3", "1")),
        frozenset({(0, 3)}),
    )
    narrow = stacked(wide, (1, 2, 3, 4), "Of")
    assert narrow.header == ("size", "Of", "Value", "floor")
    assert narrow.rows == (("x", "a, b, d", "1", "0"), ("", "c", "2", ""), ("y", "all", "3", "1")) and narrow.bold == {(1, 2)}
    assert narrow.to_csv() == wide.to_csv()


def test_verdicts_beyond_fifteen_are_folded_and_reasons_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.MOST_VERDICTS == 15
    monkeypatch.setattr(page, "MOST_VERDICTS", 3)
    text, out = built(tmp_path, pair(1))
    rows = compare.axes(find(load_run(tmp_path / "invented")).rows)
    table, rest = text[text.index('id="verdicts"') : text.index('id="quality"')].split("<details>")
    assert (table.count('scope="row"'), rest.count('scope="row"')) == (
        3,
        len(rows) - 3,
    ) and f"<summary>{len(rows) - 3} more</summary>" in rest
    assert "a claim needs at least" not in text[: text.index('id="protocol"')]
    assert "a claim needs at least 3" in (out / "tables" / "verdicts.csv").read_text(encoding="utf-8")


def test_sections_come_in_order_and_later_ones_only_where_a_run_has_them(three: Path) -> None:
    text = (three / "out" / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'<section id="([\w-]+)"', text)
    order = ["verdicts", "quality", "samples", "comparison", "time", "differences", "data", "protocol", "environment"]
    assert [name for name in ids if name in order] == order
    assert not {"flips", "tuning", "factorial", "shapes", "ledger"} & set(ids)


def test_quality_on_the_way_is_a_line_a_seed(tmp_path: Path) -> None:
    name = "fd_random3d@64"
    found = [Measurement(name=name, value=90.0, unit="1", better="lower")]
    way = [QualityPoint(part=part, step=9, wall_time_s=120 * part, forward_flops=5, measurements=found) for part in (0.25, 0.5)]
    run = load_run(write_run(tmp_path, [record(UNET, 0, points=way), record(DIT, 0)], sheets=False))
    points = figures.quality_points(run.cells[0], name)
    assert [point.cost for point in points[:2]] == [(30.0, 15.0), (60.0, 15.0)] and [point.value for point in points[:2]] == [90.0, 90.0]
    assert len(points) == 3 and points[-1].low is not None and len(figures.quality_points(run.cells[1], name)) == 1
    drawing = figures.quality_course(run, find(run).rows)
    assert drawing is not None and "while training, a line a seed" in drawing.caption


@pytest.mark.parametrize(("start", "logarithmic"), [(9000.0, True), (90.0, False)])
def test_quality_falls_on_a_logarithmic_axis_where_a_linear_one_hides_its_end(tmp_path: Path, start: float, logarithmic: bool) -> None:
    found = [Measurement(name="fd_random3d@64", value=start, unit="1", better="lower")]
    way = [QualityPoint(part=0.25, step=9, wall_time_s=30, forward_flops=5, measurements=found)]
    run = load_run(write_run(tmp_path, [record(UNET, 0, points=way), record(DIT, 0)], sheets=False))
    drawing = figures.quality_course(run, find(run).rows)
    assert drawing is not None and (">1,000<" in drawing.svg) == logarithmic
    assert "mathdefault" not in drawing.svg  # text as it is


def test_a_legend_of_many_leaves_the_panels_their_height(tmp_path: Path) -> None:
    heights = []
    for num in (2, 24):
        drawing = figures.training_curves(load_run(write_run(tmp_path / str(num), contenders(num, 1), match=None, sheets=False)))
        assert drawing is not None
        heights.append(float(re.findall(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawing.svg)[0]))
    assert heights[1] > heights[0] + 20


def test_a_short_cell_stays_on_one_line(three: Path) -> None:
    """A p-value, say; a longer one may break anywhere."""
    text = (three / "out" / "report.html").read_text(encoding="utf-8")
    short, longer = (re.findall(rf'<td class="{kind}" data-of="[^"]*">([^<]+)</td>', text) for kind in ("value", "break"))
    assert short and longer and max(map(len, map(html.unescape, short))) <= 8 < min(map(len, map(html.unescape, longer)))


# --- paper.tex


def paper_of(folder: Path) -> str:
    run = load_run(folder)
    return paper.to_paper(run, find(run).rows)


def rows_of_paper(text: str) -> tuple[str, list[str]]:
    """Its column format, and its lines of cells, the header first."""
    (columns,) = re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", text)
    return columns, [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r"\\")]


@pytest.mark.parametrize(("num", "seeds"), [(2, 3), (2, 1), (3, 3), (8, 3), (12, 2)])
def test_paper_fits_a_column_of_an_article(tmp_path: Path, num: int, seeds: int) -> None:
    text = paper_of(write_run(tmp_path, pair(seeds) if num == 2 else contenders(num, seeds), match=None, sheets=False))
    columns, lines = rows_of_paper(text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}") and len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    assert len(columns) <= 4 and {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(columns)}
    assert 2 <= len(lines) <= 1 + MOST_ROWS
    cells = [
        re.split(r"(?<!\\)&", re.sub(r"\\text\w+(?=\{)|\\shortstack\[r\]|\$[^$]*\$|[{}]", "", line).replace(r"\pm", "+")) for line in lines
    ]
    widest = sum(max(len(part.strip()) + 1 for cell in column for part in cell.split(r"\\")) for column in zip(*cells, strict=True))
    assert widest * (4.0 if "footnotesize" in text else 3.5) + 6 * len(columns) < 245  # points of a narrow column
    assert (r"$\pm$" in "".join(lines)) == (seeds > 1)
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert ("one seed each" if seeds == 1 else f"{'three' if seeds == 3 else 'two'} seeds each") in caption and "n = 64 clips" in caption
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1 and text.count(r"\providecommand") == 3


def test_paper_takes_any_name(tmp_path: Path) -> None:
    evil = [made.model_copy(update={"cell": renamed(made, EVIL), "name": "e"}) for made in pair(1)[:1] if made]
    text = paper_of(write_run(tmp_path, [*evil, *pair(1)[1:]], match=None, sheets=False))
    assert r"\textless{}b\textgreater{}\$\_\&\textbackslash{}\{" in text and "$_" not in text
    text = paper_of(write_run(tmp_path / "rows", [*evil, *contenders(3, 1)], match=None, sheets=False))
    assert r"\textless{}b\textgreater{}\$\_\&\textbackslash{}\{" in text and "$_" not in text


def test_a_run_of_one_has_no_paper(tmp_path: Path) -> None:
    assert paper_of(write_run(tmp_path, [record(UNET, 0)], sheets=False)) == ""
