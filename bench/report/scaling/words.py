"""Numbers of a law as a page says them: exponents and losses with their ends, shares of a loss, sizes, clips, FLOPs."""

import math

from bench.report.render import catalogue as metrics
from bench.report.scaling.interval import Estimate
from bench.report.scaling.rule import CARRIED

FLOP = metrics.SCALES["flops"]


def exponent(found: Estimate, level: float = CARRIED) -> str:
    """An exponent of which the logarithm was estimated, as '0.31 [0.21, 0.45]'."""
    return f"{number(math.exp(found.value))} {bounds(*map(math.exp, found.interval(level)))}"


def signed(found: Estimate, level: float) -> str:
    """'0.02 [-0.10, 0.14]'."""
    return f"{number(found.value)} {bounds(*found.interval(level))}"


def bounds(low: float, high: float) -> str:
    """'[0.21, 0.45]'."""
    return f"[{number(low)}, {number(high)}]"


def number(value: float) -> str:
    """Three figures, the minus as people write it."""
    return (f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}").replace("-", metrics.MINUS)


def percent(share: float) -> str:
    """'2.3 %', '−4 %'."""
    return f"{100 * share:.2g} %".replace("-", metrics.MINUS)


def flops(value: float) -> str:
    """'31.2 TFLOP'."""
    divisor, unit = next(((divisor, unit) for divisor, unit in FLOP if value >= divisor), (1.0, "FLOP"))
    return f"{value / divisor:.3g} {unit}"


def counted(value: float) -> str:
    """Parameters or clips: '52 thousand', '1.35 million'."""
    for divisor, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand"), (1.0, "")):
        if value >= divisor:
            return f"{value / divisor:.3g}{word}"
    return f"{value:.2g}"
