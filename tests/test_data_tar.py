"""Tar archives as webdataset lays them out: samples by name, hostile and damaged members by name and reason, nothing on disk."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.data.clips import Skipped
from bench.data.media import tar
from bench.data.media.tar import Sample, read_samples


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def read(path: Path) -> tuple[list[Sample], dict[str, str]]:
    found = list(read_samples(path))
    skipped = {entry.name: entry.reason for entry in found if isinstance(entry, Skipped)}
    return [sample for sample in found if isinstance(sample, Sample)], skipped


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_consecutive_members_of_one_key(tmp_path: Path, form: int) -> None:
    members = [
        member("a.b/000.mp4", b"video"), member("a.b/000.CLS", b"1"), member("./a.b/001.seg.png", b"one"), member("a.b/001.json", b"{}"),
        member("001.mp4", b"other folder"), member("naïve clip 日本.mp4", b"unicode"), member("x" * 90 + "/" + "y" * 60 + ".mp4", b"long"),
    ]  # fmt: skip
    samples, skipped = read(write_tar(tmp_path / "s.tar", members, form))
    assert samples == [
        Sample("a.b/000", {"mp4": b"video", "cls": b"1"}),
        Sample("a.b/001", {"seg.png": b"one", "json": b"{}"}),
        Sample("001", {"mp4": b"other folder"}),
        Sample("naïve clip 日本", {"mp4": b"unicode"}),
        Sample("x" * 90 + "/" + "y" * 60, {"mp4": b"long"}),
    ]
    assert skipped == {}


def test_hostile_members_are_named_and_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret.cls").write_bytes(b"7")
    members = [
        member("a.mp4", b"good"),
        member("a.cls", linkname="/etc/passwd", type=tarfile.SYMTYPE),
        member("b.cls", linkname="a.mp4", type=tarfile.LNKTYPE),
        member("c.mp4", type=tarfile.FIFOTYPE),
        member("d.mp4", type=tarfile.CHRTYPE),
        member("/etc/e.mp4", b"x"),
        member("../f.mp4", b"x"),
        member("g/../../g.mp4", b"x"),
        member("README", b"x"),
        member(".hidden.mp4", b"x"),
        member("._h.mp4", b"x"),
        member("folder.mp4", type=tarfile.DIRTYPE),
        member("z.mp4", b"good too"),
    ]
    samples, skipped = read(write_tar(tmp_path / "s.tar", members))
    assert samples == [Sample("a", {"mp4": b"good"}), Sample("z", {"mp4": b"good too"})]
    assert skipped == {
        "a.cls": "is a link, which is not followed",
        "b.cls": "is a link, which is not followed",
        "c.mp4": "is no regular file",
        "d.mp4": "is no regular file",
        "/etc/e.mp4": "has a path that leads out of its archive; make it relative",
        "../f.mp4": "has a path that leads out of its archive; make it relative",
        "g/../../g.mp4": "has a path that leads out of its archive; make it relative",
        "README": "has no extension, which says what it is",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.tar", "secret.cls"]  # nothing was unpacked


def test_a_name_that_is_no_text_or_moves_the_cursor_is_told_as_an_escape(tmp_path: Path) -> None:
    members = [member("a\udce9.mp4", b"x"), member("b\x1b[2J", b"x"), member("c.mp4", b"good")]
    samples, skipped = read(write_tar(tmp_path / "s.tar", members, tarfile.GNU_FORMAT))
    assert samples == [Sample("c", {"mp4": b"good"})]
    assert skipped == {"a\\xe9.mp4": "has a name that is not UTF-8; rename it", "b\\x1b[2J": "has no extension, which says what it is"}


def test_a_part_that_is_there_twice_and_a_sample_that_comes_again(tmp_path: Path) -> None:
    members = [member("a.cls", b"1"), member("a.cls", b"2"), member("b.cls", b"3"), member("a.cls", b"4"), member("c.cls", b"5")]
    samples, skipped = read(write_tar(tmp_path / "s.tar", members))
    assert samples == [Sample("a", {"cls": b"1"}), Sample("b", {"cls": b"3"}), Sample("c", {"cls": b"5"})]
    assert skipped == {"a.cls": "comes when a was over; members of a sample lie one behind the other"}
    assert "a.cls is there twice; the first is taken" in [
        f"{entry.name} {entry.reason}" for entry in read_samples(tmp_path / "s.tar") if isinstance(entry, Skipped)
    ]


def test_what_is_too_large_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MOST_BYTES", 1000)
    members = [
        member("a.mp4", b"x" * 1001),
        member("b.mp4", b"x" * 600),
        member("b.npy", b"x" * 401),
        member("b.cls", b"x" * 400),
        member("c.cls"),
    ]
    samples, skipped = read(write_tar(tmp_path / "s.tar", members))
    assert [(sample.key, sorted(sample.parts)) for sample in samples] == [("b", ["cls", "mp4"]), ("c", ["cls"])]
    assert skipped == {
        "a.mp4": "says that it has 1001 bytes; at most 1000 are read",
        "b.npy": "makes its sample larger than 1000 bytes",
    }


THREE = [member("a.cls", b"1"), member("b.cls", b"2" * 600), member("c.cls", b"3")]  # headers at 0, 1024, 2560; the end at 3584


def cut(num: int) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        del data[num:]

    return damage


def put(place: int, content: bytes) -> Callable[[bytearray], None]:
    def damage(data: bytearray) -> None:
        data[place : place + len(content)] = content

    return damage


def resized(place: int, size: bytes) -> Callable[[bytearray], None]:
    """The size field of a header, with its sum made right."""

    def damage(data: bytearray) -> None:
        data[place + 124 : place + 136] = size
        data[place + 148 : place + 156] = b" " * 8
        data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])

    return damage


@pytest.mark.parametrize(
    ("damage", "keys", "reason"),
    [
        (cut(0), "", "is damaged at s.tar, and not read from there on: empty file"),
        (cut(100), "", "is damaged at s.tar, and not read from there on: truncated header"),
        (cut(1024 + 512 + 100), "a", "is damaged at b.cls, and not read from there on: unexpected end of data"),
        (cut(1024 + 200), "a", "is damaged behind a.cls, and not read from there on"),
        (cut(3584), "abc", "has no end mark behind c.cls: it may be cut short"),
        (put(0, b"\xff" * 512), "", "is damaged at s.tar"),
        (put(2560, b"\xff" * 512), "ab", "is damaged behind b.cls, and not read from there on"),
        (resized(1024, b"77777777777\0"), "a", "says that it has 8589934591 bytes"),
        (resized(1024, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7), "a", "says that it has"),
        (resized(1024, b"\xff" * 10 + b"\xfc\0"), "a", "damaged at a.cls"),  # -1024: back to the start, again and again
        (put(1024 + 156, b"x"), "a", "damaged"),  # a header with a wrong sum
    ],
)  # fmt: skip
def test_a_damaged_archive_is_read_up_to_its_damage(tmp_path: Path, damage: Callable[[bytearray], None], keys: str, reason: str) -> None:
    path = write_tar(tmp_path / "s.tar", THREE, tarfile.GNU_FORMAT)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    samples, skipped = read(path)
    assert "".join(sample.key for sample in samples) == keys
    assert any(reason in said for said in skipped.values()), skipped


@pytest.mark.parametrize("size", [b"\x80" + b"\0" * 4 + b"\x40" + b"\0" * 6, b"\xff" * 12], ids=["huge", "negative"])
def test_a_header_that_says_it_is_huge_is_not_read_into_memory(tmp_path: Path, size: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "s.tar", [member("a.cls", b"1"), member("b.cls", b"2", pax_headers={"comment": "long"})])
    data = bytearray(path.read_bytes())
    assert data[1024 + 156 : 1024 + 157] == b"x"
    resized(1024, size)(data)
    path.write_bytes(data)
    asked: list[int] = []

    class Spy(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    with Spy(path) as spy:
        monkeypatch.setattr(tar, "_as_file", lambda file: tar._Headers(spy))
        samples, skipped = read(path)
    assert samples == [Sample("a", {"cls": b"1"})] and list(skipped) == ["s.tar"]
    assert "damaged at a.cls" in skipped["s.tar"]
    assert asked and all(0 <= num_bytes <= tar.MOST_HEADER_BYTES for num_bytes in asked)


def test_no_list_of_members_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    open_tar = tarfile.open
    path = write_tar(tmp_path / "s.tar", [member(f"{index}.cls", b"1") for index in range(50)])
    monkeypatch.setattr(tarfile, "open", lambda **given: [opened.append(open_tar(**given)), opened[-1]][1])
    assert len(list(read_samples(path))) == 50 and len(opened[0].members) <= 1


def test_a_folder_or_a_compressed_archive_is_no_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.addfile(*(lambda made: (made[0], io.BytesIO(made[1])))(member("a.cls", b"1")))
    assert read(tmp_path / "s.tar")[0] == [] and "is damaged at s.tar" in read(tmp_path / "s.tar")[1]["s.tar"]
    assert "Is a directory" in read(tmp_path)[1][tmp_path.name]


def test_the_layout_is_that_of_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    members = [member("a/000.mp4", b"v"), member("a/000.cls", b"1"), member("a/001.seg.png", b"s"), member("001.json", b"{}")]
    path = write_tar(tmp_path / "s.tar", members)
    theirs = [
        {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
    ]
    assert [{"__key__": sample.key, **sample.parts} for sample in read(path)[0]] == theirs
