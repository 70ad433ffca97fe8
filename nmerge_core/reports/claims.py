"""The six findings of the papers that decide whether their methods are of use, each tested on a family."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.comparison.paired import compare_all, wilson
from nmerge_core.reports import reasons
from nmerge_core.reports.compared import HARDLY, compare_points, hardly, joined_documents, judged, probability
from nmerge_core.reports.findings import BASE, Findings, Lacking, documents
from nmerge_core.reports.intervals import Estimate, combined, ratio
from nmerge_core.reports.variants import DARE, Variant
from nmerge_core.reports.verdicts import (
    DIFFERS,
    UNCLEAR,
    Verdict,
    above,
    interval,
    number,
    together,
)

ALMOST_ALL, ALMOST_NOTHING = 0.75, 0.25  # of a fine-tune's gain


@dataclass(frozen=True)
class Claim:
    """A finding, where the papers have it, how it is tested, and why it may fail on a family."""

    id: str
    title: str
    source: str
    method: str
    test: Callable[[Findings], Verdict]
    reason: Callable[[Findings], str]


@dataclass(frozen=True)
class Tested:
    """A claim, what a family says to it, and where that is no agreement, why."""

    claim: Claim
    verdict: Verdict
    reason: str = ""


def test_claims(found: Findings) -> list[Tested]:
    """Test all claims; one that cannot be tested says why."""
    tested = []
    for claim in CLAIMS:
        verdict = found.judged(claim.test)
        reason = claim.reason(found) if verdict.verdict in (DIFFERS, UNCLEAR) else ""
        tested.append(Tested(claim, verdict, reason))
    return tested


def claims_table(tested: Sequence[Tested]) -> pd.DataFrame:
    """Return claims as a table: claim, source, verdict, estimate, low, high, told, reason."""
    return pd.DataFrame(
        [
            {
                "claim": each.claim.title,
                "source": each.claim.source,
                "verdict": each.verdict.verdict,
                **{
                    name: getattr(each.verdict.estimate, name) if each.verdict.estimate else np.nan
                    for name in ("value", "low", "high")
                },
                "told": each.verdict.told,
                "reason": each.reason,
            }
            for each in tested
        ]
    )


def knocked_out(found: Findings, categories: Sequence[str] | None = None) -> Verdict:
    """Compare a task's score without its own neurons and without as many random ones, all of a category being off."""
    frame = found.table("knockout")
    whole = frame[frame["proportion"] == frame["proportion"].max()]
    names = [name for name in dict.fromkeys(whole["category"]) if categories is None or name in categories]
    if not names:
        raise Lacking("No category of the paper's is among the family's.")
    subjects = {subject.name: subject for subject in found.subjects}
    pairs, silenced, told = [], [], []
    for name in names:
        own = whole[whole["category"] == name]
        silenced.append(subject := subjects[own["subject"].iloc[0]])
        at, random = (
            own[(own["group"] == name) == is_own].groupby("problem")["value"].mean() for is_own in (True, False)
        )
        pairs.append((subject.points(random.tolist()), subject.points(at.tolist())))
    compared = compare_all(pairs, clusters=documents(silenced))
    for name, each in zip(names, compared, strict=True):
        ends = Estimate(each.difference, each.interval.low, each.interval.high)
        told.append(f"{name} {interval(ends, found.write)} {found.of_cost}, {probability(each)}")
    columns = [[random for random, _ in pairs], [own for _, own in pairs]]
    pooled = combined(columns, [1.0, -1.0], documents(silenced))
    more = interval(pooled, found.write)
    lost = f"What a task loses more without its own neurons than without as many random ones: {more} {found.of_cost}."
    reverse = [name for name, each in zip(names, compared, strict=True) if each.interval.high < 0]
    but = f" Of {' and '.join(reverse)} it is the other way round." if reverse else ""
    return above(pooled, 0.0, f"{lost} By task, {'; '.join(told)}.{but}")


def kept_category(found: Findings) -> Verdict:
    """Count the neurons that have the same category in the base and in every fine-tune."""
    counts = found.table("counts")
    total, kept = int(counts[BASE].sum()), int(counts["intersection"].sum())
    ends = wilson(kept, total)
    estimate = Estimate(100 * kept / total, 100 * ends.low, 100 * ends.high)
    chance = number(100 * found.kept_by_chance)
    told = f"{interval(estimate, number)} % of {total:,} neurons; {chance} % would keep a random category of the texts."
    return above(estimate, 50.0, told)


def less_nonlinear(found: Findings) -> Verdict:
    """Compare the non-linearity of functional groups with that of the whole MLP, and of random groups."""
    frame = found.table("linearity")
    layers = frame[(frame["group"] == "") & frame["layer"].notna()].dropna(subset="value")
    if layers.empty:
        raise Lacking("No fine-tune changed an MLP.")
    against_whole, against_random = (_relative(layers["value"], layers[other]) for other in ("whole", "random"))
    told = (
        f"The non-linearity of functional groups differs by {interval(against_whole)} % from the whole MLP's, and by "
        f"{interval(against_random)} % from that of {layers['draws'].max()} random groupings of the same sizes "
        f"({len(layers)} layers of fine-tunes)."
    )
    return above(Estimate(-against_whole.value, -against_whole.high, -against_whole.low), 0.0, told)


def _relative(one: pd.Series, other: pd.Series) -> Estimate:
    """Estimate how much larger one is than another in percent, over layers of fine-tunes."""
    columns = [[one.to_numpy()], [other.to_numpy()]]
    found = ratio(columns, [1.0, 0.0], [0.0, 1.0])
    return Estimate(*(100 * (each - 1) for each in (found.value, found.low, found.high)))


def neuronmerge_gains(found: Findings, settings: Sequence[tuple[str, ...]] | None = None) -> Verdict:
    """Compare NeuronMerge₁ with DARE and NeuronMerge₂ with SubModule Linearity, in all settings at once."""
    plan = found.plan
    chosen = plan.settings if settings is None else settings
    if not chosen:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    if not plan.texts:
        raise Lacking(found.lacks.get("neurons", "NeuronMerge needs a corpus with the category of each fine-tune."))
    owned = [found.owned(models) for models in chosen]
    problems = [each for own in owned for each in joined_documents(own)]
    dare = [found.best(plan.search(models, DARE)) for models in chosen]
    sets = {
        "NeuronMerge₁ against DARE": ([plan.neuronmerge_1(each) for each in dare], dare),
        "NeuronMerge₂ against SubModule Linearity": (
            [plan.neuronmerge(models) for models in chosen],
            [plan.sublin(models) for models in chosen],
        ),
    }

    def points(variants: Sequence[Variant]) -> NDArray[np.float64]:
        return np.concatenate([found.joined(each, own) for each, own in zip(variants, owned, strict=True)])

    joined = [(points(ours), points(theirs)) for ours, theirs in sets.values()]
    compared = compare_points(found, joined, [problems, problems])
    return together([judged(found, name, each) for name, each in zip(sets, compared, strict=True)])


def subspaces(found: Findings) -> Verdict:
    """Measure the share of a fine-tune's gain that either part of its change keeps, over all fine-tunes at once."""
    labels = found.plan.labels
    subjects = found.owned(labels)

    def of_all(keys: Sequence[str | Variant]) -> list[np.ndarray]:
        return [found.values(key, [own])[0] for key, own in zip(keys, subjects, strict=True)]

    cut = found.plan.subspaces()
    base, tuned = of_all([BASE] * len(labels)), of_all(labels)
    shares = {}
    for keep in ("orthogonal", "parallel"):
        kept = of_all([cut[label, keep] for label in labels])
        shares[keep] = ratio([kept, base, tuned], [1.0, -1.0, 0.0], [0.0, -1.0, 1.0], documents(subjects))
    across, along = shares["orthogonal"], shares["parallel"]
    told_across = f"Of what fine-tunes gain on the base, the part across keeps {interval(_percent(across), number)} %,"
    told_along = f"the part along {interval(_percent(along), number)} %."
    opposite = Estimate(-along.value, -along.high, -along.low)
    joined = together([above(across, ALMOST_ALL, told_across), above(opposite, -ALMOST_NOTHING, told_along)])
    return Verdict(joined.verdict, joined.told, _percent(across))


def _percent(found: Estimate) -> Estimate:
    return Estimate(100 * found.value, 100 * found.low, 100 * found.high)


def lambda_1(found: Findings) -> Verdict:
    """Measure what λ1 changes from its lowest to its highest value, over all λ2, as a share of the merges' gain."""
    plan = found.plan
    if not plan.settings:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    subjects, merges, twos = found.owned(plan.labels), plan.lambdas(), found.budget.lambdas_2
    first, last = min(found.budget.lambdas_1), max(found.budget.lambdas_1)
    compared: list[str | Variant] = [BASE, *(merges[one, two] for two in twos for one in (first, last))]
    columns = [found.values(each, subjects) for each in compared]
    effect, gain = [0.0, *[-1 / len(twos), 1 / len(twos)] * len(twos)], [-1.0, *[0.5 / len(twos)] * 2 * len(twos)]
    return hardly(found, f"From λ1 = {first:g} to {last:g}, over all λ2", columns, effect, gain, subjects)


CLAIMS = (
    Claim(
        "knockout",
        "Silencing a task's neurons hurts the task more than silencing as many random ones",
        "NeuronMerge §2.3, Figs 4 and 7",
        "All neurons of a category, in all layers of the base, against random draws of as many in the same layers; "
        "paired over problems. It agrees where the interval of the mean difference is above 0.",
        knocked_out,
        reasons.knockout,
    ),
    Claim(
        "categories",
        "Most neurons keep their category through fine-tuning",
        "NeuronMerge §2.3, Figs 3 and 6",
        "The share of neurons with one category in the base and in every fine-tune, with Wilson's interval, taking "
        "neurons as independent. It agrees where the interval is above 50 %.",
        kept_category,
        reasons.categories,
    ),
    Claim(
        "linearity",
        "Grouping neurons by function lowers non-linearity",
        "NeuronMerge §2.4 and App. B",
        "The mean non-linearity over groups, by their sizes, relative to all neurons'; the interval is a bootstrap "
        "over layers of fine-tunes. It agrees where groups are lower; random groups tell whether function matters.",
        less_nonlinear,
        reasons.linearity,
    ),
    Claim(
        "neuronmerge",
        "NeuronMerge improves on SubModule Linearity and on DARE",
        "NeuronMerge Tables 1, 2, 5 to 7",
        "NeuronMerge₁ against DARE and NeuronMerge₂ against SubModule Linearity, over all sets of fine-tunes that were "
        "merged, paired over problems, by Holm. DARE's density is the best on the same problems, as in the paper, "
        "which favours it. It agrees where both improve, and does not where either is worse.",
        neuronmerge_gains,
        reasons.neuronmerge,
    ),
    Claim(
        "subspaces",
        "The part of a change across the base's neurons keeps almost all, the part along them almost nothing",
        "NeuroMerging Fig. 1, Tables 6 and 12",
        f"The share of the fine-tunes' gain on their own tasks that either part alone keeps. It agrees where the "
        f"interval of the one is above {ALMOST_ALL:.0%} and that of the other below {ALMOST_NOTHING:.0%}.",
        subspaces,
        reasons.subspaces,
    ),
    Claim(
        "lambda",
        "λ1 hardly matters",
        "NeuroMerging §6.4, Fig. 4",
        f"What λ1 from its lowest to its highest value changes, over all λ2, as a share of what the merges gain on the "
        f"base. It agrees where the interval lies within ±{HARDLY:.0%}.",
        lambda_1,
        reasons.lambda_1,
    ),
)
