"""The battery passes what sees frames and motion, and fails what must fail, each for its own reason."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.metrics.battery import battery, judgements
from bench.metrics.battery.battery import BatteryClips, given_clips, run, world_clips
from bench.metrics.battery.corruptions import AXES
from bench.metrics.battery.judgements import AxisResult, CurvePoint, Judgement, ReportCard, judge
from bench.metrics.extractors.controls import FrameMean
from bench.metrics.extractors.manifest import Manifest
from bench.metrics.extractors.table import Extractor, load_extractor

FRAMES, SIZE, NUM = 8, 16, 64


def seeing(frames: Tensor) -> Tensor:
    """Features (B, 8) by hand: how much moves, how it changes, which way it slows down, edges, grain, brightness."""
    x = frames.float() / 255
    grey = x.mean(-1)
    motion = (x[:, 1:] - x[:, :-1]).abs().mean((2, 3, 4))  # (B, T-1)
    turn = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]).abs().mean((2, 3, 4))  # (B, T-2)
    half = motion.shape[1] // 2
    around = grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] + grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2]
    grain = (4 * grey[..., 1:-1, 1:-1] - around).abs().mean((1, 2, 3))
    edges = (grey[..., 1:, :] - grey[..., :-1, :]).square().mean((1, 2, 3)).sqrt()
    brightness = grey.mean((2, 3))
    tiny = 1e-3
    return torch.stack(
        [
            2 * (motion.mean(1) + tiny).log(),
            (turn.mean(1) + tiny).log() - (motion.mean(1) + tiny).log(),
            (motion[:, :half].mean(1) + tiny).log() - (motion[:, -half:].mean(1) + tiny).log(),
            4 * edges,
            (grain + 0.02).log(),
            30 * brightness.std(1),
            3 * brightness.mean(1),
            10 * turn.amax(1),
        ],
        dim=1,
    )


def extractor(features: Callable[[Tensor], Tensor], dim: int = 8, name: str = "by_hand") -> Extractor:
    manifest = Manifest(name=name, weights_sha256="0" * 64, dim=dim, min_frames=4)
    return Extractor(manifest=manifest, device=torch.device("cpu"), batch_size=16, features=features)


@pytest.fixture(scope="module")
def clips() -> BatteryClips:
    return world_clips(SIZE, NUM, FRAMES)


@pytest.fixture(scope="module")
def seen(clips: BatteryClips, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportCard, Path, list[tuple[int, int, str]]]:
    cache, calls = tmp_path_factory.mktemp("cache"), []
    card = run(extractor(seeing), clips, cache=cache, progress=lambda done, total, what: calls.append((done, total, what)))
    return card, cache, calls


def failed(card: ReportCard) -> set[str]:
    return set(card.failed())


def axis_of(card: ReportCard, name: str) -> AxisResult:
    return next(axis for axis in card.axes if axis.name == name)


def test_an_extractor_that_sees_passes(seen: tuple[ReportCard, Path, list[tuple[int, int, str]]]) -> None:
    card = seen[0]
    assert card.passed and card.failed() == [], [judgement for judgement in card.judgements if not judgement.passed]
    assert len(card.judgements) == 9 and card.metric == f"fd_by_hand@{NUM}"
    assert [axis.name for axis in card.axes] == list(AXES) and all(axis.judged for axis in card.axes)
    assert all(tuple(point.level for point in axis.points) == AXES[axis.name].levels for axis in card.axes)


def test_the_card_holds_its_protocol(seen: tuple[ReportCard, Path, list[tuple[int, int, str]]], clips: BatteryClips) -> None:
    card = seen[0]
    assert (card.num_clips, card.num_frames, card.height, card.width) == (NUM, FRAMES, SIZE, SIZE)
    assert card.manifest["weights_sha256"] == "0" * 64 and set(card.versions) == {"torch", "numpy", "scipy", "pymunk"}
    assert card.clips["source"] == "worlds" and card.clips["damping"] == 0.5 and card.clips["seed"] == battery.SEED
    assert card.clips["reference_sha256"] != card.clips["source_sha256"]
    assert ReportCard.model_validate_json(card.model_dump_json()) == card


def test_progress_counts_every_clip(seen: tuple[ReportCard, Path, list[tuple[int, int, str]]]) -> None:
    calls = seen[2]
    done = [call[0] for call in calls]
    assert done == sorted(done) and calls[-1][:2] == ((2 + 10 * 4 + 5) * NUM,) * 2 and "double speed" in {call[2] for call in calls}


def test_an_interrupted_battery_goes_on(seen: tuple[ReportCard, Path, list[tuple[int, int, str]]], clips: BatteryClips) -> None:
    card, cache, _ = seen
    files = sorted(cache.iterdir())
    assert len(files) == 2 + 10 * 4 + 5
    files[0].unlink()
    extracted = []

    def counting(frames: Tensor) -> Tensor:
        extracted.append(len(frames))
        return seeing(frames)

    assert run(extractor(counting), clips, cache=cache) == card
    assert sum(extracted) == NUM + 2 * max(battery.BATCH_SIZES)  # the lost set, and the batch size's judgement


def test_a_mean_over_frames_fails_the_shuffle(clips: BatteryClips) -> None:
    card = run(load_extractor("frame_mean"), clips)
    assert not card.passed and {"monotone", "shuffle"} <= failed(card)
    shuffle = next(judgement for judgement in card.judgements if judgement.name == "shuffle")
    assert shuffle.evidence == "1 floors" and shuffle.axes == ("shuffle",)
    for name in ("shuffle", "reverse", "local_swaps", "global_swaps"):
        assert {point.frechet for point in axis_of(card, name).points} == {card.floor.frechet}
    assert {"shuffle", "reverse", "local_swaps", "global_swaps"} <= set(card.judgements[0].axes)
    assert judgements.trend(card.floor, axis_of(card, "blur")) >= 0.89  # what it is there to see it sees


def test_frame_mean_sees_frames_but_no_order(clips: BatteryClips) -> None:
    frames = torch.from_numpy(clips.reference[:4])
    network = FrameMean()
    features, order = network(frames), torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    assert features.shape == (4, 128) and torch.equal(network(frames[:, order]), features)
    assert not torch.equal(network(frames[:, :1].expand(-1, FRAMES, -1, -1, -1)), features)


def test_features_that_depend_on_the_batch_are_caught(clips: BatteryClips) -> None:
    def normalised(frames: Tensor) -> Tensor:
        features = seeing(frames)
        return features - 0.01 * features.mean(0)

    assert battery.batch_difference(extractor(seeing), clips.reference) < 1e-6
    assert battery.batch_difference(extractor(normalised), clips.reference) > 1e-3
    good = judge(*GOOD)
    assert changed(good, judge(GOOD[0], GOOD[1], 1e-3, [])) == {"batch size"}


def test_nan_is_a_verdict(clips: BatteryClips) -> None:
    """Only for frozen clips, as a division by the motion would give."""

    def dividing(frames: Tensor) -> Tensor:
        still = (frames == frames[:, :1]).flatten(1).all(1)
        return seeing(frames).masked_fill(still[:, None], math.nan)

    few = dataclasses.replace(clips, reference=clips.reference[:32], source=clips.source[:32])
    card = run(extractor(dividing), few)
    assert {"finite", "monotone", "freeze", "noise below freeze"} <= failed(card)
    finite = card.judgements[-1]
    assert finite.name == "finite" and finite.evidence == "NaN or infinite for: frozen tail 1" and finite.axes == ("freeze",)
    assert axis_of(card, "freeze").points[-1].frechet is None and axis_of(card, "freeze").points[0].frechet is not None
    assert ReportCard.model_validate_json(card.model_dump_json()) == card


def test_nan_everywhere_fails_everything_that_is_measured(clips: BatteryClips) -> None:
    few = dataclasses.replace(clips, reference=clips.reference[:32], source=clips.source[:32])
    card = run(extractor(lambda frames: torch.full((len(frames), 8), math.nan)), few)
    assert all(not judgement.passed for judgement in card.judgements) and card.floor.frechet is None


def test_other_errors_of_a_network_are_not_swallowed(clips: BatteryClips) -> None:
    def broken(frames: Tensor) -> Tensor:
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer"):
        run(extractor(broken), clips)


def test_given_clips_without_an_arrow_or_spare_frames(clips: BatteryClips) -> None:
    pool = np.concatenate([clips.reference[:40], clips.source[:40, :FRAMES]])
    given = given_clips(pool, num_frames=FRAMES, name="mine")
    both = [clip.tobytes() for clip in (*given.reference, *given.source)]
    assert len(given.reference) == len(given.source) == 40 and len(set(both)) == 80
    card = run(extractor(lambda frames: seeing(frames)[:, :3], dim=3), given)
    assert axis_of(card, "double_speed").points == () and "needs clips of 15 frames" in axis_of(card, "double_speed").note
    assert not axis_of(card, "reverse").judged and len(axis_of(card, "reverse").points) == 4 and card.clips["source"] == "mine"


def test_what_a_battery_cannot_run_on(clips: BatteryClips) -> None:
    few = dataclasses.replace(clips, reference=clips.reference[:8], source=clips.source[:8])
    with pytest.raises(ValueError, match="at least 32 clips, got 8 and 8"):
        run(extractor(seeing), few)
    for cut, got in ((clips.reference[:, :3], "3 of 16x16"), (clips.reference[:, :, :15], "8 of 15x16")):
        with pytest.raises(ValueError, match=f"at least 4 frames of 16x16 pixels, got {got}"):
            run(load_extractor("frame_mean"), dataclasses.replace(clips, reference=cut, source=cut))


def test_its_worlds_are_like_no_training_set(clips: BatteryClips) -> None:
    """Splits of their own: the same seed elsewhere gives other clips."""
    assert (clips.reference != clips.source[:, :FRAMES]).any(axis=(1, 2, 3, 4)).all()
    assert (world_clips(SIZE, 8, FRAMES).source == clips.source[:8]).all()


# The judgements alone, on invented distances


def point(level: float, value: float) -> CurvePoint:
    return CurvePoint(level=level, frechet=value, frechet_se=0.1, kernel=value, kernel_se=0.1)


def invented(**values: tuple[float, ...]) -> list[AxisResult]:
    """Distances of a good extractor, but for those given."""
    return [
        AxisResult(
            name=axis.name,
            kind=axis.kind,
            title=axis.title,
            unit=axis.unit,
            judged=True,
            points=tuple(
                point(level, value)
                for level, value in zip(
                    axis.levels, values.get(axis.name, (1.4, 2, 4, 8) if axis.name != "elastic_clip" else (1.2, 1.4, 2, 4)), strict=True
                )
            ),
        )
        for axis in AXES.values()
    ]


GOOD: tuple[CurvePoint, list[AxisResult], float, list[str]] = (point(0, 1.0), invented(), 0.0, [])


def changed(before: tuple[Judgement, ...], after: tuple[Judgement, ...]) -> set[str]:
    return {new.name for old, new in zip(before, after, strict=True) if old.passed != new.passed}


TEMPORAL = [name for name, axis in AXES.items() if axis.kind == "temporal"]


@pytest.mark.parametrize(
    ("values", "fails"),
    [
        ({"blur": (1.4, 4, 2, 1.2)}, {"monotone"}),
        ({"blur": (1.4, 4, 2, 8)}, set()),  # one pair of neighbours the wrong way: Spearman 0.9
        ({"blur": (1.0, 1.0, 1.0, 1.0)}, {"monotone"}),
        ({"blur": (1.0, 1 + 1e-9, 1 + 2e-9, 1 + 3e-9)}, {"monotone"}),  # rounding is no trend
        ({"shuffle": (1.4, 2, 2.5, 2.9)}, {"shuffle"}),
        ({"freeze": (1.4, 2.1, 2.5, 2.9)}, {"freeze"}),
        ({"freeze": (1.4, 2, 2.5, 2.9), "noise": (1.4, 2.95, 4, 8)}, {"freeze", "noise below freeze"}),
        ({"noise": (1.4, 9, 10, 11)}, {"noise below freeze"}),
        ({"elastic_frame": (1.4, 2, 4, 4.7)}, {"elastic"}),
        ({"elastic_frame": (1.4, 2, 4, 4.9)}, set()),
        ({"elastic_frame": (1.01, 1.1, 1.2, 1.25), "elastic_clip": (1.001, 1.01, 1.02, 1.03)}, {"elastic"}),  # 1.2 times, but not noticed
        (dict.fromkeys(TEMPORAL, (1.3, 2, 4, 8)), {"temporal sensitivity"}),
        (dict.fromkeys(TEMPORAL[1:], (1.3, 2, 4, 8)), set()),
        ({name: (1.3, 1.31, 1.4, 2) for name in AXES if name not in TEMPORAL}, {"spatial sensitivity"}),
    ],
)
def test_each_judgement_alone(values: dict[str, tuple[float, ...]], fails: set[str]) -> None:
    good = judge(*GOOD)
    assert all(judgement.passed for judgement in good)
    after = judge(GOOD[0], invented(**values), 0.0, [])
    assert changed(good, after) == fails
    single = [name for name in values if len(values) == 1]
    assert not fails or not single or single[0] in {axis for judgement in after if not judgement.passed for axis in judgement.axes}


def test_a_missing_value_passes_nothing() -> None:
    axes = [
        axis.model_copy(
            update={
                "points": tuple(CurvePoint(level=p.level, frechet=None, frechet_se=None, kernel=None, kernel_se=None) for p in axis.points)
            }
        )
        for axis in GOOD[1]
    ]
    assert {judgement.name for judgement in judge(GOOD[0], axes, math.nan, ["all"]) if judgement.passed} == set()


def test_an_axis_that_is_not_judged_fails_nothing() -> None:
    axes = [axis.model_copy(update={"judged": False}) if axis.name == "reverse" else axis for axis in invented(reverse=(1, 1, 1, 1))]
    assert all(judgement.passed for judgement in judge(GOOD[0], axes, 0.0, []))
    assert not judge(GOOD[0], invented(reverse=(1, 1, 1, 1)), 0.0, [])[0].passed
