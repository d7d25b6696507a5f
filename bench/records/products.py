"""Which library multiplied matrices, and what the choice was made by. Knows no torch."""

from bench.data.frozen import Frozen


class ProductTrial(Frozen):
    """The choice between the libraries of float32 products on a CPU: one for all of a study's cells on a machine, with as many threads."""

    key: str  # of the study, the machine and what was tried
    chosen: dict[str, str]  # kind of product -> library, see `bench.backbone.PRODUCTS`
    times_s: dict[str, dict[str, list[float]]]  # kind of product -> library -> seconds of each round, in which they took turns
    measured_at: str  # UTC, ISO 8601
