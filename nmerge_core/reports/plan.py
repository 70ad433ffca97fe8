"""The plan of a report: every merge that the papers' tables compare, of a family's own models, once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from nmerge_core.family import Family
from nmerge_core.parameters.settings import MARGIN, TOP_K
from nmerge_core.reports.budget import Budget
from nmerge_core.reports.variants import (
    ADAMERGING,
    AVERAGING,
    DARE,
    FISHER,
    LORAHUB,
    NEUROMERGING,
    NEURONMERGE_1,
    NEURONMERGE_2,
    PCB,
    PCB_ES,
    REGMEAN,
    SUBLIN,
    TASK_ARITHMETIC,
    TIES,
    Variant,
)

CHOICES = {"own": "choose model", "merge": "merge", "drop": "drop"}
Best = Callable[[Sequence[Variant]], Variant]  # which of several settings scores best


@dataclass(frozen=True)
class Plan:
    """Every merge of a report, by what it is for; `settings` are the sets of fine-tunes that are merged.

    `texts` tells whether methods that read texts can be used: there is a corpus, and every fine-tune has its category;
    `tasks` whether those can that search by scores: models are judged by tasks.
    """

    family: Family
    budget: Budget
    texts: bool
    tasks: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """All fine-tunes."""
        return tuple(model.label for model in self.family.models)

    @property
    def settings(self) -> list[tuple[str, ...]]:
        """The sets of fine-tunes that Tables 1 and 2 merge: pairs of the first three, and all."""
        pairs = [tuple[str, ...](each) for each in combinations(self.labels[:3], 2)][: self.budget.pairs]
        return [*pairs, self.labels] if len(self.labels) > 2 else pairs

    @property
    def pair(self) -> tuple[str, ...]:
        """The fine-tunes of the ablations of NeuronMerge, which the paper makes with math and code: the first two."""
        return self.settings[0] if self.settings else ()

    def search(self, models: tuple[str, ...], method: str) -> list[Variant]:
        """Return the settings that the paper tries of task arithmetic or DARE (App. C.3)."""
        if method == TASK_ARITHMETIC:
            weights = self.budget.weights
            return [Variant(TASK_ARITHMETIC, "task_arithmetic", models, {"weight": weight}) for weight in weights]
        densities = self.budget.densities
        return [Variant(DARE, "dare_linear", models, {"density": each, "weight": 1.0}) for each in densities]

    def sublin(self, models: tuple[str, ...]) -> Variant:
        """Return SubModule Linearity."""
        return Variant(SUBLIN, "sublin", models)

    def neuronmerge(
        self, models: tuple[str, ...], title: str = NEURONMERGE_2, *, seed: int = 0, **parameters: Any
    ) -> Variant:
        """Return NeuronMerge₂, or it with other parameters."""
        return Variant(title, "neuronmerge", models, parameters, seed)

    def neuronmerge_1(self, dare: Variant) -> Variant:
        """Return NeuronMerge₁, whose attention is merged as DARE does it."""
        return self.neuronmerge(dare.models, NEURONMERGE_1, others=_dare(dare))

    def with_task_arithmetic(self, best: Variant) -> Variant:
        """Return NeuronMerge with task arithmetic for attention (Table 10)."""
        return self.neuronmerge(best.models, "task arithmetic + NeuronMerge", others=_arithmetic(best))

    def combinations(self, arithmetic: Variant, dare: Variant) -> list[Variant]:
        """Return experiments 1 to 4 of Table 11."""
        by_sums, by_dropping = _arithmetic(arithmetic), _dare(dare)
        chosen = [(by_dropping, by_sums), ("sublin", by_sums), (by_dropping, by_dropping), ("sublin", by_dropping)]
        return [
            self.neuronmerge(arithmetic.models, f"experiment {number}", others=others, general=general)
            for number, (others, general) in enumerate(chosen, 1)
        ]

    def choices(self) -> dict[tuple[str, str], Variant]:
        """Return the merge for each choice of what the neurons of both tasks become (Tables 3 and 12)."""
        first, second = (self._category(label) for label in self.pair)
        return {
            (one, other): self.neuronmerge(self.pair)
            if one == other == "drop"
            else self.neuronmerge(self.pair, f"{one}, {other}", specific={first: one, second: other})
            for one in CHOICES
            for other in CHOICES
        }

    def random_groups(self) -> list[Variant]:
        """Return NeuronMerge₂ with groups at random (Table 4)."""
        seeds = range(self.budget.repeats)
        return [self.neuronmerge(self.pair, "random groups", seed=seed, grouping="random") for seed in seeds]

    def votes(self) -> dict[int, Variant]:
        """Return NeuronMerge₂ by the number of texts that vote (Table 9)."""
        usual = {TOP_K.default: self.neuronmerge(self.pair)}
        return {k: usual.get(k) or self.neuronmerge(self.pair, f"k = {k}", top_k=k) for k in self.budget.votes}

    def margins(self) -> dict[int, Variant]:
        """Return NeuronMerge₂ by the margin of the vote (Table 13)."""
        usual = {MARGIN.default: self.neuronmerge(self.pair)}
        return {m: usual.get(m) or self.neuronmerge(self.pair, f"m = {m}", margin=m) for m in self.budget.margins}

    def data_free(self, models: tuple[str, ...]) -> list[Variant]:
        """Return the methods without validation of NeuroMerging's tables."""
        return [
            Variant(AVERAGING, "linear", models),
            Variant(TIES, "ties", models),
            Variant(PCB, "pcb", models),
            self.neuromerging(models),
        ]

    def ties(self, models: tuple[str, ...]) -> list[Variant]:
        """Return the settings of TIES-Merging that one with a validation set chooses from, its defaults first."""
        tried = [{"density": density, "lambda": scale} for density, scale in self.budget.ties]
        return [Variant(TIES, "ties", models, each) for each in ({}, *tried)]

    def by_data(self, models: tuple[str, ...]) -> list[Variant]:
        """Return the methods of NeuroMerging's tables that go by texts or by tasks."""
        searched = {"evaluations": self.budget.evaluations}
        by_texts = [
            Variant(FISHER, "fisher", models),
            Variant(REGMEAN, "regmean", models),
            Variant(LORAHUB, "lorahub", models, searched),
            Variant(ADAMERGING, "adamerging", models, {"steps": self.budget.steps}),
        ]
        return (by_texts if self.texts else []) + ([Variant(PCB_ES, "pcb_es", models, searched)] if self.tasks else [])

    def neuromerging(self, models: tuple[str, ...], title: str = NEUROMERGING, **parameters: Any) -> Variant:
        """Return NeuroMerging by its defaults, λ1 = 0 and λ2 = 1 / (1 − σ), or with other parameters."""
        return Variant(title, "neuromerging", models, parameters)

    def functions(self) -> dict[str, Variant]:
        """Return NeuroMerging by merge function (its Table 5)."""
        titles = {"elect_mean": "elect + mean", "elect_sum": "elect + sum", "mean": "mean", "sum": "sum"}
        found = {title: self.neuromerging(self.labels, title, merge_function=name) for name, title in titles.items()}
        return found | {"elect + mean": self.neuromerging(self.labels)}

    def ratios(self) -> dict[float, Variant]:
        """Return NeuroMerging by mask ratio (its Fig. 6)."""
        return {r: self.neuromerging(self.labels, f"r = {r:g}", mask_ratio=r) for r in self.budget.ratios}

    def lambdas(self) -> dict[tuple[float, float], Variant]:
        """Return NeuroMerging by λ1 and λ2 (its Fig. 4)."""
        return {
            (one, two): self.neuromerging(self.labels, f"λ1 = {one:g}, λ2 = {two:g}", lambda_1=one, lambda_2=two)
            for one in self.budget.lambdas_1
            for two in self.budget.lambdas_2
        }

    def tuned(self) -> list[Variant]:
        """Return the settings that NeuroMerging with a validation set chooses from: r, or λ1 and λ2."""
        return list({each.key: each for each in (*self.lambdas().values(), *self.ratios().values())}.values())

    def subspaces(self) -> dict[tuple[str, str], Variant]:
        """Return each fine-tune with one part of its change alone (NeuroMerging's Fig. 1, Tables 6 and 12)."""
        return {
            (label, keep): Variant(f"{label}, {keep}", "subspace", (label,), {"keep": keep})
            for label in self.labels
            for keep in ("orthogonal", "parallel")
        }

    def everywhere(self, variant: Variant) -> bool:
        """Whether the papers look at what a merge scores on all tasks, and not on those of its fine-tunes alone."""
        return variant.method == "subspace" or variant.key in {each.key for each in self.data_free(self.labels)}

    def merges(self, best: Best) -> Iterator[Variant]:
        """Yield every merge once, in the order of the papers; `best` is asked when what it compares has been scored."""
        seen = set[str]()
        for variant in self._all(best):
            if variant.key not in seen:
                seen.add(variant.key)
                yield variant

    def _all(self, best: Best) -> Iterator[Variant]:
        for models in self.settings:
            for method in (TASK_ARITHMETIC, DARE):
                yield from self.search(models, method)
            if self.texts:
                arithmetic, dare = (best(self.search(models, method)) for method in (TASK_ARITHMETIC, DARE))
                yield from (self.sublin(models), self.neuronmerge_1(dare), self.neuronmerge(models))
                yield self.with_task_arithmetic(arithmetic)
                if models == self.pair:
                    yield from self.ablations(arithmetic, dare)
            if models in (self.pair, self.labels):
                yield from self.data_free(models)
        if self.settings:
            yield from [*self.by_data(self.labels), *self.ties(self.labels)]
            yield from [*self.lambdas().values(), *self.functions().values(), *self.ratios().values()]
        yield from self.subspaces().values()

    def ablations(self, arithmetic: Variant, dare: Variant) -> Iterator[Variant]:
        """Yield what NeuronMerge's ablations compare, all with the same two fine-tunes."""
        yield from self.choices().values()
        yield from self.random_groups()
        yield from [*self.votes().values(), *self.margins().values()]
        yield from self.combinations(arithmetic, dare)

    def _category(self, label: str) -> str:
        return next(model.category for model in self.family.models if model.label == label)


def _dare(variant: Variant) -> dict[str, Any]:
    return {"method": "dare_linear", **variant.parameters}


def _arithmetic(variant: Variant) -> dict[str, Any]:
    return {"method": "task_arithmetic", **variant.parameters}
