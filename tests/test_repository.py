"""The checkout: what README's commands write is ignored by git, so that they leave `git status` empty."""

import subprocess
from pathlib import Path

import pytest

from bench.study.matrix import shipped

ROOT = Path(__file__).parents[1]


def git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(git("rev-parse").returncode != 0, reason="not a git checkout")
@pytest.mark.parametrize("name", shipped())
def test_a_run_and_its_report_are_ignored(name: str) -> None:
    for path in (f"results/{name}/run.json", f"reports/{name}/report.html", "reports/battery/i3d/card.md"):
        assert git("check-ignore", "--quiet", path).returncode == 0, path
    assert not git("ls-files", f"results/{name}", f"reports/{name}").stdout
