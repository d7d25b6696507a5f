"""The evidence of shards, on a small set: what it says is what is so."""

from pathlib import Path

import pytest

from bench.data.progress import Reporter
from bench.data.shards import Sharded
from bench.perf.evidence import shards


def test_every_way_is_measured_and_draws_the_same_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PER_SHARD", 32)
    monkeypatch.setattr(Sharded, "_look_at", Sharded._look_at)  # which `measure` counts from then on
    shards.make(1000, tmp_path / "set", Reporter("x"))
    assert len(list((tmp_path / "set" / "shards").glob("shard-*.npy"))) == 32
    ways = [shards.measure(way, 1000, 800, tmp_path / "set") for way in shards.WAYS]
    assert all(resume["same"] for way in ways for resume in way["resumes"])
    made = {"items": 1000, "shards": 32, "made_s": 1.0, "hashed_s": 0.5, "ways": ways}
    found = {"draws": 800, "sets": [made], "commit": "0" * 40, "environment": {"cpu": "C", "cpu_id": "i", "num_cpus": 2}}
    page = shards.to_markdown(found)
    assert page.count("| 1,000 |") == 3 and "All drew what the first reader drew there." in page
    ways[1]["resumes"][0]["same"] = False
    assert "**Not all drew what the first reader drew there.**" in shards.to_markdown(found)
