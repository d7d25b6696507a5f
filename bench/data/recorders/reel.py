"""The folder of a recording: which clips it is to hold, which it has, and the manifest that is written last.

`class/000007.mkv` is clip 7. `manifest.json` tells what was asked, of whom, and the hash of every file; until it is there a hidden file
tells what was asked. Exact state lies beside it in `states.npz`, as "class/000007/position"; until then in a hidden folder, a file a clip.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from bench.data.files import FREE_OUT, StoreError, refuse_link, remove_leftovers, write_bytes
from bench.data.media.inventory import file_hash, look_through
from bench.data.media.lossless import SUFFIX, encode
from bench.data.recorders.contract import Recorded, Recorder
from bench.data.seeds import stream_seed
from bench.shapes import Refusal

MANIFEST, STATES = "manifest.json", "states.npz"
BEGUN, PARTS = ".recording.json", ".states"  # of a recording that is not through


@dataclass(frozen=True, kw_only=True)
class ReelConfig:
    """All that determines a clip but its number."""

    recorder: str
    recorder_version: int
    engine: str  # name and version
    seed: int
    num_frames: int
    height: int
    width: int
    fps: float

    @classmethod
    def of(cls, recorder: Recorder, *, seed: int, num_frames: int, height: int, width: int) -> Self:
        """What is asked of a recorder whose engine is installed."""
        engine = f"{recorder.package} {version(recorder.package)}"
        return cls(
            recorder=recorder.name, recorder_version=recorder.version, engine=engine,
            seed=seed, num_frames=num_frames, height=height, width=width, fps=recorder.fps,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reel:
    """A folder and what it is to hold."""

    folder: Path
    recorder: Recorder
    asked: ReelConfig
    num_clips: int

    def label(self, number: int) -> str:
        """The class of a clip."""
        return self.recorder.classes[number % len(self.recorder.classes)]

    def key(self, number: int) -> str:
        """Class and number of a clip: its file without the suffix, and the first part of the names of its state."""
        return f"{self.label(number)}/{number:06d}"

    def seed(self, number: int) -> int:
        """What a clip depends on, 32 bits."""
        return stream_seed(self.asked.seed, f"{self.asked.recorder}/{self.label(number)}", number)

    @contextlib.contextmanager
    def begun(self) -> Iterator[list[int]]:
        """The numbers of the clips that are not there, to `keep` in the block; with all of them there, `finish` was called.

        Refusal where the folder holds something else, or another process records into it.
        """
        refuse_link(self.folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise Refusal(f"--out {self.folder} is no folder; choose another one")
        self._check_asked()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}: {error.strerror}; {FREE_OUT}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Refusal(f"another process records into {self.folder}; wait for it, or choose another folder with --out") from error
            missing = self._missing()
            if missing or not (self.folder / MANIFEST).exists():
                write_bytes(self.folder / BEGUN, _json(dataclasses.asdict(self.asked)), FREE_OUT)
                (self.folder / MANIFEST).unlink(missing_ok=True)
            yield missing
            if missing or not (self.folder / MANIFEST).exists():
                self._finish()
        finally:
            os.close(lock)

    def keep(self, number: int, clip: Recorded) -> None:
        """Write a clip, of the size that is asked: whole or not at all, its state first."""
        if self.recorder.has_state:
            state = {f"{self.key(number)}/{name}": values for name, values in clip.state.items()}
            write_bytes(self._part(number), _npz(state), FREE_OUT)
        write_bytes(self.folder / self._file(number), encode(clip.frames, self.asked.fps), FREE_OUT)

    def _file(self, number: int) -> str:
        return self.key(number) + SUFFIX

    def _part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:06d}.npz"

    def _check_asked(self) -> None:
        """Refusal where the folder holds what is no recording, or was asked for otherwise."""
        found = self._told(MANIFEST) or self._told(BEGUN)
        if found is None and self.folder.exists() and any(self.folder.iterdir()):
            raise Refusal(f"--out {self.folder} is no recording and not empty; choose another folder, or remove it")
        if found is None or not look_through(self.folder)[0]:  # begun, and not a clip is there
            return
        for name, value in dataclasses.asdict(self.asked).items():
            if found.get(name) != value:
                raise Refusal(
                    f"--out {self.folder} holds a recording with {name} {found.get(name)!r}, and {value!r} is asked for; "
                    "choose another folder, or remove it"
                )

    def _told(self, name: str) -> dict[str, Any] | None:
        """What a file of the folder says; None where it is not there."""
        path = self.folder / name
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot read {path}: {' '.join(str(error).split())}; remove the folder, or choose another one") from error
        if not isinstance(found, dict):
            raise StoreError(f"cannot read {path}: no JSON object; remove the folder, or choose another one")
        return found

    def _hashes(self) -> dict[str, str]:
        """File -> its hash, as the manifest tells; {} where there is none."""
        told = self._told(MANIFEST)
        try:
            files = [*told["clips"], *([told["states"]] if told["states"] else [])] if told else []
            return {str(file["file"]): str(file["sha256"]) for file in files}
        except (KeyError, TypeError) as error:
            raise StoreError(f"cannot read {self.folder / MANIFEST}: it lacks {error}; remove it, and the same command goes on") from error

    def _missing(self) -> list[int]:
        """Numbers of the clips that must be recorded. Refusal where a file is none of this recording, or is not what the manifest says."""
        for place in (self.folder, self.folder / PARTS, *(self.folder / label for label in self.recorder.classes)):
            refuse_link(place)
            remove_leftovers(place)
        there = look_through(self.folder)[0].keys() - {MANIFEST, STATES}
        if others := sorted(there - {self._file(number) for number in range(self.num_clips)}):
            raise Refusal(
                f"--out {self.folder} holds {others[0]}, which is none of {self.num_clips} clips of this recording; "
                "ask for more --clips, remove it, or choose another folder"
            )
        for name, told in self._hashes().items():
            if (path := self.folder / name).exists() and file_hash(path) != told:
                raise Refusal(f"{path} is not the file that {MANIFEST} tells of; remove it, and the same command records it again")
        states = self._states()
        return [
            number for number in range(self.num_clips)
            if self._file(number) not in there or (self.recorder.has_state and self.key(number) not in states)
        ]  # fmt: skip

    def _states(self) -> dict[str, Path]:
        """Clip, by its key -> the file that holds its state."""
        found = {self.key(number): self._part(number) for number in range(self.num_clips) if self._part(number).exists()}
        if (self.folder / STATES).exists():
            found = {_clip_of(name): self.folder / STATES for name in _names(self.folder / STATES)} | found
        return found

    def _finish(self) -> None:
        """Gathers the state and writes the manifest; then nothing hidden is left."""
        files = [self._file(number) for number in range(self.num_clips)]
        if self.recorder.has_state:
            write_bytes(self.folder / STATES, self._gathered(), FREE_OUT)
            files.append(STATES)
        hashes = {name: file_hash(self.folder / name) for name in files}
        told = dataclasses.asdict(self.asked) | {
            "records": self.recorder.records,
            "licence": self.recorder.licence,
            "notice": self.recorder.notice,
            "states": {"file": STATES, "sha256": hashes[STATES]} if self.recorder.has_state else None,
            "clips": [
                {"file": name, "class": self.label(number), "seed": self.seed(number), "sha256": hashes[name]}
                for number in range(self.num_clips)
                for name in [self._file(number)]
            ],
        }
        write_bytes(self.folder / MANIFEST, _json(told), FREE_OUT)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        (self.folder / BEGUN).unlink(missing_ok=True)

    def _gathered(self) -> bytes:
        """The content of `states.npz`, clip by clip in their order."""
        places = self._states()
        arrays: dict[str, np.ndarray] = {}
        for place in dict.fromkeys(places.values()):
            arrays |= {name: values for name, values in _arrays(place).items() if places.get(_clip_of(name)) == place}
        order = {self.key(number): number for number in range(self.num_clips)}
        return _npz({name: arrays[name] for name in sorted(arrays, key=lambda name: order[_clip_of(name)])})


def _names(path: Path) -> list[str]:
    """Of the arrays of an .npz. StoreError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as arrays:
            return [name.removesuffix(".npy") for name in arrays.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Those of an .npz by name. StoreError where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"cannot read {path}: {' '.join(str(error).split())}; remove it, and the same command records it again")


def _clip_of(name: str) -> str:
    """The key of a clip in the name of an array."""
    return name.rpartition("/")[0]


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
