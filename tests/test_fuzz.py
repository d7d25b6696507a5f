"""The fuzzer: it notices each broken promise, its inputs can be drawn again, and what it found once stays mended."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from bench.shapes import Refusal
from tests.fuzz import guard
from tests.fuzz.case import Case, Domain, Finding
from tests.fuzz.shards import Tally, domains, drawn, lines, replay, write_findings

EXAMPLES = sorted((Path(__file__).parent / "fuzz" / "examples").glob("*.json"))
SEED, NUM_INPUTS = 1, 300  # of the fixed set


def outcome(attempt: Callable[[Case, Path], Any], folder: Path) -> guard.Outcome:
    return guard.judged(Domain(name="x", share=1, draw=lambda rng: {}, attempt=attempt), {}, folder / "case")


def refuse(text: str) -> Callable[[Case, Path], None]:
    def attempt(case: Case, folder: Path) -> None:
        raise Refusal(text)

    return attempt


def find(case: Case, folder: Path) -> None:
    raise Finding("another value", 1, 2)


def through_a_link(case: Case, folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent / "x")
    (folder / "link").write_text("x")


def put_outside(case: Case, folder: Path) -> None:
    (folder / "x").write_text("x")
    (folder / "x").rename(folder.parent / "x")


@pytest.mark.parametrize(
    ("attempt", "ending", "cause"),
    [
        (lambda case, folder: (folder / "x").write_text("x"), "accepted", ""),
        (refuse("record x is cut; run again"), "refused", ""),
        (refuse(""), "finding", "empty line from tests/test_fuzz.py:attempt"),
        (lambda case, folder: [][1], "finding", "IndexError in tests/test_fuzz.py:<lambda>"),
        (lambda case, folder: exit(0), "finding", "SystemExit in tests/test_fuzz.py:<lambda>"),
        (find, "finding", "another value"),
        (through_a_link, "finding", "wrote-outside in tests/test_fuzz.py:through_a_link"),
        (put_outside, "finding", "changed-outside in tests/test_fuzz.py:put_outside"),
        (lambda case, folder: os.system("true"), "finding", "ran os.system"),
    ],
)
def test_every_broken_promise_is_a_finding(attempt: Any, ending: str, cause: str, tmp_path: Path) -> None:
    found = outcome(attempt, tmp_path)
    assert (found.ending, found.cause) == (ending, cause)
    assert not (tmp_path / "case").exists()


@pytest.mark.parametrize(("line", "cause"), [("the name \x1b[31m", "unprintable line"), ("x" * 10_000, "a line without end")])
def test_a_line_that_cannot_be_read_is_a_finding(line: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "lines_of", lambda error: [line])  # as if nobody cleaned what the console shows
    assert outcome(refuse(line), tmp_path).cause == f"{cause} from tests/test_fuzz.py:attempt"


def test_a_hang_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LIMIT_S", 0.2)
    assert outcome(lambda case, folder: time.sleep(30), tmp_path).cause.startswith("hang in")


def test_memory_is_a_finding(tmp_path: Path) -> None:
    found = outcome(lambda case, folder: np.ones(2 * guard.ALLOCATION, np.uint8).sum(), tmp_path)
    assert found.cause.startswith("MemoryError in")


def test_an_input_is_drawn_again() -> None:
    first, second = ([drawn(7, index) for index in range(40)] for _ in range(2))
    assert [(domain.name, case) for domain, case in first] == [(domain.name, case) for domain, case in second]


def test_a_finding_is_a_file_that_can_be_tried_again(tmp_path: Path) -> None:
    tally = Tally()
    domain, case = drawn(0, 1)
    for cause in ("x", "x", "y"):
        tally.add({"domain": domain.name, "seed": 0, "index": 1, "ending": "finding", "cause": cause, "detail": "", "case": case})
    told = write_findings(tally, tmp_path)
    assert len(told) == len(list(tmp_path.iterdir())) == 2
    assert told[0].split()[0] == "2"
    for path in list(tmp_path.iterdir()):
        assert replay(path, tmp_path / "again").ending in ("accepted", "refused")


@pytest.fixture(scope="module")
def fixed() -> Tally:
    """A few hundred inputs of every domain, always the same."""
    tally = Tally()
    for domain in domains():
        domain.draw(Random(0))  # what is made once, before anything is watched
    with tempfile.TemporaryDirectory() as folder:
        for line in lines(SEED, range(NUM_INPUTS), None, Path(folder)):
            if "ending" in line:
                tally.add(line)
    return tally


def test_a_fixed_set_finds_nothing(fixed: Tally) -> None:
    assert not {cause: found[0]["detail"] for cause, found in fixed.causes.items()}


def test_a_fixed_set_has_inputs_of_every_domain_that_are_taken_and_that_are_not(fixed: Tally) -> None:
    assert fixed.endings.keys() == {domain.name for domain in domains()}
    assert sum(counts["accepted"] for counts in fixed.endings.values()) > NUM_INPUTS / 5
    assert sum(counts["refused"] for counts in fixed.endings.values()) > NUM_INPUTS / 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_what_was_found_once_is_not_found_again(path: Path, tmp_path: Path) -> None:
    found = replay(path, tmp_path)
    assert found.ending in ("accepted", "refused"), f"{found.cause}\n{found.detail}"
