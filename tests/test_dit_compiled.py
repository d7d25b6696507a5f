"""Compiled blocks serve any pack with the same few graphs, and compute what blocks compute as they are."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from bench.backbone import load_backbone
from bench.training.objective import mean_square
from tests.tiny import SPEC

MOST_GRAPHS = {"mixed": 3, "mixed and alike": 7}  # lengths of clips in a pack: as many for 40 packs as for 20
SIZES = [(1, 4, 2), (2, 4, 2), (3, 4, 4), (1, 6, 4), (4, 2, 6), (2, 8, 4)]


@pytest.fixture
def graphs() -> Iterator[list[Any]]:
    """The graphs that a compiler is given, which runs them as they are."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("lengths", "half"), [("mixed", None), ("mixed", torch.bfloat16), ("mixed and alike", None)])
def test_many_packs_are_a_few_graphs_and_lose_nothing(graphs: list[Any], lengths: str, half: torch.dtype | None) -> None:
    torch.manual_seed(0)
    plain: Any = load_backbone("dit:DiT-XS/2{depth: 2}", SPEC)
    for weight in plain.parameters():
        nn.init.normal_(weight, std=0.05)
    compiled: Any = load_backbone("dit:DiT-XS/2{depth: 2}", SPEC)
    compiled.load_state_dict(plain.state_dict())

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for block in compiled.repeated_blocks():
        block.forward = torch.compile(block.forward, backend=backend)
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        chosen = torch.randint(len(SIZES), (2 + number % 5,), generator=generator).tolist()
        sizes = [SIZES[index] for index in (*chosen, (chosen[0] + 1) % len(SIZES))]
        if lengths == "mixed and alike" and number % 4 == 0:
            sizes = [SIZES[number % len(SIZES)]] * (2 + number % 7)
        clips = [torch.randn(4, *size, generator=generator) for size in sizes]
        times, labels = torch.rand(len(clips), generator=generator), torch.arange(len(clips)) % 4
        results = []
        for model in (plain, compiled):
            model.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half is not None):
                loss = mean_square(model(clips, times, labels), clips)
            loss.backward()
            results.append((loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])))
        (loss, grad), (same_loss, same_grad) = results
        tolerance = 1e-5 if half is None else 2e-2
        assert abs(loss - same_loss) <= tolerance * loss
        assert (grad - same_grad).norm() <= tolerance * grad.norm()
    assert 1 <= len(graphs) <= MOST_GRAPHS[lengths]
