"""The ways of taking a step that are measured against each other here, by one process and by several. Knows no torch."""

from dataclasses import dataclass
from typing import Literal

BACKBONES = ("baselines:UNet-XS", "dit:DiT-XS/2")
BATCH, NUMS = 8, (2, 4)  # clips of a step, by however many processes; processes beside one
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter")
SIZES = (2**14, 2**18, 2**22)  # bytes of them
TOLD_BYTES = 8  # of a number that is told to all


@dataclass(frozen=True)
class Spreading:
    """How a step is taken."""

    kind: Literal["none", "ddp", "fsdp"]  # none by several: each alone on its part of the clips, and nothing is told
    num: int  # processes
    batch_size: int  # of the cell; for `none` of each process

    @property
    def key(self) -> str:
        """Its name in spread.json."""
        return f"{self.kind} {self.num} {self.batch_size}"

    @property
    def part(self) -> "Spreading":
        """One process on what each of these has, by the same code but for what is communicated."""
        return Spreading("fsdp" if self.kind == "fsdp" else "none", 1, self.batch_size // self.num)


ONE = Spreading("none", 1, BATCH)
ASKED = [ONE, Spreading("fsdp", 1, BATCH), *(Spreading(kind, num, BATCH) for kind in ("ddp", "fsdp") for num in NUMS)]
SPREAD = [way for way in ASKED if way.num > 1]
TOGETHER = {num: Spreading("none", num, BATCH // num) for num in NUMS}
ALONE = {num: Spreading("none", 1, BATCH // num) for num in NUMS}
WAYS = list(dict.fromkeys([*ASKED, *(way.part for way in SPREAD), *TOGETHER.values(), *ALONE.values()]))
