"""A matrix -> the same matrix with all that is left open settled: the device, and sizes that meet a match, with the proof. Knows no torch.

The search runs where the cells will and its answer is cached under everything that determines it; for a match of step times the
machine is part of that.
"""

from pathlib import Path

from bench.data.files import StoreError
from bench.data.frozen import content_hash
from bench.data.progress import Say
from bench.data.sealed import read_sealed
from bench.records.environment import read_environment
from bench.run.device import on_this_machine, settled
from bench.run.fan_out import run_on
from bench.run.job import MatchJob
from bench.run.launchers.contract import Launcher
from bench.shapes import Refusal
from bench.study.cell import Cell
from bench.study.matrix import Match, MatchProof, Study, expand

PROOF_VERSION = 3  # of the files that proofs are kept in
# Fields of a cell that its costs depend on, and of a machine that its times do.
DECIDING = {"backbone", "data", "autoencoder", "batching", "optimizer", "precision", "acceleration", "device"}
MACHINE = {"machine", "cpu", "cpu_id", "num_cpus", "gpus"}


def resolve(study: Study, results: Path, say: Say, launcher: Launcher) -> Study:
    """The study on the launcher's device; where a match is asked for, with the sizes found now or before. Refusal where nothing fits."""
    study = on_this_machine(study, launcher.device)
    match = study.matrix.match
    if match is None or match.to is None:
        return study
    target = _target(study, match.to)
    answers: dict[str, MatchProof] = {}  # of every search
    for named in study.cells:
        key = _key(match, named.cell, target, launcher)
        if named.cell.backbone != target and key not in answers:
            out = results.resolve() / "cache" / "match" / f"{key}.json"
            job = MatchJob(
                label="match", matrix=study.name, results=results.resolve(), cell=named.cell, target=target, match=match, out=out
            )
            answers[key] = proof = _proof(job, say, launcher)
            say(f"{proof.asked} -> {proof.found}: {match.by} within {proof.mismatch:.2%} of {target} ({proof.how})")
    cells = expand(study.name, study.matrix, lambda cell: answers.get(_key(match, cell, target, launcher)))
    return on_this_machine(study.model_copy(update={"cells": tuple(cells)}), launcher.device)


def _target(study: Study, to: str) -> str:
    """The backbone of the matrix that `to` names, in full or without its module."""
    known = list(dict.fromkeys(named.cell.backbone for named in study.cells))
    found = [name for name in known if to in (name, name.partition("{")[0].rpartition(":")[2], name.partition(":")[2])]
    if len(found) != 1:
        raise Refusal(f"matrix {study.name}: match.to {to!r} names {len(found) or 'none'} of its backbones; use one of {', '.join(known)}")
    return found[0]


def _key(match: Match, cell: Cell, target: str, launcher: Launcher) -> str:
    """Identity of a search: everything that determines its answer."""
    environment = read_environment()
    identity = {
        "schema": PROOF_VERSION,
        "match": match.model_dump(mode="json"),
        "target": target,
        "cell": settled(cell, launcher.device).model_dump(mode="json", include=DECIDING),
        "packages": environment.packages,
        "machine": (launcher.machine or environment.model_dump(include=MACHINE)) if match.by == "step_time" else None,
    }
    return content_hash(identity)[:16]


def _proof(job: MatchJob, say: Say, launcher: Launcher) -> MatchProof:
    """The answer of a search, from the cache or found now."""
    proof = read_sealed(job.out, job.out.stem, MatchProof, "match")
    if proof is None:
        say(f"{job.cell.backbone}: looking for the size that matches {job.target} in {job.match.by}")
        run_on(launcher, job)
        proof = read_sealed(job.out, job.out.stem, MatchProof, "match")
    if proof is None:
        raise StoreError(f"match {job.out} cannot be read though it was found now; look who else writes there, then run it again")
    return proof
