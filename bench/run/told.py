"""Are a cell's samples told captions, and what can then be measured of them? Asked in one place. Knows no torch."""

from pathlib import Path

from bench.data.sources import worlds
from bench.data.worlds.combinations import Combination, held_out
from bench.metrics.following.values import FOLLOWING, UNSEEN
from bench.run.extra import needs
from bench.shapes import Refusal
from bench.study.cell import Cell


def is_read(cell: Cell) -> bool:
    """Whether it can be read from pixels, exactly, how far samples show what they were told: of captions that a world made."""
    return cell.text is not None and isinstance(cell.data, worlds.Config) and cell.data.captions == "generated"


def unseen_combinations(cell: Cell) -> frozenset[Combination]:
    """What such a cell's test clips have, half of them, and no other clip."""
    assert isinstance(cell.data, worlds.Config)
    return held_out(cell.data.seed, cell.data.unseen)


def check_followed(name: str, measure: str, cell: Cell) -> None:
    """Refusal where `measure`, one of FOLLOWING, is not measured in cell `name`."""
    assert any(value.name == measure for value in FOLLOWING)
    new = measure.endswith(UNSEEN)
    lacks = {
        "is told no captions that a world made": not is_read(cell),
        "holds no combinations out: data.unseen is 0": new and not getattr(cell.data, "unseen", 0),
        "has one object in every clip: data.num_objects is 1": "number" in measure and getattr(cell.data, "num_objects", 1) == 1,
        "samples nothing: evaluation.num_samples is 0": not cell.evaluation.num_samples,
        "scores no clip of an unseen combination: evaluation.num_samples is below 5": new and cell.evaluation.num_samples < 5,
    }
    if why := next((why for why, there in lacks.items() if there), None):
        raise Refusal(f"primary {measure} is of samples that follow captions, and cell {name} {why}; name another, or none: primary=null")


def check_clip_score(cell: Cell) -> None:
    """Refusal for a CLIP score of samples that are told nothing, without the package, or by a folder that is not there."""
    asked = cell.evaluation.clip_score
    if asked is None:
        return
    if cell.text is None:
        raise Refusal(f"evaluation.clip_score {asked!r} is of samples that are told captions, and these are not; give text, or use null")
    needs("transformers", extra="text", asked="evaluation.clip_score")
    if asked.startswith(("/", "./", "../", "~")) and not Path(asked).expanduser().is_dir():
        raise Refusal(f"evaluation.clip_score {asked!r} is no folder here; give the folder of a CLIP of transformers, or its hub name")
