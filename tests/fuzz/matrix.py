"""Matrices as YAML text and as trees, and overrides: what `run`, `validate` and `audit` do with them before any process starts."""

import functools
from pathlib import Path
from random import Random
from typing import Any

import yaml

from bench.commands.listing import print_study
from bench.data.frozen import flatten
from bench.data.source import load_clips
from bench.run.checks import check_all, check_cell
from bench.run.job import PrepareJob, read_job
from bench.study.cell import Cell
from bench.study.matrix import MATRICES, Matrix, Study, load_study, shipped
from tests.fuzz.case import Case, Domain, Finding, packed, unpacked
from tests.fuzz.damage import WORDS, bad_value, damaged_bytes, damaged_tree

NAMES = ("m", "m", "m", "m", "a b", "[red]", "é", "-x", "..", "x.y", "cache", "reference", "a" * 200, "\x1b[31m", "=1", "\udcff", "a\nb")
TEXTS = (
    "x: &a [*a]", "<<: {a: 1}", "? [a, b]\n: c", "!!python/object/apply:os.system ['true']", "!!set {a, b}", "!!binary aGk=", "--- \n---\n",
    "%YAML 9.9\n---\na: b", "a: 0o777", "a: 2001-01-01", "a: !!float nan", "{", "[" * 2000, "a:\n" * 3, "\t- a", "a: |\n  x\n y",
    "a: b: c", "",
    "null", "- 1", "1", "a: ${b}", "a: ${a}", "a: ${..}", "a: ${oc.env:HOME}", "a: ${oc.env:NOPE}", "a: ???", "a: *x", "&a b: *a", "é: ü",
    "1: 2", "null: 1", "true: 1", "? {a: 1}\n: 2", "a: 1\na: 2", "a: " + "9" * 5000, "a: 1:30:00", "a: 1_0", "\ufeffa: b",
    "a: " + "{b: " * 500,
)  # fmt: skip
MODEST = (
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    24,
    32,
    48,
    64,
    0.1,
    0.5,
    0.9,
    1e-4,
    "true",
    "null",
    "[0, 1]",
    "[1, 2]",
    "crop",
    "pack",
    "bf16",
    "euler",
    1e6,
    1e9,
)
BOMBS = ("a: &a [1,1,1,1,1,1,1,1]\n" + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)),)


@functools.cache
def texts() -> dict[str, str]:
    """The matrices that are shipped."""
    return {name: (MATRICES / f"{name}.yaml").read_text() for name in shipped()}


@functools.cache
def keys() -> tuple[str, ...]:
    """Dotted fields that the shipped matrices and the defaults of a cell have."""
    found = set(Matrix.model_fields)
    for name in shipped():
        study = load_study(name)
        found |= {key for named in study.cells for key in flatten(named.cell.model_dump(mode="json"))} | set(study.matrix.axes)
    return tuple(sorted(found))


def yaml_of(tree: Any) -> bytes:
    """Block style, as people write it; what YAML cannot hold is written as the text that Python gives it."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


def draw_matrix(rng: Random) -> Case:
    """A shipped matrix with its tree, its text or its bytes changed."""
    text = texts()[rng.choice(list(texts()))]
    kind = rng.randrange(12)
    if kind < 7:
        content = yaml_of(damaged_tree(rng, yaml.safe_load(text)))
    elif kind < 9:
        content = damaged_bytes(rng, text.encode(), [other.encode() for other in texts().values()])
    elif kind < 11:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        inserted = rng.choice(TEXTS) if rng.randrange(20) else rng.choice(BOMBS)
        indent = " " * rng.choice((0, 0, 2, len(lines[at]) - len(lines[at].lstrip())))
        lines[at : at + rng.randrange(2)] = [indent + line for line in inserted.splitlines()]
        content = "\n".join(lines).encode(rng.choice(("utf-8", "utf-8", "utf-16", "latin-1")), "replace")
    else:
        content = rng.choice((*TEXTS, *BOMBS, "a: " + "[" * 100_000)).encode()
    return {"name": rng.choice(NAMES), "matrix": packed(content), "overrides": [draw_override(rng)] if not rng.randrange(6) else []}


def draw_override(rng: Random) -> str:
    """`key=value` with a fitting key and any value, or worse."""
    kind = rng.randrange(10)
    key = rng.choice(keys()) if kind < 7 else rng.choice(WORDS)
    if kind in (6, 7):
        at = rng.randrange(len(key) + 1)
        key = key[:at] + rng.choice((".", "..", "x", "[", "", " ", "=", ":")) + key[at + rng.randrange(2) :]
    if rng.randrange(3) == 0:
        return f"{rng.choice(keys())}={rng.choice(MODEST)}"
    value = rng.choice(WORDS) if rng.randrange(2) else str(bad_value(rng)) if rng.randrange(6) else rng.choice(TEXTS)
    if not rng.randrange(4):
        value = f"[{value}, {rng.choice(WORDS)}]" if rng.randrange(2) else f"{{{rng.choice(keys()).rpartition('.')[2]}: {value}}}"
    return key + ("=" if rng.randrange(30) else "") + value


def draw_overrides(rng: Random) -> Case:
    """One to three overrides of a shipped matrix."""
    return {"of": rng.choice(list(texts())), "overrides": [draw_override(rng) for _ in range(rng.choice((1, 1, 2, 3)))]}


def attempt(case: Case, folder: Path) -> None:
    """What the commands do, and of what they accept the promises."""
    name = case.get("of") or str(folder / f"{case['name']}.yaml")
    if "matrix" in case:
        Path(name).write_bytes(unpacked(case["matrix"]))
    study = load_study(name, case["overrides"])
    check_all(study.cells, check_cell)
    promises(study, folder)


def promises(study: Study, folder: Path) -> None:
    """A study that is accepted reaches its processes unchanged, has folders of its own, can be shown, and has clips or says why not."""
    results = folder / "results"
    places = [results / study.name / named.folder for named in study.cells]
    for path in places:
        if path.resolve().parent != (results / study.name).resolve() or not (results / study.name).resolve().is_relative_to(results):
            raise Finding("a cell's folder is not inside the run's", path)
        if (results / study.name).resolve() in (results, results / "cache"):
            raise Finding("the run's folder is that of something else", path)
    if len(set(places)) < len(places):
        raise Finding("two cells have one folder")
    if places:
        places[0].mkdir(parents=True)
    job = PrepareJob(label="prepare", matrix=study.name, results=results, study=study, waiting=(), until="checked")
    read = read_job(job.model_dump_json())
    assert isinstance(read, PrepareJob)
    for sent, got in zip(study.cells, read.study.cells, strict=True):
        if sent.cell.fingerprint() != got.cell.fingerprint() or sent.name != got.name:
            raise Finding("a cell changes on its way to its process", sent, got)
    print_study(study)
    for cell in {num_bytes(named.cell): named.cell for named in study.cells}.values():
        if num_bytes(cell) > 10**15:
            load_clips(cell.data, results / "cache")


def num_bytes(cell: Cell) -> int:
    """Of the pixels of its clips."""
    data = cell.data
    return 3 * getattr(data, "num_train", 1) * data.num_frames * data.height * data.width


DOMAINS = (
    Domain(name="matrices", share=30, draw=draw_matrix, attempt=attempt),
    Domain(name="overrides", share=26, draw=draw_overrides, attempt=attempt),
)
