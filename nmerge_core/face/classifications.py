"""What `classify` and `compare` return: categories and their figures, and single neurons up close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.results import in_order, model_colours
from nmerge_core.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.activations.store import Classification


@dataclass(frozen=True)
class Explored:
    """One neuron on texts, in each model; a notebook shows the texts, each token shaded by how strongly it fires.

    `texts` has columns id, category, text and, by the name of each model, the highest |activation|; `tokens` has model,
    text (its row in `texts`), position, token, activation; `html` is the picture.
    """

    texts: pd.DataFrame
    tokens: pd.DataFrame
    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Classifications:
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

    def vote(self, k: int | None = None, margin: int | None = None) -> Classifications:
        """Let the exemplars vote again, without a pass through the models: `k` of them, for a lead of `margin`."""
        return replace(self, k=k, margin=margin)

    def neurons(self) -> pd.DataFrame:
        """Return a row per model and neuron: model, layer, neuron, category."""
        from nmerge_core.classification import neuron_categories

        frames = [
            neuron_categories(each, k=self.k, margin=self.margin).assign(model=label)
            for label, each in zip(self.labels, self.opened, strict=True)
        ]
        return pd.concat(frames, ignore_index=True)[["model", "layer", "neuron", "category"]]

    def counts(self) -> pd.DataFrame:
        """Return layer, category, a column of counts per model, and of neurons that all have it (intersection)."""
        from nmerge_core.classification import compare

        found = compare(self.paths, self.labels, k=self.k, margin=self.margin)
        ranks = {category: rank for rank, category in enumerate(self.categories)}
        return found.sort_values(["layer", "category"], key=lambda keys: keys.replace(ranks), ignore_index=True)

    def undecided(self) -> pd.Series:
        """Return for each model how many categories hang on the order of scores within 1e-5 of each other."""
        from nmerge_core.classification import count_undecided

        counts = [count_undecided(each, k=self.k, margin=self.margin) for each in self.opened]
        return pd.Series(counts, self.labels)

    def figure(self, layers: Sequence[int] | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the neurons of each category in all layers or some, a bar per model (NeuronMerge Figs 3 and 6)."""
        from nmerge_core.figures.neurons import categories_by_layer

        chosen = self.opened[0].layers if layers is None else layers
        return categories_by_layer(self.counts(), chosen, model_colours(self.labels, dark=dark), dark=dark)

    def proportions_figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category in each model (NeuronMerge Fig. 2a)."""
        from nmerge_core.figures.neurons import proportions

        return proportions(self.counts(), self.labels, self._colours, dark=dark)

    def depth_figure(self, model: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category over the layers of one model, the first by default (NeuronMerge Fig. 9)."""
        from nmerge_core.figures.neurons import over_depth

        return over_depth(self.counts(), model or self.labels[0], self._colours, dark=dark)

    def explore(
        self,
        layer: int,
        neuron: int,
        *,
        model: str | None = None,
        count: int = 5,
        texts: str | Sequence[str] | None = None,
        whole: bool = False,
    ) -> Explored:
        """See what one neuron reacts to: the texts that excite it most in one model, as every model reads them.

        The models stay in memory for further questions.

        Args:
            layer: the layer, from 0.
            neuron: the neuron, from 0.
            model: whose strongest texts; the first's by default.
            count: how many of them.
            texts: a text, or texts, to read instead, shown whole.
            whole: show the strongest texts whole, not the tokens around the strongest one alone.

        Raises:
            InputError: there is no such model, layer or neuron.
        """
        from nmerge_core.figures import explorer
        from nmerge_core.neuron import see
        from nmerge_core.runs.operations import token_activations

        if model is not None and model not in self.labels:
            raise InputError(f"model {model!r}: expected one of {', '.join(self.labels)}")
        opened = dict(zip(self.labels, self.opened, strict=True))
        models = [see(each, name, layer, neuron, k=self.k, margin=self.margin) for name, each in opened.items()]
        chosen = models[self.labels.index(model) if model else 0]
        if texts is None:
            read = opened[chosen.label].exemplars().set_index("id", drop=False).loc[chosen.ids[:count]]
        else:
            given = [texts] if isinstance(texts, str) else list(texts)
            read = pd.DataFrame({"id": range(len(given)), "category": chosen.category, "text": given})
        asked = list(read["text"])
        answers = {
            name: token_activations(each.meta["model"], layer, neuron, asked, each.meta["max_length"])
            for name, each in opened.items()
        }
        if texts is None:
            window = None if whole else explorer.WINDOW
            html = explorer.strongest_texts(models, read, answers, self._colours, window)
        else:
            html = explorer.own_texts(models, read, answers, self._colours)
        scores = {
            name: [max(map(abs, text["values"]), default=0.0) for text in found] for name, found in answers.items()
        }
        tokens = [
            (name, row, position, token, value)
            for name, found in answers.items()
            for row, text in enumerate(found)
            for position, (token, value) in enumerate(zip(text["tokens"], text["values"], strict=True))
        ]
        columns = ["model", "text", "position", "token", "activation"]
        return Explored(read.reset_index(drop=True).assign(**scores), pd.DataFrame(tokens, columns=columns), html)

    @property
    def _colours(self) -> dict[str, str]:
        return style.category_colours(self.categories)
