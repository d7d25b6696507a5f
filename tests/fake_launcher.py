"""A launcher whose jobs are what a test says they do."""

from collections.abc import Callable, Sequence

from bench.run.job import Job
from bench.run.launchers.contract import Placed
from bench.run.watch import Ended
from bench.study.matrix import Study


class FakeJob:
    """Ends with what is given, after so many looks; an error is raised."""

    where = "nowhere"

    def __init__(self, ended: Ended | BaseException, looks: int = 0):
        self._ended, self.looks = ended, looks
        self.asked: list[str] = []

    def ended(self) -> Ended | None:
        self.looks -= 1
        if self.looks >= 0 and not self.asked:
            return None
        if isinstance(self._ended, BaseException):
            error, self._ended = self._ended, Ended(word="stopped")
            raise error
        return self._ended

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")

    def output(self) -> str:
        return ""


class FakeLauncher:
    """`do(job)` is called once a job is started, and says how it ends."""

    name, machine, spins, leaves, patience_s, device = "fake", "", False, False, 0.0, None

    def __init__(self, do: Callable[[Job], Ended | FakeJob], room: int = 1, *, machine: str = "", leaves: bool = False):
        self.do, self.room, self.machine, self.leaves = do, room, machine, leaves
        self.started: list[tuple[Job, FakeJob]] = []
        self.earlier: dict[str, FakeJob] = {}

    def check(self, study: Study) -> None:
        pass

    def start(self, jobs: Sequence[Job], lock: int | None) -> list[Placed]:
        busy = sum(at.looks > 0 for _, at in self.started)
        placed = []
        for job in jobs[: self.room - busy]:
            found = self.do(job)
            at = found if isinstance(found, FakeJob) else FakeJob(found)
            self.started.append((job, at))
            placed.append(at)
        return list(placed)

    def attached(self, job: Job) -> Placed | None:
        return self.earlier.get(job.label)
