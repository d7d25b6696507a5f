"""A study -> the same study with its tuned fields settled, by trials of its own or by those of an earlier run. Knows no torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.data.progress import Say
from bench.records.choice import chosen, group_of
from bench.records.record import Record
from bench.records.store import latest, read_run
from bench.run.tune.by_size import rates_by_size
from bench.shapes import Refusal
from bench.study.matrix import NamedCell, Study, check_tuned
from bench.study.trials import Point, best, contender_of, contenders_of, differs, num_rungs, points, trial_study, with_values
from bench.study.tune import Tune, Tuning

MOST_STEPS = 8  # by which a grid is widened on either side
CHECKOUT = Path(__file__).parents[3]  # where a shipped matrix finds what it names
Train = Callable[[Study], list[Record]]  # runs a study; the records of its cells
Params = Callable[[Study], Mapping[str, int]]  # backbone -> its parameters, of all cells of a study


def tuned(study: Study, say: Say, train: Train | None, params: Params = lambda study: {}) -> Study:
    """The study with the fields of every contender chosen; `train` runs the trials, and None leaves fields that await them as they are.

    `params` counts the parameters of its backbones, which rates by size ask for.

    Refusal where a choice is at the edge of its grid, a trial failed, or an earlier tuning is not there.
    """
    matrix = study.matrix
    if matrix.tuned is not None:
        return _earlier(study, matrix.tuned, say, params)
    if matrix.tuned_rule != "same":
        raise Refusal(
            f"tuned_rule {matrix.tuned_rule} needs the trials of a finished tuning; name it: tuned=results/{study.name}-rates-tuning"
        )
    if matrix.tune is None:
        return study
    if train is None:
        num, grid = len(contenders_of(study, matrix.tune)), matrix.tune.grid
        trials = num * len(points(grid)) * len(matrix.tune.seeds)
        say(f"{study.name}: tuned first, by {trials} trials: contenders {num}, points {len(points(grid))}, seeds {len(matrix.tune.seeds)}")
        return study
    return _applied(study, TrialSearch(study, matrix.tune, train).run(), say)


class TrialSearch:
    """The trials of a study's own tuning, until every contender has its choice."""

    def __init__(self, study: Study, tune: Tune, train: Train):
        self.study, self.tune, self.train = study, tune, train
        self.grid = {name: list(values) for name, values in tune.grid.items()}
        self.contenders = contenders_of(study, tune)

    def run(self) -> list[tuple[Record, Tuning]]:
        """A record of each contender and budget, and its choice."""
        found = self._by_halving() if self.tune.halving else self._by_grid()
        if not self.tune.extend:
            return found
        steps: dict[tuple[str, bool], int] = {}
        while ends := self._ends(found):
            for name, upper in ends:
                steps[name, upper] = steps.get((name, upper), 0) + 1
                if steps[name, upper] > MOST_STEPS:
                    raise Refusal(f"tune.{name}: the best value is still at the end of {self.grid[name]}; look at why")
                self.grid[name] = widened(self.grid[name], upper)
            found = self._by_grid()
        return found

    def _by_grid(self) -> list[tuple[Record, Tuning]]:
        """Every point at the full budget."""
        every = points(self.grid)
        return chosen(self.train(trial_study(self.study, self.tune, dict.fromkeys(self.contenders, every))), self.tune)

    def _by_halving(self) -> list[tuple[Record, Tuning]]:
        """All points at a part of the budget, the best at more of it, until so few are left that they have it all."""
        assert self.tune.halving
        left: Mapping[str, Sequence[Point]] = dict.fromkeys(self.contenders, points(self.grid))
        num, rungs = len(points(self.grid)), num_rungs(len(points(self.grid)), self.tune.halving)
        cells: tuple[NamedCell, ...] = ()
        found: list[tuple[Record, Tuning]] = []
        for rung in range(rungs):
            study = trial_study(self.study, self.tune, left, self.tune.halving ** (rung + 1.0 - rungs))
            cells += study.cells  # those of the rungs before are finished, and listed again
            found = chosen(self.train(study.model_copy(update={"cells": cells})), self.tune)
            num = -(-num // self.tune.halving)
            left = {contender_of(record.cell, self.tune.grid): best(tuning.full, num) for record, tuning in found}
        return found

    def _ends(self, found: Sequence[tuple[Record, Tuning]]) -> list[tuple[str, bool]]:
        """(field, whether its upper end) where any contender's choice is at an end of the grid: all contenders get the wider one."""
        ends = [(name, tuning.chosen[name] == max(self.grid[name])) for _, tuning in found for name in tuning.at_edge]
        return list(dict.fromkeys(ends))


def widened(values: Sequence[float], upper: bool) -> list[float]:
    """A grid with one more value at an end, as far from it as its neighbour is, by ratio; of two significant digits.

    >>> widened([1e-3, 2e-3, 4e-3], True), widened([0.0, 0.1], False)
    ([0.001, 0.002, 0.004, 0.008], [0.0, 0.1])
    """
    ordered = sorted(values)
    end, neighbour = (ordered[-1], ordered[-2]) if upper else (ordered[0], ordered[1])
    if end <= 0 or neighbour <= 0:  # nothing lies beyond 0
        return list(values)
    further = end * end / neighbour
    further = round(further) if all(isinstance(value, int) for value in values) else float(f"{further:.2g}")
    return list(values) if further in values or further == 0 else [*values, further] if upper else [further, *values]


def _applied(study: Study, found: Sequence[tuple[Record, Tuning]], say: Say) -> Study:
    """The study with each contender's own choice. Refusal where one is at the edge of its grid."""
    assert study.matrix.tune
    tune, cells = study.matrix.tune, []
    edges: list[str] = []
    choices = {group_of(record.cell, tune): (record, tuning) for record, tuning in found}
    said: dict[str, None] = {}
    for named in study.cells:
        record, tuning = choices.get(group_of(named.cell, tune)) or _nearest(named, found, tune)
        edges += [
            f"tune.{name}: the best of {named.cell.backbone}, {tuning.chosen[name]}, is the last of the values tried: a better one may lie "
            "beyond, and the comparison would not be valid; give it more values there, or tune.extend=true"
            for name in tuning.at_edge
        ]
        said[f"{named.cell.backbone}: {_words(tuning)}"] = None
        own_way = tuning.model_copy(update={"differs": differs(record.cell, named.cell, tune.grid)})
        cells.append(named.model_copy(update={"cell": with_values(named.cell, tuning.chosen), "tuning": own_way}))
    if edges:
        raise Refusal(*dict.fromkeys(edges))
    for line in said:
        say(line)
    return study.model_copy(update={"cells": tuple(cells)})


def _nearest(named: NamedCell, found: Sequence[tuple[Record, Tuning]], tune: Tune) -> tuple[Record, Tuning]:
    """The choice of a cell that had no trials: that of its backbone, with the fewest other differences. Refusal where that had none."""
    alike = [each for each in found if each[0].cell.backbone == named.cell.backbone]
    if not alike:
        raise Refusal(
            f"tune.further is false, and {named.cell.backbone} of cell {named.name} is under include alone, so nothing tunes it; "
            "give it under axes, or tune.further=true"
        )
    return min(alike, key=lambda each: len(differs(each[0].cell, named.cell, tune.grid)))


def _earlier(study: Study, folder: str, say: Say, params: Params) -> Study:
    """The study with the choices of a finished tuning, each with what it was made with otherwise; without one a cell stays as it is."""
    path = next((place for place in (Path(folder), CHECKOUT / folder) if place.is_dir()), None)
    if path is None:
        raise Refusal(f"tuned: there is no folder {folder}; name a finished tuning, as results/{study.name}-tuning, or none: tuned=null")
    run = read_run(path)
    if run.tunes is None:
        raise Refusal(
            f"tuned: {folder} is a run that tunes nothing; name a finished tuning, as results/{study.name}-tuning, or none: tuned=null"
        )
    check_tuned(run.tunes, study.words)
    records = [latest(path / cell.folder) for cell in run.cells]
    if missing := [cell.name for cell, record in zip(run.cells, records, strict=True) if record is None]:
        raise Refusal(f"tuned: {folder} has no record of {missing[0]}; finish that tuning, or take none: tuned=null")
    found = chosen([record for record in records if record], run.tunes)
    if study.matrix.tuned_rule == "size":
        return rates_by_size(study, found, run.tunes, params(study), say)
    cells = []
    for named in study.cells:
        alike = [(record.cell, tuning) for record, tuning in found if record.cell.backbone == named.cell.backbone]
        if not alike:
            say(f"{named.cell.backbone}: {folder} has not tuned it; it keeps the fields of the matrix, and the report says so")
            cells.append(named)
            continue
        apart = [(differs(trial, named.cell, run.tunes.grid), tuning) for trial, tuning in alike]
        least, tuning = min(apart, key=lambda each: len(each[0]))
        tuning = tuning.model_copy(update={"differs": least})
        cells.append(named.model_copy(update={"cell": with_values(named.cell, tuning.chosen), "tuning": tuning}))
    return study.model_copy(update={"cells": tuple(cells)})


def _words(tuning: Tuning) -> str:
    values = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in tuning.chosen.items())
    return f"{values}, by {tuning.by} of {len(tuning.trials)} trials"
