"""The mix of clips that benchmarks pack: what it says it is."""

from __future__ import annotations

import statistics

import pytest

from bench.perf.mix import SIDES, draw_clips, mixed_packs, num_tokens, tokens_seen, uniform_like


def test_clips_are_of_any_size_and_aspect_and_more_often_small() -> None:
    clips = draw_clips(2000)
    assert clips == draw_clips(2000) != draw_clips(2000, seed=1)
    for _, *sides in clips:
        assert all(SIDES[0] <= side <= SIDES[1] and side % 2 == 0 for side in sides)
    assert {frames for frames, _, _ in clips} == set(range(1, 9))
    assert {frames for frames, _, _ in draw_clips(200, max_frames=1)} == {1}
    aspects = [height / width for _, height, width in clips]
    assert min(aspects) < 0.5 < 2 < max(aspects) <= 3.5
    lengths = [num_tokens(clip) for clip in clips]
    assert statistics.median(lengths) < 0.75 * statistics.mean(lengths)


def test_packs_are_full_and_each_of_other_clips() -> None:
    taken = mixed_packs(50, 2048)
    totals = [sum(map(num_tokens, pack)) for pack in taken]
    assert max(totals) <= 2048 and statistics.mean(totals) > 0.98 * 2048
    assert len({tuple(pack) for pack in taken}) == 50


def test_equal_clips_like_a_pack() -> None:
    """By hand: of 100 and 300 tokens, a quarter sees 100 and the rest 300."""
    assert tokens_seen([(1, 20, 20), (3, 20, 20)]) == 250.0
    for pack in mixed_packs(20, 2048):
        equal = uniform_like(pack)
        assert len(set(equal)) == 1
        assert num_tokens(equal[0]) == pytest.approx(tokens_seen(pack), rel=0.03)
        assert sum(map(num_tokens, equal)) == pytest.approx(sum(map(num_tokens, pack)), rel=0.25)
