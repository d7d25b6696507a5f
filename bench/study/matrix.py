"""Matrices: YAML and `key=value` overrides in, a list of cells out. Knows no torch.

A matrix has `defaults` (fields of a cell), `axes` (dotted field -> values; the cells are their product), `include` (further
cells), `exclude` (cells to leave out, by the fields given), and `seeds`.
"""

import copy
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from bench.backbone import canonical_name, short_name, split_name
from bench.data.frozen import Frozen, content_hash, dotted, explain, flatten
from bench.shapes import Refusal, did_you_mean, told_of
from bench.study.cell import Cell
from bench.study.contrasts import Contrasts, Side, contrasts_of
from bench.study.forecast import Forecast, check_forecast
from bench.study.looks import Looks
from bench.study.scale import Scaling
from bench.study.tree import read_tree, read_value
from bench.study.tune import Tune, Tuning

MATRICES = Path(__file__).parent / "matrices"
MOST_OF_A_NAME = 80  # letters of a cell's name that its backbone may take
MOST_SHOWN = 200  # letters of an override that is refused
NOT_RUNS = ("cache", "reference")  # folders of `results/` that hold something else
MOST_CELLS = 10_000  # of a matrix, before `exclude`
# What rivals may be matched on -> the measurement of a record that this fixes: nobody can win it.
MATCHED = {"params": "num_params", "flops": "flops_per_clip", "step_time": "step_time_s", "peak_memory": "peak_storage_bytes"}
COUNTED = ("params", "flops")  # of these, what is known without taking a step


class Match(Frozen):
    """On what rivals are matched; the mismatch is measured, printed, and must stay within the tolerance.

    With `to`, every other backbone is given the width and depth that match that one's cost; without, the sizes are as named and checked.
    """

    by: Literal["params", "flops", "step_time", "peak_memory"]  # what is to be equal; the last two need `to`
    to: str | None = None  # a backbone of the matrix, in full or without its module
    tolerance: float = Field(0.05, gt=0)  # largest relative difference between rivals

    @model_validator(mode="after")
    def _needs_a_target(self) -> Self:
        if self.to is None and self.by not in COUNTED:
            raise Refusal(f"match.by {self.by} is found by sizing one backbone to another: name it with `to`")
        return self


class Matrix(Frozen):
    """A study before it is expanded."""

    description: str  # a sentence or two, told under the report's protocol
    claim: str | None = None  # id of the claim under test, as the report names it
    primary: str | None = "fvd"  # the distance that the headline rests on, named before the run; null: no headline on quality
    defaults: dict[str, Any] = Field(default_factory=dict)  # keys of every cell, nested
    axes: dict[str, list[Any]] = Field(default_factory=dict)  # dotted field of a cell -> values
    include: list[dict[str, Any]] = Field(default_factory=list)  # further cells: what each sets over defaults; beside `axes` no headline
    exclude: list[dict[str, Any]] = Field(default_factory=list)  # cells to leave out: those with all values of one of these
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)  # repeats of every cell; a claim needs three
    contrasts: dict[str, list[Side]] = Field(default_factory=dict)  # title -> two contenders: with any, the headline rests on these alone
    match: Match | None = None  # None: rivals may cost what they cost
    tune: Tune | None = None  # null: rivals have the fields that the matrix gives them, tuned or not
    forecast: Forecast | None = None  # null: all cells train, and none is predicted
    tuned: str | None = None  # folder of a finished tuning, as results/backbone-tuning, whose choice is taken in the place of `tune`
    tuned_rule: Literal["same", "size"] = "same"  # size: a backbone's learning rate is on the line through those of its family's sizes

    @model_validator(mode="after")
    def _contrasts_are_judged(self) -> Self:
        if self.contrasts and self.primary is None:
            raise Refusal("contrasts are judged by the primary measure, and primary is null; name one, or contrasts={}")
        return self

    @model_validator(mode="after")
    def _trials_apart(self) -> Self:
        if self.tune is None:
            return self
        if shared := sorted(set(self.tune.seeds) & set(self.seeds)):
            raise Refusal(
                f"tune.seeds has {shared[0]}, which is a seed of the study; what chooses fields cannot also judge them: use others"
            )
        points = [*self.axes, *(key for extra in self.include for key in flatten(extra))]
        if twice := [name for name in self.tune.grid if name in points]:
            raise Refusal(f"{twice[0]} is an axis of the matrix and under tune; it can be compared or tuned, not both: remove one")
        return self


class MatchProof(Frozen):
    """How a backbone came to its size, and that it fits."""

    by: str
    to: str  # the backbone that is matched
    asked: str  # the backbone as the matrix names it
    found: str  # the same, sized
    target: float  # what `to` costs: parameters, FLOPs, seconds or bytes
    value: float  # what `found` costs
    mismatch: float  # larger over smaller, less 1
    tolerance: float
    how: str  # counted, measured
    tried: tuple[tuple[str, float], ...]  # candidates and what they cost, in order
    raw: dict[str, list[float]]  # of a measured axis: backbone -> seconds of alternating steps


class NamedCell(Frozen):
    """A cell and how the matrix speaks of it."""

    name: str  # axis values and seed, fit for a folder name
    axes: dict[str, Any]  # dotted field -> value
    cell: Cell
    match: MatchProof | None = None  # how its backbone came to its size, where it was sized to match another
    tuning: Tuning | None = None  # how its tuned fields were chosen, where they were
    further: bool = False  # of `include` in a matrix that has `axes`: no headline rests on it

    @property
    def folder(self) -> str:
        """Its folder inside the run's. The fingerprint is part of it, so that an override never overwrites."""
        return f"{self.name}-{self.cell.fingerprint()[:8]}"


class Study(Frozen):
    """A matrix, resolved."""

    name: str
    matrix: Matrix
    cells: tuple[NamedCell, ...]
    tunes: Tune | None = None  # what its cells are the trials of; None: it tunes nothing
    until_decided: Looks | None = None  # seeds are added until the headline is carried; None: they are fixed
    scaling: Scaling | None = None  # how it was made smaller to fit a time, where it was
    track: tuple[str, ...] = ()  # trackers that are told how its cells go
    words: tuple[str, ...] = Field((), exclude=True)  # as the command line has them: its matrix and the overrides

    @property
    def contrasts(self) -> Contrasts:
        """Title -> the axes of both contenders, as its cells have them now."""
        return contrasts_of(self.matrix.contrasts, self.cells, self.matrix.claim)

    def rivals(self) -> list[tuple[NamedCell, NamedCell]]:
        """Pairs of cells that differ in their backbone and agree on every other axis and the seed."""
        alike: dict[str, list[int]] = {}  # what they agree on -> places of cells: of ten thousand cells all pairs are too many
        for place, named in enumerate(self.cells):
            alike.setdefault(content_hash({**named.axes, "seed": named.cell.seed, "backbone": None}), []).append(place)
        pairs = sorted(pair for places in alike.values() for pair in itertools.combinations(places, 2))
        cells = self.cells
        return [(cells[a], cells[b]) for a, b in pairs if cells[a].cell.backbone != cells[b].cell.backbone]


def load_study(name: str, overrides: list[str] | None = None) -> Study:
    """The study of a shipped matrix ("quick") or of a YAML file, after overrides. Refusal says what is wrong with either."""
    path = find_matrix(name)
    with told_of(f"matrix {path}"):
        _check_name(path.stem)
        tree = _read(path)
    if not isinstance(tree, dict):
        raise Refusal(f"matrix {path}: expected a mapping with description, defaults and axes")
    for override in overrides or []:
        with told_of(f"override {override if len(override) <= MOST_SHOWN else override[:MOST_SHOWN] + '...'!r}"):
            _apply(tree, override)
    try:
        matrix = Matrix.model_validate(tree)
    except ValidationError as error:
        raise Refusal(f"matrix {path.stem}: {explain(error, Matrix)}") from error
    if matrix.tune is not None:
        check_tuned(matrix.tune, overrides or [])
    cells = tuple(expand(path.stem, matrix))
    if matrix.forecast is not None:
        with told_of(f"matrix {path.stem}"):
            matrix = matrix.model_copy(update={"forecast": check_forecast(matrix.forecast, cells)})
    study = Study(name=path.stem, matrix=matrix, cells=cells, words=(name, *(overrides or [])))
    with told_of(f"matrix {path.stem}"):
        _ = study.contrasts  # refused here, and not after the first cell
    return study


def check_tuned(tune: Tune, overrides: Iterable[str]) -> None:
    """Refusal for an override of a field that is tuned: the choice would take its place."""
    for override in overrides:
        if (key := override.partition("=")[0]) in tune.grid:
            raise Refusal(f"override {override!r}: {key} is tuned, and its choice would take the place; to set it: tune=null tuned=null")


def _check_name(name: str) -> None:
    """Refusal for a name that cannot be that of a run's folder, `results/<name>/`."""
    if name.startswith(".") or not name.isprintable() or name in NOT_RUNS:
        raise Refusal(f"a run's folder cannot be called {name!r}, as its matrix is; rename the file")


def _read(path: Path) -> Any:
    try:
        return read_tree(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"not readable as text in UTF-8 ({error})") from error


def find_matrix(name: str) -> Path:
    """Path of a matrix: a file, or the name of a shipped one."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise Refusal(f"no matrix file {name}")
        return Path(name)
    path = MATRICES / f"{name}.yaml"
    if not path.is_file():
        raise Refusal(f"unknown matrix {name!r}{did_you_mean(name, shipped())}; there are {', '.join(shipped())}, or give a .yaml file")
    return path


def shipped() -> list[str]:
    """Names of the matrices in this package."""
    return sorted(path.stem for path in MATRICES.glob("*.yaml"))


def expand(name: str, matrix: Matrix, sized: Callable[[Cell], MatchProof | None] = lambda cell: None) -> list[NamedCell]:
    """The cells of a matrix; `sized` gives a cell's backbone another size."""
    with told_of(f"matrix {name}"):
        return _cells(matrix, sized)


def _cells(matrix: Matrix, sized: Callable[[Cell], MatchProof | None]) -> list[NamedCell]:
    num_cells = (math.prod(map(len, matrix.axes.values())) + len(matrix.include)) * len(matrix.seeds)
    if num_cells > MOST_CELLS:
        raise Refusal(f"{num_cells:,} cells, at most {MOST_CELLS:,} can be; give `axes` fewer values")
    points: list[dict[str, Any]] = [
        dict(zip(matrix.axes, values, strict=True)) for values in itertools.product(*matrix.axes.values()) if matrix.axes
    ]
    # A backbone may be written as a mapping, and is one name before anything is dotted.
    points = [_with_one_name(point) for point in points] + [flatten(_with_one_name(extra)) for extra in matrix.include]
    exclude = [flatten(_with_one_name(rule)) for rule in matrix.exclude]
    if not points:
        raise Refusal("no cells; give `axes` with at least one value each, or `include`")
    short = are_short(str(point.get("backbone", matrix.defaults.get("backbone"))) for point in points)
    cells: list[NamedCell] = []
    num_main = len(points) - len(matrix.include) or len(points)
    for (place, point), seed in itertools.product(enumerate(points), matrix.seeds):
        fields: dict[str, Any] = copy.deepcopy(matrix.defaults)
        fields["seed"] = seed
        if any(key.startswith("budget.") for key in point):  # it has one axis, and that of the defaults gives way
            fields["budget"] = {}
        for key, value in point.items():
            set_field(fields, key, value)
        flat = flatten(_with_one_name(fields))
        if flat.get("evaluation.untrained") == "once":
            fields["evaluation"]["untrained"] = seed == matrix.seeds[0]
        if any(all(flat.get(key) == value for key, value in rule.items()) for rule in exclude):
            continue
        slug = cell_name(point, fields["seed"], short)
        try:
            cell = Cell.model_validate(fields)
        except ValidationError as error:
            lists = any(isinstance(each["input"], list) and "list" not in each["type"] for each in error.errors())
            hint = "; a list makes an axis only under `axes` of a matrix file" if lists else ""
            raise Refusal(f"cell {slug}: {explain(error, Cell)}{hint}") from error
        proof = sized(cell)
        if proof is not None and proof.found != cell.backbone:
            point = {**point, "backbone": proof.found}
            cell, slug = cell.model_copy(update={"backbone": proof.found}), cell_name(point, seed, short)
        cells.append(NamedCell(name=slug, axes=point, cell=cell, match=proof, further=place >= num_main))
    if not cells:
        raise Refusal("`exclude` leaves no cell")
    for kind, keys in (("content", [named.cell.fingerprint() for named in cells]), ("name", [named.name for named in cells])):
        counts = Counter(keys)
        for named, key in zip(cells, keys, strict=True):
            if counts[key] > 1:
                raise Refusal(f"two cells have the {kind} of {named.name}; remove or change one in axes, include or seeds")
    return cells


def _with_one_name(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a cell with the backbone's name as cells hold it. Refusal where it is not one."""
    return {**fields, "backbone": canonical_name(fields["backbone"])} if "backbone" in fields else fields


def are_short(backbones: Iterable[str]) -> bool:
    """Whether "DiT-XS/2" says which of them, without its module."""
    names = set(backbones)
    return len({short_name(name) for name in names}) == len(names)


def cell_name(point: dict[str, Any], seed: int, short: bool) -> str:
    words = [
        _backbone_slug(str(value), short) if key == "backbone" else f"{key.rpartition('.')[2]}={value}" for key, value in point.items()
    ]
    text = "-".join([*words, f"seed{seed}"])
    return "".join(letter if letter.isalnum() or letter in "-_.=" else "_" for letter in text)[:120]


def _backbone_slug(name: str, short: bool) -> str:
    """'dit:DiT-XS/2{depth: 5}' -> 'DiT-XS/2-depth=5'; where that is long, a hash stands for the changes."""
    plain, changes = split_name(short_name(name) if short else name)
    slug = "-".join([plain, *(f"{key}={_value_slug(value)}" for key, value in changes.items())])
    return slug if len(slug) <= MOST_OF_A_NAME else f"{plain}-{content_hash(changes)[:8]}"


def _value_slug(value: Any) -> str:
    return "_".join(map(_value_slug, value)) if isinstance(value, list) else str(value)


def _apply(tree: dict[str, Any], override: str) -> None:
    """`seeds=[0,1]` sets a field of the matrix; any other key is a field of the cells, and takes the place of an axis of that name."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise Refusal("it is not key=value, for example budget.steps=100")
    with told_of("the value"):
        value = read_value(text)
    _check_parts(tree)
    head = key.partition(".")[0]
    if head in Matrix.model_fields:
        set_field(tree, key, value)
        return
    if head not in Cell.model_fields:
        inner = [name for name in dotted(Cell) if name.rpartition(".")[2] == {"lr": "learning_rate"}.get(head, head)]
        near = f" (did you mean {' or '.join(inner)}?)" if inner else did_you_mean(head, [*Cell.model_fields, *Matrix.model_fields])
        raise Refusal(f"unknown field {head!r}{near}")
    if head == "seed":
        raise Refusal(f"seeds are an axis of their own; use seeds=[{text}]")
    for cell in tree.get("include") or []:
        for own in flatten(cell):
            if f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}."):
                raise Refusal(
                    f"the cells that this matrix lists under `include` have their own {own!r}, which would win; "
                    "copy the matrix and change them there"
                )
    axes = tree["axes"]
    if "." in key and head in axes:  # each of its values is whole, and would take the place of this one
        raise Refusal(f"{head!r} is an axis of this matrix; give its values whole, {head}=[...]")
    if key in axes:
        axes[key] = value if isinstance(value, list) else [value]
    elif key.startswith("budget."):  # a budget has one axis: setting another replaces it
        tree["defaults"]["budget"] = {key.partition(".")[2]: value}
    else:
        set_field(tree["defaults"], key, value)


def _check_parts(tree: dict[str, Any]) -> None:
    """Refusal where an override would reach into a part of a matrix that is not what its model says."""
    for part in ("defaults", "axes"):
        if not isinstance(tree.setdefault(part, {}), dict):
            raise Refusal(f"{part!r} of the matrix is {tree[part]!r}, not a mapping of fields")
    cells = tree.get("include") or []
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise Refusal(f"`include` of the matrix is {cells!r}, not a list of mappings of fields")


def set_field(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key. Refusal where something else than a mapping is on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise Refusal(f"field {key!r}: {parent!r} holds the value {child!r}, so nothing can be set inside it")
        tree = child
    tree[last] = value
