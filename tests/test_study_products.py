"""The libraries of float32 products: tried once a study, the faster taken by both backbones, and by no noise."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from bench.backbone import PRODUCTS
from bench.data.sealed import DamagedCache
from bench.metrics.weights.cache import cache_folder
from bench.records.products import ProductTrial
from bench.records.record import BackboneFacts
from bench.run.measure import products
from bench.run.measure.products import LEAST_GAIN, ROUNDS, faster, timed, use_products, ways

CPU = torch.device("cpu")
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The libraries of each trial: every other one finds torch's own product the faster. The choice of this process comes back."""
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path_factory.mktemp("users")))
    for kind, library in PRODUCTS.items():
        monkeypatch.setitem(PRODUCTS, kind, library)
    trials: list[list[str]] = []

    def found(libraries: dict[str, Any]) -> dict[str, list[float]]:
        trials.append(list(libraries))
        return {"onednn": [1.0] * ROUNDS, "torch": [0.5 if len(trials) % 2 else 2.0] * ROUNDS}

    monkeypatch.setattr(products, "timed", found)
    return trials


@needs_onednn
def test_a_study_tries_once_and_goes_on_with_its_choice(tmp_path: Path, tried: list[list[str]]) -> None:
    first = use_products("quick", tmp_path, CPU)
    assert first is not None and first.chosen == {"forward": "torch", "of_rows": "onednn", "of_weights": "torch"} == PRODUCTS
    assert tried == [["onednn", "torch"]] * 3 and set(first.times_s["of_rows"]) == {"onednn", "torch"}
    PRODUCTS.update(dict.fromkeys(PRODUCTS, "onednn"))  # another process of the study
    assert use_products("quick", tmp_path, CPU) == first and first.chosen == PRODUCTS and len(tried) == 3


@needs_onednn
def test_another_machine_or_number_of_threads_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: list[list[str]]) -> None:
    keys = [use_products("quick", tmp_path, CPU)]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    keys.append(use_products("quick", tmp_path, CPU))
    monkeypatch.setattr(products, "cpu_id", lambda: "another processor")
    keys.append(use_products("quick", tmp_path, CPU))
    assert len({trial.key for trial in keys if trial is not None}) == 3 and len(tried) == 9


@needs_onednn
def test_another_study_of_the_machine_begins_with_the_same_choice_and_keeps_it(tmp_path: Path, tried: list[list[str]]) -> None:
    """Where the libraries are nearly alike, two runs in two folders would else differ by noise."""
    first = use_products("quick", tmp_path / "one", CPU)
    others = [use_products("quick", tmp_path / "two", CPU), use_products("shapes", tmp_path / "one", CPU)]
    assert first is not None and len(tried) == 3
    for other in others:
        assert other is not None and (other.chosen, other.times_s) == (first.chosen, first.times_s)
    for path in cache_folder().rglob("*.json"):
        path.unlink()
    assert use_products("quick", tmp_path / "one", CPU) == first and len(tried) == 3  # a study goes on with its own


@needs_onednn
def test_without_a_cache_of_the_users_every_study_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tried: list[list[str]]) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNET_VS_DIT_CACHE", str(tmp_path / "file"))
    use_products("quick", tmp_path, CPU)
    use_products("shapes", tmp_path, CPU)
    assert len(tried) == 6


@needs_onednn
def test_of_two_that_try_at_once_the_first_to_end_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = products.timed

    def meanwhile(libraries: dict[str, Any]) -> dict[str, list[float]]:
        monkeypatch.setattr(products, "timed", ours)
        use_products("another", tmp_path, CPU)  # another process, which is through first
        return {"onednn": [3.0] * ROUNDS, "torch": [3.0] * ROUNDS}

    monkeypatch.setattr(products, "timed", meanwhile)
    trial = use_products("quick", tmp_path, CPU)
    assert trial is not None and trial.times_s["forward"]["onednn"] == [1.0] * ROUNDS


def test_no_other_device_asks(tmp_path: Path, tried: list[list[str]]) -> None:
    assert use_products("quick", tmp_path, torch.device("meta")) is None
    assert not tried and not list(tmp_path.iterdir())


@needs_onednn
def test_an_edited_trial_is_named_and_made_anew(tmp_path: Path) -> None:
    first = use_products("quick", tmp_path, CPU)
    assert first is not None
    path = tmp_path / "cache" / "products" / f"{first.key}.json"
    path.write_text(path.read_text().replace('"torch"', '"onednn"', 1))
    with pytest.warns(DamagedCache, match=f"cached trial of products {path} is not what was written and is made again"):
        use_products("quick", tmp_path, CPU)


@pytest.mark.parametrize(("torchs", "chosen"), [(1 - 2 * LEAST_GAIN, "torch"), (1 - LEAST_GAIN / 2, "onednn"), (1.5, "onednn")])
def test_only_a_gain_beyond_noise_changes_the_library(torchs: float, chosen: str) -> None:
    pace = [1.0, 1.3, 0.9, 2.0, 1.1]  # of the machine, which both meet round by round
    times = {"onednn": pace, "torch": [torchs * each for each in pace]}
    assert faster(times) == chosen
    times["torch"][3] *= 5  # one round that something else fell upon
    assert faster(times) == chosen
    assert faster({"torch": pace}) == "torch"


def test_libraries_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def lasting(name: str, seconds: float) -> Callable[..., torch.Tensor]:
        def product(*inputs: torch.Tensor) -> torch.Tensor:
            calls.append(name)
            now[0] += 100.0 if len(calls) <= 2 * len(products.SIZES) else seconds
            return inputs[0]

        return product

    monkeypatch.undo()
    found = timed({"onednn": lasting("onednn", 1.0), "torch": lasting("torch", 2.0)}, clock=lambda: now[0])
    num = len(products.SIZES)
    assert found == {"onednn": [num * 1.0] * ROUNDS, "torch": [num * 2.0] * ROUNDS}
    turns = calls[::num]
    assert turns[:4] in (["torch", "onednn", "onednn", "torch"], ["onednn", "torch", "torch", "onednn"]) and len(turns) == 2 * (ROUNDS + 1)


def test_all_libraries_of_a_kind_make_the_same_product() -> None:
    rows, weight, grad = torch.randn(7, 5), torch.randn(3, 5), torch.randn(7, 3)
    expected = {"forward": rows @ weight.t() + grad[0], "of_rows": grad @ weight, "of_weights": grad.t() @ rows}
    for kind, libraries in ways().items():
        for product in libraries.values():
            assert_close(product(rows, weight, grad), expected[kind])


@needs_onednn
@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("package", ["dit", "baselines"])
def test_both_backbones_multiply_by_the_library_of_each_kind(package: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in oneDNN's calls of a layer: one fewer for each kind that is torch's own, and the same numbers."""
    private = importlib.import_module(f"{package}.kernels.private")
    linear = importlib.import_module(f"{package}.kernels").linear
    layer, rows = nn.Linear(6, 4), torch.randn(2, 5, 6, requires_grad=True)
    calls: list[str] = []
    onednn = private.LINEAR
    monkeypatch.setattr(private, "LINEAR", lambda *inputs: (calls.append("onednn"), onednn(*inputs))[1])

    def step() -> tuple[torch.Tensor, ...]:
        output = linear(rows, layer.weight, layer.bias) if package == "dit" else linear(layer, rows)
        return output, *torch.autograd.grad(output.square().sum(), (rows, *layer.parameters()))

    for choice in PRODUCTS:
        monkeypatch.setitem(PRODUCTS, choice, "onednn")
    expected = step()
    assert len(calls) == 3
    monkeypatch.setitem(PRODUCTS, kind, "torch")
    calls.clear()
    assert_close(step(), expected)
    assert len(calls) == 2
    for choice in PRODUCTS:
        monkeypatch.setitem(PRODUCTS, choice, "torch")
    calls.clear()
    assert_close(step(), expected)
    assert not calls


@needs_onednn
@pytest.mark.parametrize(("library", "sums", "products"), [("onednn", 1, 2), ("torch", 0, 2), ("none", 0, 0)])
def test_a_residual_is_added_by_the_library_of_the_product(library: str, sums: int, products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    private, linear = (importlib.import_module(f"baselines.kernels{of}") for of in (".private", ""))
    for kind in PRODUCTS:
        monkeypatch.setitem(PRODUCTS, kind, "torch" if library == "none" else "onednn")
    monkeypatch.setitem(PRODUCTS, "forward", "onednn" if library == "onednn" else "torch")
    calls: list[str] = []
    for name in ("LINEAR", "LINEAR_SUM"):
        onednn = getattr(private, name)
        monkeypatch.setattr(private, name, lambda *inputs, name=name, onednn=onednn: (calls.append(name), onednn(*inputs))[1])
    layer, rows, residual = nn.Linear(6, 4), torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    output = linear.linear(layer, rows, residual)
    expected = nn.functional.linear(rows, layer.weight, layer.bias) + residual
    assert_close(output, expected)
    wanted = (rows, residual, *layer.parameters())
    assert_close(torch.autograd.grad(output.square().sum(), wanted), torch.autograd.grad(expected.square().sum(), wanted))
    assert (calls.count("LINEAR_SUM"), calls.count("LINEAR")) == (sums, products)


def test_a_record_holds_the_trial_and_older_ones_are_read() -> None:
    fields = {"num_params": 1, "flops_per_clip": 1, "tokens_per_clip": 1, "peak_flop_per_s": 1.0, "latent_shape": (1, 1, 1, 1)}
    assert BackboneFacts.model_validate(fields).products is None
    trial = ProductTrial(key="k", chosen=dict(PRODUCTS), times_s={"forward": {"torch": [1.0]}}, measured_at="2026-01-01")
    facts = BackboneFacts.model_validate({**fields, "products": trial})
    assert BackboneFacts.model_validate(json.loads(facts.model_dump_json())).products == trial
