"""Findings made by hand: two fine-tunes, each with a task of ten problems, and scores as they are told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from nmerge_core.family import Family, Member
from nmerge_core.reports.budget import QUICK
from nmerge_core.reports.findings import Findings
from nmerge_core.reports.subjects import Subject

LABELS = ("math", "code")
PROBLEMS = 10
LEAST = replace(
    QUICK,
    problems=2,
    samples=2,
    repeats=1,
    evaluations=2,
    validation=1,
    steps=1,
    proportions=(1.0,),
    weights=(0.5,),
    densities=(0.4,),
    ties=((0.1, 1.0),),
    votes=(2,),
    margins=(1,),
    ratios=(0.15, 1.0),
    lambdas_1=(0.0, 1.0),
    lambdas_2=(1.0,),
)
FAMILY = Family("made", "base", tuple(Member(label, label, label) for label in LABELS), "corpus", LABELS)
Scores = Mapping[str, Sequence[float]]  # by task: how many of its ten problems are right, or the value of each


def right(number: int) -> list[float]:
    """The first so many of ten problems right."""
    return [1.0] * number + [0.0] * (PROBLEMS - number)


def made(scores: Mapping[str, Scores], **more: Any) -> Findings:
    """Findings in which the base, fine-tunes and merges, by their keys, have these values on each task."""
    rows = [
        (variant, subject, problem, value)
        for variant, own in scores.items()
        for subject, values in own.items()
        for problem, value in enumerate(values)
    ]
    subjects = tuple(Subject(label, "exact_match", True, PROBLEMS, label) for label in LABELS)
    frame = pd.DataFrame(rows, columns=["variant", "subject", "problem", "value"])
    given: dict[str, Any] = {"budget": LEAST, "subjects": subjects, "scores": frame if rows else None}
    return Findings(FAMILY, texts=True, **(given | more))
