"""Single neurons up close: on texts, by their weights, and what fine-tunes and merges changed in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.votes import Votes
from nmerge_core.figures import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.figures.explorer import Seen


@dataclass(frozen=True)
class Explored:
    """One neuron on texts, in each model; a notebook shows the texts, each token shaded by how strongly it fires.

    Of images a token is a patch, by its row and column, or what stands before them, as the class token.

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

    `models` has a row per fine-tune and merge: cosine (with the base's weights θ_0), change (‖τ‖ / ‖θ_0‖) and parallel
    (‖τ∥‖² / ‖τ‖², the share of the change along θ_0). `between` has a row per two fine-tunes, those furthest apart
    first: one, other, cosine (of their changes) and opposed (of the weights that both changed, the share that they
    moved opposite ways). `kept` has a row per merge and fine-tune: kept (⟨Δ, τ_t⟩ / ‖τ_t‖², Δ being the merge's change
    and τ_t the fine-tune's), cosine (of the two), change (‖τ_t‖ / ‖θ_0‖) and merge_change (‖Δ‖ / ‖θ_0‖).
    """

    models: pd.DataFrame
    between: pd.DataFrame
    kept: pd.DataFrame


class SingleNeurons(Votes):
    """Classifications, asked about one neuron at a time."""

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
        elif opened[chosen.label].images:
            raise InputError("texts: these neurons are classified by images, which alone are shown")
        else:
            given = [texts] if isinstance(texts, str) else list(texts)
            read = pd.DataFrame({"id": range(len(given)), "category": chosen.category, "text": given})
        if opened[chosen.label].images:
            return self._explored_images(read, models, layer, neuron)
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

    def _explored_images(self, read: pd.DataFrame, models: Sequence[Seen], layer: int, neuron: int) -> Explored:
        """Return what `explore` does of images; of models whose patches are not known there are no tokens."""
        import numpy as np

        from nmerge_core.figures.images import chosen_images
        from nmerge_core.neuron.peaks import peaks_of
        from nmerge_core.runs.short_questions import QUESTIONS

        opened = dict(zip(self.labels, self.opened, strict=True))
        thumbnails = {name: found.thumbnails() for name, found in opened.items()}
        peaks = {name: peaks_of(found, layer, neuron) for name, found in opened.items()}
        scores = {seen.label: dict(zip(seen.ids, seen.scores, strict=True)) for seen in models}
        grids = {name: found.grid for name, found in opened.items() if found.grid}
        answers = {
            name: QUESTIONS["image_activations"](str(opened[name].folder), layer, neuron, list(read["id"]))
            for name in grids
        }
        tokens = [
            (name, row, position, grids[name].told(position), value)
            for name, found in answers.items()
            for row, values in enumerate(found)
            for position, value in enumerate(values)
        ]
        columns = ["model", "text", "position", "token", "activation"]
        patches = {name: [grids[name].patches(np.array(each)) for each in found] for name, found in answers.items()}
        html = chosen_images(models, read, thumbnails, peaks, patches, self._colours)
        read = read.drop(columns="title").reset_index(drop=True)
        read = read.assign(**{name: [own[id] for id in read["id"]] for name, own in scores.items()})
        return Explored(read, pd.DataFrame(tokens, columns=columns), html)

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

    def changes(self, layer: int, neuron: int, merges: str | Sequence[str] = ()) -> NeuronChanged:
        """Compare what the fine-tunes and merges of them changed in one neuron, the first model being their base.

        Args:
            layer: the layer, from 0.
            neuron: the neuron, from 0.
            merges: which of the models are merges of the others, if any.

        Raises:
            InputError: there is no such model, layer or neuron.
        """
        from nmerge_core.inheritance.measure import neuron_changes

        made = [self._known(merge) for merge in ([merges] if isinstance(merges, str) else merges)]
        tuned = self._tuned(*made)
        of = {label: each.meta["model"] for label, each in zip(self.labels, self.opened, strict=True)}
        found = neuron_changes(of[self.labels[0]], [of[x] for x in tuned], [of[x] for x in made], layer, neuron)
        return NeuronChanged(found.own([*tuned, *made]), found.between(tuned), found.table(tuned, made))

    def _tuned(self, *merges: str) -> list[str]:
        """Return the fine-tunes: all but the first model, the base, and merges, these and those by NMerge."""
        return [label for label in self.labels[1:] if label not in {*merges, *self._merged}]
