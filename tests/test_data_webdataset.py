"""Tar shards as a source: what a sample's clip and class are, splits that share nothing and stay, and what is left out by name."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data_tar import member, write_tar
from test_data_video import ENCODERS, counting_frames, moving_bar, write_video

from bench.data.clips import Clips
from bench.data.source import clips_digest, load_clips
from bench.data.sources import webdataset
from bench.data.sources.webdataset import Config, expand_braces, find_shards
from bench.shapes import Refusal

Members = list[tuple[tarfile.TarInfo, bytes]]


def config(path: Path | str, **changes: Any) -> Config:
    fields = {"path": str(path), "num_frames": 2, "height": 8, "width": 8, "num_val": 2, "num_test": 2, "held_out": 0.2}
    return Config.model_validate(fields | changes)


def npy(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, frames)
    return file.getvalue()


def grey(level: int, num_frames: int = 2) -> bytes:
    """A clip whose level says which it is."""
    return npy(np.full((num_frames, 8, 8, 3), level, np.uint8))


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(file, "png")
    return file.getvalue()


def shards(folder: Path, num: int = 40, per_shard: int = 10, extra: Members | None = None) -> Path:
    """Grey clips 0 ... num - 1, class level % 3; `extra` in the first shard."""
    for shard, first in enumerate(range(0, num, per_shard)):
        members = list(extra or []) if shard == 0 else []
        for level in range(first, min(first + per_shard, num)):
            members += [member(f"{level:03d}.npy", grey(level)), member(f"{level:03d}.cls", b"%d\n" % (level % 3))]
        write_tar(folder / f"s-{shard:02d}.tar", members)
    return folder


def levels(clips: Clips) -> dict[str, list[int]]:
    """Split -> the level of each of its clips, each checked against its name."""
    found = {}
    for split, clip_set in clips.splits.items():
        assert isinstance(clip_set.frames, np.ndarray)
        found[split] = [int(clip[0, 0, 0, 0]) for clip in clip_set.frames]
        assert [int(name.rpartition("/")[2]) for name in clip_set.clip_ids] == found[split]
        assert all((clip == clip[0, 0, 0, 0]).all() for clip in clip_set.frames)
    return found


def test_samples_become_clips_with_their_classes(tmp_path: Path) -> None:
    clips = load_clips(config(shards(tmp_path / "s"), num_classes=3), tmp_path)
    found = levels(clips)
    assert {split: len(own) for split, own in found.items()} == {"train": len(found["train"]), "val": 2, "test": 2}
    assert found["train"] == sorted(found["train"]) and len(found["train"]) > 15  # in the order of the shards
    assert not set(found["train"]) & {*found["val"], *found["test"]} and not set(found["val"]) & set(found["test"])
    assert clips.label_names == ("0", "1", "2")
    for split, clip_set in clips.splits.items():
        assert clip_set.labels.tolist() == [level % 3 for level in found[split]]
    assert clips.splits["train"].clip_ids[0].startswith("s-00.tar/") and not clips.skipped
    lost = sum(clips.lost.values())
    assert set(clips.lost) <= {"val samples beyond num_val", "test samples beyond num_test"} and len(found["train"]) + 4 + lost == 40
    assert "4 tar shards split by sample" in clips.notes[0]


def test_a_split_depends_on_the_sample_alone(tmp_path: Path) -> None:
    whole = levels(load_clips(config(shards(tmp_path / "a")), tmp_path))
    held_out = {*whole["val"], *whole["test"]}
    resharded = levels(load_clips(config(shards(tmp_path / "b", per_shard=7)), tmp_path))
    assert resharded == whole
    more = levels(load_clips(config(shards(tmp_path / "c", num=60, per_shard=7)), tmp_path))
    assert set(whole["train"]) == {level for level in more["train"] if level < 40} and not held_out & set(more["train"])
    fewer = levels(load_clips(config(tmp_path / "a", num_val=1, num_test=1), tmp_path))
    assert fewer["train"] == whole["train"] and (fewer["val"], fewer["test"]) == (whole["val"][:1], whole["test"][:1])
    other = load_clips(config(tmp_path / "a").at((1, 8, 8), 2), tmp_path)  # of another shape, to be judged by
    assert levels(other)["test"] == whole["test"] and levels(other)["val"] == whole["val"] and len(other.splits["train"]) == 1


def test_shards_are_held_out_whole(tmp_path: Path) -> None:
    clips = load_clips(config(shards(tmp_path / "s", num=120, per_shard=4), split_by="shard", held_out=0.3), tmp_path)
    of = {split: {name.partition("/")[0] for name in clip_set.clip_ids} for split, clip_set in clips.splits.items()}
    assert not of["train"] & (of["val"] | of["test"]) and not of["val"] & of["test"] and len(of["train"]) > 3


@pytest.mark.parametrize("split_by", ["sample", "shard"])
def test_a_copy_is_never_in_another_split(tmp_path: Path, split_by: str) -> None:
    for shard in range(8):
        own = [member(f"{level:03d}.npy", grey(level)) for level in range(10 * shard, 10 * shard + 10)]
        copies = [member(f"copy{level:03d}.npy", grey(level)) for level in range(10 * shard + 5, 10 * shard + 15)]
        write_tar(tmp_path / "s" / f"{shard}.tar", own + copies)
    clips = load_clips(config(tmp_path / "s", split_by=split_by, num_val=5, num_test=5, held_out=0.3), tmp_path)
    seen = {split: {int(clip[0, 0, 0, 0]) for clip in clip_set.frames} for split, clip_set in clips.splits.items()}
    assert len(seen["val"]) == len(seen["test"]) == 5  # and none of them twice
    assert not seen["train"] & (seen["val"] | seen["test"])
    reasons = {entry.reason.split(" as ")[0] for entry in clips.skipped}
    assert reasons == {"has the same content"}


def test_every_medium_is_read_from_its_middle(tmp_path: Path) -> None:
    counting = counting_frames(9, 8, 8)
    files = {extension: write_video(tmp_path / f"v{extension}", moving_bar(7)).read_bytes() for extension in ENCODERS}
    npz, several = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, frames=counting, other=np.zeros(3))
    np.savez(several, one=counting)
    extra: Members = []
    for number, (extension, content) in enumerate(files.items()):
        extra += [member(f"video{number}{extension}", content), member(f"video{number}.jpg", b"a thumbnail")]
    extra += [member("array.npy", npy(counting)), member("zip.npz", npz.getvalue()), member("zip1.npz", several.getvalue())]
    extra += [member(f"frames.{t:03d}.png", png(10 * t)) for t in (3, 0, 10, 2, 1)]
    extra.append(member("image.seg.png", png(77)))
    shards(tmp_path / "s", extra=extra)
    found = {sample.key: webdataset.medium_of(sample) for sample in webdataset.read_samples(tmp_path / "s" / "s-00.tar")}
    for number, extension in enumerate(files):  # frames 2 and 4 of 7, 32x48 cropped to 8x8: the bar is in row 2, then in row 4
        clip, fps = found[f"video{number}"].clip(tmp_path, (2, 8, 8), 2)
        assert clip.shape == (2, 8, 8, 3) and fps == pytest.approx(5), extension
        assert clip[:, :, 4, 0].argmax(axis=1).tolist() == [2, 4] and clip[..., 0].max() > 120
    for key in ("array", "zip", "zip1"):
        assert found[key].clip(tmp_path, (2, 8, 8), 3)[0][:, 0, 0, 0].tolist() == [2, 5]
    assert found["frames"].names == ("000.png", "001.png", "002.png", "003.png", "010.png")
    assert found["frames"].clip(tmp_path, (2, 8, 8), 2)[0][:, 0, 0, 0].tolist() == [10, 30]
    assert found["frames"].clip(tmp_path, (3, 8, 8), 1)[0][:, 0, 0, 0].tolist() == [10, 20, 30]
    assert found["image"].clip(tmp_path, (1, 8, 8), 1)[0].tolist() == np.full((1, 8, 8, 3), 77).tolist()


def test_an_array_of_another_size_is_scaled_as_a_video_is(tmp_path: Path) -> None:
    bar = moving_bar(2)
    video = webdataset.Medium(kind="video", names=("mkv",), contents=(write_video(tmp_path / "v.mkv", bar).read_bytes(),))
    array = webdataset.Medium(kind="array", names=("npy",), contents=(npy(bar),))
    assert np.array_equal(video.clip(tmp_path, (2, 8, 16), 1)[0], array.clip(tmp_path, (2, 8, 16), 1)[0])


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


BAD: dict[str, tuple[Members, str]] = {
    "a broken video": ([member("x.mp4", b"\0" * 500), member("x.cls", b"1")], "cannot be read"),
    "a playlist": ([member("x.mp4", b"#EXTM3U\nfile:///etc/passwd\n"), member("x.cls", b"1")], "cannot be read"),
    "pickled": ([member("x.npy", pickled()), member("x.cls", b"1")], "holds pickled objects"),
    "half an array": ([member("x.npy", grey(1)[:-9]), member("x.cls", b"1")], "is not an array that numpy reads"),
    "floats": ([member("x.npy", npy(np.zeros((2, 8, 8, 3)))), member("x.cls", b"1")], r"holds float64 \(2, 8, 8, 3\), expected uint8"),
    "one channel": ([member("x.npy", npy(np.zeros((2, 8, 8, 1), np.uint8))), member("x.cls", b"1")], "expected uint8 .frames, height"),
    "no frame": ([member("x.npy", npy(np.zeros((0, 8, 8, 3), np.uint8))), member("x.cls", b"1")], "expected uint8"),
    "short": ([member("x.npy", grey(1, 1)), member("x.cls", b"1")], "has 1 frames, a clip needs 2"),
    "an image": ([member("x.png", png(1)), member("x.cls", b"1")], "has 1 frames, a clip needs 2"),
    "a broken frame": ([member("x.0.png", b"x"), member("x.1.png", png(1)), member("x.cls", b"1")], ".0.png: cannot be read"),
    "two videos": ([member("x.mp4", b"x"), member("x.avi", b"x"), member("x.cls", b"1")], "has more than one video: .mp4 and .avi"),
    "text": ([member("x.txt", b"x"), member("x.cls", b"1")], "has no video, array or image: .cls, .txt"),
    "no class": ([member("x.npy", grey(1))], "has neither .cls nor .json, which say its class"),
    "a class beyond": ([member("x.npy", grey(1)), member("x.cls", b"3")], r"has the class 3; classes are 0 to 2 \(data.num_classes\)"),
    "a negative class": ([member("x.npy", grey(1)), member("x.cls", b"-1")], "has the class -1"),
    "a class in words": ([member("x.npy", grey(1)), member("x.cls", b"cat")], "has a .cls or .json that cannot be read"),
    "a long class": ([member("x.npy", grey(1)), member("x.cls", b"1" * 10**6)], "has the class 1111"),
    "JSON of none": ([member("x.npy", grey(1)), member("x.json", b'{"name": 1}')], "has the class None"),
    "JSON of a list": ([member("x.npy", grey(1)), member("x.json", b"[1]")], "has the class None"),
    "JSON of a switch": ([member("x.npy", grey(1)), member("x.json", b'{"label": true}')], "has the class True"),
    "deep JSON": ([member("x.npy", grey(1)), member("x.json", b"[" * 100_000)], "cannot be read"),
    "a link": ([member("x.npy", linkname="000.npy", type=tarfile.SYMTYPE)], "is a link, which is not followed"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_gives_no_clip_is_named_and_the_rest_is_there(tmp_path: Path, bad: str) -> None:
    extra, reason = BAD[bad]
    root = shards(tmp_path / "s", extra=extra)
    whole = shards(tmp_path / "whole")
    made = {"num_classes": 3, "held_out": 0.3}
    clips = load_clips(config(root, **made), tmp_path)
    (entry,) = clips.skipped
    assert entry.name.startswith("s-00.tar/x")
    with pytest.raises(Refusal, match=reason):
        raise Refusal(entry.reason)
    assert levels(clips) == levels(load_clips(config(whole, **made), tmp_path))


def test_classes_of_json_and_none_at_all(tmp_path: Path) -> None:
    members = []
    for level in range(30):
        label = json.dumps({"label": level % 2}).encode()
        members += [member(f"{level}.npy", grey(level)), member(f"{level}.json", label)]
    write_tar(tmp_path / "s" / "a.tar", members)
    clips = load_clips(config(tmp_path / "s", num_classes=2, held_out=0.3), tmp_path)
    assert all(own.labels.tolist() == [level % 2 for level in levels(clips)[split]] for split, own in clips.splits.items())
    without = load_clips(config(tmp_path / "s", held_out=0.3), tmp_path)
    assert without.label_names == () and not any(own.labels.any() for own in without.splits.values())


def test_a_held_out_sample_that_cannot_be_read_gives_its_place_to_the_next(tmp_path: Path) -> None:
    short = [member(f"{level:03d}.npy", grey(level, 1)) for level in range(100, 160)]
    whole = levels(load_clips(config(shards(tmp_path / "whole")), tmp_path))
    clips = load_clips(config(shards(tmp_path / "s", extra=short)), tmp_path)
    assert levels(clips) == whole
    assert {entry.reason for entry in clips.skipped} == {"has 1 frames, a clip needs 2"}
    first = min(webdataset._hash(content) for _, content in short)
    assert first < min(webdataset._hash(grey(level)) for level in whole["test"])  # it would have been the first of the test clips


def test_a_damaged_shard_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    root = shards(tmp_path / "s")
    path = root / "s-01.tar"
    path.write_bytes(path.read_bytes()[:5000])
    clips = load_clips(config(root), tmp_path)
    (entry,) = clips.skipped
    assert entry.name == "s-01.tar" and "is damaged at" in entry.reason
    assert {name.partition("/")[0] for name in clips.splits["train"].clip_ids} == {f"s-{shard:02d}.tar" for shard in range(4)}


def test_bad_samples_beyond_a_number_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MOST_NAMED", 3)
    extra = [member(f"bad{index}.txt", b"x") for index in range(8)]
    clips = load_clips(config(shards(tmp_path / "s", extra=extra)), tmp_path)
    assert len(clips.skipped) == 3 and clips.lost["samples that give no clip, beyond those named"] == 5


def test_clips_to_train_on_are_the_first_ones(tmp_path: Path) -> None:
    root = shards(tmp_path / "s")
    whole, few = (levels(load_clips(config(root, num_train=num), tmp_path)) for num in (None, 5))
    assert few == {**whole, "train": whole["train"][:5]}


def test_too_few_samples_are_an_error_with_the_numbers(tmp_path: Path) -> None:
    message = r"split by sample, with data.held_out 0.2, there are \d+ samples to train on, \d of num_val = 2 and \d+ of num_test = 30"
    with pytest.raises(Refusal, match=message):
        load_clips(config(shards(tmp_path / "s"), num_test=30), tmp_path)
    write_tar(tmp_path / "bad" / "a.tar", [member(f"{level}.npy", grey(level)[:-1]) for level in range(40)])
    with pytest.raises(Refusal, match="0 of num_val = 2"):
        load_clips(config(tmp_path / "bad"), tmp_path)


def test_shards_by_folder_braces_and_stars(tmp_path: Path) -> None:
    root = shards(tmp_path / "s")
    (root / "notes.txt").write_text("x")
    names = [f"s-{shard:02d}.tar" for shard in range(4)]
    for pattern in ("", "/s-{00..03}.tar", "/*.tar", "/s-0[0-3].tar", "/s-{00,01,02,03}.tar", "/{s,s}-{00..03}.tar"):
        assert list(find_shards(config(f"{root}{pattern}"))[0]) == names
    assert list(find_shards(config(f"{root}/s-{{00..01}}.tar"))[0]) == names[:2]
    assert clips_digest(config(root)) == clips_digest(config(f"{root}/*.tar"))
    assert list(expand_braces("a{0..2}-{x,y}")) == ["a0-x", "a0-y", "a1-x", "a1-y", "a2-x", "a2-y"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("s-{00..09}.tar", r"s-04.tar is not there"),
        ("*.zip", "no .tar there"),
        ("nowhere", "nowhere is not there"),
        ("{0..99999999999}.tar", r"/0\.tar is not there"),
    ],
)
def test_shards_that_are_not_there_are_named(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        find_shards(config(f"{shards(tmp_path / 's')}/{pattern}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match=r"no .tar there; name a folder with shards"):
        find_shards(config(tmp_path / "empty"))


def test_a_compressed_shard_is_named(tmp_path: Path) -> None:
    root = shards(tmp_path / "s")
    (root / "s-04.tar.gz").write_bytes(b"x")
    clips = load_clips(config(root), tmp_path)
    assert [(entry.name, entry.reason) for entry in clips.skipped] == [("s-04.tar.gz", "is compressed; unpack it to .tar")]


def test_the_digest_is_of_content_and_not_of_place(tmp_path: Path) -> None:
    first, second = (clips_digest(config(shards(tmp_path / name))) for name in ("a", "b"))
    assert first == second != clips_digest(config(tmp_path / "a", held_out=0.3))
    path = tmp_path / "b" / "s-03.tar"
    path.write_bytes(path.read_bytes().replace(grey(35), grey(36)))
    assert clips_digest(config(tmp_path / "b")) != first


def test_of_held_out_samples_few_are_decoded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []
    clip = webdataset.Medium.clip
    monkeypatch.setattr(webdataset.Medium, "clip", lambda medium, *given: [decoded.append(medium), clip(medium, *given)][1])
    clips = load_clips(config(shards(tmp_path / "s", num=120, per_shard=30), held_out=0.45, num_train=1), tmp_path)
    assert sum(clips.lost.values()) > 90 and len(decoded) < 40


def test_a_sample_that_others_displaced_is_forgotten() -> None:
    chosen = webdataset._Chosen(2)
    for content in ("0d", "0c", "0b"):
        assert chosen.may_take(content.zfill(32))
        chosen.take(content.zfill(32), content)
    assert not chosen.may_take("0d".zfill(32)) and list(chosen.named.values()) == ["0c", "0b"]
    with pytest.raises(Refusal, match="has the same content as 0c"):
        chosen.may_take("0c".zfill(32))
