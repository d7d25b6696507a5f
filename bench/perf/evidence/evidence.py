"""What recordings and live checks showed, as a page: promises, tables, and a picture of how much of what is planted is caught."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.perf.evidence.replay import NUM_TRIALS, PROMISES, RULES, STEPS
from bench.perf.gate.policy import Policy
from bench.report.render.markdown import markdown_table
from bench.report.render.svg import COLOURS, GRID, MARKERS, figure, to_svg

PICTURE = "power.svg"
LINES: dict[str, Any] = {"gate": "-", **dict(zip(RULES, ((0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))), strict=True))}


def to_markdown(rows: pd.DataFrame, spreads: pd.DataFrame, live: Sequence[dict[str, Any]], policy: Policy) -> str:
    """The page. `rows` as `replay.replayed` gives them, of every recording; `live` as `planted.run_trials` does."""
    whole = rows[rows.benchmark == "whole suite"]
    recorded = " and ".join(f"{row.recorded} {row.machine}" for row in whole.itertuples())
    lines = [
        "# Does the gate keep its promises?",
        "",
        f"`python -m bench.perf.evidence.trials`. Recorded pairs of workers of one unchanged tree: {recorded}.",
        f"Each share is over {NUM_TRIALS} checks that draw their pairs, {policy.least_pairs} to {policy.most_pairs}, from one recording; a",
        "slow-down is planted by scaling. Under a rule of `--benchmark-compare-fail` a check is one process against another, as it is",
        "with stored baselines: the head of each recorded pair against the base of the pair before, whichever processor they had.",
        "",
        "## An unchanged tree: checks of the whole suite that call anything slower",
        "",
        markdown_table(
            ("machine", "gate", *(f"`{rule}`" for rule in RULES), "gate inconclusive", "pairs taken", "promise"),
            [
                (row["machine"], share(row["gate"]), *(share(row[rule]) for rule in RULES), share(row["inconclusive"]),
                 f"{row['pairs']:.1f}", f"at most {share(policy.false_alarms, 0)}: {kept(row['gate'] <= policy.false_alarms)}")
                for row in whole.to_dict("records")
            ],
        ),
        "",
        "## A planted slow-down: checks that call the step slower",
        "",
        markdown_table(
            ("machine", "benchmark", "planted", "gate", *(f"`{rule}`" for rule in RULES), "pairs taken", "promise"),
            [
                (row["machine"], f"`{row['benchmark']}`", share(row["planted"], 0), share(row["gate"]),
                 *(share(row[rule]) for rule in RULES),
                 f"{row['pairs']:.1f}", _promise(row))
                for row in rows[rows.planted.isin(PROMISES)].to_dict("records")
            ],
        ),
        "",
        "No promise is made of a slow-down below what the policy says must be caught for a step of that length.",
        "",
        f"![power]({PICTURE})",
        "",
        "Share of checks that call a training step slower, against the slow-down. A rule that catches more at 0 than the gate cries wolf.",
        "",
        "## How far an unchanged tree differs from itself",
        "",
        markdown_table(
            ("machine", "benchmark", "step", "rounds", "spread of pairs", "largest pair", "processes over 5 % apart"),
            [
                (row["machine"], f"`{row['benchmark']}`", f"{row['step_ms']:.1f} ms", str(row["rounds"]), share(row["pair_spread"], 2),
                 share(row["largest_pair"], 2), share(row["processes_over_5_percent_apart"]))
                for row in spreads.to_dict("records")
            ],
        ),
        "",
    ]  # fmt: skip
    if live:
        lines += [
            "## Live checks of real commits",
            "",
            markdown_table(
                ("machine", "planted", "called slower, or holding more", "inconclusive", "pairs", "minutes", "right"),
                [
                    (row["machine"], row["planted"], "<br>".join(f"`{name}`: {why}" for name, why in row["regressed"].items()) or "nothing",
                     ", ".join(row["inconclusive"]) or "none", str(row["pairs"]), f"{row['minutes']:.1f}", kept(row["right"]))
                    for row in live
                ],
            ),
            "",
            f"On {', '.join(sorted({row['cpu'] for row in live}))}.",
            "",
        ]  # fmt: skip
    return "\n".join(lines)


def power(rows: pd.DataFrame) -> str:
    """Shares called slower against the planted slow-down, a panel a machine: each training step under the gate and the rules."""
    steps = rows[rows.benchmark.str.startswith(STEPS)]
    machines = list(dict.fromkeys(steps.machine))
    names = list(dict.fromkeys(steps.benchmark))
    with figure("power", 4.6 * len(machines), 3.6) as drawn:
        for axes, machine in zip(np.atleast_1d(drawn.subplots(1, len(machines), sharey=True)), machines, strict=True):
            for place, name in enumerate(names):
                of_name = steps[(steps.machine == machine) & (steps.benchmark == name)].sort_values("planted")
                planted = 100 * of_name.planted
                for rule, line in LINES.items():
                    axes.plot(
                        planted, of_name[rule], color=COLOURS[place], linestyle=line, linewidth=2.2 if rule == "gate" else 1.0,
                        marker=MARKERS[place] if rule == "gate" else "", markersize=4, label=f"{name}, {rule}",
                    )  # fmt: skip
            axes.set_title(f"{machine} machine")
            axes.set_xlabel("planted slow-down of the step, %")
            axes.set_ylim(-0.02, 1.02)
            axes.grid(color=GRID, linewidth=0.6)
        drawn.axes[0].set_ylabel("share of checks that call it slower")
        handles, labels = drawn.axes[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right center")
        return to_svg(drawn)


def _promise(row: Mapping[Any, Any]) -> str:
    promised = PROMISES[row["planted"]]
    if row["planted"] < row["detect"]:
        return ""
    return f"at least {share(promised, 0)}: {kept(row['gate'] >= promised)}"


def kept(held: bool) -> str:
    """Whether a promise is."""
    return "yes" if held else "**no**"


def share(value: float, decimals: int = 1) -> str:
    """In percent."""
    return f"{100 * value:.{decimals}f} %"
