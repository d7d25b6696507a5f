"""The contract of a source, discovery, errors, and the cache."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.data.clips
from bench.data.clips import open_frames, read_clips
from bench.data.sealed import DamagedCache
from bench.data.source import SourceConfig, Survey, clips_digest, describe, load_clips, load_config, sources, survey_clips

WORLD = {"source": "worlds", "num_frames": 3, "height": 12, "width": 16, "num_train": 5, "num_val": 2, "num_test": 2}

PLUGIN = '''
"""Grey clips."""
import numpy as np
from bench.data.clips import ClipSet, open_frames, save_clips
from bench.data.source import SourceConfig, digest_of

class Config(SourceConfig):
    level: int

def digest(config):
    return digest_of(config.model_dump(mode="json"))

def labels(config):
    return ()

def write(config, folder, progress):
    num = {"train": 4, "val": config.num_val, "test": config.num_test}
    frames = open_frames(folder, num, (config.num_frames, config.height, config.width))
    splits = {}
    for split, array in frames.items():
        array[:] = config.level
        num = len(array) - WRITES_FEWER
        splits[split] = ClipSet(array, np.zeros(len(array), dtype=np.int64), tuple(f"{split}{i}" for i in range(num)))
    save_clips(folder, splits, label_names=(), fps=1.0)
'''


MIXED_PLUGIN = '''
"""Grey clips of given shapes."""
import numpy as np
from bench.data.clips import ClipSet, open_ragged_frames, save_clips
from bench.data.source import SourceConfig, digest_of

class Config(SourceConfig):
    level: int
    shapes: list[tuple[int, int, int]]
    tells: bool = True

    @property
    def mixed(self):
        return self.tells

def digest(config):
    return digest_of(config.model_dump(mode="json"))

def labels(config):
    return ()

def write(config, folder, progress):
    num = {"train": 4, "val": config.num_val, "test": config.num_test}
    shapes = {split: [config.shapes[i % len(config.shapes)] for i in range(num)] for split, num in num.items()}
    splits = {}
    for split, frames in open_ragged_frames(folder, shapes).items():
        box = np.zeros((len(frames), max(shape[0] for shape in shapes[split]), 1, 4))
        for clip in frames:
            clip[...] = config.level
        splits[split] = ClipSet(frames, np.zeros(len(frames)), tuple(f"{split}{i}" for i in range(len(frames))), {"box": box})
    save_clips(folder, splits, label_names=(), fps=3.0, lost={"a reason": 2}, notes=("a note",))
'''


def mixed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> SourceConfig:
    (tmp_path / f"{name}.py").write_text(MIXED_PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    fields = {"source": name, "num_frames": 2, "height": 8, "width": 9, "num_val": 1, "num_test": 3, "level": 7}
    return load_config(fields | {"shapes": [(2, 8, 9), (1, 8, 8)]} | changes)


def world(**changes: Any) -> SourceConfig:
    return load_config(WORLD | changes)


def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fewer: str = "0") -> dict[str, Any]:
    (tmp_path / f"{name}.py").write_text(PLUGIN.replace("WRITES_FEWER", fewer))
    monkeypatch.syspath_prepend(tmp_path)
    return {"source": name, "num_frames": 2, "height": 8, "width": 9, "num_val": 1, "num_test": 1, "level": 7}


def test_every_source_is_found_and_described() -> None:
    assert {"worlds", "folder", "ucf101"} <= set(sources())
    assert not {"source", "video", "clips", "timeline", "inventory", "aspects"} & set(sources())
    assert all(describe(name) and "\n" not in describe(name) for name in sources())


def test_config_round_trips_and_is_frozen() -> None:
    config = world(radius=(0.2, 0.25))
    assert load_config(config.model_dump(mode="json")) == config
    assert load_config(config) is config
    with pytest.raises(ValueError, match="frozen"):
        config.height = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "world"}, r"unknown source 'world' \(did you mean 'worlds'\?\)"),
        ({"source": "json"}, "unknown source 'json'"),
        ({"source": "video"}, "unknown source 'video'"),
        ({"source": "no.such.module"}, "unknown source 'no.such.module'"),
        ({"source": ""}, "unknown source ''"),
        ({"source": 3}, "source=3; name one of"),
        ({"heigth": 4}, r"unknown field 'heigth' \(did you mean 'height'"),
        ({"height": 4}, r"height: Input should be greater than or equal to 8 \(got 4\)"),
        ({"num_val": 0}, r"num_val: .*\(got 0\)"),
        ({"num_train": "many"}, r"num_train: .*\(got 'many'\)"),
        ({"radius": (0.3, 0.2)}, "radius: .*the first must not exceed the second"),
        ({"radius": (0.3, 0.6)}, "below 0.5"),
        ({"num_objects": 5}, "leave no room; use 2"),
    ],
)
def test_errors_are_one_line_that_names_thing_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_config(WORLD | changes)
    assert "\n" not in str(caught.value)


def test_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="field 'num_train' is missing"):
        load_config({name: value for name, value in WORLD.items() if name != "num_train"})


def test_a_module_anywhere_on_the_path_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = load_clips(load_config(plugin(tmp_path, monkeypatch, "grey_clips")), tmp_path)
    assert (clips.splits["val"].frames == 7).all() and clips.label_names == () and clips.splits["train"].truth is None


def test_a_module_that_lacks_a_dependency_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_clips.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="needs the module 'not_installed_anywhere'"):
        load_config(WORLD | {"source": "needy_clips"})


def test_a_source_that_writes_too_few_clips_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(plugin(tmp_path, monkeypatch, "short_clips", fewer="1"))
    with pytest.raises(ValueError, match="wrote 0 val clips, expected 1"):
        load_clips(config, tmp_path / "cache")
    assert list((tmp_path / "cache" / "clips").iterdir()) == []


def test_rows_beyond_the_names_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(plugin(tmp_path, monkeypatch, "cut_clips", fewer="(2 if split == 'train' else 0)"))
    frames = load_clips(config, tmp_path).splits["train"].frames
    assert frames.shape == (2, 2, 8, 9, 3) and (frames == 7).all()


def test_cache_is_memory_mapped_and_reused(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    first = load_clips(world(), tmp_path, lambda *call: calls.append(call))
    assert calls[-1][:2] == (9, 9)
    calls.clear()
    again = load_clips(world(), tmp_path, lambda *call: calls.append(call))
    assert calls == []
    assert isinstance(again.splits["train"].frames, np.memmap) and not again.splits["train"].frames.flags.writeable
    for split in ("train", "val", "test"):
        assert (first.splits[split].frames == again.splits[split].frames).all()
        assert first.splits[split].clip_ids == again.splits[split].clip_ids
    assert [folder.name for folder in (tmp_path / "clips").iterdir()] == [first.digest[:16]]


def test_digest_follows_content() -> None:
    digests = [clips_digest(world(**changes)) for changes in ({}, {"seed": 1}, {"fps": 9}, {"num_train": 6}, {"width": 17})]
    assert len(set(digests)) == 5 and clips_digest(world()) == digests[0]


def test_a_killed_build_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "clips" / clips_digest(world())[:16]
    leftover = folder.with_name(f".{folder.name}.4711.deadbeef.tmp")
    leftover.mkdir(parents=True)
    (leftover / "train.npy").write_bytes(b"half")

    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_clips(world(), tmp_path, interrupt)
    assert list((tmp_path / "clips").iterdir()) == [leftover]
    assert len(load_clips(world(), tmp_path).splits["train"]) == 5


def test_two_builds_at_once_do_no_harm(tmp_path: Path) -> None:
    others: list[Any] = []

    def build_too(done: int, total: int, what: str) -> None:
        if not others:
            others.append(None)
            others[0] = load_clips(world(), tmp_path)  # starts later, ends first

    clips = load_clips(world(), tmp_path, build_too)
    assert (clips.splits["train"].frames == others[0].splits["train"].frames).all()
    assert [folder.name for folder in (tmp_path / "clips").iterdir()] == [clips.digest[:16]]


@pytest.mark.parametrize("damage", ["cut train.npy", "cut val.labels.npy", "no meta.json", "half meta.json", "no test.truth.npz"])
def test_a_damaged_cache_is_built_again_with_a_warning(tmp_path: Path, damage: str) -> None:
    before = np.array(load_clips(world(), tmp_path).splits["train"].frames)
    folder = tmp_path / "clips" / clips_digest(world())[:16]
    how, name = damage.split()
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if how != "no":
        (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_clips(folder, "")
    with pytest.warns(UserWarning, match="damaged and are made again"):
        clips = load_clips(world(), tmp_path)
    assert (clips.splits["train"].frames == before).all()


def test_changed_pixels_of_equal_size_are_noticed(tmp_path: Path) -> None:
    before = np.array(load_clips(world(), tmp_path).splits["train"].frames)
    frames = np.load(tmp_path / "clips" / clips_digest(world())[:16] / "train.npy", mmap_mode="r+")
    frames.reshape(-1)[0] ^= 1
    frames.flush()
    with pytest.warns(DamagedCache, match="cached clips are damaged and are made again: .*train.npy is not what was written"):
        clips = load_clips(world(), tmp_path)
    assert (clips.splits["train"].frames == before).all()


def test_a_full_disk_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 9 * 3 * 12 * 16 * 3
    monkeypatch.setattr(bench.data.clips.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=rf"no room for clips in {tmp_path}.*{needed} bytes needed, 1 free") as caught:
        load_clips(world(), tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list((tmp_path / "clips").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench.data.clips.os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for clips in .* \d+ bytes needed"):
        load_clips(world(), tmp_path)


def test_frames_are_reserved_on_disk(tmp_path: Path) -> None:
    open_frames(tmp_path, {"train": 50}, (10, 24, 24))
    stat = (tmp_path / "train.npy").stat()
    assert stat.st_blocks * 512 >= 50 * 10 * 24 * 24 * 3


def test_a_mixed_source_writes_any_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = load_clips(mixed_plugin(tmp_path, monkeypatch, "mixed_clips"), tmp_path)
    assert clips.splits["train"].shapes == ((2, 8, 9), (1, 8, 8)) * 2
    assert all((clip == 7).all() for clip in clips.splits["test"].frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tells": False}, r"wrote train clips of \(1, 8, 8\), its config says \(2, 8, 9\)"),
        ({"tells": False, "shapes": [(2, 9, 8)]}, r"wrote train clips of \(2, 9, 8\), its config says \(2, 8, 9\)"),
        ({"shapes": [(2, 8, 9), (0, 8, 8)]}, r"wrote train clips of \(0, 8, 8\); a clip has at least one frame"),
    ],
)
def test_shapes_that_a_source_did_not_promise_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_clips(mixed_plugin(tmp_path, monkeypatch, f"wrong_clips_{len(message)}", **changes), tmp_path / "cache")
    assert list((tmp_path / "cache" / "clips").iterdir()) == []


def test_a_config_at_another_shape_is_checked_and_changes_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(plugin(tmp_path, monkeypatch, "shaped_clips"))
    other = config.at((5, 16, 24), 3)
    assert other.model_dump() == config.model_dump() | {"num_frames": 5, "height": 16, "width": 24, "num_val": 3, "num_test": 3}
    assert load_clips(other, tmp_path).splits["test"].frames.shape == (3, 5, 16, 24, 3)
    with pytest.raises(ValueError, match="source 'shaped_clips': num_frames: Input should") as caught:
        config.at((0, 16, 24), 3)
    assert "\n" not in str(caught.value)


def test_a_survey_of_a_source_that_has_none_is_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    survey = survey_clips(mixed_plugin(tmp_path, monkeypatch, "silent_clips"), tmp_path)
    assert survey.shapes["test"] == ((2, 8, 9), (1, 8, 8), (2, 8, 9)) and survey.clip_ids["val"] == ("val0",)
    assert survey.boxes is not None and survey.boxes["test"].shape == (3, 2, 1, 4)
    assert (survey.fps, survey.lost, survey.skipped, survey.notes) == (3.0, {"a reason": 2}, (), ("a note",))
    uniform = survey_clips(load_config(plugin(tmp_path, monkeypatch, "plain_clips")), tmp_path)
    assert uniform.shapes["train"] == ((2, 8, 9),) * 4 and uniform.boxes is None


def test_a_survey_of_worlds_is_what_loading_makes_and_writes_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    for config in (world(shapes=[(3, 12, 16), (1, 12, 12), (5, 16, 12)]), world(), world(margin=0.1)):
        survey: Survey = survey_clips(config, tmp_path / "none", lambda *call: calls.append(call))
        assert calls.pop()[:2] == (9, 9) and not (tmp_path / "none").exists()
        clips = load_clips(config, tmp_path)
        assert survey.shapes == {split: clip_set.shapes for split, clip_set in clips.splits.items()}
        assert survey.clip_ids == {split: clip_set.clip_ids for split, clip_set in clips.splits.items()}
        assert (survey.fps, survey.skipped, survey.lost) == (clips.fps, clips.skipped, clips.lost)
        assert survey.boxes is not None
        for split, clip_set in clips.splits.items():
            box = (clip_set.truth or {}).get("box", survey.boxes[split])
            assert survey.boxes[split].shape == (len(clip_set), max(shape[0] for shape in clip_set.shapes), 1, 4)
            assert np.array_equal(survey.boxes[split], box, equal_nan=True)
