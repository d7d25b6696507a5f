"""Benchmarks: `tox -e perf`. They time; they assert nothing about time."""
