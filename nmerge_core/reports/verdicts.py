"""Whether a family agrees with what a paper says, and how sure that is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from nmerge_core.reports.intervals import Estimate

AGREES, DIFFERS, UNCLEAR, NOTHING = "agrees", "does not agree", "cannot tell", "nothing to test"
NOT_MADE, NOT_YET = "cannot be made", "not made yet"


@dataclass(frozen=True)
class Verdict:
    """What a family says to a paper's finding: agrees, does not agree, or cannot tell; `told` gives the number."""

    verdict: str
    told: str
    estimate: Estimate | None = None


def nothing(why: str = "The paper states no trend here that a family could agree with.") -> Verdict:
    """Return the verdict where there is nothing to test."""
    return Verdict(NOTHING, why)


def above(found: Estimate, bound: float, told: str) -> Verdict:
    """Judge a number that the paper finds above a bound: by whether its interval is all above it, or all below."""
    verdict = AGREES if found.low > bound else DIFFERS if found.high < bound else UNCLEAR
    return Verdict(verdict, told, found)


def within(found: Estimate, bound: float, told: str) -> Verdict:
    """Judge a number that the paper finds small: by whether its interval lies inside ±bound, or all outside."""
    inside = -bound < found.low and found.high < bound
    outside = found.low > bound or found.high < -bound
    return Verdict(AGREES if inside else DIFFERS if outside else UNCLEAR, told, found)


def together(verdicts: list[Verdict]) -> Verdict:
    """Join what must hold at once: it agrees where all do, and does not where one does not."""
    said = [each.verdict for each in verdicts if each.verdict != NOTHING]
    if not said:
        return nothing("Nothing of it could be measured.")
    verdict = DIFFERS if DIFFERS in said else UNCLEAR if UNCLEAR in said else AGREES
    estimate = verdicts[0].estimate if len(verdicts) == 1 else None
    return Verdict(verdict, " ".join(each.told for each in verdicts), estimate)


def number(value: float, digits: int = 1) -> str:
    """Write a number, its sign with a real minus."""
    return "–" if math.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Write a difference."""
    value = round(value, digits) + 0.0  # no −0
    return f"{'+' if value >= 0 else ''}{number(value, digits)}"


def interval(found: Estimate, write: Callable[[float], str] = signed) -> str:
    """Write a number with its interval."""
    if math.isinf(found.low):
        return f"{write(found.value)} (95 % interval: unbounded)"
    return f"{write(found.value)} (95 % interval {write(found.low)} to {write(found.high)})"
