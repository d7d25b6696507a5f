"""A job that another machine does: its files in the run's folder, which all machines see. Knows no torch and no engine.

`<run>/.jobs/<what it does>/<token>.*`: `job.json` is what there is to do, `placed.json` where it was put, `txt` what it prints, `stop` that
it is asked to end, `end.json` how it ended. A machine reads the first and writes the last; whoever waits looks for the last.
"""

import contextlib
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.files import write_text
from bench.data.frozen import Frozen, content_hash
from bench.run.job import CellJob, Job, read_job
from bench.run.process import GRACE_S, JobProcess
from bench.run.watch import Ended
from bench.shapes import Refusal

FOLDER = ".jobs"  # in a run's folder
LOOK_S = 0.1  # between two looks of a machine at the process it has started
ASKED_S = 1.0  # between two looks whether it is asked to stop: a file that other machines may have written


class Note(Frozen):
    """Where a job was put."""

    launcher: str
    number: str  # by which its engine knows it


class JobFiles:
    """The files of one time that a job was handed out."""

    def __init__(self, folder: Path, token: str):
        self.folder, self.token = folder, token

    @classmethod
    def written(cls, job: Job) -> "JobFiles":
        """New ones, with what there is to do in them."""
        files = cls(folder_of(job), secrets.token_hex(8))
        write_text(files.path("job.json"), job.model_dump_json())
        return files

    def path(self, ending: str) -> Path:
        """Of the file of that kind."""
        return self.folder / f"{self.token}.{ending}"

    def job(self) -> Job:
        """What there is to do. Refusal where this machine does not see it."""
        try:
            return read_job(self.path("job.json").read_text())
        except OSError as error:
            raise Refusal(unseen(self.folder)) from error

    def put(self, launcher: str, number: str) -> None:
        """Note where the job is."""
        write_text(self.path("placed.json"), Note(launcher=launcher, number=number).model_dump_json())

    def end(self, ended: Ended) -> None:
        """Tell how it ended."""
        write_text(self.path("end.json"), ended.model_dump_json())

    def ended(self) -> Ended | None:
        """How it ended, as far as its machine has told."""
        try:
            return Ended.model_validate_json(self.path("end.json").read_text())
        except (OSError, ValidationError):
            return None

    def begin_again(self) -> None:
        """The engine has started the job once more: how it ended before is no longer true."""
        self.path("end.json").unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """Ask whoever does the job; an engine's own word may be lost on its way."""
        write_text(self.path("stop"), "")

    def is_asked_to_stop(self) -> bool:
        return self.path("stop").exists()


def folder_of(job: Job) -> Path:
    """Of all times that the same was handed out: of a cell, its folder's name, in which its fingerprint is; else a hash of the job."""
    own = job.cell.folder if isinstance(job, CellJob) else f"{job.label.replace(' ', '-')}-{content_hash(job.model_dump(mode='json'))[:8]}"
    return job.results / job.matrix / FOLDER / own


def handed_out(job: Job, launcher: str) -> list[tuple[JobFiles, str]]:
    """(files, number) of the times that the same was handed to this launcher, and nobody has said that it ended; the newest first."""
    found = []
    for path in sorted(folder_of(job).glob("*.placed.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValidationError):
            note, files = Note.model_validate_json(path.read_text()), JobFiles(path.parent, path.name.partition(".")[0])
            if note.launcher == launcher and files.ended() is None:
                found.append((files, note.number))
    return found


def unseen(folder: Path) -> str:
    """What to do where a machine does not see the results folder."""
    return f"machine {socket.gethostname()} does not see {folder}; give a results folder that all machines share with --results"


class NodeWork:
    """The side of the machine that does a job."""

    def __init__(self, files: JobFiles, where: Path):
        """`where`: working directory of the one who handed it out; a backbone's module may lie there."""
        self.files, self.where = files, where
        self.process: JobProcess | None = None
        self.told_to_stop = False

    def run(self, environment: dict[str, str] | None = None, node: int = 0) -> Ended:
        """Do the job in a process of its own, and tell how it ended; of several nodes that do it together, the first one does."""
        try:
            job = self.files.job()
        except Refusal as refusal:  # then nobody can be told by a file
            return Ended(word="refused", what=str(refusal))
        if node == 0:
            self.files.begin_again()
        with self.files.path(f"txt{node or ''}").open("ab") as output:
            self.process = JobProcess(job, environment=environment, where=self.where if self.where.is_dir() else None, output=output)
            looked_s = time.monotonic()
            while (ended := self.process.ended()) is None:
                time.sleep(LOOK_S)
                if time.monotonic() > looked_s + ASKED_S:
                    looked_s = time.monotonic()
                    if self.files.is_asked_to_stop():
                        self._tell()
        if node == 0:
            self.files.end(ended)
        return ended

    def stop(self) -> None:
        """Let the job write its checkpoint and end, and wait for that."""
        if self.process is None:
            return
        self._tell()
        deadline_s = time.monotonic() + 2 * GRACE_S
        while self.process.ended() is None and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)

    def _tell(self) -> None:
        """Tell the process once, whoever asks."""
        if not self.told_to_stop and self.process is not None:
            self.told_to_stop = True
            self.process.stop()


class Output:
    """What a job on another machine prints, as far as it was not read yet."""

    def __init__(self, path: Path):
        self._path, self._read = path, path.stat().st_size if path.is_file() else 0

    def more(self) -> str:
        """Whole lines only; the rest comes with the next ones."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read(1 << 20)
        except OSError:
            return ""
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.decode(errors="replace")


def machine_of(name: str, options: Frozen) -> str:
    """What times measured there are told apart by: a launcher, and which of its machines were asked for."""
    asked: dict[str, Any] = options.model_dump(mode="json", exclude_defaults=True)
    return f"{name} {json.dumps(asked, sort_keys=True)}"
