"""What simulated studies of scaling said, as a page: how often intervals hold, and how often a claim is made that is not so."""

import numpy as np
import pandas as pd

from bench.perf.evidence.evidence import kept
from bench.report.render.markdown import markdown_table
from bench.report.scaling.foresight import LEVEL
from bench.report.scaling.rule import CARRIED, INSIDE

KINDS = ("exponents", "differences", "E", "mean held-out losses", "held-out losses")
HOLD = (0.90, 0.98)  # shares of 95 % intervals that are to hold, in whole percent: so many studies do not tell more
MOST_WRONG = 0.05  # of studies whose claim is not so
TRUTH = {"steeper claimed": "one gains more", "steady claimed": "the second improves steadily"}


def to_markdown(rows: pd.DataFrame, studies: int) -> str:
    """The page. `rows` as `scaling.main` counts them."""
    error = 100 * np.sqrt(0.05 * 0.95 / studies)
    lines = [
        "# Do the intervals of a scaling law hold?",
        "",
        f"Made by `python -m bench.perf.evidence.scaling`. Each row counts {studies} simulated studies of known exponents, of the shape",
        f"of matrix `scaling`, judged by the report's own rules (`bench/report/scaling/`); of 5 % the standard error is {error:.1f}.",
        "A law is fitted to four sizes, four budgets of a run each and two seeds of two backbones; a fifth size is held out. Errors are",
        f"those of a jackknife over runs (`interval.py`). Intervals here are at {LEVEL:.0%}, claims at {CARRIED:.1%}. Steady growth is",
        f"claimed where both gains are above 0 and {INSIDE:.0%} of the held-out losses are inside their intervals.",
        "",
        markdown_table(("promise", "found", "kept"), _promises(rows)),
        "",
        "## How often an interval holds the truth",
        "",
        markdown_table(("studies", *KINDS), [(row["name"], *(_share(row, kind) for kind in KINDS)) for _, row in rows.iterrows()]),
        "",
        "A held-out loss is one run's, so its interval has that run's luck in it; a mean one is the law's alone. Where size or data give",
        "nothing, an exponent has no value and is left out.",
        "",
        "## What is claimed",
        "",
        markdown_table(("studies", *TRUTH.values()), [(row["name"], *(_share(row, kind) for kind in TRUTH)) for _, row in rows.iterrows()]),
        "",
        "Of equal backbones every claim that one gains more is false; of a backbone that size or data give nothing, that it improves",
        "steadily. The others show how often what is so is found.",
    ]
    return "\n".join(lines) + "\n"


def _promises(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    held = rows[["exponents", "differences", "mean held-out losses"]].melt()["value"]
    runs, equal = rows["held-out losses"], rows[rows["equal"]]
    nothing = rows[rows["name"].str.contains("nothing")]
    found = []
    for name, values in (
        ("intervals of exponents, their differences and mean held-out losses", held),
        ("intervals of held-out losses", runs),
    ):
        ends = f"{values.min():.1%} to {values.max():.1%}"
        found.append(
            (
                f"{name} hold in {HOLD[0]:.0%} to {HOLD[1]:.0%}, in whole percent",
                ends,
                kept(bool(HOLD[0] <= values.round(2).min() and values.round(2).max() <= HOLD[1])),
            )
        )
    found.append(("those of E hold in 90% or more", f"at least {rows['E'].min():.1%}", kept(bool(rows["E"].min() >= HOLD[0]))))
    for name, values in (
        ("of equal backbones one is said to gain more in at most 5 %", equal["steeper claimed"]),
        ("where size or data give nothing, steady growth is claimed in at most 5 %", nothing["steady claimed"]),
    ):
        found.append((name, f"at most {values.max():.1%}", kept(bool(values.max() <= MOST_WRONG))))
    return found


def _share(row: pd.Series, kind: str) -> str:
    return "" if pd.isna(row[kind]) else f"{row[kind]:.1%}"
