"""Numbers of a law as a page says them: exponents and losses with their ends, shares of a loss, sizes, clips, FLOPs."""

import math

from bench.report.render import catalogue as metrics
from bench.report.scaling.foresight import StudyLaw
from bench.report.scaling.interval import LawEstimate
from bench.report.scaling.law import MOST
from bench.report.scaling.rule import CARRIED, unsure_gains

MOST_APART = 1e4  # times, the ends of a size that is worth saying
FLOP = metrics.SCALES["flops"]


def agreed(value: float) -> float:
    """Of a number of a law the digits on which all processors agree.

    >>> agreed(0.2521909982889)
    0.252191
    """
    return float(f"{value:.6g}")


def exponent(law: StudyLaw, family: str, what: str) -> str:
    """'0.31 [0.21, 0.45]'; from 0 on where that it is above 0 may be chance."""
    value, low, high = exponent_ends(law, family, what)
    text = f"[{number(low)}, {number(high)}]" if high <= MOST else f"[{number(low)}, over {number(MOST)}]"
    return f"{number(value)} {text}"


def exponent_ends(law: StudyLaw, family: str, what: str) -> tuple[float, float, float]:
    """(value, low, high) of an exponent, which is estimated by its logarithm: its sign is that of the gain, which is tested."""
    found = law.estimate(family, what)
    low, high = map(math.exp, found.interval(CARRIED))
    unsure = unsure_gains(law, family)
    return math.exp(found.value), 0.0 if what in unsure or (what == "compute" and unsure) else low, high


def signed(found: LawEstimate, level: float) -> str:
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


def size(value: float, low: float, high: float) -> str:
    """A number of parameters with its ends; of ends too far apart, that nothing is known."""
    return f"{counted(value)} [{counted(low)}, {counted(high)}]" if high / low < MOST_APART else "not determined"


def flops(value: float) -> str:
    """'31.2 TFLOP'."""
    divisor, unit = next(((divisor, unit) for divisor, unit in FLOP if value >= divisor), (1.0, "FLOP"))
    return f"{value / divisor:.3g} {unit}"


def short(params: int) -> str:
    """Parameters beside a curve: '52 k', '1.35 M'."""
    divisor, letter = next((pair for pair in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if params >= pair[0]), (1.0, ""))
    return f"{params / divisor:.3g} {letter}".rstrip()


def counted(value: float) -> str:
    """Parameters or clips: '52 thousand', '1.35 million'."""
    for divisor, word in ((1e12, " trillion"), (1e9, " billion"), (1e6, " million"), (1e3, " thousand"), (1.0, "")):
        if value >= divisor:
            return f"{value / divisor:.3g}{word}"
    return f"{value:.2g}"
