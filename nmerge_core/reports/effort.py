"""How much of a report its measurements are, so that what is told of the time left is right: in scorings of a merge."""

from collections.abc import Sequence

import numpy as np

from nmerge_core.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe.registry import named
from nmerge_core.reports.findings import Findings
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import Variant

_PROBLEM_TOKENS = 150  # read and written, of a task's problem
_BYTES_PER_TOKEN = 4
_LEARNING = 3  # a step goes forwards and backwards


def of_knockout(found: Findings) -> float:
    """Return how much scoring one fine-tune's task is of scoring those of all."""
    return 1 / len(found.plan.labels)


def of_merge(found: Findings, variant: Variant, subjects: Sequence[Subject]) -> float:
    """Return how much a merge is: 1 for its scores, and what a search of its coefficients reads and writes."""
    budget, problems = found.budget, float(np.mean([subject.count for subject in subjects]))
    if variant.method == "adamerging":
        return 1 + _LEARNING * budget.steps * _texts(found, variant) / problems
    if variant.method == "lorahub":
        return 1 + budget.evaluations * _texts(found, variant) / problems
    return 1 + budget.evaluations * found.validation / problems if variant.method == "pcb_es" else 1


def _texts(found: Findings, variant: Variant) -> float:
    """Return how many problems the texts of a category that a search reads are worth."""
    samples: int = named(variant.method).defaults["samples"]
    if not found.tasks or not found.family.corpus:  # judged by such texts
        return samples
    try:
        lengths = [len(exemplar.text.encode()) for exemplar in load_corpus(found.family.corpus).exemplars]
    except InputError:  # which is said where it is read to measure something
        return samples
    return samples * float(np.mean(lengths)) / _BYTES_PER_TOKEN / _PROBLEM_TOKENS
