"""How large backbones are, before anything trains: asked of a job, since this process knows no torch, and kept in the cache."""

from collections.abc import Sequence
from pathlib import Path

from bench.data.files import StoreError
from bench.data.frozen import Frozen, content_hash
from bench.data.sealed import read_sealed
from bench.records.environment import read_environment
from bench.run.fan_out import run_on
from bench.run.job import SizeJob
from bench.run.launchers.contract import Launcher
from bench.study.cell import Cell

SIZE_VERSION = 1  # of the files that sizes are kept in
DECIDING = {"backbone", "data", "autoencoder"}  # fields of a cell that its size depends on


class BackboneSize(Frozen):
    """A backbone at the data's one shape."""

    params: int
    flops_per_clip: int  # forward
    latent_voxels: int  # of a clip


def sizes_of(cells: Sequence[Cell], matrix: str, results: Path, launcher: Launcher) -> dict[str, BackboneSize]:
    """Backbone -> its size, of all cells. Refusal or Refused where one cannot be built."""
    results = results.resolve()
    files = {cell.backbone: results / "cache" / "size" / f"{_key(cell)}.json" for cell in cells}
    found = {name: read_sealed(file, file.stem, BackboneSize, "size") for name, file in files.items()}
    if missing := {cell.backbone: cell for cell in cells if found[cell.backbone] is None}:
        pairs = tuple((cell, files[name]) for name, cell in missing.items())
        run_on(launcher, SizeJob(label="sizes", matrix=matrix, results=results, cells=pairs))
        found |= {name: read_sealed(files[name], files[name].stem, BackboneSize, "size") for name in missing}
    if lost := [name for name, size in found.items() if size is None]:
        raise StoreError(f"size {files[lost[0]]} cannot be read though it was found now; look who else writes there, then run it again")
    return {name: size for name, size in found.items() if size is not None}


def _key(cell: Cell) -> str:
    identity = {"schema": SIZE_VERSION, "cell": cell.model_dump(mode="json", include=DECIDING), "packages": read_environment().packages}
    return content_hash(identity)[:16]
