"""What a launcher needs beyond the suite's own dependencies. Knows no torch."""

import importlib.util

from bench.shapes import Refusal


def needs(package: str, *, extra: str, on: str) -> None:
    """Refusal with the line that installs it, where a package is not there."""
    if importlib.util.find_spec(package) is None:
        install = f"python -m pip install -c constraints.txt -e '.[{extra}]'"
        raise Refusal(f"--on {on} needs {package}, which is not installed; install it by: {install}")
