"""Frozen data: models whose fields never change, their content as a hash, and trees of fields as flat ones."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A model whose unknown keys are errors and whose fields never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # a diverged loss is NaN, and JSON has none


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form, 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
