"""YAML text in, plain data out: what is too deep, too large or more than data is refused before anything is built of it. Knows no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.shapes import Refusal

MOST_LETTERS = 1_000_000
MOST_DEPTH = 50  # of lists and mappings in each other; deeper ones end the process inside the reader
MOST_NODES = 100_000  # values, lists and mappings, each as often as an alias repeats it
MOST_DIGITS = 100  # of a number


def read_tree(text: str) -> Any:
    """The data in a YAML text, its references to other fields resolved. Refusal for what is none."""
    with _readable():
        if _check(text):
            raise Refusal(f"a plain value, {text.strip()[:40]!r}, and no mapping")
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)


def read_value(text: str) -> Any:
    """The same of a text that may be a plain value."""
    with _readable():
        _check(text)
        tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        return tree["value"]


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise Refusal(f"not readable as YAML ({' '.join(str(error).split())[:300]})") from error


def _check(text: str) -> bool:
    """Whether it is a plain value. Refusal for what is too deep, too large or more than data."""
    if len(text) > MOST_LETTERS:
        raise Refusal(f"{len(text):,} letters, at most {MOST_LETTERS:,} are read")
    sizes: dict[str, int] = {}  # of what an anchor names, in nodes
    open_: list[tuple[str | None, int]] = []  # anchor of each list or mapping that is open, and the nodes before it
    num_nodes, plain = 0, False
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if getattr(event, "tag", None) is not None:
            raise Refusal(f"the YAML tag {event.tag!r} is not read; write the plain value")
        if isinstance(event, yaml.AliasEvent):
            num_nodes += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            num_nodes += 1
            plain = not open_ and bool(event.value)
            if event.style is None and len(event.value) > MOST_DIGITS and event.value.strip("+-").replace("_", "").isdigit():
                raise Refusal(f"a number of {len(event.value):,} digits, {event.value[:8]}...; at most {MOST_DIGITS} are read")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, num_nodes))
            num_nodes += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = num_nodes - before
        if len(open_) > MOST_DEPTH:
            raise Refusal(f"lists and mappings more than {MOST_DEPTH} deep in each other")
        if num_nodes > MOST_NODES:
            raise Refusal(f"more than {MOST_NODES:,} values, its aliases written out")
    return plain
