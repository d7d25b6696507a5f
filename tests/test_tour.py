"""The tour of a GPU: on a CPU all of it runs in its dry form; what a GPU would have shown is made up."""

import json
import sys
import time
from pathlib import Path

import pytest

from bench.perf.tour import page, result, tour
from bench.perf.tour.parts import ORDER, TourPlan, plans
from bench.perf.tour.result import StepRow, Tour, TourPart
from bench.perf.tour.steps import CASES, DRY, covered
from bench.perf.tour.tour import run
from bench.records.environment import read_environment
from bench.shapes import Refusal
from bench.study.matrix import load_study


def part(name: str, *code: str, limit_s: float = 60.0) -> TourPlan:
    """Whose processes run these lines of Python; {rows} is its file."""

    def commands(out: Path, rows: Path) -> list[tuple[str, ...]]:
        return [(sys.executable, "-c", each.replace("{rows}", str(rows)).replace("{out}", str(out))) for each in code]

    return TourPlan(name=name, about="a test", limit_s=limit_s, commands=commands)


def row(**changes: object) -> StepRow:
    fields: dict[str, object] = {
        "backbone": "dit:DiT-S/2",
        "way": "eager",
        "precision": "bf16",
        "batch_size": 128,
        "shape": (1, 32, 32),
        "step_s": [0.02, 0.02, 0.02],
        "against": [2.0, 2.1, 2.2],
        "flops": 10**12,
        "peak_flop_per_s": 1e14,
        "num_launches": 900,
        "loss": 1.0,
    }
    return StepRow.model_validate(fields | changes)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[TourPlan]:
    """The parts of a dry tour, to be filled in."""
    made: list[TourPlan] = []
    monkeypatch.setattr(tour, "plans", lambda *, dry: made)
    return made


def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    said: list[str] = []
    found = run(tmp_path, dry=True, minutes=9.0, tell=said.append)
    told = {name: (each.status, each.what) for name, each in found.parts.items()}
    assert {status for status, _ in told.values()} == {"done"}, told
    assert list(told) == ["tests", "steps of baselines:UNet-XS", "steps of dit:DiT-XS/2", "memory", "study"]
    assert "skipped" in told["tests"][1]
    for name in ("baselines:UNet-XS", "dit:DiT-XS/2"):
        rows = {each.way: each for each in found.parts[f"steps of {name}"].rows}
        assert list(rows) == ["eager", "diffusers", "auto"] and rows["auto"].chosen == "none"
        assert rows["eager"].num_launches < rows["diffusers"].num_launches
        assert rows["eager"].loss == rows["auto"].loss  # of the same steps
        assert all(each.flops == rows["eager"].flops and len(each.step_s) == DRY[name].rounds for each in rows.values())
    assert (tmp_path / "profile" / "profile.md").exists() and (tmp_path / "gpu-quick" / "report.html").exists()
    text = (tmp_path / page.FILE).read_text()
    assert "**Dry: on a CPU" in text and text.count("the suite, auto: none") == 2
    kept = result.read(tmp_path)
    assert kept is not None and kept.model_dump_json() == found.model_dump_json()  # a loss may be NaN, which equals nothing
    again: list[str] = []
    assert run(tmp_path, dry=True, minutes=9.0, tell=again.append).model_dump_json() == found.model_dump_json()
    assert [": done before, " in line for line in again] == [True] * 5


def test_a_part_that_fails_or_hangs_keeps_its_rows_and_the_others_run(
    tmp_path: Path, planned: list[TourPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "GRACE_S", 0.5)
    line = row().model_dump_json()
    keep = f"open({{rows!r}}, 'a').write({line + chr(10)!r})".replace("{rows!r}", "'{rows}'")
    planned += [
        part("fails", "import sys; sys.exit('it broke')"),
        part("hangs", keep + "; import time; time.sleep(600)", limit_s=3.0),
        part("second fails", "print('one')", "raise SystemExit(3)"),
        part("works", keep + "; print('all is well')"),
    ]
    start_s = time.monotonic()
    found = run(tmp_path, dry=True, minutes=5.0, tell=lambda line: None).parts
    assert time.monotonic() - start_s < 120
    assert {name: each.status for name, each in found.items()} == {
        "fails": "failed",
        "hangs": "out of time",
        "second fails": "failed",
        "works": "done",
    }
    assert found["fails"].what == "it broke" and found["works"].what == "all is well"
    assert [len(found[name].rows) for name in ("fails", "hangs", "works")] == [0, 1, 1]
    planned[:] = [part(name, "print('now it works')") for name in found]  # the same command once more
    again = run(tmp_path, dry=True, minutes=5.0, tell=lambda line: None).parts
    assert {name: each.what for name, each in again.items()} == dict.fromkeys(("fails", "hangs", "second fails"), "now it works") | {
        "works": "all is well"
    }


def test_no_part_begins_without_time_and_what_is_left_is_told(
    tmp_path: Path, planned: list[TourPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "LEAST_S", 3600.0)
    planned.append(part("one", "print('ran')"))
    said: list[str] = []
    assert run(tmp_path, dry=True, minutes=1.0, tell=said.append).parts == {}
    assert said == ["[1/1] one: no time is left of 1 minutes; the same command goes on with it"]


def test_another_machine_or_other_code_is_not_mixed_in(tmp_path: Path, planned: list[TourPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    planned.append(part("one", "print('ran')"))
    run(tmp_path, dry=True, minutes=1.0, tell=lambda line: None)
    monkeypatch.setattr(result, "code_hash", lambda: "another")
    with pytest.raises(Refusal, match="is of other code or another machine; move it away"):
        run(tmp_path, dry=True, minutes=1.0, tell=lambda line: None)
    (tmp_path / result.FILE).write_text('{"code": 1}')
    with pytest.raises(Refusal, match="is no tour"):
        run(tmp_path, dry=True, minutes=1.0, tell=lambda line: None)


def test_without_a_gpu_it_says_how_to_try_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "list_gpus", list)
    with pytest.raises(Refusal, match="needs a CUDA device, and the driver shows none; to see that all of it runs: --dry"):
        run(tmp_path, dry=False, minutes=1.0, tell=lambda line: None)
    with pytest.raises(Refusal, match=r"--minutes 0\.1 is too short"):
        run(tmp_path, dry=True, minutes=0.1, tell=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_the_order_is_of_worth_and_what_comes_first_fits_ten_minutes() -> None:
    found = plans(dry=False)
    assert [each.name for each in found][:1] == ["tests"] and ORDER.index("study") < ORDER.index("B")
    assert {each.name for each in found} == {"tests", "memory", "study", *(f"steps of {name}" for name in CASES)}
    assert {each.name for each in plans(dry=True)} == {"tests", "memory", "study", *(f"steps of {name}" for name in DRY)}


def test_the_study_is_three_seeds_of_both_backbones_at_size_s_within_five_minutes() -> None:
    study = load_study("gpu-quick")
    assert len(study.cells) == 6 and {named.cell.device for named in study.cells} == {"cuda"}
    assert {named.cell.backbone.partition(":")[2] for named in study.cells} == {"UNet-S", "DiT-S/2"}
    assert {(named.cell.data.num_frames, named.cell.data.height, named.cell.data.width) for named in study.cells} == {(16, 64, 64)}
    assert sum(named.cell.budget.amount for named in study.cells) <= 150  # the rest is for all that is not training
    assert {extractor for named in study.cells for extractor in named.cell.evaluation.extractors} == {"motion"}  # needs no network


def test_the_page_says_what_a_gpu_showed_and_what_did_not_run(tmp_path: Path) -> None:
    gpu = {"busy_share": 0.91, "num_kernels": 1200, "peak_allocated_bytes": 2**30}
    rows = [row(**gpu), row(way="auto", chosen="graphs", trial_s=12.0, left_out={"blocks": "no compiler"}, step_s=[0.0125] * 3)]
    ended = TourPart(status="out of time", what="x | y", limit_s=60, wall_time_s=61, ended_at="now", commit="c" * 40, rows=rows)
    made = Tour(code="x", dry=False, environment=read_environment().model_copy(update={"gpus": ["H200, 143771 MiB"]}), parts={"a": ended})
    text = page.markdown(made, ["a", "b"])
    assert "| DiT-S/2 | the suite, eager | 128 | 20.0 | 2.10 [2.00, 2.20] | 0.500 | 91% | 1200 | 900 | 1024 | " in text
    assert "|  | the suite, auto: graphs | 128 | 12.5 |" in text and "`DiT-S/2`, blocks: no compiler." in text
    assert "on H200, 143771 MiB" in text and "Dry" not in text
    assert "| a | out of time | 61 | 60 | x \\| y | ccccccccc |" in text and "| b | not begun |" in text


@pytest.mark.parametrize(("spans", "length"), [([], 0), ([(0, 1), (0, 5), (1, 2)], 5), ([(3, 4), (0, 1)], 2)])
def test_time_in_which_any_kernel_runs_is_counted_once(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_a_record_is_plain_json(tmp_path: Path, planned: list[TourPlan]) -> None:
    planned.append(part("one", "print('ran')"))
    run(tmp_path, dry=True, minutes=1.0, tell=lambda line: None)
    content = json.loads((tmp_path / result.FILE).read_text())
    assert content["schema_version"] == 1 and content["parts"]["one"]["status"] == "done" and content["environment"]["cpu_id"]
