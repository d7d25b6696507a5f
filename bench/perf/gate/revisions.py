"""Revisions of this repository as folders: each in a work tree of its own, gone afterwards."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.perf.gate.exits import CheckRefused, Exit
from bench.perf.gate.result import Compared
from bench.records.environment import git

SUITE = "bench/perf/worker.py"  # what a revision must have to be measured


class Revision(Compared):
    """A commit that is checked out in `tree`."""

    tree: Path

    def __str__(self) -> str:
        return self.commit[:9] if self.commit.startswith(self.name) else f"{self.name} ({self.commit[:9]})"


def repository(start: Path) -> Path:
    """Root of the repository around `start`."""
    root = git(start, "rev-parse", "--show-toplevel")
    if root is None:
        raise CheckRefused(Exit.UNKNOWN_REVISION, f"{start} is in no git repository, or there is no git; run the check in a checkout")
    return Path(root)


def refuse_dirty(root: Path) -> None:
    """CheckRefused where tracked files differ from HEAD: what is checked out would not be what is measured."""
    told = git(root, "diff", "--name-only", "HEAD")
    if told is None:
        raise CheckRefused(
            Exit.DIRTY, f"git cannot tell whether the work tree of {root.name} is clean; try `git diff HEAD`, or name --head REV"
        )
    if changed := told.splitlines():
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise CheckRefused(
            Exit.DIRTY, f"the work tree is dirty ({changed[0]}{more}): HEAD is not what it holds; commit, or name --head REV"
        )


@contextlib.contextmanager
def checked_out(root: Path, names: dict[str, str]) -> Iterator[dict[str, Revision]]:
    """Role -> revision, each in a fresh work tree. CheckRefused for a name that git does not know, or a commit without the suite."""
    commits = {}
    for role, name in names.items():
        commit = git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if commit is None:
            raise CheckRefused(
                Exit.UNKNOWN_REVISION,
                f"--{role} {name!r} is no revision of {root.name}; fetch it (a shallow clone lacks it)",
            )
        if git(root, "cat-file", "-e", f"{commit}:{SUITE}") is None:
            raise CheckRefused(Exit.DOES_NOT_BUILD, f"--{role} {name!r} ({commit[:9]}) is older than the performance suite: no {SUITE}")
        commits[role] = commit
    folder = Path(tempfile.mkdtemp(prefix="unet-vs-dit-check-"))
    try:
        revisions = {}
        for role, commit in commits.items():
            tree = folder / role
            if git(root, "worktree", "add", "--detach", "--force", str(tree), commit, timeout_s=None) is None:
                raise CheckRefused(Exit.DOES_NOT_BUILD, f"git cannot check {names[role]!r} out into {tree}; is the disk full?")
            revisions[role] = Revision(name=names[role], commit=commit, tree=tree)
        yield revisions
    finally:
        for role in commits:
            git(root, "worktree", "remove", "--force", str(folder / role))
        shutil.rmtree(folder, ignore_errors=True)
        git(root, "worktree", "prune")
