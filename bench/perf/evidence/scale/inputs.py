"""What the plan rests on, read: values with their range and their source, and what was counted of the backbones. Knows no torch."""

import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from bench.data.frozen import Frozen
from bench.perf.evidence.scale.simulator import Network

FOLDER = Path(__file__).parent
COUNTS = FOLDER / "counts.json"
CASES: tuple[Literal["best", "middle", "worst"], ...] = ("best", "middle", "worst")


class Value(Frozen):
    """One input: its range, and where it is from."""

    best: float  # for whoever pays
    middle: float
    worst: float
    kind: Literal["measured", "published", "counted", "assumed"]
    what: str
    source: str


class Ladder(Frozen):
    """The training of every rung."""

    steps: int
    batch_size: int


class ScaleInputs(Frozen):
    """inputs.yaml."""

    values: dict[str, Value]
    networks: dict[str, str] = Field(min_length=1)  # backbone -> name of the value that is its MFU
    rated: tuple[str, ...]  # backbones whose rate on a GPU was measured
    ladder: Ladder
    devices: tuple[int, ...]
    card: str
    node_devices: int
    train_clips: int

    def of(self, case: Literal["best", "middle", "worst"]) -> dict[str, float]:
        """Every value in one case."""
        return {name: getattr(value, case) for name, value in self.values.items()}


def read_inputs() -> ScaleInputs:
    """The committed ones."""
    return ScaleInputs.model_validate(yaml.safe_load((FOLDER / "inputs.yaml").read_text()))


def read_counts() -> dict[str, Any]:
    """counts.json."""
    return dict(json.loads(COUNTS.read_text()))


def network(name: str, counts: dict[str, Any]) -> Network:
    """A backbone as it was counted."""
    own = {key: value for key, value in counts["networks"][name].items() if not key.endswith("peaks")}
    return Network(name=name, **{**own, "unit_params": tuple(own["unit_params"])})
