"""Refusals are not bugs: what a user got wrong is a `Refusal`, and nothing takes any other error for one."""

import ast
from pathlib import Path

import pytest

from bench.backbone import check_latents, load_backbone
from bench.shapes import LatentSpec, Refusal, Shape, lines_of

ROOT = Path(__file__).parents[1]
SPEC = LatentSpec(latent_channels=4, spatial_stride=8, temporal_stride=1, num_labels=0)
# Where a library raises ValueError (or one of BROKEN, a list of its own) for what it cannot read: its call, and nothing else, in the `try`.
LIBRARY_ERRORS = {
    "baselines/diffusers_zoo/__init__.py": 1,
    "baselines/pretrained/checkpoint.py": 1,
    "baselines/pretrained/schedule.py": 1,
    "baselines/pretrained/weights.py": 1,
    "bench/data/plugin.py": 1,  # the contract of plug-ins
    "bench/commands/audit/subject.py": 1,
    "bench/commands/score/published.py": 1,
    "bench/data/latents/autoencoder.py": 1,
    "bench/data/media/arrays.py": 1,
    "bench/data/media/images.py": 1,
    "bench/data/media/sample_clip.py": 2,
    "bench/data/media/tar.py": 1,
    "bench/data/recorders/reel.py": 1,
    "bench/data/sealed.py": 1,
    "bench/data/shards.py": 1,
    "bench/data/text/encoder.py": 1,
    "bench/meters/device.py": 1,
    "bench/metrics/extractors/custom.py": 1,
    "bench/metrics/following/clip_score.py": 2,
    "bench/metrics/weights/cache.py": 1,
    "bench/metrics/weights/pip.py": 1,
    "bench/records/store.py": 1,
    "bench/report/load.py": 1,
    "bench/run/expected/earlier.py": 1,
    "bench/run/launchers/ray.py": 1,
    "bench/training/checkpoint.py": 1,
    "bench/training/sharded_checkpoint.py": 1,
}
# Where any error may come: another person's code, a damaged file, or a process whose failure is told by its record.
ANY_ERROR = {
    "bench/data/plugin.py": 2,
    "bench/data/recorders/crew.py": 1,
    "bench/metrics/extractors/vit.py": 1,
    "bench/perf/worker.py": 1,
    "bench/run/cell_run.py": 1,
    "bench/run/checks.py": 1,
    "bench/run/expected/measure.py": 1,
    "bench/run/measure/memory.py": 1,
    "bench/training/half_weights.py": 1,
}


def caught(handler: ast.ExceptHandler) -> list[str]:
    return [] if handler.type is None else [name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)]


def handlers_of(*names: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for folder in ("bench", "baselines", "dit"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
            assert all(handler.type is not None for handler in handlers), f"{path} has a bare except"
            if count := sum(bool(set(names) & set(caught(handler))) for handler in handlers):
                found[path.relative_to(ROOT).as_posix()] = count
    return found


def test_value_errors_are_caught_where_a_library_raises_them_and_nowhere_else() -> None:
    assert handlers_of("ValueError", "BROKEN") == LIBRARY_ERRORS


def test_any_error_is_caught_where_it_may_be_anyones_and_nowhere_else() -> None:
    assert handlers_of("Exception", "BaseException") == ANY_ERROR


class Plugin:
    def __init__(self, error: Exception):
        self.error = error

    def check(self, shape: Shape) -> None:
        raise self.error


def test_what_a_plug_in_says_by_its_contract_is_a_refusal() -> None:
    with pytest.raises(Refusal, match="height 3"):
        check_latents(Plugin(ValueError("height 3 is odd")), (1, 3, 4))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        check_latents(Plugin(ZeroDivisionError()), (1, 3, 4))  # type: ignore[arg-type]


def test_an_unknown_backbone_is_a_refusal() -> None:
    with pytest.raises(Refusal, match="DiT-XS/2"):
        load_backbone("dit:DiT-XS", SPEC)


def test_a_long_line_keeps_the_thing_and_the_remedy() -> None:
    (line,) = lines_of(Refusal(f"field 'x' is {'9' * 100_000}; use 1"))
    assert len(line) < 2000
    assert line.startswith("field 'x' is 999")
    assert line.endswith("999; use 1")
    assert lines_of(Refusal("a" * 2000)) == ["a" * 2000]
