"""Splits of files and of timelines, as integers."""

import itertools

import pytest

from bench.data.media.timeline import MIN_GROUPS, Cutting, Footage, Plan, make_plan


def footage(*lengths: int, fps: float = 10.0) -> list[Footage]:
    return [Footage(name=f"file{i}", group=f"hash{i}", num_frames=length, fps=fps) for i, length in enumerate(lengths)]


def cutting(span: int = 5, hop: int = 5, num_val: int = 2, num_test: int = 2, gap_s: float = 0.4) -> Cutting:
    return Cutting(span=span, hop=hop, held_out={"val": num_val, "test": num_test}, gap_s=gap_s)


def frames_of(plan: Plan, split: str, name: str, span: int = 5) -> set[int]:
    return {frame for file, start in plan.starts[split] if file == name for frame in range(start, start + span)}


@pytest.mark.parametrize("gap_s", [0.0, 0.4, 1.25])
@pytest.mark.parametrize("hop", [1, 3, 5])
def test_time_keeps_splits_apart_by_the_gap(gap_s: float, hop: int) -> None:
    files = footage(80, 61, 47, fps=29.97)
    plan = make_plan(files, cutting(hop=hop, num_val=4, num_test=5, gap_s=gap_s), "auto")
    assert plan.split_by == "time" and (len(plan.starts["val"]), len(plan.starts["test"])) == (4, 5) and plan.starts["train"]
    for file in files:
        used = [frames_of(plan, split, file.name) for split in ("train", "val", "test")]
        for before, after in ((used[0], used[1]), (used[1], used[2]), (used[0], used[2])):
            if before and after:
                assert min(after) - max(before) - 1 >= gap_s * file.fps - 1e-9
        assert max(set().union(*used)) < file.num_frames


def test_val_and_test_clips_are_disjoint_and_train_overlaps_by_hop() -> None:
    plan = make_plan(footage(200), cutting(hop=2, num_val=6, num_test=6), "time")
    for split in (plan.starts["val"], plan.starts["test"]):
        starts = [start for _, start in split]
        assert all(b - a >= 5 for a, b in itertools.pairwise(starts))
    assert [start for _, start in plan.starts["train"]][:3] == [0, 2, 4]


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
        for name, _ in plan.starts[split]:
            group = next(file.group for file in files if file.name == name)
            split_of.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert (len(plan.starts["val"]), len(plan.starts["test"])) == (9, 9)


def test_a_file_stays_in_its_split_when_another_is_renamed() -> None:
    """The order is one of contents, so names do not matter."""
    files = footage(*[23] * 20)
    renamed = [Footage(name=f"x{file.name}", group=file.group, num_frames=23, fps=10) for file in files]
    before, after = make_plan(files, cutting(), "file"), make_plan(renamed, cutting(), "file")
    assert {f"x{name}" for name, _ in before.starts["train"]} == {name for name, _ in after.starts["train"]}


def test_nothing_is_lost_uncounted() -> None:
    files = footage(83, 61)
    plan = make_plan(files, cutting(num_val=3, num_test=2), "time")
    covered = sum(len(frames_of(plan, split, file.name)) for split in ("train", "val", "test") for file in files)
    assert covered + sum(count for reason, count in plan.lost.items() if reason.startswith("frames")) == 83 + 61


def test_few_short_files_go_whole_to_a_split() -> None:
    plan = make_plan(footage(5, 5, 5), cutting(num_val=1, num_test=1), "auto")
    assert len({plan.starts["train"][0][0], plan.starts["val"][0][0], plan.starts["test"][0][0]}) == 3


@pytest.mark.parametrize("split_by", ["file", "time"])
def test_too_few_clips_says_how_many_there_are(split_by: str) -> None:
    with pytest.raises(ValueError, match=r"num_val = 40.*\d+ (disjoint|val)"):
        make_plan(footage(50, 50, 50), cutting(num_val=40, num_test=40), split_by)


def test_what_the_error_says_there_is_can_be_had() -> None:
    with pytest.raises(ValueError, match="hold 9 val and 10 test clips"):
        make_plan(footage(50, 50), cutting(num_val=40, num_test=40, gap_s=0), "time")
    plan = make_plan(footage(50, 50), cutting(num_val=9, num_test=10, gap_s=0), "time")
    assert len(plan.starts["train"]) >= 1


def test_auto_needs_enough_groups_for_files() -> None:
    assert make_plan(footage(*[40] * MIN_GROUPS), cutting(), "auto").split_by == "file"
    assert make_plan(footage(*[40] * (MIN_GROUPS - 1)), cutting(), "auto").split_by == "time"


def test_short_files_give_what_they_have_and_only_to_train_on() -> None:
    files = [*footage(*[23] * 12), *(Footage(name=f"short{i}", group=f"other{i}", num_frames=1 + i, fps=10) for i in range(4))]
    plan = make_plan(files, cutting(), "auto", keep_short=True)
    without = make_plan(files, cutting(), "auto")
    assert (plan.starts["val"], plan.starts["test"], plan.split_by) == (without.starts["val"], without.starts["test"], "file")
    assert plan.starts["train"] == sorted([*without.starts["train"], *((f"short{i}", 0) for i in range(4))])
    assert not any("short" in reason for reason in plan.lost)


def test_a_short_version_of_a_held_out_file_is_left_out_and_counted() -> None:
    files = footage(*[23] * 12)
    files += [Footage(name=f"short{i}", group=f"hash{i}", num_frames=3, fps=10) for i in range(12)]
    plan = make_plan(files, cutting(), "file", keep_short=True)
    trained = {name for name, _ in plan.starts["train"]}
    assert 0 < len(trained) < 24
    assert all((f"short{i}" in trained) == (f"file{i}" in trained) for i in range(12))
    assert plan.lost["short files of scenes in val or test"] == 12 - sum(name.startswith("short") for name in trained)


def test_a_short_version_of_a_scene_cut_by_time_must_end_before_its_held_out_part() -> None:
    def kept(num_frames: int, fps: float) -> bool:
        files = [
            Footage(name="long", group="scene", num_frames=60, fps=10),
            Footage(name="v", group="scene", num_frames=num_frames, fps=fps),
        ]
        plan = make_plan(files, cutting(span=20, hop=20, num_val=1, num_test=1, gap_s=0.0), "time", keep_short=True)
        assert plan.starts["train"][0] == ("long", 0) and plan.starts["val"] == [("long", 20)] and plan.starts["test"] == [("long", 40)]
        return ("v", 0) in plan.starts["train"]

    assert kept(19, fps=10) and kept(1, fps=1)
    assert kept(10, fps=5) and not kept(11, fps=5)  # its last frame is from second 1.8, and 2.0, where val begins


def test_frames_of_short_files_are_not_lost() -> None:
    files = [*footage(25, 25, 25), Footage(name="short", group="s", num_frames=3, fps=10)]
    plan = make_plan(files, cutting(num_val=1, num_test=1), "file", keep_short=True)
    assert ("short", 0) in plan.starts["train"] and plan.lost.get("frames in no clip for other reasons", 0) == 5 * (
        plan.lost.get("val clips beyond num_val", 0) + plan.lost.get("test clips beyond num_test", 0)
    )


@pytest.mark.parametrize("split_by", ["file", "time"])
@pytest.mark.parametrize("span", [1, 3, 5, 9])
def test_clips_of_another_length_keep_the_splits(split_by: str, span: int) -> None:
    files = footage(*(range(30, 60, 2) if split_by == "file" else (60, 62, 64)), 4)  # the last is too short for what was dealt out
    dealt = cutting(num_val=6, num_test=6)
    before = make_plan(files, dealt, split_by)
    plan = make_plan(files, cutting(span=span, hop=span, num_val=3, num_test=3), split_by, dealt=dealt)
    assert plan.split_by == split_by and len(plan.starts["val"]) == len(plan.starts["test"]) == 3
    for file in files:
        trained, held_out = frames_of(before, "train", file.name), set()
        for split in ("val", "test"):
            held_out |= frames_of(plan, split, file.name, span)
        assert not trained & held_out
        assert not held_out or file.num_frames >= 5
    assert ((files[-1].name, 0) in plan.starts["train"]) == (span <= 4)


def test_a_length_that_the_kept_splits_cannot_have_says_so() -> None:
    dealt = cutting(num_val=1, num_test=1)
    with pytest.raises(
        ValueError, match=r"kept for val .* clips of 5 frames, holds 0 of 30 frames, 1 are needed; ask for fewer or shorter"
    ):
        make_plan(footage(40, 40), cutting(span=30, hop=30, num_val=1, num_test=1), "time", dealt=dealt)
    split_of = {name: split for split in ("train", "val", "test") for name, _ in make_plan(footage(5, 5, 5), dealt, "file").starts[split]}
    files = footage(*(5 if split_of[f"file{i}"] == "train" else 40 for i in range(3)))
    with pytest.raises(ValueError, match=r"kept for train .* holds 0 of 6 frames, 1 are needed"):
        make_plan(files, cutting(span=6, hop=6, num_val=1, num_test=1), "file", dealt=dealt)
    with pytest.raises(ValueError, match=r"kept for test .* holds \d+ of 5 frames, 99 are needed"):
        make_plan(footage(40, 40), cutting(num_val=1, num_test=99), "time", dealt=dealt)
