"""Claims: one worker a cell, whoever dies, whichever machine it is on."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.data.files import StoreError
from bench.run import claim
from bench.run.claim import CLAIM, claimed, release
from tests.commands import ROOT

ELSEWHERE = {"host": "node7", "system": "another", "pid": 1, "started": "1", "token": "t"}


def never() -> bool:
    return False


def write(folder: Path, age_s: float = 0.0, **changes: object) -> Path:
    """A claim of another worker, not touched for so long."""
    path = folder / CLAIM
    path.write_text(json.dumps({**ELSEWHERE, **changes}))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_claim_is_there_while_its_block_runs_and_says_whose_it_is(tmp_path: Path) -> None:
    with claimed(tmp_path / "cell", "c", never):
        owner = json.loads((tmp_path / "cell" / CLAIM).read_text())
        assert owner["pid"] == os.getpid() and not claim._is_dead(owner)
    assert list((tmp_path / "cell").iterdir()) == []


@pytest.mark.parametrize(("age_s", "waits"), [(0.0, True), (claim.LOST_S - 30, True), (claim.LOST_S + 1, False)])
def test_a_worker_of_another_machine_is_waited_for_until_nothing_is_heard_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], age_s: float, waits: bool
) -> None:
    monkeypatch.setattr(claim, "WAIT_S", 0.01)
    monkeypatch.setattr(claim, "SETTLE_S", 0.01)
    path = write(tmp_path, age_s)
    if waits:
        looks = iter([False, False, True])
        with pytest.raises(KeyboardInterrupt), claimed(tmp_path, "c", lambda: next(looks)):
            raise AssertionError
        assert json.loads(path.read_text()) == ELSEWHERE
        assert "c: node7 (process 1) is at this cell; waiting for it" in capsys.readouterr().err
    else:
        with claimed(tmp_path, "c", never):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_dead_worker_of_this_machine_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed, so that it could not take its claim away."""
    monkeypatch.setattr(claim, "SETTLE_S", 0.01)
    code = "import os, signal\nfrom pathlib import Path\nfrom bench.run.claim import claimed\n"
    code += f"with claimed(Path({str(tmp_path)!r}), 'c', bool):"
    subprocess.run([sys.executable, "-c", f"{code}\n    os.kill(os.getpid(), signal.SIGKILL)"], cwd=ROOT, check=False)
    assert claim._is_dead(json.loads((tmp_path / CLAIM).read_text()))
    with claimed(tmp_path, "c", never):
        pass
    assert not list(tmp_path.iterdir())


def test_of_two_who_want_a_cell_one_has_it_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "WAIT_S", 0.01)
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(5):
            with claimed(tmp_path, "c", never):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.01)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_of_several_who_take_over_a_dead_ones_claim_the_last_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "SETTLE_S", 0.2)
    path = write(tmp_path, claim.LOST_S + 1)
    got: dict[str, bool] = {}

    def take(token: str) -> None:
        got[token] = claim._replaced(path, token)

    threads = [threading.Thread(target=take, args=(token,)) for token in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got.values()) == [False, False, True]
    assert got[json.loads(path.read_text())["token"]]


def test_an_owner_that_was_replaced_ends_before_it_writes_again(tmp_path: Path) -> None:
    """Held up for longer than others wait, it finds another's claim in the place of its own."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom bench.run import claim\nclaim.BEAT_S = 0.05\n"
        f"with claim.claimed(Path({str(tmp_path)!r}), 'c', bool):\n    print('in', flush=True)\n    time.sleep(60)\n    print('written')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "in\n"
        temp = tmp_path / "new"
        temp.write_text(json.dumps(ELSEWHERE))
        temp.replace(tmp_path / CLAIM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "written" not in out and "node7 took this cell over" in err
    assert json.loads((tmp_path / CLAIM).read_text()) == ELSEWHERE  # the other's stays


def test_a_claim_is_touched_while_its_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT_S", 0.01)
    with claimed(tmp_path, "c", never):
        os.utime(tmp_path / CLAIM, (0, 0))
        deadline_s = time.monotonic() + 30
        while (tmp_path / CLAIM).stat().st_mtime < 1e9 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert (tmp_path / CLAIM).stat().st_mtime > 1e9


@pytest.mark.parametrize("owner", [{}, {"system": claim._system(), "pid": os.getpid(), "started": claim._started(os.getpid())}])
def test_only_a_dead_ones_claim_is_released_by_others(tmp_path: Path, owner: dict[str, object]) -> None:
    path = write(tmp_path, **owner)
    release(path)
    assert path.exists()
    write(tmp_path, system=claim._system(), pid=os.getpid(), started="0")  # another process had this number
    release(path)
    assert not path.exists()


@pytest.mark.parametrize("make", [lambda path: path.write_text("[1]"), lambda path: path.write_bytes(b"\xff"), lambda path: path.touch()])
def test_a_claim_that_is_none_is_taken_over_once_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(claim, "SETTLE_S", 0.01)
    make(tmp_path / CLAIM)
    os.utime(tmp_path / CLAIM, (0, 0))
    with claimed(tmp_path, "c", never):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another folder with --results"), claimed(tmp_path / "file" / "cell", "c", never):
        pass
    (tmp_path / CLAIM).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"), claimed(tmp_path, "c", never):
        pass
