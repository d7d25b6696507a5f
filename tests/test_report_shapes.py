"""The shape grid with its envelope, the ledger, clips of several shapes side by side, and the words for mixed data."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from report_factory import LEDGER, MIXED, grid_point, pair, record, shapes_record, study, write_run

from bench.data.ragged import Ragged, clip_shapes
from bench.records.artefacts import framed, save_frames
from bench.records.record import Canary, GridPoint, Record
from bench.report import build
from bench.report.grid import envelope, shape_figures, shape_map
from bench.report.grid.shape_map import ShapeMap, shape_text
from bench.report.load import Run, load_run
from bench.report.page import pipeline, sheets
from bench.report.render import canvas
from bench.report.render import catalogue as metrics
from bench.report.render.catalogue import DASH, TIMES
from bench.report.sheet import Sheet, load_sheet
from bench.report.verdicts import answer, compare, paired

UNET, DIT = "baselines:UNet-XS", "dit:DiT-XS/2"
SQUARE, WIDE, WIDER, LONG, IMAGE = (8, 16, 16), (8, 16, 32), (8, 16, 48), (16, 16, 16), (1, 16, 16)


def one(grid: list[GridPoint], policy: str = "pack", seed: int = 0, **changes: Any) -> Record:
    return shapes_record(DIT, policy, seed, {"fd_random3d@64": 3.0}, grid=grid, **changes)


def grid_of(folder: Path, *records: Record) -> ShapeMap:
    found = shape_map.read(load_run(write_run(folder, list(records))))
    assert found is not None
    return found


def only(grid: ShapeMap) -> envelope.Envelope:
    (found,) = envelope.envelopes(grid)
    return found


# --- the grid


def test_values_are_floors_and_means_over_seeds(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path, one([grid_point(SQUARE, "trained", 2.0, 0.5)], seed=0), one([grid_point(SQUARE, "trained", 4.0, 0.75)], seed=1)
    )
    spot = grid.spots["DiT-XS/2 pack", SQUARE]
    assert (spot.place, spot.floors, spot.whole, spot.missing) == ("trained", 3.0, 0.625, None)


def test_shapes_stand_by_place_and_size(tmp_path: Path) -> None:
    places = {WIDER: "in range", IMAGE: "out of range", WIDE: "trained", SQUARE: "trained"}
    crop = one([grid_point(shape, "out of range", 9.0) for shape in places], policy="crop")
    grid = grid_of(tmp_path, crop, one([grid_point(shape, place, 2.0) for shape, place in places.items()]))
    assert grid.shapes == (SQUARE, WIDE, WIDER, IMAGE)
    assert grid.spots["DiT-XS/2 crop", SQUARE].place == "out of range"


def test_short_shapes_have_the_distance_they_have(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, one([grid_point(SQUARE, "trained", 2.0), grid_point(IMAGE, "trained", 1.2, name="fd_frame@16")]))
    assert grid.measures == {SQUARE: "fd_random3d@16", IMAGE: "fd_frame@16"}
    build([tmp_path / "invented"], tmp_path)
    picture = (tmp_path / "pictures" / "shapes.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert sum(f"{shape_text(shape)}†" in picture for shape in (SQUARE, IMAGE)) == 1


def test_holes_have_their_reason(tmp_path: Path) -> None:
    hole = GridPoint(shape=LONG, place="out of range", reason="DiT needs <b>8</b> frames")
    failed = one([], policy="bucket", status="oom", reason="CUDA out of memory", measurements=[], training=None)
    partial = [one([grid_point(SQUARE, "trained", 2.0), hole], seed=0), one([], seed=1, status="timeout", reason="late")]
    grid = grid_of(tmp_path, failed, *partial)
    assert grid.spots["DiT-XS/2 bucket", SQUARE].missing == "seed 0: oom"
    assert grid.spots["DiT-XS/2 pack", SQUARE].missing == "seed 1: timeout"
    assert grid.spots["DiT-XS/2 pack", SQUARE].floors == 2.0
    assert grid.spots["DiT-XS/2 pack", LONG].missing == "seed 0: DiT needs <b>8</b> frames; seed 1: timeout"
    rows = shape_map.hole_table(grid).rows
    assert ("DiT-XS/2 bucket", "all", "seed 0: oom") in rows
    build([tmp_path / "invented"], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "DiT needs &lt;b&gt;8&lt;/b&gt; frames" in text
    assert "<b>8</b>" not in text


def test_distances_of_two_protocols_do_not_stand_side_by_side(tmp_path: Path) -> None:
    other = grid_point(SQUARE, "trained", 2.0)
    other = other.model_copy(
        update={"measurements": [m.model_copy(update={"protocol": {"measure": "another"}}) for m in other.measurements]}
    )
    grid = grid_of(tmp_path, one([other], policy="crop"), one([grid_point(SQUARE, "trained", 2.0)]))
    assert {spot.floors for spot in grid.spots.values()} == {None}
    assert "one protocol" in str(grid.spots["DiT-XS/2 pack", SQUARE].missing)


def test_a_distance_without_a_floor_above_0_is_no_value(tmp_path: Path) -> None:
    bare = grid_point(SQUARE, "trained", 2.0)
    zero = [m.model_copy(update={"value": 0.0}) if m.subject == "real" else m for m in bare.measurements]
    grid = grid_of(tmp_path, one([bare.model_copy(update={"measurements": zero})]))
    assert grid.spots["DiT-XS/2 pack", SQUARE].floors is None


def test_grid_table_has_raw_values(tmp_path: Path) -> None:
    build([write_run(tmp_path, [one([grid_point(SQUARE, "trained", 2.5, 0.5), grid_point(WIDER, "out of range", 9.0, 0.25)])])], tmp_path)
    table = pd.read_csv(tmp_path / "tables" / "shapes.csv")
    assert table["distance over floor"].tolist() == [2.5, 9.0]
    assert table["subject whole"].tolist() == [0.5, 0.25]
    assert table[["frames", "height", "width"]].to_numpy().tolist() == [list(SQUARE), list(WIDER)]
    assert "2.50, 50 %" in (tmp_path / "tables" / "shapes.md").read_text(encoding="utf-8")


def test_heat_map_parts_the_places_and_prints_every_value(tmp_path: Path) -> None:
    cells = [grid_point(SQUARE, "trained", 2.0), grid_point(WIDE, "in range", 3.0), grid_point((8, 24, 24), "in range", 4.0)]
    grid = grid_of(tmp_path, one([*cells, grid_point(WIDER, "out of range", 9.0)]))
    axes = Figure().subplots()
    shown = {spot: (str(spot.floors), spot.floors / 9) for spot in grid.spots.values() if spot.floors is not None}
    places = shape_figures._heat_map(axes, grid, shown)
    assert list(places) == [SQUARE, WIDE, (8, 24, 24), WIDER]
    assert np.diff(list(places.values())) == pytest.approx([1.3, 1.0, 1.3])
    assert [text.get_text() for text in axes.texts] == ["2.0", "3.0", "4.0", "9.0"]
    assert len(axes.patches) == 4 + 3  # a colour each, an outline unless out of range
    fills = [patch.get_alpha() for patch in axes.patches if patch.get_alpha() is not None]
    assert fills == sorted(fills)


def test_runs_without_a_grid_or_a_ledger_have_neither(tmp_path: Path) -> None:
    build([write_run(tmp_path, pair(1))], tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out").rglob("*.*")}
    assert not names & {"shapes", "envelope", "shape-holes", "ledger", "losses", "interaction"}


# --- the envelope


def test_envelope_by_hand(tmp_path: Path) -> None:
    """Trained: 3, 6 and 4 floors, so its own is 4 and the bar 8; whole 0.9, 0.7 and 0.8, so 0.8 and the bar 0.72."""
    grid = grid_of(
        tmp_path,
        one(
            [
                grid_point(SQUARE, "trained", 3.0, 0.9),
                grid_point(WIDE, "trained", 6.0, 0.7),
                grid_point((8, 32, 16), "trained", 4.0, 0.8),
                grid_point((8, 24, 24), "in range", 8.0, 0.72),  # exactly at both bars
                grid_point(WIDER, "out of range", 8.1, 0.9),
                grid_point(LONG, "out of range", 2.0, 0.71),
                grid_point((8, 8, 8), "out of range", 2.0, 0.8),
            ]
        ),
    )
    found = only(grid)
    assert found.bars == {"fd_random3d@16": 8.0}
    assert found.whole_bar == pytest.approx(0.72)
    assert set(found.holds) == {SQUARE, (8, 32, 16), (8, 24, 24), (8, 8, 8)}
    assert dict(found.breaks) == {WIDE: "70 %", WIDER: f"2.0{TIMES}", LONG: "71 %"}  # a trained shape may break too
    (line,) = envelope.envelope_table(grid).rows
    held, broken = (text.replace(TIMES, "x") for text in line[2:4])
    assert held == "trained: 8x16x16, 8x32x16; in range: 8x24x24; out of range: 8x8x8 (smaller)"
    assert broken == "8x16x32 (trained): 70 %; 16x16x16 (longer): 71 %; 8x16x48 (larger, wider): 2.0x"


def test_a_grid_without_a_trained_shape_takes_the_best(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, one([grid_point(WIDE, "in range", 6.0, 0.5), grid_point(WIDER, "out of range", 13.0, 0.9)]))
    found = only(grid)
    assert found.bars == {"fd_random3d@16": 12.0}
    assert found.whole_bar == pytest.approx(0.81)
    assert "best of the grid, which has no trained shape for it" in found.basis
    assert dict(found.breaks) == {WIDE: "50 %", WIDER: f"2.2{TIMES}"}


def test_each_distance_has_its_own_bar(tmp_path: Path) -> None:
    """1.9 floors of single frames beside a trained 0.9 is beyond, though 1.9 floors of the other distance would hold."""
    frames = [grid_point((1, 16, 32), "trained", 0.9, name="fd_frame@16"), grid_point(IMAGE, "in range", 1.9, name="fd_frame@16")]
    found = only(grid_of(tmp_path, one([grid_point(SQUARE, "trained", 8.0), grid_point(WIDE, "in range", 9.0), *frames])))
    assert found.bars == {"fd_random3d@16": 16.0, "fd_frame@16": 1.8}
    assert dict(found.breaks) == {IMAGE: f"2.1{TIMES}"}


def test_a_hole_neither_holds_nor_breaks(tmp_path: Path) -> None:
    hole = GridPoint(shape=LONG, place="out of range", reason="too long")
    grid = grid_of(tmp_path, one([grid_point(SQUARE, "trained", 3.0), hole]))
    assert only(grid).unknown == ((LONG, "seed 0: too long"),)
    assert envelope.envelope_table(grid).rows[0][-1] == shape_text(LONG)


def test_an_untrusted_contender_has_no_envelope(tmp_path: Path) -> None:
    canaries = [Canary(name="resumed equals uninterrupted", passed=False, detail="0.3")]
    assert envelope.envelopes(grid_of(tmp_path, one([grid_point(SQUARE, "trained", 3.0)], canaries=canaries))) == []


# --- the ledger


def test_ledger_by_contender_with_ranges_and_losses(tmp_path: Path) -> None:
    other = LEDGER | {"pixels": LEDGER["pixels"] | {"used": 0.6, "remainder": 0.0}, "steps_per_epoch": 13}
    own = LEDGER | {"pixels": dict.fromkeys(LEDGER["pixels"], 0.0) | {"used": 1.0}, "losses": [], "subject_whole": 1.0}
    records = [
        one([], policy="crop", seed=0, ledger=LEDGER),
        one([], policy="crop", seed=1, ledger=other),
        one([], policy="pack", ledger=own),
        one([], policy="bucket", status="failed", reason="early", measurements=[]),
    ]
    run = load_run(write_run(tmp_path, list(records)))
    lines = {line[0]: line[1:] for line in pipeline.tables(run)[0].rows}
    assert lines["pixels: used"] == ("50.0 % to 60.0 %", "100 %", DASH)
    assert lines["pixels: cropped"] == ("30.0 %", "0 %", DASH)
    assert lines["steps an epoch"] == ("12.5 to 13", "12.5", DASH)
    assert lines["clips"] == ("200", "200", DASH)
    assert lines["items with the whole subject in every frame"] == ("40.0 %", "100 %", DASH)
    assert "pixels lost in scaling down" not in lines  # nothing of it anywhere
    assert pipeline.tables(run)[1].rows == ((LEDGER["losses"][0], "DiT-XS/2 crop"),)
    build([tmp_path / "invented"], tmp_path / "out")
    raw = pd.read_csv(tmp_path / "out" / "tables" / "ledger.csv").set_index("field")
    assert raw.loc["pixels.used", ["DiT-XS/2 crop", "DiT-XS/2 crop largest"]].tolist() == [0.5, 0.6]
    assert "What the data pipeline keeps" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_pixel_shares_of_the_table_are_all_of_the_ledger() -> None:
    assert {f"pixels.{kind}" for kind in LEDGER["pixels"]} <= set(pipeline.FIELDS)
    assert {f"room.{kind}" for kind in LEDGER["room"]} <= set(pipeline.FIELDS)


def test_names_of_lost_clips_are_escaped(tmp_path: Path) -> None:
    evil = LEDGER | {"losses": ["clip <script>alert(1)</script> is lost"]}
    for path in build([write_run(tmp_path, [one([], ledger=evil), one([], policy="crop", ledger=LEDGER)])], tmp_path / "out"):
        if path.suffix in (".html", ".md"):
            assert "<script" not in path.read_text(encoding="utf-8"), path


# --- words


def test_titles_and_setting_of_mixed_data(tmp_path: Path) -> None:
    values: dict[tuple[str, str], list[float]] = {(UNET, "crop"): [3.0], (UNET, "pad"): [2.0], (DIT, "crop"): [2.0], (DIT, "pack"): [1.0]}
    run = load_run(write_run(tmp_path, study(values)))
    rows = {row.name: row for row in compare.compare(run)}
    assert rows["fd_random3d@64"].metric.title == "Fréchet distance, random3d, n = 64, clips of several shapes"
    text = "; ".join(answer.setting(run)).replace(TIMES, "x")
    assert text.startswith(
        "UNet-XS under crop and pad; DiT-XS/2 under crop and pack; 1 seed each; worlds, clips of 3 shapes from 1x48x24 to 10x24x48; "
    )
    assert "2,000,000 latent voxels of training clips" in text


def test_titles_and_setting_of_one_shape_are_as_ever(tmp_path: Path) -> None:
    given = {"num_frames": 10, "sampling": "given"}
    made = record(UNET, 0)
    made = made.model_copy(update={"measurements": [m.model_copy(update={"protocol": given}) for m in made.measurements]})
    run = load_run(write_run(tmp_path, [made, record(DIT, 0)]))
    rows = {row.name: row for row in compare.compare(run)}
    assert rows["fd_random3d@64"].metric.title == "Fréchet distance, random3d, n = 64, 10 frames"
    assert answer.setting(run)[2:4] == [f"worlds, 10 frames of 24{TIMES}24", "120 seconds of training"]


def test_native_clips_have_their_own_shapes() -> None:
    data = SimpleNamespace(native=True, num_frames=16, height=128, width=256)
    cell: Any = SimpleNamespace(data=data, batching=SimpleNamespace(voxel_budget=None))
    text = answer._clips_text(cell).replace(TIMES, "x")
    assert text == "clips at their own shapes, up to 16 frames and the area of 256x128"


def test_measurements_of_composition_and_their_directions() -> None:
    for name in ("subject_whole_rate", "framing_distance", "saliency_distance"):
        found = metrics.find(name)
        assert (found.group, found.axis, found.distance) == ("quality", True, False), name
    assert metrics.find("subject_whole_rate").scale == "fraction"
    assert metrics.find("train_latent_voxels").title == "Latent voxels of the clips drawn in training"


def test_latent_voxels_of_the_budget_are_no_axis_to_win(tmp_path: Path) -> None:
    values: dict[tuple[str, str], list[float]] = {(UNET, "crop"): [3.0], (DIT, "crop"): [2.0]}
    run = load_run(write_run(tmp_path, study(values, "train_latent_voxels")))
    (row,) = [row for row in compare.compare(run) if row.name == "train_latent_voxels"]
    assert row.verdict is not None
    assert (row.verdict.outcome, row.verdict.reason) == ("matched", "fixed by the budget")


def test_only_contenders_that_differ_on_one_axis_are_paired(tmp_path: Path) -> None:
    values = {(b, p): [1.0] for b, policies in ((UNET, ("crop", "pad")), (DIT, ("crop", "pack"))) for p in policies}
    run = load_run(write_run(tmp_path, study(values)))
    found = {(pair.first, pair.second) for pair in paired.pairs(run, compare.compare(run))}
    assert found == {("UNet-XS crop", "UNet-XS pad"), ("UNet-XS crop", "DiT-XS/2 crop"), ("DiT-XS/2 crop", "DiT-XS/2 pack")}


# --- clips of several shapes


def ragged() -> Ragged:
    """Clips of three shapes in turn, each of its own brightness, brighter from frame to frame."""
    clips = [
        np.full((*shape, 3), 20 * k, np.uint8) + 8 * np.arange(shape[0], dtype=np.uint8)[:, None, None, None]
        for k, shape in enumerate(MIXED * 3)
    ]
    return Ragged(np.concatenate([clip.ravel() for clip in clips]), [clip.shape for clip in clips])


def mixed_run(folder: Path, **changes: Any) -> Run:
    """A run of one contender whose sheet has clips of several shapes; `changes` replace what is stored, None leaves it out."""
    made = shapes_record(UNET, "pad", 0, {"fd_random3d@64": 3.0})
    run = write_run(folder, [made], sheets=False)
    (cell_folder,) = run.glob("UNet*")
    clips, labels = ragged(), np.arange(9) % 4
    kinds = dict.fromkeys(("real", "reconstruction", "generated", "untrained"), framed(clips))
    stored = {"labels_real": labels, "labels_generated": labels, "shapes": clip_shapes(clips), "fps": 8.0, **changes}
    np.savez(cell_folder / "sheet.npz", **kinds, **{name: value for name, value in stored.items() if value is not None})
    return load_run(run)


def test_frames_of_grey_are_taken_off(tmp_path: Path) -> None:
    run = mixed_run(tmp_path)
    sheet = load_sheet(run.cells[0])
    assert isinstance(sheet, Sheet)
    for k, clip in enumerate(ragged()):
        assert np.array_equal(sheet.clip(sheet.real, k), clip)


def test_clips_of_a_shape_stand_side_by_side_in_proportion(tmp_path: Path) -> None:
    drawn, _ = sheets.draw(mixed_run(tmp_path), 2_000_000)
    assert drawn is not None
    picture = drawn.full
    assert picture.column_shapes == tuple(shape_text((t, h, w)) for t, h, w in (MIXED[0], MIXED[2], MIXED[1]) for _ in range(3))
    assert picture.column_widths == (48, 48, 48, 48, 48, 48, 96, 96, 96)
    assert picture.row_labels == ("Real", "Reconstructed", "UNet-XS pad, seed 0", "UNet-XS pad, untrained")
    assert picture.size[1] == 4 * 96 + 3 * sheets.GAP  # as high as the tallest
    assert picture.column_labels == tuple(["disc", "square", "triangle", "ring"][k % 4] for k in (0, 3, 6, 2, 5, 8, 1, 4, 7))
    (tmp_path / "moving.webp").write_bytes(picture.webp)
    with Image.open(tmp_path / "moving.webp") as moving:
        first = np.asarray(moving.convert("RGB"))
        assert moving.n_frames == 10  # type: ignore[attr-defined]
    widths = np.array(picture.column_widths)
    middles = np.cumsum(widths + sheets.GAP) - sheets.GAP - widths // 2
    shades = first[48, middles].mean(axis=1)
    assert np.abs(shades - 20 * np.array([0, 3, 6, 2, 5, 8, 1, 4, 7])).max() < 8  # each clip in its own column
    between = np.cumsum(widths + sheets.GAP)[:-1] - sheets.GAP // 2
    assert np.abs(first[48, between].mean(axis=1) - sheets.BACKGROUND[0]).max() < 25


def test_a_sheet_without_shapes_is_shown_in_its_frame(tmp_path: Path) -> None:
    drawn, notes = sheets.draw(mixed_run(tmp_path, shapes=None), 2_000_000)
    assert drawn is not None
    picture = drawn.full
    assert (picture.column_shapes, len(set(picture.column_widths)), notes) == ((), 1, [])


@pytest.mark.parametrize("shapes", [[(10, 64, 24)] * 9, [(0, 8, 8)] * 9, [(1, 8, 8)] * 8, [(1.0, 8.0, 8.0)] * 9, 3])
def test_shapes_that_do_not_fit_the_sheet_are_named(tmp_path: Path, shapes: Any) -> None:
    assert str(load_sheet(mixed_run(tmp_path, shapes=shapes).cells[0])).startswith("sheet.npz cannot be read (shapes ")


def test_still_frames_show_the_longest_clips_of_two_shapes() -> None:
    clips = [np.zeros((*shape, 3), np.uint8) for shape in ((1, 8, 8), (4, 8, 8), (4, 8, 8), (2, 8, 16))]
    assert sheets._strip_columns(clips) == [1, 3]
    assert sheets._strip_columns(clips[1:3]) == [0, 1]


def test_gallery_of_several_shapes(tmp_path: Path) -> None:
    save_frames(tmp_path / "samples.npz", ragged(), labels=np.zeros(9), fps=8.0)
    with Image.open(sheets.gallery(tmp_path / "samples.npz")) as moving:
        assert moving.n_frames == 10  # type: ignore[attr-defined]


def test_contenders_on_two_axes_are_coloured_by_backbone(tmp_path: Path) -> None:
    values = {(b, p): [1.0] for b, policies in ((UNET, ("crop", "pad")), (DIT, ("crop", "pack"))) for p in policies}
    run = load_run(write_run(tmp_path, study(values)))
    looks = {name: canvas.look(run, name) for name in run.contenders}
    assert looks["UNet-XS crop"]["color"] == looks["UNet-XS pad"]["color"] != looks["DiT-XS/2 crop"]["color"]
    assert looks["UNet-XS crop"]["marker"] == looks["DiT-XS/2 crop"]["marker"] != looks["UNet-XS pad"]["marker"]
    plain = load_run(write_run(tmp_path / "b", pair(1)))
    assert [canvas.look(plain, name)["marker"] for name in plain.contenders] == ["o", "s"]
    one = plain.cells[0]
    cells = tuple(one.model_copy(update={"contender": f"b{k}", "axes": {"backbone": f"m:b{k}"}}) for k in range(20))
    many = Run.model_construct(**{**dict(plain), "cells": cells})
    seen = [canvas.look(many, name) for name in many.contenders]
    assert len({(each["color"], each["marker"]) for each in seen}) == 20
