"""What `classify` and `compare` return: categories and their figures, and single neurons up close."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.confidence import DRAWS, confident_counts, neuron_confidence
from nmerge_core.errors import InputError
from nmerge_core.face.results import Inherited, in_order, merged_of, model_colours
from nmerge_core.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.activations.store import Classification
    from nmerge_core.agreement import Agreement
    from nmerge_core.figures.explorer import Seen
    from nmerge_core.random_labels import Chance


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
class TextRead:
    """A text as several models read it, and what one added.

    `tokens` has position, token, whether it was added, and by the name of each model but the first KL(model ‖ first) of
    what comes after it, in nats. `neurons` has model, position, layer, neuron, activation, share (of the neuron's
    largest score over the corpus) and category of each token's strongest neurons.
    """

    tokens: pd.DataFrame
    neurons: pd.DataFrame
    base: str

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw how far each model goes on differently from the first after each token."""
        from nmerge_core.figures.text_neurons import divergences

        parted = self.tokens.drop(columns=["position", "token", "added"]).to_dict("list")
        return divergences(list(self.tokens["token"]), parted, self.base, dark=dark)


@dataclass(frozen=True)
class NeuronChanged:
    """What fine-tunes and merges changed in one neuron: in its rows of gate and up, their biases, its column of down.

    `kept` has a row per merge and fine-tune: kept (⟨Δ, τ_t⟩ / ‖τ_t‖², Δ being the merge's change and τ_t the
    fine-tune's), cosine (of the two), change (‖τ_t‖ / ‖θ_0‖) and merge_change (‖Δ‖ / ‖θ_0‖). `between` has the cosine
    of every two fine-tunes' changes.
    """

    kept: pd.DataFrame
    between: pd.DataFrame


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

        return self._in_order(compare(self.paths, self.labels, k=self.k, margin=self.margin))

    def undecided(self) -> pd.Series:
        """Return for each model how many categories hang on the order of scores within 1e-5 of each other."""
        from nmerge_core.classification import count_undecided

        counts = [count_undecided(each, k=self.k, margin=self.margin) for each in self.opened]
        return pd.Series(counts, self.labels)

    def by_chance(self, draws: int = 3) -> Chance:
        """Return the shares that random labels of the texts give: what goes beyond them is a finding.

        They are of the first model's General neurons (`general`), and of those with one category in all models
        (`kept`); means of so many draws.
        """
        from nmerge_core.random_labels import by_chance

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

    def agreement(self, model: str | None = None, other: Classifications | None = None) -> Agreement:
        """Return how far the base's categories are those of a model, or of the base in `other` (App. D.5).

        It has `counts`, a row per category of the base and a column per category of the other; `share`, of the neurons
        that have one category in both; `kappa`, Cohen's κ, 1 in full and 0 by chance; and `iou` of each category.

        Args:
            model: a model of these; the last by default.
            other: classifications by another corpus of the same categories, whose first model is taken instead.

        Raises:
            InputError: there is no such model, both are given, or neurons or categories differ.
        """
        from nmerge_core.agreement import agreement

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

    def explore(
        self,
        layer: int,
        neuron: int,
        *,
        model: str | None = None,
        count: int = 5,
        way: str = "strongest",
        texts: str | Sequence[str] | None = None,
        context: int | None = 16,
    ) -> Explored:
        """See what one neuron reacts to: texts that excite it in one model, as every model reads them.

        The models stay in memory for further questions.

        Args:
            layer: the layer, from 0.
            neuron: the neuron, from 0.
            model: by whose scores texts are chosen; the first's by default.
            count: how many of them.
            way: which: the "strongest", of "quantile bands" one each, or at "random".
            texts: a text, or texts, to read instead, shown whole.
            context: tokens shown either side of the strongest one; all if None.

        Raises:
            InputError: there is no such model, layer or neuron, or way.
        """
        from nmerge_core.figures import explorer
        from nmerge_core.neuron.exemplars import WAYS, choose_texts
        from nmerge_core.runs.short_questions import QUESTIONS

        opened = dict(zip(self.labels, self.opened, strict=True))
        models = self._seen(layer, neuron)
        chosen = models[self.labels.index(self._known(model)) if model is not None else 0]
        if way not in WAYS:
            raise InputError(f"way {way!r}: expected one of {', '.join(WAYS)}")
        if texts is None:
            corpus = opened[chosen.label].exemplars().set_index("id", drop=False)
            shown = choose_texts(chosen.ids, list(corpus.loc[range(len(corpus)), "text"]), way, count, (layer, neuron))
            read = corpus.loc[[each.id for each in shown]].assign(title=[each.title for each in shown])
        else:
            given = [texts] if isinstance(texts, str) else list(texts)
            read = pd.DataFrame({"id": range(len(given)), "category": chosen.category, "text": given})
        asked = list(read["text"])
        token_activations = QUESTIONS["token_activations"]
        answers = {
            name: token_activations(each.meta["model"], layer, neuron, asked, each.meta["max_length"])
            for name, each in opened.items()
        }
        if texts is None:
            html = explorer.chosen_texts(models, read, answers, self._colours, context)
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
        read = read.drop(columns="title", errors="ignore").reset_index(drop=True)
        return Explored(read.assign(**scores), pd.DataFrame(tokens, columns=columns), html)

    def _seen(self, layer: int, neuron: int) -> list[Seen]:
        """Return a neuron as every model has it."""
        from nmerge_core.neuron.seen import see

        each = zip(self.opened, self.labels, strict=True)
        return [see(found, name, layer, neuron, k=self.k, margin=self.margin) for found, name in each]

    def record(self, layer: int, neuron: int, *, count: int = 10) -> dict[str, Any]:
        """Return all that is stored of one neuron as JSON has it, with the `count` strongest texts of each model.

        Raises:
            InputError: there is no such layer or neuron.
        """
        from nmerge_core.neuron.record import record

        return record(self.opened, self._seen(layer, neuron), layer, neuron, count)

    def on_text(self, text: str, *, more: int = 0, model: str | None = None, count: int = 8) -> TextRead:
        """Read a text, with what one model adds to it, by all: each token's strongest neurons, and where they part.

        Args:
            text: the text.
            more: tokens that are added, greedily, by `model`.
            model: who adds; the first by default.
            count: neurons of each token and model, strongest on their own scales over the corpus.

        Raises:
            InputError: there is no such model, the text is empty, or a model is no causal language model, or has
                another tokenizer.
        """
        from nmerge_core.runs.short_questions import QUESTIONS

        read = QUESTIONS["continued"](self._reference(model), text, more)
        ids, names = read["ids"], read["names"]
        tokens = pd.DataFrame({"position": range(len(ids)), "token": read["pieces"]})
        tokens["added"] = tokens["position"] >= read["given"]
        rows, base = [], self._reference(None)
        for label, found, path in zip(self.labels, self.opened, self.paths, strict=True):
            strongest = QUESTIONS["strongest_neurons"](found.meta["model"], str(path), ids, names, count)
            rows += [{"model": label, "position": n, **each} for n, at in enumerate(strongest) for each in at]
            if label != self.labels[0]:
                tokens[label] = QUESTIONS["token_divergence"](found.meta["model"], base, ids, names)
        neurons = pd.DataFrame(rows).merge(self.neurons(), on=["model", "layer", "neuron"], how="left")
        return TextRead(tokens, neurons, self.labels[0])

    def scores_figure(
        self, layer: int, neuron: int, *, model: str | None = None, texts: Mapping[str, str] | None = None
    ) -> go.Figure:
        """Draw how strong one neuron is on all texts in one model, the first's by default, by their categories.

        `texts` are texts of one's own by what they are called, whose scores are marked.
        """
        from nmerge_core.figures.score_histogram import scores_by_category
        from nmerge_core.neuron.seen import scores_of
        from nmerge_core.runs.short_questions import QUESTIONS

        label = self.labels[0] if model is None else self._known(model)
        found, own = self.opened[self.labels.index(label)], dict(texts or {})
        about = found.meta["model"], layer, neuron, list(own.values()), found.meta["max_length"]
        read = QUESTIONS["token_activations"](*about) if own else []
        marked = {name: max(map(abs, each["values"]), default=0.0) for name, each in zip(own, read, strict=True)}
        categories = [found.categories[index] for index in found.exemplar_categories]
        scores = scores_of(found, layer, neuron)
        return scores_by_category(scores, categories, self._colours, marked, title=style.plain(label))

    def lens(self, layer: int, neuron: int, *, model: str | None = None, count: int = 10) -> pd.DataFrame:
        """Return the tokens that one neuron promotes and suppresses in a model, the first by default (logit lens).

        Columns promoted, logit, suppressed, logit_suppressed; docs/explorer.md says how they are found.

        Raises:
            InputError: there is no such model, layer or neuron, or the model has no unembedding.
        """
        from nmerge_core.runs.short_questions import QUESTIONS

        found = QUESTIONS["neuron_lens"](self._reference(model), layer, neuron, count)
        (promoted, up), (suppressed, down) = (zip(*found[kind], strict=True) for kind in ("promoted", "suppressed"))
        return pd.DataFrame({"promoted": promoted, "logit": up, "suppressed": suppressed, "logit_suppressed": down})

    def nearest(
        self, layer: int, neuron: int, *, model: str | None = None, count: int = 10, everywhere: bool = False
    ) -> pd.DataFrame:
        """Return the neurons whose weights have the highest cosine with one's: layer, neuron, cosine.

        They are of its layer or, `everywhere`, of all layers of a model, the first by default.

        Raises:
            InputError: there is no such model, layer or neuron.
        """
        from nmerge_core.neuron.nearest import nearest

        return nearest(self._reference(model), layer, neuron, count=count, everywhere=everywhere)

    def overview(self, model: str | None = None) -> pd.DataFrame:
        """Return a row per neuron of a model, the first by default, to find some by.

        Columns layer, neuron, category, votes (of the leading category), lead, score (the largest), selectivity, dead.
        """
        from nmerge_core.neuron.overview import overview

        return overview(self.opened[0 if model is None else self.labels.index(self._known(model))])

    def _reference(self, model: str | None) -> str:
        reference: str = self.opened[0 if model is None else self.labels.index(self._known(model))].meta["model"]
        return reference

    def changes(self, layer: int, neuron: int, merges: str | Sequence[str]) -> NeuronChanged:
        """Compare what the fine-tunes and merges of them changed in one neuron, the first model being their base.

        Args:
            layer: the layer, from 0.
            neuron: the neuron, from 0.
            merges: which of the models are merges of the others.

        Raises:
            InputError: there is no such model, layer or neuron.
        """
        from nmerge_core.inheritance.measure import neuron_changes

        made = [self._known(merge) for merge in ([merges] if isinstance(merges, str) else merges)]
        tuned = self._tuned(*made)
        of = {label: each.meta["model"] for label, each in zip(self.labels, self.opened, strict=True)}
        found = neuron_changes(of[self.labels[0]], [of[x] for x in tuned], [of[x] for x in made], layer, neuron)
        return NeuronChanged(found.table(tuned, made), found.between(tuned))

    def became(self, merge: str) -> pd.DataFrame:
        """Return in which category of a merge the neurons of each category of each fine-tune ended up.

        Columns model, before, after, neurons, share (of those of `before`).

        Raises:
            InputError: there is no such model, or no fine-tune beside it.
        """
        from nmerge_core.inheritance.tables import became

        neurons, tuned = dict([*self.neurons().groupby("model", sort=False)]), self._tuned(self._known(merge))
        if not tuned:
            raise InputError(f"expected a fine-tune beside the base and {merge}, found {', '.join(self.labels)}")
        frames = [became(neurons[each], neurons[merge], self.categories).assign(model=each) for each in tuned]
        return pd.concat(frames, ignore_index=True)[["model", "before", "after", "neurons", "share"]]

    def became_figure(self, merge: str, *, dark: bool = False) -> go.Figure:
        """Draw the same, a panel per model: its categories downwards, those in the merge to the right."""
        from nmerge_core.figures.inheritance import became

        return became(self.became(merge), dark=dark)

    def kept(self, inherited: Inherited, *, by_layer: bool = False) -> pd.DataFrame:
        """Return what a merge kept of each fine-tune in the neurons of each category of the first model, the base.

        Columns category, perhaps layer, model, neurons, kept (of the change in these neurons taken together).
        """
        from nmerge_core.inheritance.tables import kept_by, with_categories

        base = self.neurons().query("model == @self.labels[0]")
        frame = with_categories(inherited.neurons, base, self.categories)
        return kept_by(frame, ["category", "layer"] if by_layer else ["category"])

    def kept_figure(self, inherited: Inherited, *, dark: bool = False) -> go.Figure:
        """Draw the same, a bar per fine-tune."""
        from nmerge_core.figures.inheritance import kept

        return kept(self.kept(inherited), model_colours(list(inherited.names.values()), {}, dark=dark), dark=dark)

    def kept_depth_figure(self, inherited: Inherited, *, dark: bool = False) -> go.Figure:
        """Draw the same over the layers, a panel per category."""
        from nmerge_core.figures.inheritance import kept_over_depth

        colours = model_colours(list(inherited.names.values()), {}, dark=dark)
        return kept_over_depth(self.kept(inherited, by_layer=True), colours, dark=dark)

    def _in_order(self, counts: pd.DataFrame) -> pd.DataFrame:
        """Return counts per layer and category with the categories as figures have them."""
        ranks = {category: rank for rank, category in enumerate(self.categories)}
        return counts.sort_values(["layer", "category"], key=lambda keys: keys.replace(ranks), ignore_index=True)

    def _tuned(self, *merges: str) -> list[str]:
        """Return the fine-tunes: all but the first model, the base, and merges, these and those by NMerge."""
        return [label for label in self.labels[1:] if label not in {*merges, *self._merged}]

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
