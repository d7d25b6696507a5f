"""A class name means one thing in the whole tree."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRACTS = {"Config"}  # what every data source calls its configuration


def test_a_class_name_means_one_thing() -> None:
    """Aliases of types count too: whoever reads a name must know what it is."""
    places = defaultdict(list)
    files = sorted(path for part in ("bench", "dit", "baselines") for path in (ROOT / part).rglob("*.py"))
    for path in (path for path in files if not path.name.startswith("test_")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.name)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[:1].isupper() and not name.isupper():
                    places[name].append(path.name)
    assert {name: files for name, files in places.items() if len(files) > 1 and name not in CONTRACTS} == {}
