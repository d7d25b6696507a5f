"""A source whose clips cannot be made, for a reason of its own."""

from pathlib import Path
from typing import Never

from bench.data.progress import Progress
from bench.data.source import SourceConfig


class Config(SourceConfig):
    pass


def digest(config: Config) -> str:
    return "bad"


def labels(config: Config) -> tuple[str, ...]:
    return ()


def write(config: Config, folder: Path, progress: Progress) -> Never:
    raise ZeroDivisionError("no clips")
