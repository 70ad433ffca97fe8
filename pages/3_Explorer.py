"""Explorer: one neuron, its strongest texts, and the same neuron in every fine-tune."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.errors import InputError
from nmerge_core.figures import explorer as figures
from nmerge_core.figures import style
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.neurons import classification_runs, colours_in_order, exemplars, finished, layer_categories, opened
from pages.shared.page import begin, how_computed, link, tell_lack

ALL = "all neurons"
WINDOW = 14  # tokens shown either side of the strongest one
LOADING = 180.0  # seconds for the worker to load a model and answer
PLAIN = 240  # characters of a text shown before its tokens are known
FORMULA = r"""
The texts are the exemplars with the highest score $a_j(s) = \max_t |\varphi_j(s, t)|$ of this neuron in the chosen
model; the coloured squares are the votes of its first $k$ (NeuronMerge, Eq. 2). A token is shaded in the colour of its
text's category with opacity $0.05 + 0.95 \log_{10}(1 + 9r)$ (as in Neuronpedia), $r$ being $|\varphi_j(s,t)|$ divided
by the neuron's highest score in that model; a dotted line marks strong negative activations, and the tooltip has the
value. In Qwen and Llama models the very first token can dominate every text (an attention sink): then look at the next
strongest token.
"""


@dataclass(frozen=True)
class Seen:
    """The neuron as one model has it: its category, who voted, and its strongest exemplars with their scores."""

    label: str
    run: Run
    layer: int
    neuron: int
    category: str
    votes: list[str]
    ids: NDArray[np.int32]
    scores: NDArray[np.float32]

    @property
    def peak(self) -> float:
        """The highest score over all texts."""
        return float(self.scores[0])

    def head(self, colours: Mapping[str, str]) -> str:
        """HTML for the top of the model's column."""
        return (
            f"<b>{html.escape(self.label)}</b> {figures.chip(self.category, colours)}<br>"
            f"{figures.votes(self.votes, colours)} <small>highest score {style.significant(self.peak)}</small>"
        )

    def note(self, exemplar: int) -> str:
        """The rank and score of an exemplar."""
        place = np.flatnonzero(self.ids == exemplar)
        if not len(place):
            return f"not among its {len(self.ids)} strongest"
        return f"number {place[0] + 1} · score {style.significant(float(self.scores[place[0]]))}"


def see(label: str, run: Run, layer: int, neuron: int) -> Seen:
    """Look a neuron up in a model's finished classification."""
    found = opened(run)
    ids, scores = (array[neuron] for array in found.top(layer))
    voters = found.exemplar_categories[ids[: found.meta["top_k"]]]
    category = categories_of(run, layer)[0][neuron]
    return Seen(label, run, layer, neuron, str(category), [found.categories[index] for index in voters], ids, scores)


def categories_of(run: Run, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Categories and votes of a layer's neurons as the run was asked to count them."""
    meta = opened(run).meta
    return layer_categories(str(run.results), layer, meta["top_k"], meta["margin"])


@st.cache_data(max_entries=512, show_spinner=False)
def activations(
    reference: str, content: str, layer: int, neuron: int, texts: tuple[str, ...], max_length: int
) -> list[dict[str, Any]]:
    """Tokens and activations of `texts`, asked of the worker; `content` is the fingerprint of the weights."""
    asked = {"model": reference, "layer": layer, "neuron": neuron, "texts": list(texts), "max_length": max_length}
    return client.ask("token_activations", timeout=LOADING, **asked)


def ask_all(models: Sequence[Seen], texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The tokens and activations of `texts` in every model; a model that cannot be asked is told of and left out."""
    answers = {}
    for seen in models:
        reference = seen.run.parameters["model"]
        content, max_length = seen.run.inputs[reference], opened(seen.run).meta["max_length"]
        try:
            answers[seen.label] = activations(reference, content, seen.layer, seen.neuron, tuple(texts), max_length)
        except (InputError, TimeoutError, RuntimeError) as error:
            st.warning(f"The tokens of {seen.label} could not be shaded. {error}")
    return answers


def text_rows(
    models: Sequence[Seen], texts: pd.DataFrame, answers: Mapping[str, list[dict[str, Any]]], colours: Mapping[str, str]
) -> list[tuple[str, str, list[figures.Cell]]]:
    """Per exemplar its title, its colour and a cell per model: plain text where there is no answer (yet)."""
    rows = []
    for rank, text in enumerate(texts.itertuples()):
        plain = {"tokens": [text.text[:PLAIN]], "values": []}
        read = {seen.label: answers[seen.label][rank] if seen.label in answers else plain for seen in models}
        cells = [
            figures.Cell(read[seen.label]["tokens"], read[seen.label]["values"], seen.peak, seen.note(text.id))
            for seen in models
        ]
        rows.append((f"{rank + 1} {figures.chip(text.category, colours)}", colours[text.category], cells))
    return rows


def draw_texts(models: Sequence[Seen], chosen: Seen, count: int, whole: bool, colours: Mapping[str, str]) -> None:
    """The strongest texts of the chosen model, as every model reads them."""
    window = None if whole else WINDOW
    known = exemplars(str(chosen.run.results))
    texts = known.set_index("id", drop=False).loc[chosen.ids[:count]]
    head = [seen.head(colours) for seen in models]
    loaded = st.session_state.setdefault("explorer_loaded", set())
    place: Any = st
    if loaded.issuperset(seen.run.id for seen in models):
        answers = ask_all(models, list(texts["text"]))
    else:  # the worker has to load the models first: plain texts until then
        place = st.empty()
        place.html(figures.grid(head, text_rows(models, texts, {}, colours), window))
        with st.spinner("Reading the texts with each model", show_time=True):
            answers = ask_all(models, list(texts["text"]))
    loaded.update(seen.run.id for seen in models if seen.label in answers)
    place.html(figures.grid(head, text_rows(models, texts, answers, colours), window))


def draw_own_text(models: Sequence[Seen], colour: str) -> None:
    """A text of the reader's, as every model reads it, shaded in `colour`."""
    st.subheader("Try a text of your own", anchor=False)
    text = st.text_area("Text", key="explorer_text", label_visibility="collapsed", placeholder="Type or paste a text")
    if not text.strip():
        return
    answers = ask_all(models, [text])
    cells = []
    for seen in models:
        if seen.label in answers:
            [read] = answers[seen.label]
            score = max(map(abs, read["values"]), default=0.0)
            cells.append(figures.Cell(read["tokens"], read["values"], seen.peak, f"score {style.significant(score)}"))
    head = [f"<b>{html.escape(label)}</b>" for label in answers]
    st.html(figures.grid(head, [("", colour, cells)]))


def draw_table(table: pd.DataFrame, layer: int, model: str) -> None:
    """The neurons of the layer that one can step through; a click on a row goes to its neuron."""
    st.subheader(f"All neurons of layer {layer}", anchor=False)
    st.dataframe(
        table,
        hide_index=True,
        height=260,
        key="explorer_table",
        on_select=lambda: pick(table),
        selection_mode="single-row",
        column_config={
            "votes": st.column_config.NumberColumn(help=f"Votes of the leading category in {model}"),
            "highest score": st.column_config.NumberColumn(format="%.3g", help=f"Over all texts, in {model}"),
        },
    )


def pick(table: pd.DataFrame) -> None:
    """Go to the neuron of the clicked row."""
    rows = st.session_state["explorer_table"]["selection"]["rows"]
    if rows:
        st.session_state["neuron"] = int(table.iloc[rows[0]]["neuron"])


def step(direction: int, candidates: NDArray[np.int64]) -> None:
    """Go to the next neuron of `candidates` (ascending) in a direction, round the ends."""
    current = st.session_state["neuron"]
    beyond = candidates[candidates > current] if direction > 0 else candidates[candidates < current]
    nearest = 0 if direction > 0 else -1
    if len(candidates):
        st.session_state["neuron"] = int((beyond if len(beyond) else candidates)[nearest])


family = begin(
    "Explorer",
    "What does this neuron react to?",
    "The texts that excite one neuron most, each token shaded by how strongly the neuron fires on it, and the same "
    "neuron of every fine-tune beside it.",
)
if not family.corpus:
    tell_lack(family, "corpus", "What a neuron reacts to is shown on the texts of one.")
    st.stop()
done = finished(classification_runs(family))
if not done:
    st.info("No model of this family has been classified yet.", icon=":material/bar_chart:")
    link("pages/2_Neurons.py", "Classify the neurons", "bar_chart", family)
    st.stop()

labels = list(done)
left, middle, right = st.columns([2.4, 1, 1.1], vertical_alignment="bottom", gap="large")
with left.container(key="explorer_model"):
    model = st.segmented_control(
        "Strongest texts of",
        labels,
        default=labels[0],
        required=True,
        key="model",
        bind="query-params",
        help="Whose strongest texts are the rows below",
    )
count = middle.slider("Texts", 1, 10, 5, key="explorer_count", help="How many of the strongest texts to show")
whole = right.toggle("Whole texts", key="explorer_whole", help="Or only the tokens around the strongest one")
found = opened(done[model])
colours = colours_in_order(family, found)
columns = st.columns(5, vertical_alignment="bottom")
with columns[0].container(key="explorer_layer"):
    layer = st.selectbox("Layer", found.layers, key="layer", bind="query-params", help="0 is nearest to the input")
names, votes = categories_of(done[model], layer)
only = columns[2].selectbox(
    "Step through",
    [ALL, *found.categories],
    key="explorer_only",
    help="Previous and next go to neurons of this category in the chosen model",
)
candidates = np.arange(found.d_ffn) if only == ALL else np.flatnonzero(names == only)
arrows = {"explorer_prev": ("Previous", "chevron_left", -1), "explorer_next": ("Next", "chevron_right", 1)}
for column, (key, (name, icon, direction)) in zip(columns[3:], arrows.items(), strict=True):
    column.button(
        name, key=key, icon=f":material/{icon}:", on_click=step, args=(direction, candidates), width="stretch"
    )
with columns[1].container(key="explorer_neuron"):
    neuron = st.number_input("Neuron", 0, found.d_ffn - 1, key="neuron", bind="query-params")

models = [see(label, run, layer, neuron) for label, run in done.items()]
[chosen] = [seen for seen in models if seen.label == model]
changed = [seen.label for seen in models if seen.category != chosen.category]
kept = f"It is something else in {', '.join(changed)}." if changed else "It keeps that category in every model."
st.markdown(
    f"Layer {layer}, neuron {neuron}: a **{chosen.category}** neuron in {model}. {kept if len(done) > 1 else ''}"
)
with st.container(key="explorer_texts"):
    draw_texts(models, chosen, count, whole, colours)
draw_own_text(models, colours[chosen.category])
of_layer = {label: categories_of(run, layer)[0] for label, run in done.items()}
table = pd.DataFrame({"neuron": np.arange(found.d_ffn), **of_layer})
table["votes"], table["highest score"] = votes.max(axis=1), found.top(layer, 1)[1][:, 0]
draw_table(table.iloc[candidates], layer, model)
how_computed(
    FORMULA,
    f"python -m nmerge_core classify {done[model].parameters['model']} --corpus {family.corpus} --out neurons/{model}",
    "from nmerge_core.activations.collect import token_activations\n"
    "from nmerge_core.loading import load_model\n\n"
    f"model = load_model({done[model].parameters['model']!r})\n"
    f"token_activations(model, ['some text'], layer={layer}, neuron={neuron}, max_length={found.meta['max_length']})",
)
