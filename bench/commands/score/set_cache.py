"""What was read of a set of clips, remembered: a second reading of the same files opens none of them until frames are needed.

A file `<key>.json` in the cache folder holds everything of a `ReadSet` but its frames. The key is the list of items, the rule and the
number of clips; the content of every item that was opened is hashed again before the file is believed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.commands.score.collection import Collection
from bench.commands.score.windows import Progress, ReadSet, Rule, content_of, identity, read_set
from bench.data.files import write_text
from bench.data.source import digest_of
from bench.shapes import Refusal


class LateFrames:
    """Frames (N, T, H, W, 3) uint8 that are read when the first of them is asked for."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape = shape
        self._read: Callable[[], np.ndarray] | None = read
        self._frames: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if self._frames is None:
            assert self._read is not None
            self._frames, self._read = self._read(), None
        return np.asarray(self._frames[index])


def cached_set(collection: Collection, rule: Rule, limit: int | None, progress: Progress, cache: Path) -> ReadSet:
    """`read_set`, from the cache where the same files were read before by the same rule."""
    key = digest_of(
        identity(rule), limit, str(collection.path.resolve()), [[item.name, item.label, item.kind] for item in collection.items]
    )
    file = cache / f"set-{key[:16]}.json"
    if (known := _remembered(file, collection)) is not None:

        def read() -> np.ndarray:
            again = read_set(collection, rule, limit, progress, cache)
            if again.digest != known.digest:
                raise Refusal(f"{collection.path} changed while it was read; run again when nobody writes to it")
            return again.frames

        # Only dtype, shape, length and slices are used of frames, and a slice reads them.
        return known.model_copy(update={"frames": LateFrames((len(known.names), *known.shape, 3), read)})
    found = read_set(collection, rule, limit, progress, cache)
    write_text(file, found.model_dump_json() + "\n")
    return found


def _remembered(file: Path, collection: Collection) -> ReadSet | None:
    """What `file` says, without frames; None where it is not there, damaged or out of date."""
    try:
        known = ReadSet.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    opened = [item for item in collection.items if item.name in known.content]
    return known if all(content_of(item) == known.content[item.name] for item in opened) else None
