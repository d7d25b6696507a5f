"""The order of the tests: files that take long come first, so that two workers end together (`--no-loadscope-reorder`). No test leaves a
library of products to the next."""

import gc
from collections.abc import Iterator
from unittest import mock

import pytest

from bench.backbone import PRODUCTS

BUILT_IN = dict(PRODUCTS)  # before any job of this process has chosen
collect_ignore = ["exits.py"]  # a plug-in whose import ends the process, also the one that looks for doctests

LONGEST = (
    "test_ranks",
    "test_run",
    "test_tour",
    "test_report_archive",
    "test_profile_predict",
    "test_run_faults",
    "test_check_gate",
    "test_report_factorial",
    "test_report",
    "test_evidence_spread",
    "test_match",
    "test_preference",
    "test_metrics_i3d",
    "test_run_shapes",
    "test_run_physics",
    "test_metrics_rigid",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by that list; a file that is not on it stays where it was."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="module", autouse=True)
def imports_left_out_of_collections() -> None:
    """A cell collects ten times, as many seconds in a process that has imported everything and holds every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def products_of_a_new_process() -> Iterator[None]:
    """What a job in this process chose is of that test alone, also where a fixture of its whole file ran the job before this one."""
    with mock.patch.dict(PRODUCTS, BUILT_IN):
        yield
