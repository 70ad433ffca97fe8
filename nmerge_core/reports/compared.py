"""Whether merges differ on the same problems, as both papers' tables need it again and again."""

from collections.abc import Sequence
from math import isnan

import numpy as np

from nmerge_core.comparison.paired import Comparison, compare_all
from nmerge_core.reports.findings import BASE, Findings, documents
from nmerge_core.reports.intervals import Estimate, Values, combined, ratio
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import Variant
from nmerge_core.reports.verdicts import AGREES, DIFFERS, UNCLEAR, Verdict, above, interval, number, together, within

HARDLY = 0.1  # of what a merge gains on the base: an effect up to that share "hardly matters"


def better(found: Findings, pairs: Sequence[tuple[Variant, Variant]], subjects: Sequence[Subject]) -> Verdict:
    """Judge whether the first of each pair scores more than the second, by paired tests with Holm's adjustment.

    It agrees where all do, and does not where one scores less.
    """
    points = [(found.joined(one, subjects), found.joined(other, subjects)) for one, other in pairs]
    compared = compare_points(found, points, [joined_documents(subjects)] * len(pairs))
    names = [f"{one.title} against {other.title}" for one, other in pairs]
    return together([judged(found, name, each) for name, each in zip(names, compared, strict=True)])


def joined_documents(subjects: Sequence[Subject]) -> list[str]:
    """Return the documents of all problems of several subjects, one subject after the other, as `Findings.joined`."""
    return [f"{subject.name} {document}" for subject in subjects for document in subject.documents]


def compare_points(
    found: Findings, pairs: Sequence[tuple[np.ndarray, np.ndarray]], clusters: Sequence[Sequence[str]]
) -> list[Comparison]:
    """Compare points as `paired.compare_all` does, shares as right or wrong, which exact tests know."""
    scale = _scale(found)
    return compare_all([(one / scale, other / scale) for one, other in pairs], clusters=clusters)


def judged(found: Findings, name: str, each: Comparison) -> Verdict:
    """Judge a comparison that a paper finds positive, and tell it in points."""
    scale = _scale(found)
    estimate = Estimate(*(scale * value for value in (each.difference, each.interval.low, each.interval.high)))
    verdict = UNCLEAR if not each.distinguishable else AGREES if each.difference > 0 else DIFFERS
    seen = number(each.detectable * scale, found.digits)
    least = (
        ", of too few problems to see any" if isnan(each.detectable) else f", the smallest that could be seen {seen}"
    )
    told = f"{name}: {interval(estimate, found.write)} {found.of_change}, {probability(each)}{least}."
    return Verdict(verdict, told, estimate)


def probability(each: Comparison) -> str:
    """Write a p value and its test."""
    p = "p < 0.001" if each.adjusted < 0.001 else f"p = {each.adjusted:.3f}"
    return f"{p} ({each.test}, Holm)"


def best_of(found: Findings, chosen: Variant, others: Sequence[Variant], subjects: Sequence[Subject]) -> Verdict:
    """Judge whether a merge scores more than others do on the mean."""
    columns = [found.values(variant, subjects) for variant in (chosen, *others)]
    difference = combined(columns, [1.0, *[-1 / len(others)] * len(others)], documents(subjects))
    told = f"{chosen.title} less the mean of the others: {interval(difference, found.write)} {found.of_change}."
    return above(difference, 0.0, told)


def hardly(
    found: Findings,
    name: str,
    columns: Sequence[Values],
    effect: Sequence[float],
    gain: Sequence[float],
    subjects: Sequence[Subject],
) -> Verdict:
    """Judge whether an effect is small beside what merges gain on the base: within a tenth of it.

    Args:
        found: the findings.
        name: what changes, from what to what.
        columns: what models scored.
        effect: the weight of each in the effect.
        gain: the weight of each in the gain.
        subjects: on what.
    """
    drawn = documents(subjects)
    changed, gained = combined(columns, effect, drawn), combined(columns, gain, drawn)
    share = ratio(columns, effect, gain, drawn)
    percent = Estimate(*(100 * each for each in (share.value, share.low, share.high)))
    told = (
        f"{name}: {interval(changed, found.write)} {found.of_change}, {interval(percent)} % of what these merges gain "
        f"on the base ({interval(gained, found.write)} {found.of_change})."
    )
    if gained.low <= 0:
        return Verdict(UNCLEAR, f"{told} That gain may be none.", percent)
    return within(percent, 100 * HARDLY, told)


def steady(found: Findings, name: str, first: Variant, last: Variant, subjects: Sequence[Subject]) -> Verdict:
    """Judge whether a parameter hardly matters from its first value to its last."""
    columns = [found.values(each, subjects) for each in (BASE, first, last)]
    return hardly(found, name, columns, [0.0, -1.0, 1.0], [-1.0, 0.5, 0.5], subjects)


def _scale(found: Findings) -> float:
    """Return what shares, which exact tests know as right or wrong, are multiplied by in points."""
    return 100.0 if found.unit == "%" else 1.0
