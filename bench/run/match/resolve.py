"""A matrix that asks for a match -> the same matrix with the sizes that meet it, and the proof. Knows no torch.

The search runs in a process of its own and its answer is cached under everything that determines it; for a match of step times the
machine is part of that.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.data.files import StoreError
from bench.data.frozen import content_hash
from bench.data.progress import Say
from bench.records.environment import read_environment
from bench.records.record import MatchProof
from bench.run.job import MatchJob, run_job
from bench.study.cell import Cell
from bench.study.matrix import MatrixError, NamedCell, Study, expand

PROOF_VERSION = 2  # of the files that proofs are kept in
MEASURED = ("step_time",)  # axes on which the answer depends on the machine


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A study whose backbones have their final sizes."""

    study: Study
    proofs: dict[str, MatchProof]  # cell's name -> proof, where its backbone was sized


def resolve(study: Study, results: Path, say: Say) -> Matched:
    """The study itself where no match is asked for; else with the sizes found now or before. MatrixError where nothing fits."""
    match = study.matrix.match
    if match is None or match.to is None:
        return Matched(study=study, proofs={})
    target = _target(study, match.to)
    answers: dict[str, MatchProof] = {}  # of every search
    for named in study.cells:
        key = _key(study, named.cell, target)
        if named.cell.backbone != target and key not in answers:
            answers[key] = _proof(study, named, target, results.resolve(), key, say)
            proof = answers[key]
            say(f"{proof.asked} -> {proof.found}: {match.by} within {proof.mismatch:.2%} of {target} ({proof.how})")
    by_cell: dict[str, MatchProof] = {}

    def sized(cell: Cell) -> str:
        found = answers.get(_key(study, cell, target))
        if found is None:
            return cell.backbone
        by_cell[cell.model_copy(update={"backbone": found.found}).fingerprint()] = found
        return found.found

    cells = expand(study.name, study.matrix, sized)
    return Matched(
        study=Study(name=study.name, matrix=study.matrix, cells=tuple(cells)),
        proofs={named.name: by_cell[key] for named in cells if (key := named.cell.fingerprint()) in by_cell},
    )


def _target(study: Study, to: str) -> str:
    """The backbone of the matrix that `to` names, in full or without its module."""
    known = list(dict.fromkeys(named.cell.backbone for named in study.cells))
    found = [name for name in known if to in (name, name.partition("{")[0].rpartition(":")[2], name.partition(":")[2])]
    if len(found) != 1:
        raise MatrixError(
            f"matrix {study.name}: match.to {to!r} names {len(found) or 'none'} of its backbones; use one of {', '.join(known)}"
        )
    return found[0]


def _key(study: Study, cell: Cell, target: str) -> str:
    """Identity of a search: everything that determines its answer."""
    match = study.matrix.match
    assert match is not None
    identity = {
        "schema": PROOF_VERSION,
        "match": match.model_dump(mode="json"),
        "target": target,
        "cell": _what_decides(cell),
        "packages": read_environment().packages,
        "machine": _machine() if match.by in MEASURED else None,
    }
    return content_hash(identity)[:16]


def _proof(study: Study, named: NamedCell, target: str, results: Path, key: str, say: Say) -> MatchProof:
    """The answer of a search, from the cache or found now."""
    match = study.matrix.match
    assert match is not None
    path = results / "cache" / "match" / f"{key}.json"
    if not path.is_file():
        say(f"{named.cell.backbone}: looking for the size that matches {target} in {match.by}")
        run_job(MatchJob(label="match", matrix=study.name, results=results, cell=named.cell, target=target, match=match, out=path))
    try:
        return MatchProof.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise StoreError(f"match {path} cannot be read ({str(error).splitlines()[0]}); remove it, and it is found again") from error


def _what_decides(cell: Cell) -> dict[str, Any]:
    """Fields of a cell that its costs depend on."""
    fields = ("backbone", "data", "autoencoder", "batching", "optimizer", "precision", "acceleration", "device")
    return {field: value for field, value in cell.model_dump(mode="json").items() if field in fields}


def _machine() -> dict[str, Any]:
    environment = read_environment()
    return environment.model_dump(include={"machine", "cpu", "cpu_id", "num_cpus", "gpus"})
