"""Frozen data: models whose fields never change, what is wrong with one in a line, its content as a hash, trees of fields as flat ones."""

import hashlib
import json
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from bench.shapes import did_you_mean

MOST_SHOWN = 200  # characters of a value that is wrong
Count = Annotated[int, Field(ge=1, le=2**31)]  # of anything: what is larger is a slip of the pen
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Frozen(BaseModel):
    """A model whose unknown keys are errors and whose fields never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # a diverged loss is NaN, and JSON has none


class Grown(Frozen):
    """A model that has got fields since content of it was hashed: those are left out at their default, and older content keeps its hash."""

    added: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        unasked = {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in fields(self).items() if name not in unasked}


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


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """A pydantic error as one line that names field, value and remedy, and for an unknown field the nearest known one."""
    parts = []
    for item in error.errors():
        location = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, item["loc"][:-1])
            near = did_you_mean(str(item["loc"][-1]), known)
            parts.append(f"unknown field {location!r}{near or '; known fields: ' + ', '.join(known)}")
        elif item["type"] == "missing":
            parts.append(f"field {location!r} is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] in ("list_type", "tuple_type"):
                message += f", such as [{item['input']}]"
            value = repr(item.get("input"))
            shown = f" (got {value[:MOST_SHOWN]}{'...' * (len(value) > MOST_SHOWN)})" if value[0] != "{" and value not in message else ""
            parts.append(f"{location + ': ' if location else ''}{message}{shown}")
    return "; ".join(parts)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that `location` leads to; a union contributes those of all its members."""
    models = [model]
    for key in location:  # one that is no field, the place in a list or the kind of a union's member, leads no further
        following = [current.model_fields[str(key)].annotation for current in models if key in current.model_fields]
        models = [inner for annotation in following for inner in _models(annotation)] or models
    return sorted({name for current in models for name in current.model_fields})


def dotted(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All fields below a model, 'sampler.num_steps'."""
    names = []
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        names += [f"{prefix}{name}", *(below for each in inner for below in dotted(each, f"{prefix}{name}."))]
    return list(dict.fromkeys(names))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
