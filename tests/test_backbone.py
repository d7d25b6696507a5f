"""Names of backbones: one spelling for each configuration, and one clear line for whatever is wrong."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bench.data.plugin
from baselines import BACKBONES as UNETS
from bench.backbone import canonical_name, check_latents, find_factory, import_plugin, known_modules, short_name, split_name
from bench.data.plugin import BrokenPlugin, blaming
from bench.shapes import Refusal, Shape
from dit import BACKBONES as DITS
from dit import DiTConfig


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that is registered under another name than its own."""
    module: Any = ModuleType("tests_plugin")
    module.BACKBONES = {"Plain": lambda spec: None}
    monkeypatch.setitem(sys.modules, "tests_plugin", module)
    point = importlib.metadata.EntryPoint("fancy", "tests_plugin", bench.data.plugin.ENTRY_POINT_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    bench.data.plugin.registered.cache_clear()
    yield module
    bench.data.plugin.registered.cache_clear()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("dit:DiT-XS/2", "dit:DiT-XS/2"),
        ("dit:DiT-XS/2{}", "dit:DiT-XS/2"),
        ({"name": "dit:DiT-XS/2"}, "dit:DiT-XS/2"),
        ("dit:DiT-XS/2{hidden_size: 160,depth: 5}", "dit:DiT-XS/2{depth: 5, hidden_size: 160}"),
        ({"name": "dit:DiT-XS/2", "hidden_size": 160, "depth": 5}, "dit:DiT-XS/2{depth: 5, hidden_size: 160}"),
        ("m:U{a: [40,  96], b: 'x: y', c: null, d: true}", "m:U{a: [40, 96], b: 'x: y', c: null, d: true}"),
        ("m:U{a: 1e-4}", "m:U{a: 0.0001}"),  # a number, which plain YAML would read as a word
        ("m:U{a: 1e-9}", "m:U{a: 1.0e-09}"),
        (f"m:U{{a: [{', '.join(['12345'] * 40)}]}}", f"m:U{{a: [{', '.join(['12345'] * 40)}]}}"),  # on one line
    ],
)
def test_one_spelling(written: str | dict[str, Any], expected: str) -> None:
    assert canonical_name(written) == expected
    assert canonical_name(expected) == expected


def test_names_are_taken_apart_in_one_way() -> None:
    name = "my.module:Odd:Name{a: 'x: y', b: [1, 2]}"
    assert split_name(name) == ("my.module:Odd:Name", {"a": "x: y", "b": [1, 2]})
    assert short_name(name) == "Name{a: 'x: y', b: [1, 2]}"
    assert split_name("dit:DiT-XS/2") == ("dit:DiT-XS/2", {})
    assert short_name("DiT-XS/2") == "DiT-XS/2"


def test_changes_reach_the_configuration() -> None:
    assert find_factory("dit:DiT-XS/2") is DITS["DiT-XS/2"]
    deeper = find_factory("dit:DiT-XS/2{depth: 5, hidden_size: 160}")
    assert isinstance(deeper, DiTConfig)
    assert (deeper.depth, deeper.hidden_size, deeper.num_heads) == (5, 160, 4)
    wider: Any = find_factory("baselines:UNet-XS{block_channels: [48, 96]}")
    assert wider == UNETS["UNet-XS"].configured(block_channels=(48, 96)) != UNETS["UNet-XS"]
    hash(wider)  # lists would not be frozen


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dit:DiT-XS/2{depht: 5}", "no field 'depht' (did you mean 'depth'?)"),
        ("dit:DiT-XS/2{depth: five}", "field 'depth' is int, got 'five'"),
        ("dit:DiT-XS/2{depth: 5.5}", "field 'depth' is int, got 5.5"),
        ("dit:DiT-XS/2{depth: true}", "field 'depth' is int, got True"),
        ("dit:DiT-XS/2{depth: 0}", "use 1 to 1024"),
        ("dit:DiT-XS/2{depth: 16384}", "use 1 to 1024"),
        ("dit:DiT-XS/2{num_heads: 0}", "use 1 to 16384"),
        ("dit:DiT-XS/2{hidden_size: 1000000000000}", "use 1 to 16384"),
        ("dit:DiT-XS/2{patch_size: [1, 2]}", "tuple[int, int, int]"),
        ("dit:DiT-XS/2{positions: learnt}", "use one of rotary, sincos"),
        ("dit:DiT-XS/2{hidden_size: 130}", "hidden_size 130 over 4 heads"),
        ("baselines:UNet-XS{block_channels: 64}", "tuple[int, ...]"),
        ("baselines:UNet-XS{block_channels: [40, 96]}", "40 is not divisible by head_dim 16"),
        ("dit:DiT-XS/2{depth:5}", "with a space behind each colon"),
        ("dit:DiT-XS/2{depth: 5", "not of the form {field: value, ...}"),
        ("dit:DiT-XS/2{depth: 5}x", "not of the form {field: value, ...}"),
        ("dit:DiT-XS/2{depth: 5, depth: 6}", "not of the form {field: value, ...}"),
        ("dit:DiT-XS/3{depth: 5}", "did you mean 'dit:DiT-XS"),
        (".x:y", "not of the form module:config"),
        ("dit.:y", "not of the form module:config"),
    ],
)
def test_errors_name_the_backbone_and_the_remedy(name: str, expected: str) -> None:
    with pytest.raises(ValueError, match="backbone") as error:
        find_factory(name)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"depth": 5}, "has no name"),
        ({"name": 5, "depth": 5}, "has no name"),
        ({"name": "dit:DiT-XS/2{depth: 5}", "hidden_size": 160}, "write them in one place"),
        ({"name": "dit:DiT-XS/2", "depth": object()}, "holds what YAML cannot write"),
    ],
)
def test_mappings_that_are_no_name(written: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match="backbone") as error:
        canonical_name(written)
    assert expected in str(error.value)


def test_registered_names_come_before_modules(plugin: ModuleType) -> None:
    assert known_modules() == ["fancy"]
    assert import_plugin("fancy") is plugin
    assert find_factory("fancy:Plain") is plugin.BACKBONES["Plain"]
    assert find_factory("tests_plugin:Plain") is plugin.BACKBONES["Plain"]
    with pytest.raises(ValueError, match="did you mean 'fancy'"):
        find_factory("fanci:Plain")


def test_a_factory_without_configuration_says_so(plugin: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"'fancy:Plain' takes no changes to its configuration, got \{width: 3\}; name it without braces"):
        find_factory("fancy:Plain{width: 3}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("import sys; sys.exit(0)", "raised SystemExit: 0; mend it"),
        ("import os; os._exit(0)", "ends the process with status 0; mend it"),
        ("import os; os.kill(os.getpid(), 11)", "ends the process with status -11; mend it"),
        ("import time; time.sleep(60)", "takes over 0.5 s; mend it"),
        ("BACKBONES = {", "raised SyntaxError: '{' was never closed"),
        ("def again(): again()\nagain()", "raised RecursionError: maximum recursion depth exceeded"),
        ("raise ValueError('no')", "raised ValueError: no; mend it"),
    ],
)
def test_an_import_that_raises_exits_or_hangs_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: str
) -> None:
    name = f"bad_import_{abs(hash(content))}"
    (tmp_path / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(bench.data.plugin, "IMPORT_S", 0.5 if "sleep" in content else 60.0)
    with pytest.raises(BrokenPlugin) as caught:
        find_factory(f"{name}:X")
    assert f"importing module '{name}' {expected}" in str(caught.value)


def test_a_class_that_is_its_own_factory_is_checked_once_it_is_built() -> None:
    class Never:
        def check(self, shape: Shape) -> None:
            raise ValueError("never")

    check_latents(Never, (1, 2, 3))  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="never"):
        check_latents(Never(), (1, 2, 3))  # type: ignore[arg-type]


def test_what_a_plug_in_raises_beside_its_contract_is_its_fault() -> None:
    kinds = ((ValueError("no"), Refusal), (KeyError("k"), BrokenPlugin), (SystemExit(0), BrokenPlugin), (OSError(2, "x"), OSError))
    for error, kind in kinds:
        with pytest.raises(kind) as caught, blaming("source 's'"):
            raise error
        assert isinstance(caught.value, BrokenPlugin) == (kind is BrokenPlugin)
        assert kind is not BrokenPlugin or f"source 's' raised {type(error).__name__}" in str(caught.value)
