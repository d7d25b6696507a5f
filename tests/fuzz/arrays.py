"""Arrays: clips as .npy and .npz for `score`, and the arrays that a cell leaves for `report` and `sample`."""

import functools
import io
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bench.commands.score.collection import find_collection
from bench.commands.score.windows import SeededCut, cached_set
from bench.data.progress import silent
from bench.records.artefacts import load_frames, save_arrays
from bench.records.record import Record
from bench.report.load import CellResult
from bench.report.sheet import load_sheet
from bench.shapes import Refusal
from tests import report_factory
from tests.fuzz.case import SPECIAL, Case, Domain, Finding, packed, place
from tests.fuzz.damage import damaged_bytes
from tests.fuzz.media import NAMES, moving, named, scored

SHAPES = (
    (3, 2, 8, 8, 3),
    (2, 8, 8, 3),
    (3, 2, 8, 8, 4),
    (3, 2, 3, 8, 8),
    (0, 2, 8, 8, 3),
    (3, 8, 8),
    (),
    (1,),
    (1, 1, 1, 1, 3),
    (1, 10**5, 1, 1, 3),
)
DTYPES = ("uint8", "uint8", "uint8", "float32", "float64", "int64", "bool", "complex64", "U3", "S3", "M8[s]", "V5", "float16", ">u2", "i1")
HEADERS = (  # of an .npy file, which is a Python literal
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (3, 2, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 8, 8, 3.5), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3, 2, 8, 8, 3), }",
    "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (3, 2, 8, 8, 3), }",
    "{'descr': ('|u1', (3,)), 'fortran_order': False, 'shape': (3, 2, 8, 8), }",
    "{'descr': 7, 'fortran_order': False, 'shape': (3,), }", "[" * 200, "(" * 9000, "{", "__import__('os').system('true')", "9" * 5000,
    "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 2, 8, 8, 3), 'x': 1}",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (3, 2, 8, 8, 3), }",
    "{'descr': '|u1', 'fortran_order': 'x', 'shape': [3, 2, 8, 8, 3], }",
    "{'descr': '<U536870912', 'fortran_order': False, 'shape': (1,), }",
)  # fmt: skip


# What stands beside the frames of an .npz: labels, a rate, or what is taken for them.
BESIDE: tuple[Any, ...] = ([0, 1, 2], ["a", "b", "c"], 8.0, [], "x", [[1, 2]] * 3, [np.nan] * 3, ["\x1b", "[/]", "a\nb"], 0.0, -1.0, np.inf)


def npy(array: np.ndarray) -> bytes:
    """As numpy writes it; objects too, pickled, as an attacker would."""
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def npy_of(header: str, body: bytes) -> bytes:
    """Version 1 where the header fits, else version 2."""
    text = header.encode() + b"\n"
    wide = len(text) >= 2**16
    return b"\x93NUMPY" + bytes((2 if wide else 1, 0)) + len(text).to_bytes(4 if wide else 2, "little") + text + body


def npz(members: dict[str, bytes], compressed: bool) -> bytes:
    """A zip of members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


@functools.cache
def good() -> np.ndarray:
    """Clips (3, 2, 8, 8, 3)."""
    return np.stack([np.ascontiguousarray(moving(2 + k)[k : k + 2, :8, :8]) for k in range(3)])


def draw_array(rng: Random) -> bytes:
    """An .npy file that may be wrong in its header, its type, its shape or its bytes."""
    kind = rng.randrange(6)
    if kind == 0:
        return npy_of(rng.choice(HEADERS), good().tobytes())
    if kind == 1:
        return npy(np.array([print, {"a": 1}, None], dtype=object))
    if kind == 2:
        values = np.zeros(rng.choice(SHAPES), "float64")
        if values.size and rng.randrange(2):
            values.flat[0] = rng.choice((np.nan, np.inf, -1.0, 300.0, 0.5))
        with np.errstate(all="ignore"):
            return npy(values.astype(rng.choice(DTYPES)))
    return damaged_bytes(rng, npy(good())) if kind > 3 else npy(good())


def draw_collection(rng: Random) -> Case:
    """A good array and a bad one in a folder, or a bad one alone."""
    if rng.randrange(3):
        members: dict[str, bytes] = {
            rng.choice(("frames.npy", "frames.npy", "x.npy", "frames", "../x.npy", "/x.npy", "é.npy")): draw_array(rng)
        }
        for name in ("labels", "fps", "frames"):
            if not rng.randrange(3):
                value = np.array(rng.choice(BESIDE))
                members[f"{name}.npy"] = npy(value)
        content, suffix = npz(members, bool(rng.randrange(2))), ".npz"
        content = damaged_bytes(rng, content) if rng.randrange(2) else content
    else:
        content, suffix = draw_array(rng), ".npy"
    if not rng.randrange(20):
        suffix = rng.choice((".npy", ".npz", ".NPZ", ".mp4"))
    name = rng.choice(NAMES) + suffix
    return {"files": {name: packed(content) if rng.randrange(40) else rng.choice(SPECIAL)}, "alone": not rng.randrange(3)}


def attempt_collection(case: Case, folder: Path) -> None:
    """As `score` reads them."""
    root = folder / "clips"
    root.mkdir()
    place(root, case["files"])
    if case["alone"]:
        (path,) = (root / name for name in case["files"])
        with named(root):
            found = cached_set(find_collection(path), SeededCut(num_frames=2), None, silent, folder / "cache")
        if np.asarray(found.frames[:]).dtype != np.uint8:
            raise Finding("frames that are no pixels")
        return
    np.save(root / "good.npy", good()[0])
    scored(root, folder / "cache")


@functools.cache
def artefacts() -> dict[str, bytes]:
    """A cell's sheet and samples."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        report_factory.sheet(Path(folder), 0, 1, num=2, size=(2, 10, 10))
        shapes = np.array([[2, 10, 10, 3], [1, 4, 8, 3]])
        flat = np.zeros(int(shapes.prod(axis=1).sum()), np.uint8)
        save_arrays(Path(folder) / "samples.npz", frames=flat, shapes=shapes, labels=np.zeros(2, np.int64), fps=np.float64(8))
        return {name: (Path(folder) / name).read_bytes() for name in ("sheet.npz", "samples.npz")}


def draw_artefact(rng: Random) -> Case:
    """One of them with its bytes, or one of its arrays, changed."""
    name = rng.choice(list(artefacts()))
    if rng.randrange(2):
        content = damaged_bytes(rng, artefacts()[name], list(artefacts().values()))
    else:
        with np.load(io.BytesIO(artefacts()[name])) as stored:
            members = {f"{key}.npy": npy(stored[key]) for key in stored.files}
        members[rng.choice(list(members))] = draw_array(rng)
        if not rng.randrange(4):
            del members[rng.choice(list(members))]
        content = npz(members, compressed=True)
    return {"files": {name: packed(content) if rng.randrange(40) else rng.choice(SPECIAL)}}


def attempt_artefact(case: Case, folder: Path) -> None:
    """A sheet is clips or a reason; samples load or are refused as the docstring says."""
    for name, content in artefacts().items():
        (folder / name).write_bytes(content)
    place(folder, case["files"])
    record: Record = report_factory.record("dit:DiT-XS/2", 0, artefacts={"sheet": "sheet.npz", "samples": "samples.npz"})
    cell = CellResult(
        name="x", axes={}, seed=0, fingerprint="0", folder="x", contender="x", path=folder, record=record, status="ok", reason=None
    )
    sheet = load_sheet(cell)
    if not isinstance(sheet, str):
        for k in range(min(len(sheet.real), len(sheet.generated))):
            sheet.clip(sheet.real, k)
    try:
        load_frames(folder / "samples.npz")
    except KeyError as error:
        raise Refusal(f"samples.npz: {error}") from error


DOMAINS = (
    Domain(name="arrays", share=9, draw=draw_collection, attempt=attempt_collection),
    Domain(name="artefacts", share=4, draw=draw_artefact, attempt=attempt_artefact),
)
