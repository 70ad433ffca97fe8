"""The categories that exemplars vote for: every neuron's, how sure they are, and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pandas as pd

from nmerge_core.classification.confidence import DRAWS, confident_counts, neuron_confidence
from nmerge_core.errors import InputError
from nmerge_core.face.results import in_order, merged_of, model_colours
from nmerge_core.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.activations.store import Classification
    from nmerge_core.classification.agreement import Agreement
    from nmerge_core.classification.random_labels import Chance


@dataclass(frozen=True)
class Votes:
    """The neuron categories of one model or of several, the base's first; one folder each.

    `k` exemplars vote, and a category must lead by `margin`; as each folder was made if None. Where both are None it
    stands for its folder wherever a path is taken; another vote is in no folder.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    k: int | None = None
    margin: int | None = None

    def __fspath__(self) -> str:
        """Stand for the folder of the first model; raises InputError after another vote, which the folder is not of."""
        if self.k is not None or self.margin is not None:
            raise InputError(
                f"expected a classification as `classify` wrote it, found another vote (k={self.k}, "
                f"margin={self.margin}), which is in no folder; classify with top_k and margin, or give a recipe the "
                "folder (.path) and top_k and margin beside it"
            )
        return str(self.paths[0])

    @property
    def path(self) -> Path:
        """The folder of the first model."""
        return self.paths[0]

    @cached_property
    def opened(self) -> tuple[Classification, ...]:
        """The folders, opened: arrays of exemplars are read when asked for."""
        from nmerge_core.activations.store import open_classification

        return tuple(open_classification(path) for path in self.paths)

    @property
    def categories(self) -> list[str]:
        """The categories as figures have them: General, those that models are called after, others."""
        return in_order(self.opened[0].categories, self.labels)

    def vote(self, k: int | None = None, margin: int | None = None) -> Self:
        """Let the exemplars vote again, without a pass through the models: `k` of them, for a lead of `margin`."""
        return replace(self, k=k, margin=margin)

    def neurons(self) -> pd.DataFrame:
        """Return a row per model and neuron: model, layer, neuron, category."""
        from nmerge_core.classification.classification import neuron_categories

        frames = [
            neuron_categories(each, k=self.k, margin=self.margin).assign(model=label)
            for label, each in zip(self.labels, self.opened, strict=True)
        ]
        return pd.concat(frames, ignore_index=True)[["model", "layer", "neuron", "category"]]

    def counts(self) -> pd.DataFrame:
        """Return layer, category, a column of counts per model, and of neurons that all have it (intersection)."""
        from nmerge_core.classification.classification import compare

        return self._in_order(compare(self.paths, self.labels, k=self.k, margin=self.margin))

    def undecided(self) -> pd.Series:
        """Return for each model how many categories hang on the order of scores within 1e-5 of each other."""
        from nmerge_core.classification.classification import count_undecided

        counts = [count_undecided(each, k=self.k, margin=self.margin) for each in self.opened]
        return pd.Series(counts, self.labels)

    def by_chance(self, draws: int = 3) -> Chance:
        """Return the shares that random labels of the texts give: what goes beyond them is a finding.

        They are of the first model's General neurons (`general`), and of those with one category in all models
        (`kept`); means of so many draws.
        """
        from nmerge_core.classification.random_labels import by_chance

        return by_chance(self.opened, k=self.k, margin=self.margin, draws=draws)

    def confidence(self, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
        """Return how sure each category is: a row per model and neuron, as `neurons`, with lead and support.

        lead is the share of the votes by which the first category leads the second. support is the share of redrawn
        corpora that give the neuron the same category: the texts of each category are drawn again, as many as it has,
        with replacement, and the k best of those vote. It needs no pass through the models.

        Args:
            draws: redrawn corpora, 100 by default; the same for all neurons and models.
            seed: of the draws.
        """
        tables = self._confident(draws, seed)
        frames = [table.assign(model=label) for label, table in tables.items()]
        return pd.concat(frames, ignore_index=True)[["model", "layer", "neuron", "category", "lead", "support"]]

    def _confident(self, draws: int, seed: int) -> dict[str, pd.DataFrame]:
        return {
            label: neuron_confidence(each, k=self.k, margin=self.margin, draws=draws, seed=seed)
            for label, each in zip(self.labels, self.opened, strict=True)
        }

    def statistics(self, model: str | None = None) -> pd.DataFrame:
        """Return what each neuron of one model, the first by default, is like over all tokens of the texts.

        Columns layer, neuron, tokens, mean, variance, skew, kurtosis (3 of a normal distribution), positive (share of
        tokens with φ > 0), max and min of φ with max_exemplar, max_token, min_exemplar, min_token, and the shares of
        tokens by the signs of gate and up, such as gate_pos_up_neg.

        Raises:
            InputError: there is no such model, or it was classified without statistics.
        """
        return self.opened[self.labels.index(self._known(model or self.labels[0]))].statistics()

    def agreement(self, model: str | None = None, other: Votes | None = None) -> Agreement:
        """Return how far the base's categories are those of a model, or of the base in `other` (App. D.5).

        It has `counts`, a row per category of the base and a column per category of the other; `share`, of the neurons
        that have one category in both; `kappa`, Cohen's κ, 1 in full and 0 by chance; and `iou` of each category.

        Args:
            model: a model of these; the last by default.
            other: classifications by another corpus of the same categories, whose first model is taken instead.

        Raises:
            InputError: there is no such model, both are given, or neurons or categories differ.
        """
        from nmerge_core.classification.agreement import agreement

        if model is not None and other is not None:
            raise InputError("agreement: expected a model or other classifications, found both")
        if other is not None:
            second = other.opened[0]
        else:
            second = self.opened[-1 if model is None else self.labels.index(self._known(model))]
        return agreement(self.opened[0], second, k=self.k, margin=self.margin)

    def figure(
        self, layers: Sequence[int] | None = None, *, support: float | None = None, dark: bool = False
    ) -> go.Figure:
        """Draw the neurons of each category in all layers or some, a bar per model (NeuronMerge Figs 3 and 6).

        Those of less than this `support` (see `confidence`) are pale.
        """
        from nmerge_core.figures.neurons import categories_by_layer

        chosen = self.opened[0].layers if layers is None else layers
        colours = model_colours(self.labels, self._merged, dark=dark)
        sure = None if support is None else self._in_order(confident_counts(self._confident(DRAWS, 0), support))
        return categories_by_layer(self.counts(), chosen, colours, sure, dark=dark)

    def proportions_figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category in each model (NeuronMerge Fig. 2a)."""
        from nmerge_core.figures.neurons import proportions

        return proportions(self.counts(), self.labels, self._colours, dark=dark)

    def depth_figure(self, model: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category over the layers of one model, the first by default (NeuronMerge Fig. 9)."""
        from nmerge_core.figures.neurons import over_depth

        return over_depth(self.counts(), model or self.labels[0], self._colours, dark=dark)

    def map_figure(self, model: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category in each layer of one model, the first by default, as a heat map.

        "intersection" stands for the neurons that have one category in all models.
        """
        from nmerge_core.figures.neuron_map import heat_map

        chosen = model or self.labels[0]
        colours = model_colours(self.labels, self._merged, dark=dark) | {"intersection": style.INTERSECTION}
        return heat_map(self.counts(), chosen, colours[chosen], dark=dark)

    def _in_order(self, counts: pd.DataFrame) -> pd.DataFrame:
        """Return counts per layer and category with the categories as figures have them."""
        ranks = {category: rank for rank, category in enumerate(self.categories)}
        return counts.sort_values(["layer", "category"], key=lambda keys: keys.replace(ranks), ignore_index=True)

    def _reference(self, model: str | None) -> str:
        reference: str = self.opened[0 if model is None else self.labels.index(self._known(model))].meta["model"]
        return reference

    @property
    def _merged(self) -> dict[str, str]:
        return merged_of(self.labels, [each.meta["model"] for each in self.opened])

    def _known(self, model: str) -> str:
        """Return the name of a model; raises InputError where none has it."""
        if model not in self.labels:
            raise InputError(f"model {model!r}: expected one of {', '.join(self.labels)}")
        return model

    @property
    def _colours(self) -> dict[str, str]:
        return style.category_colours(self.categories)
