"""Seeds: a function of their name, stable over versions, distinct over streams."""

from bench.data.seeds import stream_seed


def test_seeds_are_stable_and_distinct() -> None:
    assert stream_seed(0, "noise", 0) == 1854187973  # a change here changes every run
    seeds = {stream_seed(seed, stream, index) for seed in range(5) for stream in ("order", "noise") for index in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert stream_seed(1, "a", 11) != stream_seed(11, "a", 1)
