"""One cell, end to end, phase by phase: what is trained on, training, sampling, judging; and its record, whatever happens.
Runs in a process of its own, which bench/run/worker.py starts.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable

import torch

from bench.data.files import StoreError, now, write_text
from bench.data.plugin import BrokenPlugin
from bench.data.progress import Progress, silent
from bench.meters.memory import PhaseMemory, is_out_of_memory
from bench.meters.process import device_name
from bench.records.environment import commit, read_environment
from bench.records.record import FINAL, Record, Status
from bench.records.store import latest, next_attempt, write_record
from bench.run.claim import claimed
from bench.run.job import TRACEBACK, CellJob
from bench.run.measure.memory import memory_measurements
from bench.run.phases import CellPhases
from bench.shapes import Refusal
from bench.training.checkpoint import Diverged
from bench.training.ranks import ALONE, join, leave
from bench.training.trainer import Interrupted

FIRST_S = 5.0  # in which the leading one of several processes tells what is wrong with all of them


def run_cell(job: CellJob, progress: Progress, should_stop: Callable[[], bool]) -> None:
    """A cell by this process, or by this and the others that its agent started; not where another worker has finished it since.

    Status 1 where one of several fails: the others, which wait for it, are then ended.
    """
    ranks = join() if job.is_spread else ALONE
    with contextlib.ExitStack() as held:
        if ranks.leads:
            held.enter_context(claimed(job.folder, job.label, should_stop))
        ranks.wait()
        record = latest(job.folder)
        if ranks.any(ranks.leads and record is not None and record.attempt > job.after and record.status in FINAL):
            return
        cell = CellRun(job, progress if ranks.leads else silent, should_stop, ranks)
        cell.run()
        if cell.failed and ranks.num > 1:
            sys.exit(1)
    leave()


class CellRun(CellPhases):
    """Goes through the phases of a cell, and writes what came of it."""

    def run(self) -> None:
        """The whole cell. Whatever happens but a request to stop, a record says so."""
        phases: dict[str, Callable[[], None]] = {
            "training set": self.make_training_set,
            "backbone": self.build_backbone,
            "canaries": self.check_canaries,
            "untrained model": self.sample_untrained,
            "training": self.train,
            "sampling": self.sample,
            "reference set": self.make_reference_set,
            "costs": self.measure_costs,
            "quality": self.measure_quality,
            "quality on the way": self.measure_points,
            "shape grid": self.measure_grid,
            "physics": self.measure_physics,
            "latency": self.measure_latency,
            "drift": self.measure_drift,
        }
        if not self.cell.evaluation.num_samples:  # its training and validation loss alone are asked for
            phases = {name: phases[name] for name in ("training set", "backbone", "canaries", "training")}
        if not self.cell.evaluation.untrained or not self.cell.budget.amount:  # untrained is then all that there is
            phases.pop("untrained model", None)
        if not self.cell.evaluation.points:
            phases.pop("quality on the way", None)
        if not self.cell.evaluation.grid:
            phases.pop("shape grid", None)
        if not (self.cell.evaluation.regions or self.cell.evaluation.twins):
            phases.pop("physics", None)
        if not self.cell.evaluation.latency:
            phases.pop("latency", None)
        if not self.cell.evaluation.drift:
            phases.pop("drift", None)
        try:
            for name, phase in phases.items():
                start_s = time.perf_counter()
                try:
                    phase()
                finally:
                    self.time_split_s[name] = time.perf_counter() - start_s
                if self.ranks.any(self.should_stop()) and name != list(phases)[-1]:  # after the last phase there is nothing left to stop
                    raise Interrupted(f"stopped after {name}; the next `run` goes on from there")
        except Interrupted:
            raise
        except Diverged as diverged:
            self._write("diverged", str(diverged))
        except (Exception, SystemExit) as error:  # noqa: BLE001  the record is where a failure is reported; nothing is lost
            if isinstance(error, Refusal) and not isinstance(error, BrokenPlugin):  # its line is all there is to say
                self._write("failed", _one_line(error))
                return
            if is_out_of_memory(error):  # the peak up to there is a result
                self.measurements += memory_measurements(PhaseMemory(self.device).peaks())
                self._write("oom", _one_line(error))
                return
            with contextlib.suppress(StoreError):  # a full disk has no room for it either
                write_text(self.folder / "traceback.txt", traceback.format_exc())
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            self._write("failed", f"{type(error).__name__}: {_one_line(error)} (traceback.txt beside this record)")
        else:
            if self.ranks.leads:
                self._write("ok", None)

    def _write(self, status: Status, reason: str | None) -> None:
        """The record of all that is known; of several processes that fail, the first one's."""
        self.failed = status != "ok"
        if not self.ranks.leads:
            time.sleep(FIRST_S)
            known = latest(self.folder)
            if status == "diverged" or (known is not None and known.attempt > self.job.after):
                return
        state = self.trainer.state if self.trainer is not None else None
        if "training" not in self.found and state is not None and state.loss:  # training ended early: its course up to there
            self.found["training"] = state.training()
        record = Record(
            matrix=self.job.matrix,
            name=self.name,
            fingerprint=self.cell.fingerprint(),
            cell=self.cell,
            asked=self.job.asked,
            tuning=self.job.cell.tuning,
            attempt=next_attempt(self.folder),
            status=status,
            reason=reason,
            started_at=self.started_at,
            ended_at=now(),
            environment=read_environment(num_threads=torch.get_num_threads(), device=device_name(self.device)),
            commits=state.commits if state is not None else [commit()],
            machines=state.machines if state is not None else [],
            measurements=self.measurements,
            time_split_s=self.time_split_s,
            artefacts=self.artefacts,
            **self.found,
        )
        write_record(self.folder, record)
        if status == "ok":
            self.forget_points()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600] or type(error).__name__
