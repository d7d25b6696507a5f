"""Prompt following, measured: the reader is right on real clips, worthless on wrong captions, and stands beside its floors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from bench.data.progress import silent
from bench.data.sources.worlds import Config, simulate
from bench.data.worlds.caption import COLOURS, DIRECTIONS, captions_of, told_by
from bench.data.worlds.combinations import held_out
from bench.data.worlds.drawing import SHAPES, STATE, render
from bench.metrics.following import following
from bench.metrics.following.following import by_chance, follows
from bench.metrics.following.reading import read
from bench.metrics.following.values import ALL, FOLLOWING, WORDS
from bench.records.record import Measurement
from bench.report.render import catalogue
from bench.run.checks import check_primary
from bench.run.measure.following import measure_following
from bench.run.measure.quality import Quality
from bench.run.stages import reference_set, training_set
from bench.run.told import is_read
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import load_study
from tests.commands import write_matrix
from tests.tiny import cell_fields, tiny_cell

NUM = 96
WORLD = {"source": "worlds", "num_frames": 6, "height": 16, "width": 16, "num_train": 8, "num_val": 8, "num_test": 16}
TOLD = {**WORLD, "radius": (0.28, 0.34), "speed": (0.2, 0.5), "captions": "generated", "unseen": 16}


def filmed(num: int = NUM, **changes: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Test clips of a world and their captions."""
    config = Config.model_validate({**TOLD, **changes})
    states = [simulate(config, "test", index) for index in range(num)]
    return render(np.stack(states), config.height, config.width), captions_of(states)


def shares(clips: np.ndarray, captions: tuple[str, ...]) -> dict[str, float]:
    return {name: float(np.nanmean(values)) for name, values in follows(read(clips), [told_by(text) for text in captions]).items()}


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("tilt", [0.0, np.pi])
def test_the_reader_is_right_on_real_clips_and_at_chance_on_others_captions(size: int, tilt: float) -> None:
    clips, captions = filmed(height=size, width=size, tilt=tilt)
    own = shares(clips, captions)
    assert min(own.values()) >= 0.98, own
    order = np.random.default_rng(0).permutation(NUM)
    others = shares(clips, tuple(captions[place] for place in order))
    for name, chance in {"follows_shape": 1 / 4, "follows_colour": 1 / 6, "follows_direction": 1 / 4, ALL: 1 / 96}.items():
        assert abs(others[name] - chance) < 0.12, (name, others[name])


def test_the_reader_is_right_of_several_objects_and_in_oblong_frames() -> None:
    assert min(shares(*filmed(num_objects=3, radius=(0.16, 0.2), height=32, width=32)).values()) >= 0.98
    assert min(shares(*filmed(40, height=18, width=30)).values()) >= 0.98


def test_an_autoencoders_blur_and_noise_do_not_mislead_it() -> None:
    clips, captions = filmed()
    blurred = ndimage.gaussian_filter(clips.astype(float), (0, 0, 0.5, 0.5, 0))
    noisy = blurred + np.random.default_rng(0).normal(0, 6, blurred.shape)
    assert min(shares(noisy.clip(0, 255).astype(np.uint8), captions).values()) >= 0.98


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("follows_colour", lambda clips: clips[..., [1, 2, 0]]),
        ("follows_direction", lambda clips: clips[:, ::-1]),
        ("follows_direction", lambda clips: clips[:, :1].repeat(6, axis=1)),
        ("follows_number", lambda clips: np.concatenate([clips, clips], axis=3)),
    ],
)
def test_one_thing_spoilt_is_one_measure_lost(name: str, spoilt: Any) -> None:
    """Other colours; played backwards; frozen; everything twice."""
    clips, captions = filmed(num_frames=6, speed=(0.2, 0.25), fps=16)  # hardly any bounces
    found = shares(spoilt(clips), captions)
    assert found[name] < 0.3 and all(value > 0.9 for other, value in found.items() if other not in (name, ALL)), found
    assert found[ALL] < 0.3 or name == "follows_number"


def test_another_shape_is_seen() -> None:
    config = Config.model_validate(TOLD)
    states = np.stack([simulate(config, "test", index) for index in range(40)])
    captions = captions_of(list(states))
    states[..., STATE.index("shape")] = (states[..., STATE.index("shape")] + 1) % 4
    found = shares(render(states, config.height, config.width), captions)
    assert found["follows_shape"] == found[ALL] == 0 and found["follows_colour"] == found["follows_direction"] == 1


def test_what_has_no_name_gets_none() -> None:
    """Never the nearest of what it could be: a bar has no shape, a still object no direction."""
    bar = np.full((1, 6, 16, 16, 3), 16, np.uint8)
    bar[:, :, 7:9, 3:13] = (255, 0, 0)
    seen = read(bar)
    assert (seen.number[0], seen.colour[0, 0], seen.shape[0, 0], seen.direction[0, 0]) == (1, 0, -1, -1)
    clips, _ = filmed(8)
    assert (read(clips[:, :1].repeat(6, axis=1)).direction == -1).all()


@pytest.mark.parametrize("kind", ["noise", "dark", "bright", "grey"])
def test_what_is_no_object_follows_nothing(kind: str) -> None:
    clips, captions = filmed(24)
    made = {
        "noise": np.random.default_rng(0).integers(0, 256, clips.shape),
        "dark": np.full(clips.shape, 16),
        "bright": np.full(clips.shape, 250),
        "grey": clips.max(axis=-1, keepdims=True).repeat(3, axis=-1),
    }[kind].astype(np.uint8)
    found = shares(made, captions)
    assert found["follows_colour"] == found[ALL] == 0
    assert kind == "grey" or found["follows_shape"] == found["follows_direction"] == found["follows_number"] == 0


def test_chance_is_the_mean_over_all_pairs_of_a_clip_and_anothers_caption() -> None:
    clips, captions = filmed(12, num_objects=2, radius=(0.18, 0.22), height=24, width=24)
    seen, told = read(clips), [told_by(text) for text in captions]
    asked = np.arange(12) % 3 > 0
    found = by_chance(seen, told, asked)
    pairs: dict[str, list[float]] = {name: [] for name in WORDS}
    for clip in range(12):
        for caption in np.flatnonzero(asked):
            if clip != caption:
                own = follows(read(clips[clip : clip + 1]), [told[caption]])
                for name, values in own.items():
                    pairs[name].append(values[0])
    assert found == pytest.approx({name: np.mean(values) for name, values in pairs.items()})


def test_of_a_single_frame_no_motion_is_told_or_seen() -> None:
    clips, captions = filmed(16, num_frames=1)
    found = by_name(following.measurements(captions, {"real": clips}, frozenset(), "digest", 1))
    assert {name: m.value for (name, _), m in found.items()} == {"follows_shape": 1.0, "follows_colour": 1.0}


def by_name(found: list[Measurement]) -> dict[tuple[str, str], Measurement]:
    assert len({(m.name, m.subject) for m in found}) == len(found)
    return {(m.name, m.subject): m for m in found}


def test_seen_and_unseen_combinations_have_numbers_of_their_own() -> None:
    clips, captions = filmed(32)
    unseen = held_out(0, 16)
    new = np.array([index // 4 % 2 == 1 for index in range(32)])
    half = np.where(new[:, None, None, None, None], 16, clips).astype(np.uint8)  # a model that can do seen ones alone
    found = by_name(following.measurements(captions, {"real": clips, "trained": half}, unseen, "digest", 1))
    assert not any("number" in name for name, _ in found)  # one object is all that there is
    for name in (ALL, "follows_colour"):
        assert found[name, "trained"].value == found[name, "real"].value == found[f"{name}_unseen", "real"].value == 1
        assert found[f"{name}_unseen", "trained"].value == 0
        assert found[name, "trained"].protocol_fingerprint == found[name, "real"].protocol_fingerprint
        assert found[name, "trained"].protocol_fingerprint != found[f"{name}_unseen", "trained"].protocol_fingerprint
    one = found["follows_colour", "trained"]
    assert (one.protocol or {})["num_clips"] == 16 and one.low == pytest.approx(0.806, abs=1e-3) and one.high == pytest.approx(1)
    assert one.floor == by_chance(read(clips), [told_by(text) for text in captions], ~new)["follows_colour"]
    assert {m.name for m in found.values()} <= {value.name for value in FOLLOWING}
    everything = by_name(following.measurements(captions, {"real": clips}, frozenset(), "digest", 1))
    assert not any(name.endswith("_unseen") for name, _ in everything)


def test_every_measure_has_words_for_a_reader() -> None:
    for value in FOLLOWING:
        metric = catalogue.find(value.name)
        assert metric.group == "quality" and metric.scale == "fraction" and metric.axis and "told" in metric.title
        assert metric.plain.counts and metric.plain.verb.startswith("show the ")


EIGHT = {"extractors": ["random3d"], "num_samples": 8}
SMALL = {"encoder": "words", "width": 16}


def told_cell(**changes: Any) -> Cell:
    """A cell whose samples are told captions."""
    return Cell.model_validate({**cell_fields(data=TOLD, evaluation=EIGHT, text=SMALL), **changes})


def test_only_what_was_told_is_measured(tmp_path: Path) -> None:
    cell, device = told_cell(), torch.device("cpu")
    training = training_set(cell, tmp_path, device, silent)
    reference = reference_set(cell, training, tmp_path, device, silent)
    assert training.told == (training.clips.splits["test"].captions or ())[:8]
    generated: Mapping[str, Any] = {"trained": np.asarray(reference.held_out["test"])}
    found = by_name(measure_following(cell, reference, generated, device))
    assert {subject for _, subject in found} == {"real", "reconstruction", "trained"}
    assert found[ALL, "trained"].value == found[f"{ALL}_unseen", "real"].value == 1
    assert found[ALL, "reconstruction"].value < 1  # of an autoencoder that has hardly learnt
    blind = tiny_cell(data=TOLD, evaluation=EIGHT)
    assert is_read(cell) and not is_read(blind)
    assert measure_following(blind, reference, generated, device) == []
    every = Quality(cell, reference, device, silent, tmp_path).measure(generated["trained"], None)
    assert [m for m in every if m.name.startswith("follows_")] == list(found.values())


@pytest.mark.parametrize(
    ("primary", "changes", "said"),
    [
        ("follows_colour", {"text": None}, "is told no captions that a world made"),
        (f"{ALL}_unseen", {"data": {**TOLD, "unseen": 0}}, r"holds no combinations out: data\.unseen is 0"),
        (
            "follows_colour_unseen",
            {"evaluation": {**EIGHT, "num_samples": 4}},
            "scores no clip of an unseen combination",
        ),
        ("follows_number", {}, "has one object in every clip"),
    ],
)
def test_a_primary_that_is_not_measured_is_refused(tmp_path: Path, primary: str, changes: dict[str, Any], said: str) -> None:
    defaults = cell_fields()
    del defaults["backbone"]
    study = load_study(str(write_matrix(tmp_path, defaults=defaults)), [f"primary={primary}"])
    for named in study.cells:
        object.__setattr__(named, "cell", told_cell(**changes))
    with pytest.raises(Refusal, match=rf"primary {primary} is of samples that follow captions, and cell .* {said}"):
        check_primary(study)
    for named in study.cells:
        object.__setattr__(named, "cell", told_cell(data={**TOLD, "num_objects": 2, "radius": (0.15, 0.2)}))
    check_primary(study)


def test_words_are_in_one_order() -> None:
    """A place that the reader gives is that of the word."""
    clips, captions = filmed(24)
    seen = read(clips)
    for index, told in enumerate(map(told_by, captions)):
        assert (COLOURS[seen.colour[index, 0]], SHAPES[seen.shape[index, 0]]) == (told.colour, told.shape)
        assert list(DIRECTIONS)[seen.direction[index, 0]] == told.direction and seen.number[index] == 1
