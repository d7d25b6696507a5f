"""Records: atomic, versioned, never edited."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.data.files import StoreError, sha256_texts, write_text
from bench.records.environment import read_environment
from bench.records.record import SCHEMA_VERSION, Record, Training
from bench.records.store import latest, next_attempt, read_record, write_record
from bench.study.matrix import NamedCell
from tests.tiny import tiny_cell


def record(**changes: object) -> Record:
    cell = tiny_cell()
    fields: dict[str, object] = {
        "matrix": "m",
        "name": "c",
        "fingerprint": cell.fingerprint(),
        "cell": cell.model_dump(mode="json"),
        "attempt": 1,
        "status": "ok",
        "started_at": "2026-01-01T00:00:00+00:00",
        "ended_at": "2026-01-01T00:00:01+00:00",
        "environment": read_environment(),
    }
    return Record.model_validate({**fields, **changes})


def test_record_round_trip_keeps_every_bit_and_nan(tmp_path: Path) -> None:
    training = Training(
        num_steps=2, num_samples=4, wall_time_s=0.1 + 0.2, loss=[1 / 3, float("nan")], step_time_s=[0.1, 1e-17], data_time_s=[0, 0],
        num_warmup_steps=0, validation=[], validation_by_timestep={}, grad_norm=[1, float("inf")],
    )  # fmt: skip
    path = write_record(tmp_path, record(training=training))
    again = read_record(path)
    assert again.training is not None
    assert repr(again.training) == repr(training)
    assert again == record(training=again.training) or repr(again) == repr(record(training=training))


def test_attempts_count_up_and_are_never_edited(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    for number in range(1, 12):
        assert next_attempt(tmp_path) == number
        write_record(tmp_path, record(attempt=number))
    newest = latest(tmp_path)
    assert newest is not None
    assert newest.attempt == 11  # by number, not by name
    assert [read_record(tmp_path / f"attempt-{number}.json").attempt for number in range(1, 12)] == list(range(1, 12))
    with pytest.raises(StoreError, match="never edited"):
        write_record(tmp_path, record(attempt=3))


DEEP, LONG = "[" * 100_000 + "]" * 100_000, "9" * 5000


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"schema_version": 1}', '{"schema_version": 99}', "\xff"),
        *(DEEP, LONG, f'{{"attempt": {LONG}}}', '{"schema_version": 2, "name": "\\ud800"}', '{"schema_version": [2]}'),
    ],
    ids=lambda content: content[:40],
)
def test_unreadable_records_say_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "attempt-1.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=str(path)):
        read_record(path)


def test_what_is_no_attempt_by_its_name_is_none(tmp_path: Path) -> None:
    for name in ("²", "0", "-1", "1.5", "9" * 200, "one"):
        (tmp_path / f"attempt-{name}.json").write_text("{")
    assert latest(tmp_path) is None and next_attempt(tmp_path) == 1
    os.mkfifo(tmp_path / "attempt-1.json")
    with pytest.raises(StoreError, match=r"attempt-1.json is no regular file"):
        latest(tmp_path)


def test_halves_of_characters_that_make_one_are_text(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text(record(name="X").model_dump_json().replace('"X"', '"\\uDC80"'))
    with pytest.raises(StoreError, match=r"half.json holds half a character"):
        read_record(tmp_path / "half.json")
    path = tmp_path / "attempt-1.json"
    path.write_text(record(name="\U0001f600").model_dump_json().replace("\U0001f600", "\\ud83d\\ude00"))
    assert read_record(path).name == "\U0001f600"


def test_a_wrong_value_is_told_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "attempt-1.json"
    path.write_text(json.dumps(json.loads(record().model_dump_json()) | {"attempt": ["x"] * 10_000}))
    with pytest.raises(StoreError) as caught:
        read_record(path)
    assert "got ['x', 'x'" in str(caught.value) and len(str(caught.value)) < 500


def test_a_record_of_the_version_before_is_refused_and_never_misread(tmp_path: Path) -> None:
    path = tmp_path / "attempt-1.json"
    old = json.loads(record().model_dump_json()) | {
        "schema_version": SCHEMA_VERSION - 1,
        "data": {},
        "autoencoder": {},
        "backbone": {},
        "ledger": {},
    }
    path.write_text(json.dumps(old))
    with pytest.raises(StoreError) as caught:
        read_record(path)
    assert (
        str(caught.value)
        == f"record {path} has schema version {SCHEMA_VERSION - 1}, this version reads {SCHEMA_VERSION}; run the cell again"
    )
    path.write_text(json.dumps(old | {"schema_version": SCHEMA_VERSION}))  # nor one that says that it is new
    with pytest.raises(StoreError, match=r"data\.digest' is missing"):
        read_record(path)


def test_a_record_holds_its_cell_as_a_cell(tmp_path: Path) -> None:
    again = read_record(write_record(tmp_path, record()))
    assert again.cell == tiny_cell() and again.cell.fingerprint() == again.fingerprint


def test_a_record_of_a_source_that_is_not_installed_says_which(tmp_path: Path) -> None:
    path = tmp_path / "attempt-1.json"
    raw = json.loads(record().model_dump_json())
    raw["cell"]["data"]["source"] = "their_data"
    path.write_text(json.dumps(raw))
    with pytest.raises(StoreError, match=r"unknown source 'their_data'.*mend that") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)


def test_folder_names_carry_the_fingerprint() -> None:
    cell = tiny_cell()
    assert NamedCell(name="c", axes={}, cell=cell).folder == f"c-{cell.fingerprint()[:8]}"


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        write_text(tmp_path / "file" / "record.json", "{}")
    write_text(tmp_path / "new" / "record.json", "{}")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["record.json"]


def test_a_killed_writer_never_tears_a_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_text(path, json.dumps([0] * 10))
    code = f"""
from pathlib import Path
from bench.records.store import write_text
import itertools, json
for n in itertools.count(1):
    write_text(Path({str(path)!r}), json.dumps([n] * 200000))
"""
    for delay_s in (0.3, 0.41, 0.53):
        writer = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay_s + 0.3)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        values = json.loads(path.read_text())
        assert len(set(values)) == 1


def test_clip_list_hash_depends_on_order_and_borders() -> None:
    assert len({sha256_texts(texts) for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"])}) == 3
