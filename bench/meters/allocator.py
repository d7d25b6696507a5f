"""Memory that a step frees stays with the process, for the next step.

By default glibc hands large blocks back to the system, in some processes more than in others, and the next step fetches them again, page
by page: a quarter of a million page faults a gigabyte, each a page to be filled with zeros. `tox -e speed` shows what that costs.
"""

import ctypes

# Parameters of mallopt (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 2**30
MOST_BEFORE_2_35 = 2**25  # glibc before 2.35 refuses a larger threshold for mmap


def keep_freed_memory() -> bool:
    """Keep what is freed, up to a gigabyte. False where the C library has no such setting (musl, macOS): nothing is changed then."""
    return _set(M_MMAP_THRESHOLD, KEPT_BYTES, MOST_BEFORE_2_35) and _set(M_TRIM_THRESHOLD, KEPT_BYTES)


def _set(parameter: int, *values: int) -> bool:
    """Set the first value that is accepted."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return any(mallopt(parameter, value) for value in values)
