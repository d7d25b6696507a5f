"""Launchers by themselves: what they are asked, what they refuse, and how the head learns of a job that another machine does."""

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.run.job import CellJob, Job
from bench.run.launchers import local, remote, slurm
from bench.run.launchers.local import Local, LocalOptions
from bench.run.launchers.ray import perform
from bench.run.launchers.remote import JobFiles, NodeWork, Output, folder_of, handed_out
from bench.run.launchers.slurm import InQueue, Queue, Slurm, SlurmOptions, SlurmWork
from bench.run.launchers.table import LAUNCHERS, launcher
from bench.run.process import JobProcess
from bench.run.watch import Ended
from bench.shapes import Refusal
from bench.study.matrix import NamedCell, Study, load_study
from tests.commands import JobHere, here, write_matrix
from tests.tiny import tiny_cell

DONE = Ended(word="done")


def cell_job(folder: Path, seed: int = 0) -> CellJob:
    cell = NamedCell(name=f"c{seed}", axes={}, cell=tiny_cell(seed=seed))
    return CellJob(label=cell.name, matrix="m", results=folder, cell=cell)


def study(device: str = "cpu") -> Study:
    return load_study("smoke", [f"device={device}"])


# --- this machine


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ("0,cpu", "mixes cpu and GPUs"),
        ("gpu0", "'gpu0' is no device; give numbers of GPUs, such as 0,1, or cpu"),
        ("1,1", "names GPU 1 2 times"),
        ("", "is no device"),
        ("0,7", "0,7: there is no such GPU here; there are: none"),
    ],
)
def test_devices_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str, told: str) -> None:
    monkeypatch.setattr(local, "list_gpus", list)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results", f"--devices={devices}")
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("visible", "devices", "study_of", "found", "called"),
    [
        (None, None, "cuda", ("0", "1", "2"), ["0", "1", "2"]),
        ("4,6", None, "cuda", ("0", "1"), ["4", "6"]),
        ("GPU-a, GPU-b", "1", "cuda", ("1",), ["GPU-b"]),
        (None, None, "cpu", ("cpu",), []),  # cells of a CPU never run beside each other unasked
        ("-1", None, "cpu", ("cpu",), []),
        (None, "cpu,cpu", "cpu", ("cpu", "cpu"), []),
    ],
)
def test_a_device_for_each_job_at_once(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: str | None, study_of: str, found: tuple[str, ...], called: list[str]
) -> None:
    monkeypatch.setattr(local, "list_gpus", lambda: ["GPU"] * 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    own = Local(LocalOptions(devices=devices))  # type: ignore[arg-type]
    own.check(study(study_of))
    assert own.devices == found
    assert [local._as_visible(device) for device in own.devices if device != "cpu"] == called


def test_a_study_of_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match=r"--devices cpu,cpu: cell .* has device=cuda; leave out one of the two"):
        Local(LocalOptions(devices=("cpu", "cpu"))).check(study("cuda"))


def test_a_cell_over_several_gpus_waits_for_as_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []

    class Job:
        def __init__(self, job: Any, *, environment: dict[str, str], **options: Any):
            seen.append(f"{job.label}: {environment['CUDA_VISIBLE_DEVICES']}")

        def ended(self) -> Ended | None:
            return DONE if "one" in seen[-1] else None

    def job(label: str, processes: int) -> CellJob:
        parallel = {"kind": "ddp", "processes": processes} if processes > 1 else {}
        cell = NamedCell(name=label, axes={}, cell=tiny_cell(device="cuda", parallel=parallel, batching={"batch_size": 4}))
        return CellJob(label=label, matrix="m", results=tmp_path, cell=cell)

    monkeypatch.setattr(local, "list_gpus", lambda: ["GPU"] * 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "JobProcess", Job)
    own = Local(LocalOptions())
    own.check(study("cuda"))
    (one,) = own.start([job("one", 1), job("three", 3), job("two", 2)], None)  # the second has no room, and nobody overtakes it
    assert own.start([job("three", 3)], None) == []
    assert one.ended() == DONE and one.output() == ""
    (three,) = own.start([job("three", 3)], None)
    seen.append("one is done")
    assert three.ended() == DONE and three.output() == "" and seen[:2] == ["one: 0", "three: 0,1,2"]
    wide = study("cuda").model_copy(update={"cells": (job("four", 4).cell,)})
    with pytest.raises(Refusal, match=r"parallel.processes 4 need a GPU each, and there are 3"):
        own.check(wide)


@pytest.mark.parametrize(
    ("cpus", "num", "shares"), [([0, 1, 2, 3], 2, [[0, 1], [2, 3]]), ([1, 5, 7], 2, [[1], [5, 7]]), ([0], 2, [[], []]), ([0, 1], 1, [[]])]
)
def test_jobs_at_once_have_processors_of_their_own(
    monkeypatch: pytest.MonkeyPatch, cpus: list[int], num: int, shares: list[list[int]]
) -> None:
    monkeypatch.setattr(local, "own_cpus", lambda: cpus)
    own = Local(LocalOptions(devices=("cpu",) * num))
    assert [own.share([place]) for place in range(num)] == shares


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot")
def test_a_job_has_its_processors_and_its_output_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, before = max(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    code = "import os, sys; sys.stdin.read(); print(os.sched_getaffinity(0), os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr)"
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", f'exec {sys.executable} -c "{code}"'))
    with (tmp_path / "log").open("wb") as log:
        ended = wait(JobProcess(cell_job(tmp_path), cpus=[cpu], environment={"CUDA_VISIBLE_DEVICES": "5"}, output=log))
    assert (ended.code, ended.word) == (0, "") and os.sched_getaffinity(0) == before
    assert (tmp_path / "log").read_text() == f"{{{cpu}}} 5\n"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def wait(job: Any, seconds: float = 60) -> Ended:
    deadline_s = time.monotonic() + seconds
    while (ended := job.ended()) is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert isinstance(ended, Ended)
    return ended


def test_a_job_whose_time_is_up_is_told_to_stop_and_then_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.run.process.GRACE_S", 0.2)
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", "trap '' TERM\nsleep 60 & wait\nwait\nsleep 60"))
    cell = NamedCell(name="c", axes={}, cell=tiny_cell(timeout_s=0.3))
    ended = wait(JobProcess(CellJob(label="c", matrix="m", results=tmp_path, cell=cell)))
    assert ended.timed_out and ended.reason == "its process ran over timeout_s = 0.3"


# --- what is asked of a launcher


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--on", "slrum"), "unknown launcher 'slrum' (did you mean 'slurm'?)"),
        (("--on", "ray", "--devices", "0"), "--devices 0 is of this machine, and --on ray chooses its own"),
        (("--with", "time=4"), "--with time=4 is of slurm and ray"),
        (("--on", "ray", "--with", "gpu=4"), "unknown field 'gpu' (did you mean 'gpus'?)"),
        (("--on", "ray", "--with", "gpus=some"), "--on ray: gpus: "),
        (("--on", "ray", "--with", "gpus"), "'gpus' is neither KEY=VALUE, such as time=240, nor a .yaml file"),
        (("--on", "ray", "--with", "nowhere.yaml"), "nowhere.yaml: there is no such file"),
        (("--on", "ray", "--with", "{tmp}/list.yaml"), "expected a mapping of options"),
        (("--on", "ray", "--with", "{tmp}/bad.yaml"), "not readable"),
    ],
)
def test_what_a_launcher_does_not_know_is_refused_in_a_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "bad.yaml").write_text("a: [")
    own = [each.replace("{tmp}", str(tmp_path)) for each in arguments]
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "results", *own)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "results").exists()


def test_options_are_read_from_files_and_arguments_and_the_last_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script(tmp_path / "sbatch", "true")
    (tmp_path / "cluster.yaml").write_text("partition: gpu\ntime: 60\nfurther: {reservation: x}\n")
    found = launcher("slurm", [str(tmp_path / "cluster.yaml"), "time=30", "gpus=2"])
    assert isinstance(found, Slurm)
    assert found.options == SlurmOptions(partition="gpu", time=30, gpus=2, further={"reservation": "x"})
    assert found.device == "cuda" and "gpu" in found.machine


@pytest.mark.parametrize("name", LAUNCHERS.own)
def test_every_option_says_what_it_is(name: str) -> None:
    kind = LAUNCHERS.find(name)
    assert kind.name == name and kind.options.model_fields


def test_an_extra_that_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"--on ray needs ray, which is not installed; install it by: python -m pip install .*\[ray\]"):
        launcher("ray")


def test_slurm_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refusal, match="--on slurm needs sbatch on the path"):
        launcher("slurm")


# --- a job on another machine


def test_a_job_and_its_end_go_by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JobProcess", JobHere)
    job = cell_job(tmp_path)
    files = JobFiles.written(job)
    files.put("slurm", "17_0")
    assert files.job() == job and files.ended() is None
    assert [(each.token, number) for each, number in handed_out(job, "slurm")] == [(files.token, "17_0")]
    assert handed_out(job, "another") == []
    ended = NodeWork(files, tmp_path).run()  # nothing was prepared: its record says so
    assert files.ended() == ended == DONE
    assert handed_out(job, "slurm") == []
    files.begin_again()
    assert files.ended() is None


class JobUntilTold:
    """A `JobProcess` that runs until it is told to stop."""

    def __init__(self, job: Job, **options: Any):
        self.told = 0

    def ended(self) -> Ended | None:
        return Ended(word="stopped") if self.told else None

    def stop(self) -> None:
        self.told += 1


def test_a_machine_stops_its_job_once_a_file_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's word may be lost on its way; where both come, the process is told once."""
    monkeypatch.setattr(remote, "JobProcess", JobUntilTold)
    monkeypatch.setattr(remote, "ASKED_S", 0.0)
    files = JobFiles.written(cell_job(tmp_path))
    files.ask_to_stop()
    work = NodeWork(files, tmp_path)
    assert work.run() == Ended(word="stopped") == files.ended()
    work.stop()
    assert isinstance(work.process, JobUntilTold) and work.process.told == 1


def test_an_interrupted_task_of_ray_waits_for_its_job_however_often_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def interrupted(work: NodeWork, *given: object) -> Ended:
        calls.append("run" if given else "stop")
        if len(calls) < 3:
            raise KeyboardInterrupt
        return Ended(word="done")

    monkeypatch.setattr(NodeWork, "run", interrupted)
    monkeypatch.setattr(NodeWork, "stop", interrupted)
    assert Ended.model_validate_json(perform(str(tmp_path), "token", str(tmp_path), 1)) == Ended(word="stopped")
    assert calls == ["run", "stop", "stop"]


def test_a_machine_that_does_not_see_the_results_says_so(tmp_path: Path) -> None:
    files = JobFiles.written(cell_job(tmp_path))
    files.path("job.json").unlink()
    ended = NodeWork(files, tmp_path).run()
    assert ended.word == "refused" and "does not see" in ended.reason and "--results" in ended.reason


def test_files_of_the_same_cell_lie_together_and_of_other_jobs_apart(tmp_path: Path) -> None:
    again = cell_job(tmp_path).model_copy(update={"after": 3})
    assert folder_of(cell_job(tmp_path)) == folder_of(again) != folder_of(cell_job(tmp_path, seed=1))


def test_output_comes_in_whole_lines_and_once(tmp_path: Path) -> None:
    path = tmp_path / "txt"
    output = Output(path)
    assert output.more() == ""
    path.write_bytes(b"one\ntw")
    assert output.more() == "one\n" and output.more() == ""
    path.write_bytes(b"one\ntwo \xff\n")
    assert output.more() == "two �\n"


# --- the queue


class Scheduler(Queue):
    """Says what it is told to."""

    def __init__(self, *states: str | None):
        super().__init__()
        self.states, self.cancelled = list(states), list[str]()

    def state(self, number: str) -> str | None:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.silent = state == "silent"
        return None if self.silent else state

    def cancel(self, number: str) -> None:
        self.cancelled.append(number)


@pytest.mark.parametrize(
    ("state", "told", "expected"),
    [
        ("RUNNING", None, None),
        ("PENDING", Ended(word="stopped"), None),  # pre-empted, and in the queue again
        ("RUNNING", DONE, DONE),  # by its own word, before the scheduler knows
        ("CANCELLED", Ended(word="stopped"), Ended(word="stopped")),
        ("CANCELLED", None, Ended(word="stopped")),  # before it began
        ("silent", None, None),  # for how long ever
        ("silent", DONE, DONE),
        (None, None, Ended(word="lost", what="slurm job 17 is not known to the scheduler any more")),
        ("NODE_FAIL", None, Ended(word="lost", what="slurm job 17 ended as NODE_FAIL")),
        ("COMPLETED", None, Ended(word="lost", what="slurm job 17 ended as COMPLETED")),
        ("OUT_OF_MEMORY", None, "slurm job 17 (OUT_OF_MEMORY) ended with status 1"),
        ("FAILED", None, "(FAILED; where "),  # before it printed anything: it did not find what there was to do
    ],
)
def test_a_queued_job_ends_by_its_own_word_and_by_the_schedulers_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, told: Ended | None, expected: Ended | str | None
) -> None:
    clock = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: clock[0])
    files = JobFiles.written(cell_job(tmp_path))
    job = InQueue(files, "17", Scheduler(state))
    if told is not None:
        files.end(told)
    found = job.ended()
    if told is None:
        assert found is None  # not at once: its word may be on its way
    clock[0] += slurm.GONE_S - 1
    if expected is not None and found is None and state != "CANCELLED":
        assert job.ended() is None
    clock[0] += 2
    found = found or job.ended()
    assert found == expected if not isinstance(expected, str) else found is not None and expected in found.reason


def test_a_scheduler_that_knows_a_job_again_has_not_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: clock[0])
    job = InQueue(JobFiles.written(cell_job(tmp_path)), "17", Scheduler(None, "RUNNING", None))
    for _ in range(3):
        assert job.ended() is None
        clock[0] += slurm.GONE_S - 1
    assert job.ended() is None
    clock[0] += 2
    assert job.ended() is not None  # unknown for long enough since it was known last


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a scheduler's commands that print a file of their name and write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, says in {"sbatch": "Submitted batch job 17", "squeue": "", "sinfo": "main\ngpu", "scancel": "", "srun": ""}.items():
        (folder / f"{name}.says").write_text(f"{says}\n")
        script(folder / name, f'echo "$0" "$@" >> {folder}/calls\ncat "$0.says"\n[ -f "$0.fails" ] && cat "$0.fails" >&2 && exit 1\nexit 0')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_partition_that_is_not_there_is_named_with_those_that_are(commands: Path, tmp_path: Path) -> None:
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "r", "--on", "slurm", "--with", "partition=gpus")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "partition gpus: the cluster has none of that name; there are gpu, main" in done.stderr
    (commands / "sinfo.fails").write_text("slurm_load_partitions: Unable to contact slurm controller\n")
    done = here("run", write_matrix(tmp_path), "--results", tmp_path / "r", "--on", "slurm")
    assert "slurm does not answer sinfo (slurm_load_partitions: Unable to contact slurm controller)" in done.stderr


def test_cells_are_one_array_with_what_was_asked(commands: Path, tmp_path: Path) -> None:
    options = SlurmOptions(partition="gpu", account="me", time=90, gpus=1, cpus=4, memory_gb=1.5, at_once=2, further={"reservation": "x"})
    own, jobs = Slurm(options), [cell_job(tmp_path, seed) for seed in range(3)]
    placed = own.start(jobs, None)
    assert [at.where for at in placed] == ["slurm job 17_0", "slurm job 17_1", "slurm job 17_2"]
    logs = tmp_path / "m" / ".jobs" / "slurm"
    text = (logs / "17_submission.sh").read_text()
    asked = ("partition=gpu", "account=me", "time=90", "gpus-per-node=1", "cpus-per-task=4", "mem=1536M", "array=0-2%2", "reservation=x")
    assert [line for line in asked if f"#SBATCH --{line}\n" not in text] == []
    assert "#SBATCH --requeue\n" in text and "#SBATCH --signal=USR2@120\n" in text
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700  # what lies there is run by nodes
    for job in jobs:  # and the next run finds them
        (commands / "squeue.says").write_text("17_0|17_0|RUNNING\n18|17_1|PENDING\n17_2|17_2|RUNNING\n")
        assert Slurm(options).attached(job) is not None
    (commands / "squeue.says").write_text("\n")
    assert Slurm(options).attached(jobs[0]) is None  # the scheduler has forgotten it


def test_what_the_scheduler_refuses_is_told_in_its_words_once(commands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (commands / "sbatch.fails").write_text(
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    )
    with pytest.raises(Refusal, match=r"slurm takes no job: .*Invalid account"):
        Slurm(SlurmOptions()).start([cell_job(tmp_path)], None)
    assert capsys.readouterr().err == ""


def test_a_scheduler_is_asked_once_for_all_jobs(commands: Path) -> None:
    (commands / "squeue.says").write_text("17_0|17_0|RUNNING\n17_1|17_1|PENDING\n")
    queue = Queue()
    assert [queue.state(number) for number in ("17_0", "17_0", "17_1", "17_1")] == ["RUNNING"] * 2 + ["PENDING"] * 2
    assert (commands / "calls").read_text().count("squeue") == 2  # once more for one that it had not heard of
    (commands / "squeue.fails").write_text("down")
    queue._asked_s = float("-inf")
    assert queue.state("17_0") == "RUNNING" and queue.silent


def test_why_a_job_does_not_start_is_told_once(commands: Path, tmp_path: Path) -> None:
    queue = Queue()
    job = InQueue(JobFiles.written(cell_job(tmp_path)), "17", queue)
    said = []
    for reason in ("Priority", "PartitionConfig", "PartitionConfig", "Resources"):
        (commands / "squeue.says").write_text(f"17|17_N/A|PENDING|{reason}\n")
        queue._asked_s = float("-inf")
        assert job.ended() is None
        said.append(job.output())
    assert said == ["", "slurm job 17 waits in the queue: PartitionConfig\n", "", ""]


def test_a_node_lets_a_job_write_its_checkpoint_before_it_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is requeued does the same once more, with no process of the first time in it."""
    text = "trap 'exit 130' TERM\ntouch $0.began\nwhile true; do sleep 0.05; done"
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", text))
    files = JobFiles.written(cell_job(tmp_path))
    work = SlurmWork(str(files.folder), files.token, str(tmp_path))
    worker = work._worker = NodeWork(files, tmp_path)
    worker.process = JobProcess(files.job())
    while not (tmp_path / "python.began").exists():
        time.sleep(0.01)
    delayed = slurm._perform.checkpoint(work)
    ended = worker.process.ended()
    assert ended is not None and ended.code == 130
    assert delayed.function is slurm._perform and delayed.args[0].__getstate__()["_worker"] is None
    assert files.ended() is None  # nobody was told that it ended
