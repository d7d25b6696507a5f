"""What the gate lets pass: a YAML file, checked when it is read."""

import fnmatch
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, model_validator
from yaml import YAMLError

from bench.data.frozen import Frozen, explain
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.lockstep import LONG_STEP_S
from bench.shapes import Refusal

DEFAULT = Path(__file__).with_name("policy.yaml")


class ReferencePolicy(Frozen):
    """Of a comparison with stored numbers."""

    processes: int = Field(ge=3)  # fresh processes to measure now, and when a reference is stored
    detect: float = Field(gt=0)


class Policy(Frozen):
    """See policy.yaml, which explains each field."""

    false_alarms: float = Field(gt=0, lt=0.5)
    least_pairs: int = Field(ge=2)
    most_pairs: int = Field(ge=2)
    max_seconds: float = Field(gt=0)
    detect: float = Field(gt=0)
    detect_long: float = Field(gt=0)
    benchmarks: dict[str, float]
    counters: dict[str, float]
    accept: tuple[str, ...]
    reference: ReferencePolicy
    quality: dict[str, float]

    @model_validator(mode="after")
    def _ordered(self) -> "Policy":
        if self.most_pairs < self.least_pairs:
            raise Refusal(f"most_pairs {self.most_pairs} is below least_pairs {self.least_pairs}")
        return self

    def detect_of(self, benchmark: str, step_s: float) -> float:
        """Smallest slow-down of a benchmark to catch; `step_s` is what its step takes."""
        own = [limit for pattern, limit in self.benchmarks.items() if fnmatch.fnmatchcase(benchmark, pattern)]
        return own[-1] if own else self.detect_long if step_s > LONG_STEP_S else self.detect

    def accepts(self, benchmark: str, quantity: str) -> bool:
        """Whether this change is meant to make that quantity worse."""
        return any(fnmatch.fnmatchcase(f"{benchmark} {quantity}", pattern) for pattern in self.accept)


def read_policy(path: Path | None) -> Policy:
    """The shipped policy, with the fields of the file at `path` in place of its own. CheckRefused names what is wrong with it."""
    try:
        shipped, changes = OmegaConf.load(DEFAULT), OmegaConf.create() if path is None else OmegaConf.load(path)
        if not isinstance(changes, DictConfig):
            raise CheckRefused(Exit.BAD_INPUT, f"policy {path}: expected a mapping of fields, as in {DEFAULT.name}")
        return Policy.model_validate(OmegaConf.to_container(OmegaConf.merge(shipped, changes), resolve=True))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise CheckRefused(Exit.BAD_INPUT, f"policy {path}: not readable as YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise CheckRefused(Exit.BAD_INPUT, f"policy {path or DEFAULT}: {explain(error, Policy)}") from error
