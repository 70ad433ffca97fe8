"""The six claims on findings made by hand: each estimate, and when a family agrees, does not, or cannot tell."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nmerge_core.reports.claims import (
    kept_category,
    knocked_out,
    lambda_1,
    less_nonlinear,
    neuronmerge_gains,
    subspaces,
)
from nmerge_core.reports.claims import (
    test_claims as judge_claims,
)
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.intervals import combined, ratio
from nmerge_core.reports.reasons import facts
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.verdicts import AGREES, DIFFERS, NOTHING, UNCLEAR
from tests.reports.findings import FAMILY, LABELS, LEAST, made, right

PLAN = Findings(FAMILY, LEAST, True).plan


def knockouts(own: int, random: int) -> pd.DataFrame:
    """Each task with so many of ten problems right without its own neurons, and without as many random ones."""
    rows = [
        (category, group, 1.0, 0, 5, category, problem, value)
        for category in LABELS
        for group, number in ((category, own), ("random", random))
        for problem, value in enumerate(right(number))
    ]
    names = ["category", "group", "proportion", "seed", "neurons", "subject", "problem", "value"]
    return pd.DataFrame(rows, columns=names)


def test_a_bootstrap_is_paired_and_knows_when_there_is_too_little() -> None:
    one, other = [np.array(right(8))], [np.array(right(3))]
    found = combined([one, other], [100.0, -100.0])
    assert found.value == pytest.approx(80 - 30) and 0 < found.low < 50 < found.high < 100
    same = combined([one, one], [1.0, -1.0])
    assert (same.value, same.low, same.high) == (0, 0, 0)  # of the same problems in every draw
    assert ratio([one, other], [0.0, 1.0], [1.0, 0.0]).value == pytest.approx(3 / 8)
    few = combined([[each[:5] for each in one]], [1.0])
    assert few.value == 1 and few.low == -np.inf  # five right of five say nothing of a sixth
    assert ratio([other, one], [1.0, 0.0], [1.0, -1.0]).value == pytest.approx(3 / (3 - 8))


def test_problems_of_a_document_are_drawn_together() -> None:
    """Ten documents of two problems with the same value are ten units: as the ten values once, wider than twenty."""
    once, twice = [np.array(right(5))], [np.repeat(right(5), 2)]
    paired = [[str(place // 2) for place in range(20)]]
    assert combined([twice], [1.0], paired) == combined([once], [1.0])
    free = combined([twice], [1.0])
    assert free.low > combined([once], [1.0]).low
    # Documents of one and of three problems: (1 + 0) / 4 of all problems, and draws of 4 / 4, 3 / 3 … of the larger.
    uneven = combined([[np.array([1.0, 0.0, 0.0, 0.0] * 6)]], [1.0], [[f"{n // 4}{n % 4 > 0}" for n in range(24)]])
    assert uneven.value == 0.25 and 0 < uneven.low < 0.25 < uneven.high
    few = combined([twice], [1.0], [[str(place % 5) for place in range(20)]])
    assert few.low == -np.inf  # five documents


def test_verdicts_know_that_problems_share_documents() -> None:
    """Ten against three of ten right, over both tasks: seven more in each, which are two documents or one by one."""
    [dare], [arithmetic] = (PLAN.search(LABELS, method) for method in ("DARE", "task arithmetic"))
    found = made({dare.key: dict.fromkeys(LABELS, right(10)), arithmetic.key: dict.fromkeys(LABELS, right(3))})
    assert better(found, [(dare, arithmetic)], found.subjects).verdict == AGREES
    shared = [replace(each, clusters=("a",) * 5 + ("b",) * 5) for each in found.subjects]
    verdict = better(found, [(dare, arithmetic)], shared)
    assert verdict.verdict == UNCLEAR and "paired bootstrap" in verdict.told  # four documents: p ≥ 2⁻³
    assert found.score_table({"DARE": dare}, shared)["low"][0] == -np.inf


def test_own_neurons_matter_more_than_random_ones() -> None:
    # Each task: 8 of 10 right without random neurons, 1 without its own: 80 − 10 = 70 points more are lost.
    found = knocked_out(made({}, knockout=knockouts(own=1, random=8)))
    assert found.verdict == AGREES and found.estimate and found.estimate.value == pytest.approx(70)
    assert "math +70.0" in found.told and "code +70.0" in found.told
    assert knocked_out(made({}, knockout=knockouts(own=8, random=1))).verdict == DIFFERS
    assert knocked_out(made({}, knockout=knockouts(own=5, random=6))).verdict == UNCLEAR
    mixed = knockouts(own=1, random=8)
    of_math = mixed["category"] == "math"
    mixed.loc[of_math, "group"] = mixed.loc[of_math, "group"].map({"math": "random", "random": "math"})
    told = knocked_out(made({}, knockout=mixed)).told
    assert "math −70.0" in told and told.endswith("Of math it is the other way round.")
    assert "way round" not in found.told
    with pytest.raises(Lacking):
        knocked_out(made({}, knockout=knockouts(own=1, random=8)), ["translation"])


@pytest.mark.parametrize(("kept", "verdict"), [(70, AGREES), (30, DIFFERS), (52, UNCLEAR)])
def test_most_neurons_keep_their_category(kept: int, verdict: str) -> None:
    counts = {"layer": [0, 0], "category": ["general", "math"], "base": [60, 40], "math": [60, 40]}
    frame = pd.DataFrame(counts | {"intersection": [kept - 20, 20]})
    found = kept_category(made({}, counts=frame, kept_by_chance=0.25))
    assert found.verdict == verdict and found.estimate and found.estimate.value == pytest.approx(kept)
    assert "25.0 % would keep a random category" in found.told


def linear(groups: float, random: float) -> Findings:
    """Two fine-tunes of four layers whose MLPs have a non-linearity of 1, and their groups these."""
    own = {"value": groups, "random": random, "whole": 1.0, "draws": 20}
    rows = [
        {"model": model, "layer": layer, "group": group, **own}
        for model in LABELS
        for layer in (0, 1, 2, 3, math.nan)
        for group in ("", "math")
    ]
    neurons = [
        ("base", layer, neuron, c) for layer in range(4) for neuron, c in enumerate(("general", "math", "poems"))
    ]
    frame = pd.DataFrame(neurons, columns=["model", "layer", "neuron", "category"])
    return made({}, linearity=pd.DataFrame(rows), neurons=frame)


def test_groups_are_compared_with_the_whole_mlp_and_with_random_ones() -> None:
    found = less_nonlinear(linear(groups=0.5, random=0.625))
    assert found.verdict == AGREES and found.estimate and found.estimate.value == pytest.approx(50)
    assert "−50.0 (95 % interval −50.0 to −50.0) % from the whole MLP's" in found.told  # .5 / 1 − 1
    assert "−20.0 (95 % interval −20.0 to −20.0) % from that of 20 random groupings" in found.told  # .5 / .625 − 1
    assert less_nonlinear(linear(groups=1.5, random=1.5)).verdict == DIFFERS


def merged(first: int, second: int, dare: int, sublin: int) -> Findings:
    """NeuronMerge₁ and ₂, DARE and SubModule Linearity with so many of ten problems of each task right."""
    [of_dare] = PLAN.search(LABELS, "DARE")
    numbers = {PLAN.neuronmerge_1(of_dare).key: first, PLAN.neuronmerge(LABELS).key: second}
    numbers |= {of_dare.key: dare, PLAN.sublin(LABELS).key: sublin}
    return made({key: dict.fromkeys(LABELS, right(number)) for key, number in numbers.items()})


def test_neuronmerge_is_compared_with_what_it_improves_on() -> None:
    # 9 − 4 = 5 problems of each task more, 10 in all and none less: p = 2 · 2⁻¹⁰ for each of two comparisons, by Holm
    # 2 · 2 · 2⁻¹⁰ = 0.004.
    found = neuronmerge_gains(merged(first=9, second=9, dare=4, sublin=4))
    assert found.verdict == AGREES
    assert found.told.count("+50.0") == 2 and found.told.count("p = 0.004 (exact McNemar, Holm)") == 2
    assert neuronmerge_gains(merged(first=9, second=3, dare=4, sublin=8)).verdict == DIFFERS  # one is worse
    assert neuronmerge_gains(merged(first=9, second=5, dare=4, sublin=4)).verdict == UNCLEAR


def test_a_lower_loss_is_told_as_such() -> None:
    first, second = PLAN.neuronmerge(LABELS), PLAN.sublin(LABELS)
    losses = {first.key: [1.0 + 0.1 * number for number in range(10)], second.key: [2.0] * 10}
    subjects = tuple(Subject(label, "loss", False, 10, label) for label in LABELS)
    scores = {key: dict.fromkeys(LABELS, values) for key, values in losses.items()}
    found = better(made(scores, subjects=subjects), [(first, second)], subjects)  # 2 − (1 + … + 1.9) / 10 = 0.55 less
    assert found.verdict == AGREES and found.told.startswith("NeuronMerge₂ against SubModule Linearity: +0.550 (")
    assert ") loss, nats per token (+ is lower), p < 0.001" in found.told
    few = [replace(subject, count=2) for subject in subjects]
    scores = {key: {label: values[:2] for label, values in own.items()} for key, own in scores.items()}
    told = better(made(scores, subjects=tuple(few)), [(first, second)], few).told
    assert told.endswith("of too few problems to see any.")


def cut(across: int, along: int) -> Findings:
    """Base 1, fine-tunes 9 of ten problems right; with either part of the change alone so many."""
    parts = PLAN.subspaces()
    scores = {"base": dict.fromkeys(LABELS, right(1))}
    scores |= {label: {label: right(9)} for label in LABELS}
    scores |= {parts[label, "orthogonal"].key: {label: right(across)} for label in LABELS}
    scores |= {parts[label, "parallel"].key: {label: right(along)} for label in LABELS}
    return made(scores)


def test_a_part_of_the_change_keeps_its_share_of_the_gain() -> None:
    found = subspaces(cut(across=9, along=1))  # (9 − 1) / (9 − 1), and (1 − 1) / (9 − 1)
    assert found.verdict == AGREES and found.estimate and found.estimate.value == pytest.approx(100)
    assert "the part along 0.0" in found.told
    assert subspaces(cut(across=2, along=1)).verdict == DIFFERS  # it keeps (2 − 1) / 8 = 12.5 %
    assert subspaces(cut(across=7, along=1)).verdict == UNCLEAR  # 75 %


def scaled(first: int, last: int, base: int = 1) -> Findings:
    """NeuroMerging at λ1 = 0 and 1 with so many of ten problems right, and the base."""
    cells = PLAN.lambdas()
    numbers = {"base": base, cells[0.0, 1.0].key: first, cells[1.0, 1.0].key: last}
    return made({key: dict.fromkeys(LABELS, right(number)) for key, number in numbers.items()})


def test_what_lambda_1_changes_is_a_share_of_the_gain() -> None:
    found = lambda_1(scaled(first=8, last=8))
    assert found.verdict == AGREES and found.estimate and found.estimate.value == 0
    found = lambda_1(scaled(first=9, last=3))  # −6 of a gain of (9 + 3) / 2 − 1 = 5
    assert found.verdict == DIFFERS and found.estimate and found.estimate.value == pytest.approx(-120)
    assert lambda_1(scaled(first=9, last=8)).verdict == UNCLEAR
    assert "That gain may be none." in lambda_1(scaled(first=2, last=2)).told


def test_what_cannot_be_tested_says_why_and_what_fails_is_given_a_reason() -> None:
    steps = pd.DataFrame(
        [("math", "mlp", 50, 3.0, 10.0), ("math", "attention", 50, 4.0, 10.0)],
        columns=["model", "part", "parameters", "change", "weight"],
    )
    base = [("base", 0, neuron, category) for neuron, category in enumerate(("general", "math", "poems"))]
    neurons = pd.DataFrame(base, columns=["model", "layer", "neuron", "category"])
    own = [("math", 0, 0, 2.0), ("math", 0, 1, 1.0), ("math", 0, 2, 2.0)]
    changes = pd.DataFrame(own, columns=["model", "layer", "neuron", "change"])
    found = made({}, steps=steps, neurons=neurons, changes=changes, lacks={"scores": "There are no tasks."})
    [row] = facts(found).to_dict("records")
    assert row["step"] == pytest.approx(100 * 5 / np.sqrt(200))  # √(3² + 4²) against √(10² + 10²)
    assert row["mlp_step"] == pytest.approx(30) and row["mlp_change"] == pytest.approx(36)  # 9 of 25
    assert row["mlp_parameters"] == 50 and row["dropped"] == pytest.approx(
        4
    )  # 1² of 25: the math neuron's, as no fine-tune is for poems
    tested = {each.claim.id: each for each in judge_claims(found)}
    assert len(tested) == 6 and tested["lambda"].verdict.verdict == NOTHING
    assert tested["lambda"].verdict.told == "There are no tasks." and not tested["lambda"].reason
    counts = {"layer": [0], "category": ["general"], "base": [100], "math": [100], "intersection": [10]}
    kept = judge_claims(made({}, counts=pd.DataFrame(counts), steps=steps))[1]
    assert kept.verdict.verdict == DIFFERS and "Tuning moved the MLPs by 30.0 % of their length" in kept.reason
