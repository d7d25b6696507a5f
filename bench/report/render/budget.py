"""A budget as a reader says it."""

from bench.report.render import catalogue as metrics
from bench.study.budget import BUDGETS


def budget_text(axis: str, amount: float) -> str:
    """A budget as a reader says it."""
    if axis not in BUDGETS.names():
        return f"{metrics.count(amount)} {axis}"
    known = BUDGETS.find(axis)
    if not known.prefixed:
        return f"{metrics.count(amount)} {known.words}"
    divisor, unit = metrics.scale_of(metrics.find(known.measurement or axis), amount, "")
    return f"{metrics.number(amount / divisor)} {known.words} {unit}"
