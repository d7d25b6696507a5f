"""What simulated studies said whose seeds grow, as a page and a picture: false leads, finds, seeds taken, promises held."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bench.perf.evidence.evidence import kept, share
from bench.perf.evidence.sequential import EVERY, LOOKS, PROMISED, SAID, SMALLER
from bench.perf.evidence.verdicts import SHIFT, SPREAD
from bench.report.render.markdown import markdown_table
from bench.report.render.svg import COLOURS, GRID, MARKERS, figure, to_svg
from bench.report.verdicts import spending
from bench.report.verdicts.claims import ALPHA, LEVELS
from bench.report.verdicts.prospect import MOST, PROBABLY
from bench.report.verdicts.sequential import FUTILE

PICTURE = "sequential.svg"
LEAST_FOUND = 0.80
GROWN = "until decided"


def to_markdown(rows: pd.DataFrame, promises: pd.DataFrame, studies: int) -> str:
    """The page. `rows` as `sequential.main` counts them, `promises` as `sequential.kept_promises` does."""
    beside = (rows["rivals"] > 0) | (rows["spread"] != SPREAD)
    equal, worse, planted = rows[(rows["shift"] == 0) & ~beside], rows[rows["shift"] < 0], rows[rows["shift"] > 0]
    two = planted[(planted["contenders"] == 2) & (planted["claim"] == "backbone")]
    lines = [
        "# Do looks at growing studies keep the level, and find what is there?",
        "",
        f"Made by `python -m bench.perf.evidence.sequential`. Each row counts {studies} simulated studies (the standard error of 5 % is "
        f"{100 * np.sqrt(0.05 * 0.95 / studies):.1f} points, of 80 % {100 * np.sqrt(0.8 * 0.2 / studies):.1f}), of the noise of",
        "[verdicts.md](verdicts.md) and judged by the report's own rules.",
        "",
        f"- **fixed**: as many seeds as are named, judged once at {LEVELS['headline']:.1%}.",
        f"- **{GROWN}**: a look after every seed from {LOOKS.first} to {LOOKS.most}, as `run --until-decided` does. The looks of the",
        f"  headline spend {LEVELS['headline']:.1%} together (`bench/report/verdicts/spending.py`). The run stops where the chance is",
        f"  below {FUTILE:.0%} that the last look carries it (`sequential.py`).",
        f"- **fixed, then {GROWN}**: three seeds that were fixed and not enough, and then looks.",
        "- **fixed, then as told**: three seeds that were fixed, then as many as the page says would decide (`prospect.py`), again and",
        f"  again until it names no number. Both spend {spending.EXTENDED:g} of the level for every time that seeds were added.",
        "",
        markdown_table(("promise", "found", "kept"), _promises(equal, worse, two)),
        "",
        f"![Shares of studies that claim something, and seeds taken]({PICTURE})",
        "",
        f"## What a look may spend: {LOOKS.first} to {LOOKS.most} seeds",
        "",
        markdown_table(
            ("seeds of each", *(str(seeds) for seeds in range(LOOKS.first, LOOKS.most + 1))),
            [("p below", *(f"{LEVELS['headline'] * spending.share(LOOKS, 0, n):.4f}" for n in range(LOOKS.first, LOOKS.most + 1)))],
        ),
        "",
        "Every other test on the page of such a run is held at the same part of its own level, so it does not matter that the headline",
        "chose when to stop.",
        "",
        "## Equal contenders: every claim is false",
        "",
        _table(equal, ("headline", "page", "seeds"), ("headline claims", "page claims anything", "seeds of each")),
        "",
        f"## One of three is worse by {SHIFT}, and two are equal: every claim that one of them leads is false",
        "",
        "The worse one is soon beaten and gets no more seeds.",
        "",
        _table(worse, ("headline", "page", "seeds"), ("headline claims", "page claims anything", "seeds of each")),
        "",
        "## Beside the promise",
        "",
        "Equal contenders whose seed deviations differ by exp(z), and such that move together at one seed.",
        "",
        _table(rows[beside], ("headline", "page", "seeds"), ("headline claims", "page claims anything", "seeds of each"), noise=True),
        "",
        "## One contender better",
        "",
        "Differences in seed deviations. To lead is to beat every other contender, so with more of them it takes more.",
        "",
        _table(planted, ("right", "wrong", "seeds"), ("headline says so", "headline says another thing", "seeds of each"), shift=True),
        "",
        "## Does the page promise what more seeds then hold?",
        "",
        "Two contenders that the first seeds do not tell apart; their page says how many more would: `probably` where the chance is at",
        f"least {PROBABLY:.0%}, else `may`. Where the difference seen would need more than {MOST}, seeds will `hardly` decide,",
        f"or, of few seeds, these do not tell how many would (`unknown`); in both cases {MOST} of each are tried. Said: of the",
        "studies that did not claim at once. Nobody who sees a few seeds can know that two are equal:",
        "what is promised holds on average over true differences from 0 to 3, not for each of them.",
        "",
        markdown_table(
            (
                "first seeds",
                "true difference",
                *(f"`{word}` {what}" for word in SAID for what in ("said", "then held")),
                "more seeds, on average",
            ),
            [_promise_line(promises, seeds, shift) for seeds in PROMISED for shift in (*EVERY, None)],
        ),
        "",
    ]
    return "\n".join(lines)


def _promises(equal: pd.DataFrame, worse: pd.DataFrame, two: pd.DataFrame) -> list[tuple[str, str, str]]:
    found_fixed = two[(two["growth"] == "fixed") & (two["first"] == 5)]["right"].min()
    found_grown = two[(two["growth"] == GROWN) & (two["shift"] == SMALLER)]["right"].min()
    lines = []
    named = equal["growth"].isin(("fixed", GROWN))
    parts = {growth: equal[equal["growth"] == growth] for growth in ("fixed", GROWN)} | {"any other way to add seeds": equal[~named]}
    for what, part in parts.items():
        lines.append(
            (
                f"{what}: of studies of equal contenders at most {ALPHA:.0%} name a leader in quality, or claim anything on the page",
                f"at most {part['headline'].max():.1%} and {part['page'].max():.1%}",
                kept(max(part["headline"].max(), part["page"].max()) <= ALPHA),
            )
        )
    false = worse["headline"].max()
    lines.append(
        (f"where one of three is worse and two are equal, at most {ALPHA:.0%} name a leader", f"at most {false:.1%}", kept(false <= ALPHA))
    )
    for what, found in (
        (f"a difference of {SHIFT} seed deviations between two contenders of five seeds, fixed,", found_fixed),
        (f"a difference of {SMALLER} between two, {GROWN}, at most {LOOKS.most} seeds,", found_grown),
    ):
        lines.append((f"{what} is found in at least {LEAST_FOUND:.0%}", f"at least {found:.1%}", kept(found >= LEAST_FOUND)))
    return lines


def _table(part: pd.DataFrame, columns: tuple[str, ...], titles: tuple[str, ...], *, noise: bool = False, shift: bool = False) -> str:
    """Rows of the simulation; `noise`: with what differs from what was recorded; `shift`: with the true difference."""
    part = part.assign(wrong=part["headline"] - part["right"])
    facts = ("claim", "contenders", "seeds are", "noise", *(("rivals", "spread") if noise else ()), *(("difference",) if shift else ()))
    return markdown_table(
        (*facts, *titles),
        [
            (*_facts(row, noise, shift), *(f"{row[name]:.1f}" if name == "seeds" else share(row[name]) for name in columns))
            for row in part.to_dict("records")
        ],
    )


def _facts(row: Mapping[Any, Any], noise: bool, shift: bool) -> tuple[str, ...]:
    growth = f"fixed, {row['first']}" if row["growth"] == "fixed" else str(row["growth"])
    beside = (f"{row['rivals']:+.2f}", f"{row['spread']:g}") if noise else ()
    return str(row["claim"]), str(row["contenders"]), growth, str(row["law"]), *beside, *((f"{row['shift']:g}",) if shift else ())


def _promise_line(promises: pd.DataFrame, seeds: int, shift: float | None) -> tuple[str, ...]:
    """Of one true difference; of all together where that is None."""
    part = promises[promises["seeds"] == seeds]
    part = part if shift is None else part[part["shift"] == shift]
    texts = []
    for word in SAID:
        own = part[part["said"] == word]
        said = own["studies"].sum()
        held = float((own["held"] * own["studies"]).sum() / said) if said else None
        texts += [share(said / part["studies"].sum(), 0) if part["studies"].sum() else "", "" if held is None else share(held, 0)]
    told = part[part["said"].isin(SAID[:2])]
    more = (told["more"] * told["studies"]).sum() / told["studies"].sum() if told["studies"].sum() else None
    return str(seeds), "all of these" if shift is None else f"{shift:g}", *texts, "" if more is None else f"{more:.1f}"


def picture(rows: pd.DataFrame) -> str:
    """Of two to four contenders under looks: false leads, true differences found, and the seeds that it took."""
    part = rows[(rows["growth"] == GROWN) & (rows["claim"] == "backbone") & (rows["rivals"] == 0) & (rows["spread"] == SPREAD)]
    part = part[part["shift"] >= 0]
    with figure("sequential", 9.0, 3.4) as drawn:
        left, right = drawn.subplots(1, 2)
        for place, (contenders, own) in enumerate(part[part["law"] == "normal"].groupby("contenders")):
            own = own.sort_values("shift")
            style = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], "markersize": 4}
            left.plot(own["shift"], 100 * own["headline"], label=f"{contenders} contenders", **style)
            right.plot(own["shift"], own["seeds"], **style)
        left.axhline(100 * LEAST_FOUND, color="black", linestyle=":", linewidth=1)
        left.axvline(SMALLER, color="black", linestyle=":", linewidth=1)
        left.axhline(100 * ALPHA, color="black", linestyle=":", linewidth=1)
        left.set_title(f"Until decided, {LOOKS.first} to {LOOKS.most} seeds: a leader is named, %")
        right.set_title("Seeds of each contender, on average")
        right.set_ylim(0, LOOKS.most)
        for axes in (left, right):
            axes.set_xlabel("true difference, seed deviations")
            axes.grid(color=GRID, linewidth=0.6)
        left.legend(loc="upper left", bbox_to_anchor=(0.0, 0.76))
        return to_svg(drawn)
