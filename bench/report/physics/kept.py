"""What a cell keeps of its physics beside its record: scores clip by clip, readings and frames, by region. Reads, never repairs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.data.media.arrays import read_npz
from bench.data.physics.regions import REGIONS, Region
from bench.report.load import CellResult, Run
from bench.report.physics.scores import backbone_of, setups_of
from bench.shapes import Refusal

MOST_CLIPS = 10**6  # scores that are drawn


def is_picture(name: str) -> bool:
    """Whether an array is read of the one cell of a backbone alone whose clips are shown: frames, and readings over time."""
    return name.partition("/")[2].partition("/")[0] in ("frames", "drawn")


@dataclass(frozen=True, kw_only=True)
class KeptPhysics:
    """Of one cell."""

    cell: CellResult
    setup: str  # as `scores.setups_of` says it
    arrays: dict[str, np.ndarray]

    def scores(self, region: Region, subject: str, name: str) -> np.ndarray | None:
        """(N,) clip by clip; None where they are not there."""
        return self._of(f"{region}/{subject}/{name}", "f", 1)

    def outside(self, region: Region) -> np.ndarray | None:
        """(N,) how far each clip starts from all that was trained on, in widths of the trained ranges."""
        return self._of(f"{region}/outside", "f", 1)

    def drawn(self, region: Region) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Readings over time of a few clips: name, of the prediction and of the truth, (n, T) or (n, T, K)."""
        for key in self.arrays:
            head, slash, subject = key.rpartition("/")
            if head.startswith(f"{region}/drawn/") and slash and subject == "trained":
                own, real = (self.arrays[f"{head}/{each}"] for each in ("trained", "real") if f"{head}/{each}" in self.arrays)
                if own.dtype.kind == real.dtype.kind == "f" and own.shape == real.shape and own.ndim in (2, 3):
                    yield head.rpartition("/")[2], own, real

    def frames(self, region: Region, subject: str) -> np.ndarray | None:
        """(n, T, H, W, 3) uint8 of a few clips, trained or real."""
        return self._of(f"{region}/frames/{subject}", "u", 5)

    def regions(self) -> list[Region]:
        """Those that there are."""
        return [region for region in REGIONS if f"{region}/outside" in self.arrays]

    def _of(self, key: str, kind: str, ndim: int) -> np.ndarray | None:
        found = self.arrays.get(key)
        return found if found is not None and found.dtype.kind == kind and found.ndim == ndim and found.size > 0 else None


def kept(run: Run) -> list[KeptPhysics]:
    """Of every cell whose file can be read, in the run's order."""
    found, setups = [], setups_of(run)
    for cell in run.cells:
        path = cell.artefact("physics")
        if path is None or not path.is_file():
            continue
        try:
            found.append(KeptPhysics(cell=cell, setup=setups[cell.name], arrays=read_npz(path)))
        except Refusal:  # the record has the means
            continue
    return found


def first_of_each(every: list[KeptPhysics]) -> dict[str, KeptPhysics]:
    """Backbone -> its cell of the first seed, of the setup that has the main contenders."""
    found: dict[str, KeptPhysics] = {}
    for own in sorted(every, key=lambda own: (own.cell.further, own.cell.seed)):
        if not own.cell.further:
            found.setdefault(backbone_of(own.cell), own)
    return found
