"""Imports point one way, and what must start without torch does. Read from the syntax tree: nothing is imported to find out."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("bench", "dit", "baselines")
HEAVY = ("torch", "diffusers", "torchmetrics", "accelerate")
# The rooms of bench/, in the order in which data flows: each imports those before it, and none after it.
ROOMS = (
    "shapes", "data", "backbone", "study", "records", "meters", "metrics", "training", "run", "report", "commands", "perf", "cli",
)  # fmt: skip
TORCH_FREE = (
    "bench/cli.py", "bench/shapes.py", "bench/backbone/*.py",
    "dit/__init__.py", "baselines/__init__.py", "baselines/conv_config.py", "baselines/diffusers_zoo/__init__.py",
    "baselines/pretrained/__init__.py", "baselines/pretrained/checkpoint.py",
    "bench/study/**/*.py", "bench/records/**/*.py", "bench/report/**/*.py",
    "bench/data/worlds/*.py",
    "bench/data/*.py", "bench/data/sources/*.py", "bench/data/media/*.py", "bench/data/policy/*.py", "bench/data/physics/**/*.py",
    "bench/data/text/config.py", "bench/data/text/table.py", "bench/commands/prompts.py", "bench/data/latents/config.py",
    "bench/data/recorders/*.py", "bench/commands/record.py",
    "bench/metrics/protocol.py", "bench/metrics/extractors/manifest.py", "bench/metrics/battery/[!b]*.py",
    "bench/metrics/distances/*.py", "bench/metrics/pixels/*.py", "bench/metrics/physics/*.py", "bench/metrics/following/[!c]*.py",
    "bench/__init__.py", "bench/run/__init__.py", "bench/run/launch.py", "bench/run/job.py", "bench/run/process.py", "bench/run/checks.py",
    "bench/run/told.py", "bench/run/fan_out.py", "bench/run/claim.py", "bench/run/launchers/*.py",
    "bench/run/match/resolve.py", "bench/run/size/resolve.py", "bench/run/expected/[!m]*.py", "bench/run/expected/model.py",
    "bench/commands/archive.py", "bench/commands/compare.py", "bench/commands/listing.py", "bench/commands/reference.py",
    "bench/commands/score/record.py", "bench/commands/score/page.py", "bench/commands/audit/[!c]*.py",
    "bench/commands/audit/command.py", "bench/perf/suite.py", "bench/perf/gate/*.py", "bench/perf/evidence/scale/[!cm]*.py",
)  # fmt: skip


def files(*patterns: str) -> list[str]:
    """Those that exist, as paths from the root. A pattern that matches none would say nothing: it is an error."""
    found = {pattern: [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)] for pattern in patterns}
    assert not (empty := [pattern for pattern, paths in found.items() if not paths]), f"no file matches {empty}"
    return sorted(path for paths in found.values() for path in paths)


def room(name: str) -> str:
    """The room of a module or of a file: 'bench.data.media.video' -> 'data', 'bench' -> 'bench'."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if parts[0] == "bench" and len(parts) > 1 else parts[0]


def imports(file: str, *, at_import_only: bool = False) -> set[str]:
    """Dotted names that `file` imports: anywhere, or only when it is imported itself (no functions, no TYPE_CHECKING)."""
    package = file.split("/")[:-1]
    names = set()
    nodes: list[ast.AST] = [ast.parse((ROOT / file).read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif at_import_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        elif at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
    return names


def our_files(name: str) -> list[str]:
    """The files that `import <name>` runs: of the module, if it is one of ours, and of every package above it."""
    parts = name.split(".")
    if parts[0] not in OURS:
        return []
    paths = ["/".join([*parts[:depth], "__init__.py"]) for depth in range(1, len(parts) + 1)]
    return [path for path in [*paths, "/".join(parts) + ".py"] if (ROOT / path).is_file()]


def heavy_chain(file: str) -> str | None:
    """'a.py -> b.py -> torch' if importing `file` leads to a heavy module, through any of our own."""
    chains = {file: (file,)}
    waiting = [file]
    while waiting:
        current = waiting.pop(0)
        for name in sorted(imports_at_import(current)):
            if name.split(".")[0] in HEAVY:
                return " -> ".join((*chains[current], name))
            for other in our_files(name):
                if other not in chains:
                    chains[other] = (*chains[current], other)
                    waiting.append(other)
    return None


@functools.cache
def imports_at_import(file: str) -> frozenset[str]:
    """Read once: many files import the same ones."""
    return frozenset(imports(file, at_import_only=True))


@pytest.mark.parametrize("file", files("dit/**/*.py", "baselines/**/*.py"))
def test_a_backbone_imports_only_the_contracts(file: str) -> None:
    allowed = ("bench.shapes", "bench.backbone", file.split("/")[0])
    ours = {name for name in imports(file) if name.split(".")[0] in OURS and name != "bench"}
    assert not [name for name in ours if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)]


@pytest.mark.parametrize("file", [file for file in files("bench/**/*.py") if room(file) != "perf"])
def test_the_harness_names_no_backbone(file: str) -> None:
    """But for `bench/perf/`, which measures what the backbones do for speed."""
    assert not [name for name in imports(file) if name.split(".")[0] in ("dit", "baselines")]


@pytest.mark.parametrize("file", [file for file in files("bench/**/*.py") if room(file) not in ("__init__", "__main__")])
def test_rooms_import_those_before_them(file: str) -> None:
    ours = {name for name in imports(file) if name.startswith("bench.")}
    later = ROOMS[ROOMS.index(room(file)) + 1 :]
    assert not sorted(name for name in ours if room(name) in later)


def test_every_room_has_its_place() -> None:
    assert {room(file) for file in files("bench/**/*.py")} == {*ROOMS, "__init__", "__main__"}


@pytest.mark.parametrize("file", files(*TORCH_FREE))
def test_starts_without_torch(file: str) -> None:
    assert heavy_chain(file) is None


def test_naming_backbones_loads_no_torch() -> None:
    """What the syntax tree says, once for real: names, shapes and token counts in a process without torch."""
    code = (
        "import sys, dit, baselines\n"
        "for factory in (dit.BACKBONES['DiT-S/2'], baselines.BACKBONES['UNet-S']):\n"
        "    factory.check((10, 8, 8)); factory.num_tokens((10, 8, 8))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_reader_of_imports_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench" / "report" / "page").mkdir(parents=True)
    (tmp_path / "bench" / "__init__.py").write_text("")
    (tmp_path / "bench" / "deep.py").write_text("try:\n    import torch.nn\nexcept ImportError:\n    pass\n")
    (tmp_path / "bench" / "report" / "page" / "page.py").write_text("from ...deep import x\ndef f():\n    from dit import y\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    imports_at_import.cache_clear()
    assert heavy_chain("bench/report/page/page.py") == "bench/report/page/page.py -> bench/deep.py -> torch.nn"
    assert imports("bench/report/page/page.py", at_import_only=True) == {"bench.deep", "bench.deep.x"}
    assert imports("bench/report/page/page.py") == {"bench.deep", "bench.deep.x", "dit", "dit.y"}
    imports_at_import.cache_clear()


def test_a_pattern_without_a_file_is_an_error() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        files("bench/nowhere/*.py")
