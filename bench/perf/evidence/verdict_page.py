"""What simulated studies said, as a page and a picture: false claims of equal contenders, and true differences found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.perf.evidence.evidence import kept, share
from bench.perf.evidence.verdicts import FAR, GATE_POLICY, SHIFT, SPREAD
from bench.perf.gate import quality
from bench.report.render.markdown import markdown_table
from bench.report.render.svg import COLOURS, GRID, MARKERS, figure, to_svg
from bench.report.verdicts.claims import ALPHA, LEVELS

PICTURE = "verdicts.svg"
MOST_FALSE, LEAST_FOUND = ALPHA, 0.80
PROMISED = (2, 5)  # contenders and seeds of the difference that must be found


def to_markdown(rows: pd.DataFrame, gate: pd.DataFrame, tests: pd.DataFrame, rivals: pd.DataFrame, studies: int) -> str:
    """The page. `rows`, `gate`, `tests` as `verdicts.main` counts them, `rivals` as `seed_noise.correlations` gives them."""
    beside = (rows["rivals"] < 0) | (rows["within"] > 0) | (rows["spread"] != SPREAD)
    equal, planted = rows[(rows["shift"] == 0) & ~beside], rows[rows["shift"] > 0]
    worst = equal.sort_values("page").iloc[-1]
    promised = planted[(planted["contenders"] == PROMISED[0]) & (planted["seeds"] == PROMISED[1]) & (planted["claim"] == "backbone")]
    quality_rows = rivals[rivals["group"] == "quality"]
    mean = float(np.average(quality_rows["correlation"], weights=quality_rows["pairs"] * (quality_rows["seeds"] - 1)))
    where = f"{worst['claim']}, {worst['contenders']} contenders, {worst['seeds']} seeds, {worst['law']}"
    found, called = promised["right"].min(), gate["called"].max()
    promises = [
        (
            f"of studies of equal contenders at most {MOST_FALSE:.0%} claim anything, anywhere on the page",
            f"at most {worst['page']:.1%} ({where})",
            kept(worst["page"] <= MOST_FALSE),
        ),
        (
            f"a difference of {SHIFT} seed deviations between two contenders of five seeds is found in at least {LEAST_FOUND:.0%}",
            f"at least {found:.1%}",
            kept(found >= LEAST_FOUND),
        ),
        (
            f"of pairs of equal runs the quality gate calls at most {quality.ALPHA:.0%} worse or better",
            f"at most {called:.1%}",
            kept(called <= quality.ALPHA),
        ),
    ]
    lines = [
        "# How often a page claims what is not so, and finds what is",
        "",
        f"Made by `python -m bench.perf.evidence.verdicts`. Each row counts {studies} simulated studies (the standard error of 5 % is "
        f"{100 * np.sqrt(0.05 * 0.95 / studies):.1f} points), judged by the report's own rules (`bench/report/verdicts/claims.py`): the",
        f"headline's tests at {LEVELS['headline']:.1%} together, all others of the page at {LEVELS['rest']:.1%} together (Holm), each by",
        "Welch's test over seeds. Noise is of recorded studies (last section): normal with the recorded correlations of measures, or the",
        "recorded residuals drawn again, smoothed, which is near normal too. Contenders' seed deviations differ by a factor",
        f"exp({SPREAD} z) where they are equal in mean. `rivals`: correlation of contenders at one seed.",
        "",
        markdown_table(("promise", "found", "kept"), promises),
        "",
        f"![Shares of studies that claim something, by seeds]({PICTURE})",
        "",
        "## Equal contenders: every claim is false",
        "",
        "Those of `physics` are as good as the best floor, too.",
        "",
        markdown_table(
            ("claim", "contenders", "seeds", "noise", "rivals", "headline claims", "page claims anything"),
            [(*_facts(row), share(row["headline"]), share(row["page"])) for row in equal.to_dict("records")],
        ),
        "",
        "## Beside the promise: what it rests on",
        "",
        "Equal contenders again, where the noise is not what was recorded: rivals that move against one another, backbones that move",
        "together under one policy (`within`) and not under another, seed deviations of contenders that differ by exp(z).",
        "",
        markdown_table(
            ("claim", "contenders", "seeds", "noise", "rivals", "within", "spread", "headline claims", "page claims anything"),
            [
                (*_facts(row), f"{row['within']:+.2f}", f"{row['spread']:g}", share(row["headline"]), share(row["page"]))
                for row in rows[beside].to_dict("records")
            ],
        ),
        "",
        f"## One contender better by {SHIFT} seed deviations on the measure that decides",
        "",
        f"Of `shapes`, everything that is not cropped; of `physics` {FAR:g} deviations below the floor, inside and outside, which two",
        "tests of five must carry; of `next-patch` the first of three contrasts, each of two among the five contenders. To lead is to",
        "beat every other contender, so with more of them, all equal but one, it takes more: the best of five rivals is nearer by",
        "chance than one rival is.",
        "",
        markdown_table(
            ("claim", "contenders", "seeds", "noise", "rivals", "headline says so", "headline says another thing"),
            [(*_facts(row), share(row["right"]), share(row["headline"] - row["right"])) for row in planted.to_dict("records")],
        ),
        "",
        "## The quality gate",
        "",
        f"Two runs of two contenders that are equal, growth that passes {GATE_POLICY}.",
        "",
        markdown_table(
            ("seeds", "seed noise", "called worse or better"),
            [(str(row["seeds"]), share(row["noise"], 0), share(row["called"])) for row in gate.to_dict("records")],
        ),
        "",
        "## Why the test is not paired",
        "",
        "Rivals share data order, noise and timesteps seed by seed. If their values rose and fell together, a paired test would find",
        "more; if not, it wastes half the degrees of freedom. Over the quality measures of the recorded studies the mean correlation is",
        f"{mean:+.2f}.",
        "Decided once, for every test on every page: not paired. Rates do correlate, as both drift with the machine; a test that is not",
        "paired is then too careful.",
        "",
        markdown_table(
            ("study", "measure", "pairs of contenders", "seeds", "mean correlation at one seed", "standard error, pairs as independent"),
            [
                (
                    r["study"],
                    f"`{r['measure']}`",
                    str(r["pairs"]),
                    str(r["seeds"]),
                    f"{r['correlation']:+.2f}",
                    "" if pd.isna(r["error"]) else f"{r['error']:.2f}",
                )
                for r in rivals.sort_values(["study", "group", "measure"]).to_dict("records")
            ],
        ),
        "",
        f"A difference of {SHIFT} deviations found at 5 %, two contenders:",
        "",
        markdown_table(
            ("seeds", "correlation", "Welch", "paired"),
            [(str(r["seeds"]), f"{r['rivals']:+.2f}", share(r["welch"]), share(r["paired"])) for r in tests.to_dict("records")],
        ),
        "",
    ]
    return "\n".join(lines)


def picture(rows: pd.DataFrame) -> str:
    """Shares of studies against seeds: equal contenders on the left, a true difference on the right; a line a number of contenders."""
    with figure("verdicts", 9.0, 3.6) as drawn:
        left, right = drawn.subplots(1, 2)
        promised = (rows["rivals"] >= 0) & (rows["within"] == 0) & (rows["spread"] == SPREAD)
        panels = ((left, rows[(rows["shift"] == 0) & promised], "page", max), (right, rows[rows["shift"] == SHIFT], "right", min))
        for axes, part, column, worst in panels:
            for place, ((claim, contenders), own) in enumerate(part.groupby(["claim", "contenders"])):
                shares = own.groupby("seeds")[column].agg(worst)
                axes.plot(
                    shares.index, 100 * shares, color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], markersize=4,
                    label=f"{claim}, {contenders} contenders",
                )  # fmt: skip
            axes.set_xlabel("seeds of each contender")
            axes.set_xticks(sorted(part["seeds"].unique()))
            axes.grid(color=GRID, linewidth=0.6)
        left.axhline(100 * MOST_FALSE, color="black", linestyle=":", linewidth=1)
        right.axhline(100 * LEAST_FOUND, color="black", linestyle=":", linewidth=1)
        left.set_ylim(0, max(6.0, left.get_ylim()[1]))
        right.set_ylim(0, 103)
        left.set_title("Equal contenders: the page claims something, %")
        right.set_title(f"A difference of {SHIFT} deviations: the headline says so, %")
        handles, labels = left.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right center")
        return to_svg(drawn)


def _facts(row: Mapping[Any, Any]) -> Sequence[str]:
    return str(row["claim"]), str(row["contenders"]), str(row["seeds"]), str(row["law"]), f"{row['rivals']:+.2f}"
