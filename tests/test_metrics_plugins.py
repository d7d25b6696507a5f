"""A distance and a pixel measure of another package: measured by a cell and by `score`, listed and shown, with nothing edited here."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import own_measures_source
import pytest
import torch
from typer.testing import CliRunner

from bench import cli
from bench.commands.score.page import to_markdown
from bench.commands.score.score import score
from bench.commands.score.windows import SeededCut
from bench.data.plugin import registered
from bench.data.progress import Reporter
from bench.metrics.distances import table as distances_table
from bench.metrics.extractors.manifest import RANDOM3D
from bench.metrics.pixels import table as pixels_table
from bench.metrics.protocol import read_name
from bench.records.record import Measurement
from bench.report.render import catalogue
from bench.run.measure.quality import Quality
from bench.run.stages import reference_set, training_set
from bench.shapes import Refusal
from tests.tiny import tiny_cell

CACHES = (registered, distances_table.distances, pixels_table.pixel_measures, catalogue.known)
ENTRY_POINTS = """\
[unet_vs_dit.distances]
shift = own_measures:SHIFT
[unet_vs_dit.pixel_measures]
brightness = own_measures:BRIGHTNESS
"""


def install(folder: Path, entry_points: str, patch: pytest.MonkeyPatch) -> None:
    """A package on the path, as pip leaves it."""
    (folder / "own_measures.py").write_text(Path(own_measures_source.__file__).read_text())
    info = folder / "own_measures-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-measures\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    patch.syspath_prepend(str(folder))
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))
    yield
    monkeypatch.undo()
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    install(tmp_path, ENTRY_POINTS, monkeypatch)
    return own_measures_source


def by_name(found: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    return {(measurement.name, measurement.subject): measurement for measurement in found}


def test_a_cell_measures_both(plugin: ModuleType, tmp_path: Path) -> None:
    data = {"source": "worlds", "num_frames": 4, "height": 16, "width": 16, "num_train": 4, "num_val": 20, "num_test": 20}
    cell, device = tiny_cell(data=data, evaluation={"extractors": ["random3d"], "num_samples": 20}), torch.device("cpu")
    training = training_set(cell, tmp_path / "results", device, Reporter("test"))
    reference = reference_set(cell, training, tmp_path / "results", device, Reporter("test"))
    quality = Quality(cell, reference, device, lambda done, total, what: None, tmp_path / "results")
    generated = np.random.default_rng(0).integers(0, 256, (20, 4, 16, 16, 3), dtype=np.uint8)
    found = by_name(quality.measure(generated, None))

    features, name = quality.features["random3d"], "sd_random3d@20"
    value = found[name, "trained"]
    assert value.value == plugin.shift(features["test"], features["trained"])
    assert value.low is not None and value.floor == found[name, "real"].value == plugin.shift(features["test"], features["real"])
    assert value.protocol is not None and value.protocol["shift_version"] == 3
    assert value.protocol_fingerprint != found["fd_random3d@20", "trained"].protocol_fingerprint
    assert not any("infinite" in each or each == "sd_frame@20" for each, _ in found)

    assert found["brightness", "trained"].value == pytest.approx(generated.mean() / 255)
    apart = found["brightness_distance", "trained"]
    assert apart.value > 3 * found["brightness_distance", "real"].value and apart.low is not None and apart.low <= apart.value
    assert apart.protocol is not None and (apart.protocol["measure"], apart.protocol["white"]) == ("brightness", 255)


def test_a_score_and_the_reports_know_both(plugin: ModuleType, tmp_path: Path) -> None:
    rng, sets = np.random.default_rng(0), []
    for name, num in (("real", 40), ("generated", 20)):
        sets.append(tmp_path / f"{name}.npy")
        np.save(sets[-1], rng.integers(0, 256 if name == "real" else 128, (num, 4, 12, 12, 3), dtype=np.uint8))
    found = score(*sets, cut=SeededCut(num_frames=4), extractors=["random3d"])
    assert [value.name for value in found.distances] == ["fd_random3d@20", "kd_random3d@20", "sd_random3d@20"]
    assert found.distances[2].floor_source == "measured against 20 other real clips"
    pixels = by_name(found.measurements)
    assert pixels["brightness", "generated"].value < 0.6 * pixels["brightness", "real"].value
    text = to_markdown(found)
    assert "| `sd_random3d@20` |" in text and "| `brightness_distance` |" in text

    assert catalogue.find("sd_random3d@20").title == "Shift of the mean, random3d, n = 20" and catalogue.find("shvd").title == "SHVD"
    assert catalogue.find("sd_random3d@20").distance and catalogue.find("sd_random3d_excess_ratio").group == "quality"
    assert (catalogue.find("brightness").title, catalogue.find("brightness_distance").axis) == ("Mean brightness", True)
    assert read_name("sd_random3d@20") == (plugin_kind(), "random3d")
    listed = CliRunner().invoke(cli.app, ["ls", "--results", str(tmp_path)], env={"COLUMNS": "200"}).stdout
    assert "sd_random3d" in listed and "brightness_distance" in listed


def plugin_kind() -> distances_table.DistanceKind:
    return distances_table.distances()["shift"]


@pytest.mark.parametrize(
    ("entry_points", "message"),
    [
        ("[unet_vs_dit.distances]\nx = own_measures:NONE\n", "distance 'x' is registered as 'own_measures:NONE', which is no DistanceKind"),
        ("[unet_vs_dit.distances]\nx = own_measures:BRIGHTNESS\n", "which is no DistanceKind; mend its entry point"),
        ("[unet_vs_dit.distances]\nx = own_measures:TAKEN\n", "distances 'frechet' and 'taken' share the name 'fd_'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(entry_points: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, entry_points, monkeypatch)
    with pytest.raises(Refusal, match=message):
        distances_table.distances()


def test_two_measures_may_not_give_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "[unet_vs_dit.pixel_measures]\nx = own_measures:SAME\n", monkeypatch)
    with pytest.raises(Refusal, match="pixel measures 'permanence' and 'same' share the name 'steady_rate'"):
        pixels_table.pixel_measures()


def test_a_prefix_cannot_be_mistaken() -> None:
    for canonical, prefix in (("xvd", "val_"), ("xvd", "fd"), ("xvd", ""), ("motion", "xd_")):
        with pytest.raises(Refusal, match="its names must be like fvd and fd_"):
            distances_table.DistanceKind(key="x", title="X", distance=lambda a, b: 0.0, canonical=canonical, prefix=prefix)


def test_a_value_that_was_never_announced_is_refused() -> None:
    with pytest.raises(Refusal, match="gave a value 'hue' that it does not list; it lists brightness, brightness_distance"):
        own_measures_source.BRIGHTNESS.value("hue")


def test_the_frame_encoder_is_no_distance_of_ones_own_extractor() -> None:
    from dataclasses import asdict

    from bench.metrics.extractors.custom import parse_manifest

    for name in ("frame", "my_infinite", "my_fvd"):
        with pytest.raises(Refusal, match="taken or reserved"):
            parse_manifest(asdict(RANDOM3D) | {"name": name}, "own.pt")
