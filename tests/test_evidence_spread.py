"""Several processes measured and predicted: a measurement by the simulator's own rules, and real processes that take turns."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bench.perf.evidence.scale.group import Group
from bench.perf.evidence.scale.prediction import TOLD, Prediction
from bench.perf.evidence.scale.ways import (
    ALONE,
    ASKED,
    BACKBONES,
    COLLECTIVES,
    NUMS,
    ONE,
    SIZES,
    SPREAD,
    TOGETHER,
    TOLD_BYTES,
    WAYS,
    Spreading,
)
from bench.perf.evidence.spread import STEPS, lean_counts
from bench.perf.evidence.spread_page import to_markdown

ROOT = Path(__file__).parents[1]
RATE, LATENCY_S, TELL_S = 1e9, 1e-4, 2e-4  # of every link
SLOWER = {2: 1.25, 4: 2.5}
UNITS = [2**20, 2**18]


def by_the_rules(late: float = 1.0) -> dict[str, Any]:
    """A measurement of a machine whose processes slow each other so, with such links; spread steps are `late` times what that says."""

    def ring_s(num: int, num_bytes: float, passes: int) -> float:
        return passes * (num - 1) * (num_bytes / num / RATE + LATENCY_S)

    one_s = {way: (1.3 if way.kind == "fsdp" else 1.0) * 0.1 * way.batch_size for way in WAYS if way.num == 1}
    steps = dict(one_s)
    for way in SPREAD:
        gathers = [ring_s(way.num, 4 * num, 1) for num in (*UNITS, 2**19)]
        told_s = {"ddp": ring_s(way.num, 4 * (sum(UNITS) + 2**19), 2), "fsdp": sum(gathers) * 3 - gathers[2]}[way.kind]
        steps[way] = late * (SLOWER[way.num] * one_s[way.part] + told_s + TOLD * TELL_S)
    for num in NUMS:
        steps[TOGETHER[num]] = SLOWER[num] * one_s[ALONE[num]]
    taken = {
        f"{kind} {num} {size}": ring_s(num, size, 2 if kind == "all_reduce" else 1)
        for kind, num, size in itertools.product(COLLECTIVES, NUMS, SIZES)
    }
    taken |= {f"{kind} {num} {TOLD_BYTES}": TELL_S for kind in COLLECTIVES for num in NUMS}
    rounds = [
        {name: {way.key: pace * each_s for way, each_s in steps.items()} for name in BACKBONES} | {"collectives": taken}
        for pace in (1, 1, 1)
    ]
    counts = {
        "num_params": sum(UNITS) + 2**19,
        "unit_params": UNITS,
        "kept_bytes": {way.key: 16 * (sum(UNITS) + 2**19) // (way.num if way.kind == "fsdp" else 1) for way in ASKED},
        "losses_apart": dict.fromkeys((way.key for way in ASKED), 0.0),
    }
    environment = {"cpu": "C", "cpu_id": "i", "num_cpus": 2}
    return {"commit": "0" * 40, "environment": environment, "rounds": rounds, "counts": dict.fromkeys(BACKBONES, counts)}


def test_links_and_slowness_are_found_again() -> None:
    prediction = Prediction(by_the_rules())
    for link in prediction.links.values():
        assert link.bytes_per_s == pytest.approx(RATE) and link.latency_s == pytest.approx(LATENCY_S)
    assert prediction.slowness == pytest.approx(SLOWER)
    assert all(prediction.fit(kind, num, size) == pytest.approx(1) for kind, num, size in itertools.product(COLLECTIVES, NUMS, SIZES))


@pytest.mark.parametrize("late", [1.0, 1.2])
def test_a_machine_by_the_rules_is_predicted_and_another_is_missed(late: float) -> None:
    found = by_the_rules(late)
    prediction = Prediction(found)
    for backbone, way in itertools.product(BACKBONES, SPREAD):
        assert prediction.ratios(backbone, way) == pytest.approx([late] * 3)
        one_s = found["rounds"][0][backbone][way.part.key]
        assert prediction.seconds(backbone, way, one_s, 1.0) < prediction.seconds(backbone, way, one_s)
    page = to_markdown(found, STEPS)
    assert f"off by {100 * (late - 1):+.0f} to {100 * (late - 1):+.0f} %, by {100 * (late - 1):.0f} % on average" in page


def test_unequal_losses_are_told() -> None:
    found = by_the_rules()
    assert "Losses are equal within 0e+00." in to_markdown(found, STEPS)
    found["counts"][BACKBONES[0]]["losses_apart"][SPREAD[0].key] = 1e-3
    assert "**Losses are not equal: they are 1e-03 apart.**" in to_markdown(found, STEPS)


def test_losses_are_compared_with_those_of_one_process() -> None:
    own = {way.key: {"losses": [1.0, 2.0], "kept_bytes": 8, "num_params": 1, "unit_params": [1]} for way in ASKED}
    own[SPREAD[1].key] = own[SPREAD[1].key] | {"losses": [1.0, 2.5]}
    apart = lean_counts(own)["losses_apart"]
    assert apart[SPREAD[1].key] == 0.25 and apart[SPREAD[0].key] == 0


def test_a_part_is_what_each_process_has() -> None:
    assert (
        Spreading("ddp", 4, 8).part == Spreading("none", 1, 2)
        and Spreading("fsdp", 2, 8).part == Spreading("fsdp", 1, 4)
        and ONE.part == ONE
    )
    assert {way.part for way in SPREAD} <= set(WAYS)


def test_processes_take_turns_and_see_what_one_sees() -> None:
    """Two groups side by side: both answer, losses are those of one, FSDP keeps a part in each, and a mistake ends it with an error."""
    with Group(1) as alone, Group(2) as pair:
        asked = {"backbone": "dit:DiT-XS/2", "batch_size": 4}
        one, ddp, fsdp = (
            group.ask("open", kind=kind, alone=kind == "none", **asked)[0]
            for group, kind in ((alone, "none"), (pair, "ddp"), (pair, "fsdp"))
        )
        times_s = [alone.seconds("steps", number=one, count=1), *(pair.seconds("steps", number=number, count=1) for number in (ddp, fsdp))]
        assert min(times_s) > 0
        assert all(len(pair.ask("collective", kind=kind, num_bytes=2**10, count=1)) == 2 for kind in COLLECTIVES)
        own = alone.ask("counts", number=one)[0]
        for number, share in ((ddp, 1), (fsdp, 2)):
            for other in pair.ask("counts", number=number):
                assert other["losses"] == pytest.approx(own["losses"], rel=1e-5) and len(own["losses"]) == 4
                assert other["kept_bytes"] == pytest.approx(16 * own["num_params"] / share, rel=0.02)
                assert other["num_params"] == own["num_params"] and other["unit_params"] == own["unit_params"]
        with pytest.raises(RuntimeError, match="process 0 of 1 ended at open"):
            alone.ask("open", backbone="dit:None", kind="none", batch_size=1, alone=True)


def test_the_committed_page_is_made_of_its_numbers() -> None:
    found = json.loads((ROOT / "reports/scale/spread.json").read_text())
    assert (ROOT / "reports/scale/spread.md").read_text() == to_markdown(found, STEPS), "run `python -m bench.perf.evidence.spread --again`"
