"""How a check ends, for a shell: every way has a status of its own."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of `check`. Where several apply, the one that `worst` puts first."""

    UNCHANGED = 0
    REGRESSED = 1
    BAD_INPUT = 2  # arguments, policy file
    INCONCLUSIVE = 3  # too noisy to tell
    DIRTY = 10  # the work tree has changes that would not be measured
    UNKNOWN_REVISION = 11
    DOES_NOT_BUILD = 12  # a revision's worker does not start, or one of its benchmarks fails
    LACKS_BENCHMARK = 13  # only one of the two revisions has it
    NO_REFERENCE = 14
    ANOTHER_MACHINE = 15
    ANOTHER_SUITE = 16  # the suite's protocol version, or a benchmark's definition, differs


SEVERITY = (
    Exit.REGRESSED, Exit.DOES_NOT_BUILD, Exit.ANOTHER_SUITE, Exit.LACKS_BENCHMARK, Exit.INCONCLUSIVE, Exit.UNCHANGED,
)  # fmt: skip
OUTCOME_EXITS = {"regressed": Exit.REGRESSED, "inconclusive": Exit.INCONCLUSIVE}  # of a verdict; any other outcome passes


class CheckRefused(Exception):
    """A check that cannot be made; one line for the user, and how it ends."""

    def __init__(self, exit_: Exit, message: str):
        super().__init__(message)
        self.exit = exit_


def worst(exits: list[Exit]) -> Exit:
    """The one status of several."""
    return min(exits, key=SEVERITY.index, default=Exit.UNCHANGED)
