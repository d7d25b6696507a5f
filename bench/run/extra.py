"""What a word of the command needs beyond the suite's own dependencies. Knows no torch."""

import importlib.util
from collections.abc import Sequence

from bench.shapes import Refusal, did_you_mean

TRACKERS = ("jsonl", "tensorboard", "wandb")


def needs(package: str, *, extra: str, asked: str) -> None:
    """Refusal with the line that installs it, where a package is not there that `asked`, a word of the command, needs."""
    if importlib.util.find_spec(package) is None:
        install = f"python -m pip install -c constraints.txt -e '.[{extra}]'"
        raise Refusal(f"{asked} needs {package}, which is not installed; install it by: {install}")


def check_trackers(names: Sequence[str]) -> None:
    """Refusal for a tracker that is not known, or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise Refusal(f"unknown tracker {name!r}{did_you_mean(name, list(TRACKERS))}; there are {', '.join(TRACKERS)}")
        if name != "jsonl":
            needs(name, extra=name, asked=f"--track {name}")
