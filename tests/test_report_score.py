"""A score as Markdown: what must be said beside the numbers, and that names from files cannot become markup."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.commands.score.page import MAX_LISTED, comparison, to_json, to_markdown, write
from bench.commands.score.record import PublishedValue, Score, ScoredGroup, ScoredSet, read_score
from bench.data.clips import Skipped
from bench.metrics.protocol import ProtocolBlock
from bench.records.environment import read_environment
from bench.records.record import Measurement
from bench.report.render.catalogue import DASH

ROOT = Path(__file__).parents[1]


def protocol(**changes: Any) -> ProtocolBlock:
    fields: dict[str, Any] = {
        "extractor": "random3d",
        "weights_sha256": "0" * 64,
        "dim": 128,
        "n_real": 64,
        "n_fake": 64,
        "num_frames": 16,
        "frame_stride": 1,
        "fps": None,
        "height": 32,
        "width": 48,
        "resize": "none/1",
        "split": "as given",
        "clip_list_sha256": "1" * 64,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2"},
        "clips": {"rule": "seeded-cut/1"},
    }
    return ProtocolBlock(**fields | changes)


def distance(kind: str = "frechet", value: float = 3.0, floor: float | None = 0.5, **changes: Any) -> Measurement:
    block = changes.pop("protocol", protocol())
    fields: dict[str, Any] = {
        "name": block.name(kind),
        "subject": "generated",
        "value": value,
        "unit": "1",
        "better": "lower",
        "low": 2.0,
        "high": 4.0,
        "interval": "jackknife",
        "floor": floor,
        "floor_source": "measured against 64 other real clips",
        "protocol": block.describe(),
    }
    return Measurement(**fields | changes)


def limit() -> Measurement:
    return distance(name="fd_random3d_infinite@64", value=2.5, low=2.25, high=2.75, floor=None, floor_source=None)


def side(path: str, skipped: int = 0) -> ScoredSet:
    return ScoredSet(
        path=path, num_items=64, num_read=64, num_used=64, num_untried=0, num_copies=0, labels={}, shapes={"16x32x48": 64}, fps=None,
        digest="2" * 32, skipped=[Skipped(f"bad{index}.mp4", "cannot be read") for index in range(skipped)],
    )  # fmt: skip


def made(**changes: Any) -> Score:
    fields: dict[str, Any] = {
        "real": side("real"),
        "generated": side("generated"),
        "n": 64,
        "num_frames": 16,
        "height": 32,
        "width": 48,
        "rule": {"rule": "seeded-cut/1", "num_frames": 16, "stride": 1, "start": "random", "size": "as stored", "seed": 0},
        "measurements": [distance(), distance("kernel", floor=-0.1), limit()],
        "environment": read_environment(),
        "commit": "abc",
    }
    return Score(**fields | changes)


def published(failed: bool = False) -> PublishedValue:
    why = "its matrix root fails on these features"
    outcome = {"value": math.nan, "invalid": why} if failed else {"value": 5.5}
    return PublishedValue(
        tool="cd-fvd",
        measurement=distance(name="fd_i3d_eps1e-5@40 (cd-fvd protocol)", protocol=protocol(covariance="n", root="sqrtm")).model_copy(
            update=outcome
        ),
        exact_root=5.25,
        n_real=64,
        n_fake=2048,
        distinct_real=64,
        distinct_fake=40,
        choices={"batch norm epsilon": "1e-5"},
        skipped=[],
        canonical_name="fvd@40",
        canonical_value=7.75,
    )


def test_a_distance_stands_beside_its_interval_floor_and_infinite_n() -> None:
    text = to_markdown(made())
    assert "| `fd_random3d@64` | 3.00 [2.00, 4.00] | 0.500 | 6.0 | 2.50 [2.25, 2.75] |" in text
    assert f"| `kd_random3d@64` | 3.00 [2.00, 4.00] | -0.100 | {DASH} | {DASH} |" in text  # floors below 0 divide nothing
    assert "64 clips of 16 frames of 32x48 in each set; one clip an item, its start drawn with seed 0; frames as stored" in text
    assert "- `fd_random3d@64`, `kd_random3d@64`: n = 64 is below what a headline needs" in text
    assert "below 3 floors" not in text


def test_a_value_near_its_floor_and_what_is_missing_are_said() -> None:
    poor = distance(value=1.0, low=None, high=None, interval="none: 16 groups need as many clips")
    text = to_markdown(made(measurements=[poor]))
    assert "`fd_random3d@64`: below 3 floors: mostly the bias of a small n" in text
    assert "interval none: 16 groups need as many clips" in text and "at infinite n: none below 256 clips, for 128 features" in text
    assert "| 1.00 | 0.500 |" in text
    without = to_markdown(made(measurements=[distance(floor=None, floor_source="none: too few real clips")]))
    assert f"| {DASH} | {DASH} |" in without and "floor none: too few real clips" in without


def test_headline_n_needs_no_warning() -> None:
    block = protocol(n_real=2048, n_fake=2048)
    text = to_markdown(made(measurements=[distance(protocol=block)], n=2048))
    assert "`fd_random3d`" in text and "headline" not in text


def test_groups_with_too_few_clips_are_named() -> None:
    groups = [
        ScoredGroup(by="class", name="cat", num_real=20, num_generated=30, n=20, values={"fd_random3d@20": 1.5, "kd_random3d@20": 0.25}),
        ScoredGroup(by="class", name="dog", num_real=3, num_generated=9, n=0, values={}),
        *(ScoredGroup(by="shape", name=f"{t}x8x8", num_real=1, num_generated=1, n=0, values={}) for t in range(MAX_LISTED + 5)),
    ]
    text = to_markdown(made(groups=groups))
    assert "| class | n of each | `fd_random3d@n` | `kd_random3d@n` |" in text and "| cat | 20 | 1.50 | 0.250 |" in text
    assert "Too few clips for a number, real and generated: dog (3 and 9)." in text
    assert f"{MAX_LISTED - 1}x8x8 (1 and 1) and 5 more." in text


def test_another_tools_value_stands_beside_the_canonical_one() -> None:
    text = to_markdown(made(published=[published(), published(failed=True)]))
    for line in (
        "| `fd_i3d_eps1e-5@40 (cd-fvd protocol)` | 5.500 |",
        "| the same with an exact matrix root | 5.250 |",
        "| `fvd@40`, canonical | 7.750 |",
        "64 real clips; 2048 generated clips, 40 of them different.",
        "- batch norm epsilon: 1e-5",
        "| its matrix root fails on these features |",
    ):
        assert line in text, line


def test_what_was_left_out_is_listed_and_the_rest_counted() -> None:
    text = to_markdown(made(generated=side("g", skipped=MAX_LISTED + 3)))
    assert f"{MAX_LISTED + 3} left out, 64 clips read." in text and "- and 3 more, see score.json" in text
    assert text.count("cannot be read") == MAX_LISTED and "Left out of REAL" not in text


def test_shares_are_per_cent() -> None:
    share = distance(name="precision_random3d@64", value=0.875).model_copy(update={"protocol": {"num_neighbours": 5}})
    assert "| `precision_random3d@64` | 87.5 % |" in to_markdown(made(measurements=[share]))


def test_names_of_files_cannot_become_markup() -> None:
    evil = "a|b<script>[x](y)*"
    text = to_markdown(
        made(real=side(evil), notes=[evil], groups=[ScoredGroup(by="class", name=evil, num_real=1, num_generated=1, n=0, values={})])
    )
    assert "<script>" not in text and text.count("a\\|b&lt;script&gt;\\[x\\](y)\\*") == 3


def test_protocols_are_folded_at_the_end() -> None:
    text = to_markdown(made(published=[published()]))
    folded = text[text.index("<details>") :]
    assert folded.endswith("</details>\n") and '"weights_sha256"' in folded and '"covariance": "n"' in folded
    assert f"fd_random3d@64, kd_random3d@64, fd_random3d_infinite@64: {distance().protocol_fingerprint}" in folded


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    score = made(published=[published(), published(failed=True)], notes=["a note"])
    assert [path.name for path in write(score, tmp_path / "new")] == ["score.json", "score.md"]
    assert to_json(read_score(tmp_path / "new")) == to_json(read_score(tmp_path / "new" / "score.json")) == to_json(score)
    assert (tmp_path / "new" / "score.json").read_text() == to_json(score)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["score.json", "score.md"]


def test_only_equal_protocols_are_compared() -> None:
    other = made(measurements=[distance(value=1.25)], generated=side("other"))
    assert "| `fd_random3d@64` | 3.00 [2.00, 4.00] | 1.25 [2.00, 4.00] | 1.75 |" in comparison(made(), other)
    with pytest.raises(ValueError, match=r"different protocols and do not compare; height: 32 and 64; n_fake: 64 and 32"):
        comparison(made(), made(measurements=[distance(protocol=protocol(height=64, n_fake=32))]))
    with pytest.raises(ValueError, match="no distance in common"):
        comparison(made(), made(measurements=[distance(protocol=protocol(extractor="other"))]))


def test_a_laptop_without_torch_reads_scores() -> None:
    code = "import sys, bench.commands.score.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
