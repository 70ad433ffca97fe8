"""How much a report measures, told from what models read: before it starts, and of the time left while it goes on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import expanduser, isdir

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.uses import tells_next
from nmerge_core.corpus.corpus import load_corpus, whole_and_slice
from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.merging.recipe.registry import named
from nmerge_core.parameters.settings import MAX_LENGTH, RANDOM_GROUPS
from nmerge_core.reports.budget import Budget
from nmerge_core.reports.plan import Plan
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import SOLVED, Variant
from nmerge_core.task_yaml.code import runs_code

_PROBLEM_TOKENS = 150  # read and written, of a task's problem
_BYTES_PER_TOKEN = 4
_WEIGHTS = 25  # tokens that a model reads in the time in which its weights are read once
_LEARNING = 3  # a step goes forwards and backwards
_FISHER, _GRAM = 20, 3  # forwards and backwards, each text by itself; forwards, and products of inputs
_COMPARED = 64  # tokens of a text at most by which groups of neurons are compared with random ones
_GROUPED = 12  # products with the matrices by which MLPs write that each grouping and fine-tune takes as long as


@dataclass(frozen=True)
class Effort:
    """What measurements take, as shares of scoring a model on all subjects, by the tokens that models read in each.

    `subjects` has the tokens of each subject's problems, `texts` those of each text of the corpus, of so many
    `categories`; `written` is the share of a model's parameters in the matrices by which its MLPs write, and `causal`
    tells whether it is a causal language model, of which alone linearity is measured.
    """

    plan: Plan
    subjects: Sequence[float]
    texts: Sequence[float] = ()
    categories: int = 0
    written: float = 0.0
    causal: bool = True

    @property
    def scoring(self) -> float:
        """The tokens of scoring one model on all subjects, or what stands for it where nothing judges models."""
        return sum(self.subjects) or sum(self.texts) or 1.0

    @property
    def weights(self) -> float:
        """Comparing the weights of all models in one way."""
        return _WEIGHTS * (1 + len(self.plan.labels)) / self.scoring

    @property
    def classifying(self) -> float:
        """Classifying the neurons of one model."""
        return sum(self.texts) / self.scoring

    @property
    def knockout(self) -> float:
        """Scoring one fine-tune's task."""
        return 1 / max(1, len(self.subjects))

    @property
    def linearity(self) -> float:
        """Measuring how linear groups of neurons are, beside random ones."""
        read, models = self._samples(self.plan.budget.samples, self.categories), len(self.plan.labels)
        shorter = min(1.0, _COMPARED / self._text) if self._text else 0.0
        compared = shorter * _GROUPED * self.written * models * (1 + RANDOM_GROUPS.default)
        return read * (_through(models) + compared) / self.scoring

    def merges(self, variants: Iterable[Variant]) -> Iterator[tuple[Variant, float]]:
        """Yield merges, each with what making and scoring it takes: coefficients count with the first that has them."""
        solved = set[Hashable]()
        for variant in variants:
            coefficients = _coefficients(variant)
            new = coefficients is not None and coefficients not in solved
            solved.add(coefficients)
            scored = 1.0 if self.plan.everywhere(variant) else min(1.0, len(variant.models) * self.knockout)
            yield variant, scored + self._measured(variant) + (self._solving(variant) if new else 0)

    @property
    def total(self) -> float:
        """All of a report."""
        plan, budget = self.plan, self.plan.budget
        members, found = 1 + len(plan.labels), 3 * self.weights
        if self.texts:
            found += members * self.classifying + (self.linearity if self.causal else 0)
        if not self.subjects:
            return found
        shares = len(budget.proportions)  # a whole category is drawn once
        draws = 2 * shares * budget.repeats - (budget.repeats - 1) * (1.0 in budget.proportions)
        silenced = sum(bool(model.category) for model in plan.family.models) if self.texts else 0
        merges = self.merges(plan.merges(lambda several: several[0]))
        return found + members + silenced * draws * self.knockout + sum(effort for _, effort in merges)

    def _measured(self, variant: Variant) -> float:
        """What a method runs models on beside scoring its merge."""
        budget, categories = self.plan.budget, len(variant.models)
        if variant.method == "adamerging":
            return _LEARNING * budget.steps * self._drawn(variant) / self.scoring
        if variant.method == "lorahub":
            return budget.evaluations * self._drawn(variant) / self.scoring
        if variant.method == "pcb_es":
            return budget.evaluations * min(1.0, budget.validation / budget.problems)
        passes = {"fisher": _FISHER, "regmean": _GRAM}.get(variant.method, 0)
        return passes * self._samples(budget.samples, categories) / self.scoring

    def _drawn(self, variant: Variant) -> float:
        return self._samples(named(variant.method).defaults["samples"], len(variant.models))

    def _solving(self, variant: Variant) -> float:
        models = len(variant.models)
        return self._samples(self.plan.budget.samples, models) * _through(models) / self.scoring

    def _samples(self, samples: int, categories: int) -> float:
        """Return the tokens of so many texts of each of some categories."""
        return samples * categories * self._text

    @property
    def _text(self) -> float:
        return sum(self.texts) / max(1, len(self.texts))


def _through(models: int) -> int:
    """Return how often a text goes through the size of a model: the base's states, and submodules whole and grouped."""
    return 1 + 2 * (1 + models)


def _coefficients(variant: Variant) -> Hashable:
    """Return what tells the coefficients that a merge goes by from others; None where it goes by none."""
    if variant.method not in SOLVED:
        return None
    given = named(variant.method).defaults | dict(variant.parameters)
    if variant.method == "sublin":
        return variant.models
    specific = given["specific"] if isinstance(given["specific"], dict) else {}
    merged = tuple(sorted(category for category, choice in specific.items() if choice == "merge"))
    if "sublin" not in (given["general"], given["others"]) and not merged:
        return None
    return variant.models, merged, *(given[name] for name in ("top_k", "margin", "grouping")), variant.seed


def effort_of(plan: Plan, subjects: Sequence[Subject]) -> Effort:
    """Return what a report takes whose models are judged by subjects; a corpus that cannot be read counts as none."""
    corpus, problems = plan.family.corpus, plan.budget.problems
    tasks = [subject.count * _PROBLEM_TOKENS for subject in subjects if subject.task]
    return _effort(plan, tasks or (_losses(corpus, problems) if subjects and corpus else []))


def foreseen(family: Family, budget: Budget, run_code: bool) -> Effort:
    """Return what a report of a family will take, from the names of its tasks and the texts of its corpus alone.

    Raises:
        InputError: the base or a task cannot be opened, or the texts of the corpus are not here yet.
    """
    if family.corpus and not isdir(expanduser(whole_and_slice(family.corpus)[0])):
        raise InputError(f"corpus {family.corpus}: how many texts its sources have is not known before they are read")
    judged = bool(family.tasks) and (run_code or not family.corpus or not any(map(runs_code, family.tasks)))
    causal = tells_next(open_checkpoint(family.base).config)
    texts = causal and bool(family.corpus) and all(model.category for model in family.models)
    plan = Plan(family, budget, texts, judged)
    if judged:
        return _effort(plan, [budget.problems * _PROBLEM_TOKENS] * len(family.tasks))
    return _effort(plan, _losses(family.corpus, budget.problems) if family.corpus and causal else [])


def _effort(plan: Plan, subjects: Sequence[float]) -> Effort:
    if plan.family.corpus is None:
        return Effort(plan, subjects)
    base = open_checkpoint(plan.family.base)
    entries = sum(tensor.elements for tensor in base.tensors.values())
    try:
        corpus = load_corpus(plan.family.corpus)
        written = sum(mlp.d_ffn * mlp.d_model for mlp in base.architecture.layers) / entries
    except InputError:  # which is said where they are read to measure something
        return Effort(plan, subjects)
    texts = [min(_tokens(each.text), MAX_LENGTH.default) for each in corpus.exemplars]
    return Effort(plan, subjects, texts, len(corpus.categories), written, tells_next(base.config))


def _losses(corpus: str, problems: int) -> list[float]:
    """Return the tokens of the held-out texts of each category that models are judged by."""
    try:
        found = held_out(corpus).corpus
    except InputError:
        return []
    texts = {name: [each.text for each in found.exemplars if each.category == name] for name in found.categories}
    return [sum(map(_tokens, own[:problems])) for own in texts.values()]


def _tokens(text: str) -> float:
    return len(text.encode()) / _BYTES_PER_TOKEN
