"""The policy file: defaults, overrides, and what is wrong with one."""

from pathlib import Path
from typing import Any

import pytest

from bench.perf.gate.command import run
from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.policy import read_policy


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_the_shipped_policy_is_valid_and_complete() -> None:
    policy = read_policy(None)
    assert (policy.detect, policy.detect_long, policy.false_alarms) == (0.05, 0.10, 0.01)
    assert policy.detect_of("train/DiT-XS_2", 0.03) == 0.05
    assert policy.detect_of("command-line", 0.4) == 0.10


def test_a_file_changes_the_fields_it_names(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, "detect: 0.02\nbenchmarks: {'train/*': 0.3, train/b: 0.4}\ncounters: {operators: 0.5}\n"))
    assert policy.detect_of("x", 0.01) == 0.02
    assert (policy.detect_of("train/a", 0.01), policy.detect_of("train/b", 9)) == (0.3, 0.4)
    assert (policy.counters["operators"], policy.counters["modules"]) == (0.5, 0.02)  # those it does not name stay
    assert policy.most_pairs == read_policy(None).most_pairs


def test_what_is_meant_is_accepted() -> None:
    policy = read_policy(None).model_copy(update={"accept": ("train/* operators", "draw time")})
    assert policy.accepts("train/a", "operators")
    assert policy.accepts("draw", "time")
    assert not policy.accepts("train/a", "time")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("detekt: 0.1", r"unknown field 'detekt' \(did you mean 'detect'"),
        ("detect: much", r"detect: .*valid number.* \(got 'much'\)"),
        ("detect: -1", r"detect: .*greater than 0 \(got -1\)"),
        ("least_pairs: 9\nmost_pairs: 5", "most_pairs 5 is below least_pairs 9"),
        ("reference: {processes: 1}", "reference.processes: .*greater than or equal to 3"),
        ("- detect", "expected a mapping"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_bad_policies_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CheckRefused, match=said) as refused:
        read_policy(written(tmp_path, text))
    assert refused.value.exit == Exit.BAD_INPUT
    assert "\n" not in str(refused.value)


def test_a_missing_policy(tmp_path: Path) -> None:
    with pytest.raises(CheckRefused, match="not readable"):
        read_policy(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"runs": (Path("a"), Path("b")), "out": Path("out")}, "--runs BASE HEAD has no use for --out; leave it out"),
        ({"runs": (Path("a"), Path("b")), "head": "HEAD", "only": ["train/*"]}, "no use for --head and --only; leave them out"),
        ({"save": Path("reference.json"), "out": Path("out")}, "--save FILE has no use for --out"),
        ({"base": "HEAD", "save": Path("reference.json")}, "needs one of"),
        ({}, "got none"),
    ],
)
def test_no_option_is_accepted_and_ignored(options: dict[str, Any], said: str) -> None:
    nothing = {"base": None, "head": None, "against": None, "save": None, "runs": None, "policy_path": None, "only": [], "out": None}
    with pytest.raises(CheckRefused, match=said) as refused:
        run(**{**nothing, **options}, echo=print)
    assert refused.value.exit == Exit.BAD_INPUT
