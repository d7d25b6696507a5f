"""Scoring folders end to end with a network that needs no weights, what is refused, and the command line."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench import cli
from bench.commands.score import published
from bench.commands.score import score as score_module
from bench.commands.score.collection import find_collection
from bench.commands.score.record import Score, read_score
from bench.commands.score.score import MIN_GROUP_CLIPS, score
from bench.commands.score.windows import SeededCut, read_set
from bench.data.files import StoreError
from bench.metrics.distances import bias
from bench.metrics.distances.diversity import diversity
from bench.metrics.distances.interval import jackknife
from bench.metrics.distances.table import FRECHET, KERNEL
from bench.metrics.extractors.features import extract
from bench.metrics.extractors.manifest import FRAME, RANDOM3D
from bench.metrics.extractors.motion import Motion
from bench.metrics.extractors.table import Extractor, load_extractor
from bench.metrics.protocol import read_name
from bench.metrics.weights.cache import WeightsError
from bench.records.record import Measurement
from bench.shapes import parse_size

T, SIDE = 4, 12


def blobs(num: int, seed: int, noise: float = 0.0, num_frames: int = T, side: int = SIDE) -> np.ndarray:
    """Clips (n, T, H, W, 3) uint8 of a coloured blob that moves, with pixel noise."""
    generator = np.random.default_rng(seed)
    place, speed = generator.uniform(3, side - 3, (2, num, 1, 1, 1)), generator.uniform(-1, 1, (2, num, 1, 1, 1))
    t, y, x = np.meshgrid(np.arange(num_frames), np.arange(side), np.arange(side), indexing="ij")
    bright = np.exp(-((y - place[0] - speed[0] * t) ** 2 + (x - place[1] - speed[1] * t) ** 2) / 6)[..., None]
    colour = generator.uniform(60, 255, (num, 1, 1, 1, 3))
    clips = bright * colour + generator.normal(0, noise, (num, num_frames, side, side, 3))
    return np.rint(clips).clip(0, 255).astype(np.uint8)


def save(path: Path, frames: np.ndarray, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, frames=frames, **more)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """60 real clips and 24 noisy ones."""
    return save(tmp_path / "real.npz", blobs(60, 0)), save(tmp_path / "generated.npz", blobs(24, 1, noise=60))


def measure(real: Path, generated: Path, **options: Any) -> Score:
    cut = {name: options.pop(name) for name in ("stride", "start", "size", "seed") if name in options}
    rule = SeededCut(num_frames=options.pop("num_frames", T), **cut)
    return score(real, generated, **{"cut": rule, "extractors": ["random3d"]} | options)


def named(found: Score, kind: str) -> Measurement:
    return next(value for value in found.distances if (read_name(value.name) or (FRECHET, ""))[0].key == kind)


def protocol(value: Measurement) -> dict[str, Any]:
    assert value.protocol is not None
    return value.protocol


def by_start(found: Score, *starts: str) -> dict[str, Measurement]:
    return {value.name: value for value in found.measurements if value.name.startswith(starts)}


def test_numbers_are_those_of_the_modules_on_the_chosen_clips(sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = measure(*sets)
    network, rule = load_extractor("random3d"), SeededCut(num_frames=T)
    chosen = [read_set(find_collection(path), rule, None, lambda *_: None, tmp_path) for path in sets]
    real, generated = (extract(network, clips.frames) for clips in chosen)
    assert found.n == 24 and [value.name for value in found.distances] == ["fd_random3d@24", "kd_random3d@24"]
    for value in found.distances:
        statistic = FRECHET.distance if value.name.startswith("fd") else KERNEL.distance
        assert value.value == pytest.approx(statistic(real[:24], generated), rel=1e-6)
        interval = jackknife(statistic, real[:24], generated)
        assert (value.low, value.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
        assert value.floor == pytest.approx(statistic(real[:24], real[24:48]), rel=1e-6)
        assert value.floor_source == "measured against 24 other real clips"
        assert protocol(value)["n_real"] == protocol(value)["n_fake"] == 24 and value.subject == "generated"
    assert named(found, "frechet").value > 2 * (named(found, "frechet").floor or 0)
    shares = diversity(real[:24], generated)
    assert {name: value.value for name, value in by_start(found, "precision", "recall", "density", "coverage").items()} == {
        "precision_random3d@24": shares["precision"],
        "recall_random3d@24": shares["recall"],
        "density_random3d@24": shares["density"],
        "coverage_random3d@24": shares["coverage"],
    }


def test_the_floor_says_how_it_was_found(tmp_path: Path) -> None:
    generated = save(tmp_path / "g.npz", blobs(40, 1))
    few = measure(save(tmp_path / "r.npz", blobs(40, 0)), generated)
    assert (
        named(few, "frechet").floor_source
        == "scaled to n by 1/n from two halves of the real clips, 20 each; low, as n is below 128 features"
    )
    assert named(few, "kernel").floor_source == "measured between two halves of the real clips, 20 each"
    network = load_extractor("random3d")
    clips = read_set(find_collection(tmp_path / "r.npz"), SeededCut(num_frames=T), None, lambda *_: None, tmp_path)
    real = extract(network, clips.frames)
    assert named(few, "frechet").floor == pytest.approx(FRECHET.distance(real[:20], real[20:]) / 2, rel=1e-6)
    assert named(few, "kernel").floor == pytest.approx(KERNEL.distance(real[:20], real[20:]), rel=1e-6)


def test_spare_real_clips_widen_the_halves(tmp_path: Path) -> None:
    found = measure(save(tmp_path / "r.npz", blobs(30, 0)), save(tmp_path / "g.npz", blobs(20, 1)))
    clips = read_set(find_collection(tmp_path / "r.npz"), SeededCut(num_frames=T), None, lambda *_: None, tmp_path)
    real = extract(load_extractor("random3d"), clips.frames)
    assert named(found, "frechet").floor == pytest.approx(FRECHET.distance(real[:15], real[15:]) * 15 / 20, rel=1e-6)
    assert named(found, "kernel").floor_source == "measured between two halves of the real clips, 15 each"


def test_with_as_many_clips_as_features_the_floor_is_expected_and_n_goes_to_infinity(tmp_path: Path) -> None:
    real, generated = save(tmp_path / "r.npz", blobs(270, 0)), save(tmp_path / "g.npz", blobs(260, 1))
    scored = measure(real, generated)
    found, (limit,) = named(scored, "frechet"), by_start(scored, "fd_random3d_infinite@260").values()
    assert found.floor_source == "expected of two sets of one Gaussian with the real clips' covariance"
    assert found.floor == pytest.approx(found.value, rel=0.5)  # two draws of one distribution
    assert limit.low is not None and limit.high is not None and limit.interval is not None
    assert limit.low < limit.value < limit.high and limit.value < found.value
    assert limit.interval.startswith("least squares in 1/n over sizes 260,") and limit.interval.endswith(", jackknife, 95 %")
    assert limit.interval.count(",") - 1 == bias.NUM_SIZES


def test_few_clips_have_no_interval_and_no_infinite_n(tmp_path: Path) -> None:
    found = measure(save(tmp_path / "r.npz", blobs(5, 0)), save(tmp_path / "g.npz", blobs(5, 1)))
    value = named(found, "frechet")
    assert value.low is None and value.interval is not None and value.interval.startswith("none: 16 groups")
    assert found.measurements == found.distances


def test_equal_n_smaller_set_wins_and_is_said(sets: tuple[Path, Path]) -> None:
    assert measure(*sets).notes == ["24 clips of each set are compared, other real ones serve the floor at most"]
    turned = measure(sets[1], sets[0])
    assert turned.n == 24 and turned.notes == ["24 clips of each set are compared: there are 24 real ones, 60 generated"]
    asked = measure(*sets, num_clips=10)
    assert asked.n == 10 and asked.real.num_read == 20 and asked.real.num_untried == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clips": 25}, r"25 clips asked, GENERATED .*generated\.npz gives 24; ask for fewer with -n"),
        ({"num_clips": 1}, "--num-clips must be at least 2, got 1"),
        ({"num_frames": 0}, "--num-frames must be at least 1|needs at least"),
        ({"stride": 0}, "--stride must be at least 1, got 0"),
        ({"num_frames": 1}, r"extractor 'random3d' needs at least 2 frames a clip, got --num-frames 1"),
        ({"num_frames": 5}, r"no clip could be read from .*generated\.npz: 24 tried, the first: .* has 4 frames, a clip of 5 needs 5"),
        ({"extractors": ["random4d"]}, r"unknown extractor 'random4d' \(did you mean 'random3d'\?\)"),
        ({"device": "cuda:99"}, r"--device cuda:99: \d+ CUDA devices are seen here; use --device cpu"),
        ({"device": "abacus"}, "unknown --device 'abacus'; there are cpu and cuda"),
        ({"device": "meta"}, "--device meta is not measured with"),
        ({"protocols": ["stylegan"]}, r"unknown protocol 'stylegan' \(did you mean 'stylegan-v'\?\)"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(sets: tuple[Path, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(*sets, **options)


def test_an_extractor_of_ones_own_is_named_by_its_file(sets: tuple[Path, Path]) -> None:
    with pytest.raises(OSError, match=r"extractor file own\.pt cannot be read"):
        measure(*sets, extractors=["own.pt"])


def test_two_sizes_need_one_to_be_chosen(sets: tuple[Path, Path], tmp_path: Path) -> None:
    small = save(tmp_path / "small.npz", blobs(24, 1, side=8))
    with pytest.raises(ValueError, match=r"real clips are 12x12, generated ones 8x8; choose one size with --size, such as --size 8x8"):
        measure(sets[0], small)
    found = measure(sets[0], small, size=(8, 8))
    assert (found.height, found.width) == (8, 8) and protocol(found.distances[0])["clips"]["size"].startswith("cover 8x8")


def test_copies_and_frame_rates_are_said(tmp_path: Path) -> None:
    frames = blobs(20, 1)
    found = measure(save(tmp_path / "r.npz", blobs(20, 0), fps=24.0), save(tmp_path / "g.npz", frames[[*range(18), 0, 0]], fps=8.0))
    assert "2 of 20 generated clips are exact copies of another; n counts them" in found.notes
    assert "real items run at 24 frames per second, generated ones at 8; frames are not resampled" in found.notes
    assert protocol(found.distances[0])["fps"] == 24


def test_groups_by_class_and_by_shape(tmp_path: Path) -> None:
    labels = np.arange(80) % 4
    for index, (clip, label) in enumerate(zip(blobs(80, 0), labels, strict=True)):
        path = tmp_path / "real" / f"k{label}" / f"{index}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, clip if label else np.concatenate([clip, clip]))
    generated = save(tmp_path / "g.npz", blobs(80, 1), labels=np.array([f"k{min(label, 2)}" for label in labels]))
    found = measure(tmp_path / "real", generated)
    classes = {group.name: group for group in found.groups if group.by == "class"}
    assert list(classes) == ["k0", "k1", "k2"] and found.n == 80  # k3 is in one set only
    assert (classes["k2"].num_real, classes["k2"].num_generated, classes["k2"].n) == (20, 40, 20)
    assert list(classes["k0"].values) == ["fd_random3d@20", "kd_random3d@20"]
    shapes = [group for group in found.groups if group.by == "shape"]
    assert [(group.name, group.num_real, group.n) for group in shapes] == [("4x12x12", 60, 60)]
    network = load_extractor("random3d")
    whole = read_set(find_collection(tmp_path / "real"), SeededCut(num_frames=T), None, lambda *_: None, tmp_path)
    other = read_set(find_collection(generated), SeededCut(num_frames=T), None, lambda *_: None, tmp_path)
    rows = [[row for row, label in enumerate(clips.labels) if label == "k2"][:20] for clips in (whole, other)]
    expected = KERNEL.distance(extract(network, whole.frames[rows[0]]), extract(network, other.frames[rows[1]]))
    assert classes["k2"].values["kd_random3d@20"] == pytest.approx(expected, rel=1e-5)


def test_a_class_with_too_few_clips_is_named_not_scored(tmp_path: Path) -> None:
    labels = np.array([0] * MIN_GROUP_CLIPS + [1] * (MIN_GROUP_CLIPS - 1))
    sets = [save(tmp_path / name, blobs(len(labels), seed), labels=labels) for seed, name in enumerate(("r.npz", "g.npz"))]
    groups = {group.name: group for group in measure(*sets).groups}
    assert groups["0"].n == MIN_GROUP_CLIPS and groups["0"].values
    assert groups["1"].n == 0 and not groups["1"].values and groups["1"].num_real == MIN_GROUP_CLIPS - 1


def test_single_frames_are_compared_where_their_network_is_asked_for(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Motion().eval()
    monkeypatch.setattr(score_module, "load_motion", lambda device: network)
    monkeypatch.setattr(score_module, "FRAME", replace(FRAME, weights_sha256=RANDOM3D.weights_sha256))
    found = measure(*sets)
    assert [value.name for value in found.distances] == ["fd_random3d@24", "kd_random3d@24", "fd_frame@24"]
    clips = [read_set(find_collection(path), SeededCut(num_frames=T), None, lambda *_: None, tmp_path) for path in sets]
    real, generated = (network.frame_features(torch.from_numpy(np.array(side.frames))).unflatten(0, (-1, T)).numpy() for side in clips)
    value = found.distances[2]
    assert value.value == pytest.approx(FRECHET.of_clips_of_frames(real[:24], generated), rel=1e-4)
    assert value.floor == pytest.approx(FRECHET.of_clips_of_frames(real[:24], real[24:48]), rel=1e-4)
    assert value.low is not None and value.low < value.value and protocol(value)["dim"] == 48
    assert [name for name in by_start(found, "") if "frame" in name] == ["fd_frame@24"]  # frames of a clip are not independent


def test_missing_weights_are_named_before_a_clip_is_read(sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.commands.score.windows.read_set", lambda *_: pytest.fail("read first"))
    with pytest.raises(WeightsError, match="weights get i3d"):
        score(*sets, extractors=["i3d"])


def test_a_second_run_reads_no_frame_and_says_the_same(sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(*sets)
    monkeypatch.setattr("bench.commands.score.windows.read_set", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr("bench.metrics.extractors.features.extract", lambda *_: pytest.fail("extracted again"))
    assert measure(*sets) == first


def test_progress_counts_reading_and_features(sets: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int, str]] = []
    measure(*sets, progress=lambda done, total, what: seen.append((done, total, what)))
    ends = {what: (done, total) for done, total, what in seen}
    assert ends["random3d features, real clips"] == (48, 48) and ends["random3d features, generated clips"] == (24, 24)
    assert ends["reading generated.npz"] == (24, 24) and ends["reading real.npz"] == (48, 48)


@pytest.fixture
def light_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools' networks replaced by one without weights."""

    def load(name: str, device: torch.device) -> Extractor:
        network = load_extractor("random3d", device)
        return replace(network, manifest=replace(network.manifest, name=f"light_{name}"))

    monkeypatch.setattr(score_module, "load_extractor", load)


def test_published_protocols_stand_beside_the_canonical_value(sets: tuple[Path, Path], light_network: None) -> None:
    found = measure(*sets, protocols=["stylegan-v", "cd-fvd"])
    stylegan_v, cd_fvd = found.published
    assert stylegan_v.measurement.name == "fd_light_i3d_half-pixel@24 (stylegan-v protocol)"
    assert cd_fvd.measurement.name.endswith("@24 (cd-fvd protocol)")
    assert (stylegan_v.n_real, stylegan_v.n_fake) == (60, 24)  # as many as there are, up to 2048 of each
    assert (cd_fvd.n_real, cd_fvd.n_fake, cd_fvd.distinct_fake) == (60, 2048, 24)
    real, fake = (extract(load_extractor("random3d"), np.load(path)["frames"]) for path in sets)
    again = fake[np.arange(2048) % 24]
    for value, generated in ((stylegan_v, fake), (cd_fvd, again)):
        assert value.exact_root == pytest.approx(published.distance_over_n(real, generated, real_first=True)[1], rel=1e-5)
        assert value.canonical_name is None  # no i3d was asked for
        assert (protocol(value.measurement)["covariance"], protocol(value.measurement)["root"]) == ("n", "sqrtm")
    cuts = [protocol(value.measurement)["clips"] for value in found.published]
    assert [cuts[0][of]["of"] for of in ("real", "generated")] == ["real", "generated"]
    assert [cuts[1][of]["again"] for of in ("real", "generated")] == [False, True]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_command_prints_markdown_or_json_and_writes_both(sets: tuple[Path, Path], tmp_path: Path) -> None:
    options = ("score", *sets, "--num-frames", T, "--extractor", "random3d")
    printed = run(*options)
    assert printed.exit_code == 0 and "| `fd_random3d@24` |" in printed.stdout
    as_json = json.loads(run(*options, "--json").stdout)
    assert as_json["n"] == 24 and as_json["measurements"][0]["protocol"]["extractor"] == "random3d"
    written = run(*options, "--out", tmp_path / "out")
    assert written.stdout.split() == [str(tmp_path / "out" / name) for name in ("score.json", "score.md")]
    assert read_score(tmp_path / "out") == measure(*sets) and not list((tmp_path / "out").glob(".*"))


def test_compare_refuses_two_protocols_and_shows_the_difference_of_one(sets: tuple[Path, Path], tmp_path: Path) -> None:
    options = ("--num-frames", T, "--extractor", "random3d", "-n", 20, "--out")
    other = save(tmp_path / "other.npz", blobs(24, 2, noise=5))
    run("score", *sets, *options, tmp_path / "a")
    run("score", sets[0], other, *options, tmp_path / "b")
    run("score", *sets, *options, tmp_path / "c", "--seed", 1)
    shown = run("compare", tmp_path / "a", tmp_path / "b")
    values = [read_score(tmp_path / name).distances[0].value for name in "ab"]
    assert shown.exit_code == 0 and f"{values[0] - values[1]:.3g}"[:4] in shown.stdout
    refused = run("compare", tmp_path / "a", tmp_path / "c")
    assert isinstance(refused.exception, ValueError) and "clip_list_sha256" in str(refused.exception)
    with pytest.raises(StoreError, match="no score in"):
        read_score(tmp_path / "nowhere")
    (tmp_path / "a" / "score.json").write_text("{}")
    with pytest.raises(StoreError, match="is not a score"):
        read_score(tmp_path / "a")
    for odd in ("[" * 100_000, "9" * 5000, '{"n": "\\ud800"}'):
        (tmp_path / "a" / "score.json").write_text(odd)
        with pytest.raises(StoreError, match=r"score.json .*; score the clips again with --out"):
            read_score(tmp_path / "a")
    (tmp_path / "a" / "score.json").write_text('{"schema_version": 1, "distances": []}')
    with pytest.raises(StoreError, match=r"has schema version 1, this suite reads 2; score the clips again with --out"):
        read_score(tmp_path / "a")


def test_wrong_arguments_are_one_line_and_status_2(sets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for arguments in (
        ("compare", sets[0], sets[1]),
        ("score", *sets, "--size", "big"),
        ("score", *sets, "--start", "end"),
    ):
        monkeypatch.setattr("sys.argv", ["bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        assert stopped.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out


def test_folders_that_cannot_be_written_are_said_before_the_work(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.commands.score.windows.read_set", lambda *_: pytest.fail("worked"))
    (tmp_path / "file").write_text("")
    options = ("score", *sets, "--num-frames", T, "--extractor", "random3d")
    for option, message in (
        ("--out", "--out .* cannot be made"),
        ("--cache", "the cache .* cannot be written: .*; choose another with --cache"),
    ):
        with pytest.raises(ValueError, match=message):
            raise run(*options, option, tmp_path / "file" / "inside").exception


def test_a_folder_full_of_strangers_is_scored_and_each_of_them_named(sets: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number, clip in enumerate(blobs(24, 1, noise=60)):
        np.save(folder / f"{number}.npy", clip)
    os.mkfifo(folder / "pipe.npy")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / os.fsdecode(b"\xff.npy")).write_bytes(b"")
    (folder / "\x1b[2Jodd\u202e.mp4").write_bytes(b"no video")
    (folder / "cut.npz").write_bytes((folder / "1.npy").read_bytes()[:100])
    written = run("score", sets[0], folder, "--num-frames", T, "--extractor", "random3d", "--out", tmp_path / "out")
    assert written.exit_code == 0, written.exception
    found, page = read_score(tmp_path / "out"), (tmp_path / "out" / "score.md").read_text()
    assert found.n == 24 and len(found.generated.skipped) == 5
    assert "5 left out, 24 clips read" in page and not set("\x1b\u202e\udcff") & set(page)
    for name in ("pipe.npy", "device.mp4", r"\\xff.npy", r"\\x1b\[2Jodd\\u202e.mp4", "cut.npz"):
        assert f"- {name} " in page


def test_parse_size() -> None:
    assert (parse_size(None), parse_size("64"), parse_size("48x64")) == (None, (64, 64), (48, 64))
    for wrong in ("", "x", "8²", "9" * 5000, "64x", "4", "1x2x3", "-64", "64.0"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_size(wrong)


def test_nothing_is_taken_twice(tmp_path: Path) -> None:
    """With every start, and whatever n."""
    generated = save(tmp_path / "g.npz", blobs(10, 1, num_frames=3 * T))
    for start in ("random", "first", "disjoint"):
        clips = read_set(find_collection(generated), SeededCut(num_frames=T, start=start), None, lambda *_: None, tmp_path)
        assert max(Counter(clips.names).values()) == 1 and len(set(clips.rows)) == len(clips.rows) == (30 if start == "disjoint" else 10)


def test_defaults_lead_with_the_canonical_extractor() -> None:
    assert score_module.DEFAULT_EXTRACTORS[0] == "i3d"
