"""`record` with a recorder that needs no engine: what lies in the folder, how it goes on, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.data.media.lossless import encode
from bench.data.media.video import probe, read_frames
from bench.data.plugin import registered
from bench.data.recorders.crew import scaled
from bench.data.recorders.reel import BEGUN, PARTS, Reel, ReelConfig
from bench.data.recorders.table import RECORDERS
from bench.data.source import load_clips, load_config
from tests.commands import ROOT, Done, here
from tests.fake_recorder import FAKE, HEIGHT, WIDTH, opened


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS.own, FAKE.name, FAKE)


def record(out: Path, *arguments: object, **environment: str) -> Done:
    return here("record", "fake", "--out", out, *arguments, **environment)


def content(folder: Path) -> dict[str, bytes]:
    """All files, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven clips, recorded at a stretch."""
    out = tmp_path_factory.mktemp("record") / "seven"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECORDERS.own, FAKE.name, FAKE)
        done = record(out, "--clips", 7, "--processes", 2)
    assert (done.returncode, done.stdout) == (0, f"{out}/manifest.json\n") and "record: clips 7/7" in done.stderr
    return out


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 15), (16, 120, 160)])
def test_every_pixel_comes_back(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    path = tmp_path / "clip.mkv"
    path.write_bytes(encode(frames, 8.75))
    assert (read_frames(path, 0, shape[0], 1, *shape[1:]) == frames).all() and path.read_bytes() == encode(frames, 8.75)
    assert probe(path) == (shape[0], 8.75)


def test_folder_reads_what_was_drawn(seven: Path, tmp_path: Path) -> None:
    fields = {"source": "folder", "path": str(seven), "num_frames": 4, "height": HEIGHT, "width": WIDTH, "num_val": 1, "num_test": 1}
    clips = load_clips(load_config({**fields, "split_by": "file"}), tmp_path / "cache")
    seeds = {told["file"]: told["seed"] for told in manifest(seven)["clips"]}
    assert clips.label_names == ("bright", "dark", "grey") and clips.fps == 8.75
    found = [
        (name.partition("#")[0], frames, clips.label_names[label])
        for split in clips.splits.values()
        for name, frames, label in zip(split.clip_ids, split.frames, split.labels, strict=True)
    ]
    assert {name for name, _, _ in found} == set(seeds)
    for name, frames, label in found:
        with opened(label) as camera:
            assert (frames == camera(seeds[name], 4).frames).all()


def test_the_manifest_tells_all(seven: Path) -> None:
    told = manifest(seven)
    assert told["engine"] == f"numpy {np.__version__}"
    assert {key: told[key] for key in ("recorder", "recorder_version", "seed", "num_frames", "height", "width", "fps")} == {
        "recorder": "fake", "recorder_version": 1, "seed": 0, "num_frames": 4, "height": HEIGHT, "width": WIDTH, "fps": 8.75,
    }  # fmt: skip
    assert (told["licence"], told["notice"]) == ("none", "nobody")
    assert [clip["file"] for clip in told["clips"]][:4] == ["dark/000000.mkv", "bright/000001.mkv", "grey/000002.mkv", "dark/000003.mkv"]
    hashes = {clip["file"]: clip["sha256"] for clip in (*told["clips"], told["states"])}
    assert {name: subprocess.check_output(["sha256sum", seven / name], text=True).split()[0] for name in hashes} == hashes
    assert set(content(seven)) == {*hashes, "manifest.json"}


def test_exact_state_lies_beside(seven: Path) -> None:
    with np.load(seven / "states.npz") as states:
        assert len(states) == 14
        with opened("bright") as camera:
            drawn = camera(manifest(seven)["clips"][4]["seed"], 4).state
        assert (states["bright/000004/position"] == drawn["position"]).all() and states["bright/000004/kind"] == ["bright"]


def test_clip_k_is_the_same_however_many_there_are_and_whoever_draws_it(seven: Path, tmp_path: Path) -> None:
    assert record(Path(os.path.relpath(tmp_path / "one", ROOT)), "--clips", 7, "--processes", 1).returncode == 0
    assert content(tmp_path / "one") == content(seven)
    assert record(tmp_path / "grown", "--clips", 2).returncode == 0
    early = content(tmp_path / "grown")
    assert record(tmp_path / "grown", "--clips", 7, FAKE_FAULT="exits", FAKE_ALWAYS="1").returncode == 2
    assert set(content(tmp_path / "grown")) == early.keys() - {"manifest.json"} | {BEGUN}  # none that tells of less than there is
    assert record(tmp_path / "grown", "--clips", 7).returncode == 0
    assert content(tmp_path / "grown") == content(seven)
    assert {name for name, bits in early.items() if content(seven)[name] == bits} == {"dark/000000.mkv", "bright/000001.mkv"}
    assert record(tmp_path / "other", "--clips", 7, "--seed", 1).returncode == 0
    assert not {name for name, bits in content(tmp_path / "other").items() if content(seven)[name] == bits}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "recorder 'fake', at clip {clip}, raised RuntimeError: no film left; mend it"),
        ("exits", "recorder 'fake' ended its process with status 7; mend it"),
        ("refuses", "fake: too dark"),
        ("shape", "recorder 'fake' drew uint8 (4, 19, 28, 3), it promises uint8 (4, 20, 28, 3); mend it"),
        ("state", "recorder 'fake' told state [], its has_state is True; mend it"),
    ],
)
def test_what_a_recorder_does_wrong_is_told_and_the_same_command_goes_on(seven: Path, tmp_path: Path, fault: str, told: str) -> None:
    out = tmp_path / "out"
    bad = [clip for clip in sorted(manifest(seven)["clips"], key=lambda clip: FAKE.classes.index(clip["class"])) if clip["seed"] % 3 == 0]
    done = record(out, "--clips", 7, "--processes", 1, FAKE_FAULT=fault)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"error: {told.format(clip=bad[0]['file'].removesuffix('.mkv'))}"
    assert not (out / "manifest.json").exists() and not list(out.rglob(".*.tmp"))
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.mkv")}
    assert 0 < len(kept) < 7
    assert record(out, "--clips", 7).returncode == 0
    assert content(out) == content(seven) and {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_same_command_twice_does_nothing_more(seven: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in seven.rglob("*")}
    done = record(seven, "--clips", 7, FAKE_FAULT="exits", FAKE_ALWAYS="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in seven.rglob("*")} == before


@pytest.mark.parametrize("name", ["grey/000002.mkv", "states.npz"])
def test_what_was_removed_is_recorded_again(seven: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    assert record(out, "--clips", 7).returncode == 0
    (out / name).unlink()
    assert record(out, "--clips", 7).returncode == 0
    assert content(out) == content(seven)


def test_what_was_changed_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert record(out, "--clips", 3).returncode == 0
    for name in ("grey/000002.mkv", "states.npz"):
        (out / name).write_bytes((before := (out / name).read_bytes()) + b" ")
        done = record(out, "--clips", 3)
        assert done.returncode == 2 and f"{name} is not the file that manifest.json tells of; remove it" in done.stderr
        (out / name).write_bytes(before)
    (out / "manifest.json").write_text("{")
    done = record(out, "--clips", 3)
    assert done.returncode == 2 and "cannot read" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fake", "--clips", 3), "holds bright/000004.mkv, which is none of 3 clips of this recording; ask for more --clips"),
        (("fake", "--clips", 7, "--seed", 1), "holds a recording with seed 0, and 1 is asked for; choose another folder"),
        (("fake", "--clips", 7, "--frames", 5), "holds a recording with num_frames 4, and 5 is asked for"),
        (("fake", "--clips", 7, "--size", "10x14"), "holds a recording with height 20, and 10 is asked for"),
        (("fake", "--clips", 7, "--size", "21x28"), "--size 21x28 is larger than what fake draws; give at most 20x28, height first"),
        (("fake", "--clips", 7, "--size", "4"), "--size '4' is not a size"),
        (("fakes", "--clips", 7), "unknown recorder 'fakes' (did you mean 'fake'?); there are vizdoom, pybullet, fake"),
        (("fake", "--clips", 0), "Invalid value for '--clips'"),
    ],
)
def test_what_does_not_fit_is_refused(seven: Path, arguments: tuple[object, ...], told: str) -> None:
    before = content(seven)
    done = here("record", *arguments, "--out", seven)
    assert done.returncode == 2 and told in done.stderr and content(seven) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for out, told in ((tmp_path, "is no recording and not empty"), (tmp_path / "letter.txt", "is no folder")):
        done = record(out, "--clips", 1)
        assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert set(content(tmp_path)) == {"letter.txt"}


def test_a_missing_extra_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECORDERS.own, "fake", replace(FAKE, package="no_such_engine", extra="games"))
    done = record(tmp_path / "out", "--clips", 1)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    install = "python -m pip install -c constraints.txt -e '.[games]'"
    assert done.stderr == f"error: record fake needs no_such_engine, which is not installed; install it by: {install}\n"
    assert all(RECORDERS.find(name).extra == "games" for name in ("vizdoom", "pybullet"))


def test_two_do_not_record_into_one_folder(tmp_path: Path) -> None:
    asked = ReelConfig.of(FAKE, seed=0, num_frames=4, height=HEIGHT, width=WIDTH)
    reel = Reel(folder=tmp_path / "out", recorder=FAKE, asked=asked, num_clips=1)
    with pytest.raises(KeyboardInterrupt), reel.begun() as missing:
        assert missing == [0] and (tmp_path / "out" / BEGUN).exists()
        done = record(tmp_path / "out", "--clips", 1)
        assert done.returncode == 2 and "another process records into" in done.stderr
        raise KeyboardInterrupt
    assert record(tmp_path / "out", "--clips", 1).returncode == 0


def test_what_was_begun_and_left_empty_binds_nobody(tmp_path: Path) -> None:
    done = record(out := tmp_path / "out", "--clips", 3, FAKE_FAULT="exits", FAKE_ALWAYS="1")
    (out / PARTS).mkdir()
    (out / PARTS / "000000.npz").write_bytes(b"of another seed")
    assert done.returncode == 2 and record(out, "--clips", 3, "--seed", 1).returncode == 0
    assert manifest(out)["seed"] == 1 and not (out / PARTS).exists()


def test_frames_are_scaled_by_area() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    means = frames.reshape(2, 6, 4, 8, 4, 3).mean((2, 4))
    assert np.abs(scaled(frames, 6, 8) - means).max() <= 1
    assert (scaled(frames, 24, 24) == frames[:, :, 4:28]).all()


INSTALLED = "[unet_vs_dit.recorders]\nfake = tests.fake_recorder:FAKE\n"


@pytest.mark.parametrize("whom", ["all by SIGTERM", "the head by SIGKILL"])
def test_a_stop_ends_every_process_and_the_same_command_goes_on(seven: Path, tmp_path: Path, whom: str) -> None:
    """By an entry point, as a user installs one: the command runs in processes of its own."""
    info = tmp_path / "path" / "fake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(INSTALLED)
    (pids := tmp_path / "pids").mkdir()
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'path'}:{ROOT}", "FAKE_PIDS": str(pids), "FAKE_FAULT": "slow", "FAKE_ALWAYS": "1"}
    words = [sys.executable, "-m", "bench", "record", "fake", "--out", str(out := tmp_path / "out"), "--processes", "2"]
    head = subprocess.Popen([*words, "--clips", "600"], cwd=ROOT, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
    while len(list(out.rglob("*.mkv"))) < 3 or len(list(pids.iterdir())) < 2:
        assert head.poll() is None
        time.sleep(0.02)
    if whom.startswith("all"):
        os.killpg(head.pid, signal.SIGTERM)
        assert head.wait(60) == 130
    else:
        head.kill()
        head.wait(60)
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(int(path.name)) for path in pids.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert {path.read_text() for path in pids.iterdir()} == {"closed"}
    there = sorted(out.rglob("*.mkv"))
    assert 3 <= len(there) < 600 and not list(out.rglob(".*.tmp"))
    for path in there:
        if (same := seven / path.relative_to(out)).exists():
            assert path.read_bytes() == same.read_bytes()
    again = subprocess.run([*words, "--clips", "3"], cwd=ROOT, env=env | {"FAKE_FAULT": ""}, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "which is none of 3 clips" in again.stderr  # it knows that it has begun


def test_recorders_are_listed(tmp_path: Path) -> None:
    registered.cache_clear()
    listed = here("ls", "--results", tmp_path).stdout.partition("\nrecorders\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == ["vizdoom", "pybullet", "fake"]
