"""Splits of files and of timelines, as integers."""

import itertools

import pytest

from bench.data.timeline import MIN_GROUPS, Cutting, Footage, Plan, make_plan


def footage(*lengths: int, fps: float = 10.0) -> list[Footage]:
    return [Footage(name=f"file{i}", group=f"hash{i}", num_frames=length, fps=fps) for i, length in enumerate(lengths)]


def cutting(span: int = 5, hop: int = 5, num_val: int = 2, num_test: int = 2, gap_s: float = 0.4) -> Cutting:
    return Cutting(span=span, hop=hop, num_val=num_val, num_test=num_test, gap_s=gap_s)


def frames_of(plan: Plan, split: str, name: str, span: int = 5) -> set[int]:
    return {frame for file, start in getattr(plan, split) if file == name for frame in range(start, start + span)}


@pytest.mark.parametrize("gap_s", [0.0, 0.4, 1.25])
@pytest.mark.parametrize("hop", [1, 3, 5])
def test_time_keeps_splits_apart_by_the_gap(gap_s: float, hop: int) -> None:
    files = footage(80, 61, 47, fps=29.97)
    plan = make_plan(files, cutting(hop=hop, num_val=4, num_test=5, gap_s=gap_s), "auto")
    assert plan.split_by == "time" and (len(plan.val), len(plan.test)) == (4, 5) and plan.train
    for file in files:
        used = [frames_of(plan, split, file.name) for split in ("train", "val", "test")]
        for before, after in ((used[0], used[1]), (used[1], used[2]), (used[0], used[2])):
            if before and after:
                assert min(after) - max(before) - 1 >= gap_s * file.fps - 1e-9
        assert max(set().union(*used)) < file.num_frames


def test_val_and_test_clips_are_disjoint_and_train_overlaps_by_hop() -> None:
    plan = make_plan(footage(200), cutting(hop=2, num_val=6, num_test=6), "time")
    for split in (plan.val, plan.test):
        starts = [start for _, start in split]
        assert all(b - a >= 5 for a, b in itertools.pairwise(starts))
    assert [start for _, start in plan.train][:3] == [0, 2, 4]


def test_versions_of_a_scene_are_cut_at_the_same_times() -> None:
    slow = Footage(name="slow", group="scene", num_frames=100, fps=10)
    fast = Footage(name="fast", group="scene", num_frames=205, fps=20)
    plan = make_plan([slow, fast], cutting(num_val=6, num_test=6), "time")
    times = {
        (split, file.name): {frame / file.fps for frame in frames_of(plan, split, file.name)}
        for split in ("train", "val", "test")
        for file in (slow, fast)
    }
    for one, other in (("slow", "fast"), ("fast", "slow")):
        if times["val", other]:
            assert max(times["train", one]) + 0.4 < min(times["val", other])
        assert max(times["val", one] | times["train", one]) + 0.4 < min(times["test", other])


def test_files_are_dealt_out_whole_and_groups_stay_together() -> None:
    files = footage(*[23] * 30)
    files += [Footage(name=f"version{i}", group=f"hash{i}", num_frames=23, fps=10) for i in range(10)]
    plan = make_plan(files, cutting(num_val=9, num_test=9), "auto")
    assert plan.split_by == "file"
    split_of: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        for name, _ in getattr(plan, split):
            group = next(file.group for file in files if file.name == name)
            split_of.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert (len(plan.val), len(plan.test)) == (9, 9)


def test_a_file_stays_in_its_split_when_another_is_renamed() -> None:
    """The order is one of contents, so names do not matter."""
    files = footage(*[23] * 20)
    renamed = [Footage(name=f"x{file.name}", group=file.group, num_frames=23, fps=10) for file in files]
    before, after = make_plan(files, cutting(), "file"), make_plan(renamed, cutting(), "file")
    assert {f"x{name}" for name, _ in before.train} == {name for name, _ in after.train}


def test_nothing_is_lost_uncounted() -> None:
    files = footage(83, 61)
    plan = make_plan(files, cutting(num_val=3, num_test=2), "time")
    covered = sum(len(frames_of(plan, split, file.name)) for split in ("train", "val", "test") for file in files)
    assert covered + sum(count for reason, count in plan.lost.items() if reason.startswith("frames")) == 83 + 61


def test_few_short_files_go_whole_to_a_split() -> None:
    plan = make_plan(footage(5, 5, 5), cutting(num_val=1, num_test=1), "auto")
    assert len({plan.train[0][0], plan.val[0][0], plan.test[0][0]}) == 3


@pytest.mark.parametrize("split_by", ["file", "time"])
def test_too_few_clips_says_how_many_there_are(split_by: str) -> None:
    with pytest.raises(ValueError, match=r"num_val = 40.*\d+ (disjoint|val)"):
        make_plan(footage(50, 50, 50), cutting(num_val=40, num_test=40), split_by)


def test_what_the_error_says_there_is_can_be_had() -> None:
    with pytest.raises(ValueError, match="hold 9 val and 10 test clips"):
        make_plan(footage(50, 50), cutting(num_val=40, num_test=40, gap_s=0), "time")
    plan = make_plan(footage(50, 50), cutting(num_val=9, num_test=10, gap_s=0), "time")
    assert len(plan.train) >= 1


def test_auto_needs_enough_groups_for_files() -> None:
    assert make_plan(footage(*[40] * MIN_GROUPS), cutting(), "auto").split_by == "file"
    assert make_plan(footage(*[40] * (MIN_GROUPS - 1)), cutting(), "auto").split_by == "time"
