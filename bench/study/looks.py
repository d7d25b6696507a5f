"""When a study whose seeds are added one by one looks at its verdict. Knows no torch."""

from typing import Self

from pydantic import Field, model_validator

from bench.data.frozen import Frozen
from bench.shapes import Refusal


class Looks(Frozen):
    """Seeds that are added one by one: after each, from the first on, the verdict is looked at, and when it is carried no more are."""

    first: int = Field(3, ge=3, le=100)  # seeds of each contender at the first look
    most: int = Field(12, ge=3, le=100)  # of each, whatever is seen

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most < self.first:
            raise Refusal(f"looks end at {self.most} seeds, before the first at {self.first}")
        return self
