"""The report card's files say what the card says, and are small and readable by a program."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from bench.commands.score import card as report
from bench.metrics.battery.corruptions import AXES
from bench.metrics.battery.judgements import CARD_VERSION, AxisResult, CurvePoint, ReportCard, judge


def point(level: float, value: float | None) -> CurvePoint:
    error = None if value is None else 0.05 * value
    return CurvePoint(level=level, frechet=value, frechet_se=error, kernel=value, kernel_se=error)


def card(
    name: str = "invented", not_finite: tuple[str, ...] = (), unmeasured: tuple[str, ...] = (), **values: tuple[float, ...]
) -> ReportCard:
    """Distances nobody measured: those of a good extractor, in multiples of a floor of 0.02, but for `values`."""
    axes = []
    for axis in AXES.values():
        default = (1.2, 1.4, 2, 4) if axis.name == "elastic_clip" else (1.4, 2, 4, 8)
        points = tuple(
            point(level, None if axis.name in not_finite else 0.02 * value)
            for level, value in zip(axis.levels, values.get(axis.name, default), strict=True)
        )
        gone = axis.name in unmeasured
        axes.append(
            AxisResult(
                name=axis.name,
                kind=axis.kind,
                title=axis.title,
                unit=axis.unit,
                points=() if gone else points,
                judged=not gone,
                note="needs clips of 31 frames, these have 16" if gone else "",
            )
        )
    floor = point(0, 0.02)
    judgements = judge(floor, axes, 0.0, list(not_finite))
    return ReportCard(
        version=CARD_VERSION,
        extractor=name,
        passed=all(judgement.passed for judgement in judgements),
        metric=f"fd_{name}@64",
        judgements=judgements,
        floor=floor,
        axes=tuple(axes),
        manifest={"name": name, "weights_sha256": "ab12", "golden": {}},
        clips={"source": "worlds", "seed": 1},
        num_clips=64,
        num_frames=16,
        height=32,
        width=24,
        seed=0,
        device="cpu",
        versions={"numpy": "2.0"},
    )


def source(num_frames: int = 31) -> np.ndarray:
    clips = np.full((2, num_frames, 32, 24, 3), 16, np.uint8)
    for t in range(num_frames):
        clips[0, t, 4 : 4 + 8, t % 16 : t % 16 + 8] = (255, 0, 0)
        clips[1, t, 20 : 20 + 8, t % 16 : t % 16 + 8] = (0, 255, 0)
    return clips


def test_all_files_and_their_sizes(tmp_path: Path) -> None:
    good = card()
    report.write(good, tmp_path / "new" / "folder", source())
    files = {file.name: file.stat().st_size for file in (tmp_path / "new" / "folder").iterdir()}
    assert set(files) == {"card.json", "card.md", "card.png", "card.svg", "strip.png"}
    assert max(files.values()) < 200_000
    assert ReportCard.model_validate_json((tmp_path / "new" / "folder" / "card.json").read_text()) == good


def test_written_twice_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        report.write(card(), tmp_path / folder, source())
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_the_verdict_comes_first(tmp_path: Path) -> None:
    good, bad = report.markdown(card(), with_strip=True), report.markdown(card(shuffle=(1, 1, 1, 1)), with_strip=False)
    assert "**invented passes all 9 judgements**; it may score a model. 64 clips in each set, 16 frames of 32x24." in good.splitlines()[2]
    assert "**invented fails 2 of 9 judgements: monotone, shuffle**; its distance may not" in bad.splitlines()[2]
    assert "strip.png" in good and "strip.png" not in bad
    assert "FVD" not in good + bad


def test_tables_hold_every_judgement_and_axis() -> None:
    some = card(freeze=(1.4, 2, 2.5, 2.9))
    text = report.markdown(some, with_strip=False)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows[: 2 + 9]} == {5} and {row.count("|") for row in rows[2 + 9 :]} == {8}
    assert len(rows) == (2 + 9) + (2 + 15)
    assert [row for row in rows if row.startswith("| **FAIL**")] == [
        "| **FAIL** | a clip frozen on its first frame scores at least 3 floors | 2.9 floors | freeze |"
    ]
    assert "| frozen tail | temporal | of steps | 0.25, 0.5, 0.75, 1 | 1.4, 2, 2.5, 2.9 | 1 | 0.058 ± 0.0029 |" in rows
    assert "- versions: numpy 2.0" in text and "golden" not in text  # what is empty is not listed


def test_a_panel_each_in_colours_that_mean_something(tmp_path: Path) -> None:
    report.write(card(freeze=(1.4, 2, 2.5, 2.9)), tmp_path)
    svg = (tmp_path / "card.svg").read_text(encoding="utf-8")
    shown = re.findall(r">([^<>]+)</text>", svg)
    assert sorted(text.removeprefix("✗ ") for text in shown if text.removeprefix("✗ ") in {axis.title for axis in AXES.values()}) == sorted(
        axis.title for axis in AXES.values()
    )
    assert [text for text in shown if text.startswith("✗")] == ["✗ frozen tail"]
    assert "invented FAILS 1 of 9: freeze" in shown and "64 clips in each set, 16 frames of 32x24" in shown
    assert not any("mathdefault" in text for text in shown)
    assert not (tmp_path / "strip.png").exists()


NO_FLOOR = [
    point(0, None),
    CurvePoint(level=0, frechet=0.0, frechet_se=0.0, kernel=0.0, kernel_se=0.0),
]  # NaN throughout; twice the same set
ODD = [
    card(not_finite=tuple(AXES)),
    card(not_finite=("blur",), unmeasured=("double_speed",)),
    card(noise=(1e-3, 1, 1e4, 1e6)),
    *(card().model_copy(update={"floor": floor}) for floor in NO_FLOOR),
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_cards_are_drawn_and_written_too(odd: ReportCard) -> None:
    report.figure(odd).canvas.draw()
    text = report.markdown(odd, with_strip=False)
    assert "nan" not in text and "inf " not in text and " None" not in text
    assert math.isnan(report.in_floors(odd, 1.0)) == (not odd.floor.frechet)


def test_labels_do_not_overlap() -> None:
    """Titles, axis labels and notes of all panels, as drawn."""
    picture = report.figure(card(shuffle=(1, 1, 1, 1), freeze=(1, 1, 1, 1), blur=(1, 1, 1, 1), unmeasured=("double_speed",)))
    picture.canvas.draw()
    renderer = picture.canvas.get_renderer()  # type: ignore[attr-defined]
    texts = [picture._suptitle, *picture.texts]  # type: ignore[attr-defined]
    for axes in picture.axes:
        if axes.get_visible():
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_xticklabels()]  # type: ignore[attr-defined]
    shown = list(dict.fromkeys(text for text in texts if text is not None and text.get_text() and text.get_visible()))
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    width, height = picture.canvas.get_width_height()
    for index, (name, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{name!r} leaves the picture"
        for other, others in boxes[:index]:
            assert not (box.x0 < others.x1 and others.x0 < box.x1 and box.y0 < others.y1 and others.y0 < box.y1), (
                f"{name!r} covers {other!r}"
            )


def test_the_strip_shows_each_damage() -> None:
    """One row each; the first is the clip itself."""
    full, short = report.strip(card(), source()), report.strip(card(), source(16))
    height = 32 * 2 + 4  # zoom 64 // 24
    assert full.size == (170 + 16 * (24 * 2 + 2), 16 * height) and short.size[1] == 15 * height  # no double speed
    pixels = np.asarray(full.convert("RGB"))
    assert tuple(pixels[2 * 6, 170 + 2 * 2]) == (255, 0, 0) and tuple(pixels[2 * 30, 170 + 2 * 20]) == (16, 16, 16)
    assert full.mode == "P"


def test_number() -> None:
    assert [report.number(value) for value in (None, math.nan, 0.012345, 3.14159, 1234.5)] == ["-", "-", "0.0123", "3.14", "1234"]
