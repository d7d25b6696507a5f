"""The changes in braces behind a name, made to a dataclass of a backbone's fields. Knows no torch."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

from bench.shapes import Refusal, did_you_mean

MOST_COUNT = 2**14  # of channels or anything else that a change counts: all are built before their memory is known
MOST_LAYERS = 2**10  # where a field counts these: each takes time to build, whatever its width

ConfigT = TypeVar("ConfigT")


def with_changes(config: ConfigT, changes: dict[str, Any]) -> ConfigT:
    """A dataclass with other fields, lists made tuples. Refusal for a field that it lacks or a value of another type."""
    from pydantic import TypeAdapter, ValidationError

    hints = typing.get_type_hints(type(config))
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    checked = {}
    for key, value in changes.items():
        check_field(key, known)
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(tuples(value), strict=True)
        except ValidationError as error:
            wanted = getattr(hints[key], "__name__", "") if isinstance(hints[key], type) else str(hints[key])
            raise Refusal(f"field {key!r} is {wanted}, got {value!r}") from error
        most = MOST_LAYERS if any(word in key for word in ("depth", "layers", "blocks")) else MOST_COUNT
        if any(isinstance(count, int) and not 1 <= count <= most for count in (value if isinstance(value, list) else [value])):
            raise Refusal(f"field {key!r} counts something, got {value!r}; use 1 to {most}")
    return dataclasses.replace(config, **checked)  # type: ignore[type-var]


def check_field(key: str, known: list[str]) -> None:
    """Refusal naming the nearest field where `key` is none of the `known` ones."""
    if key not in known:
        raise Refusal(f"no field {key!r}{did_you_mean(key, known)}; fields: {', '.join(known)}")


def tuples(value: Any) -> Any:
    """Lists as tuples, at any depth: configuration is frozen."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value
