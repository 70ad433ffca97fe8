"""Explorer: one neuron, its strongest texts, and the same neuron in every fine-tune."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.family import Family
from nmerge_core.figures import explorer as figures
from nmerge_core.figures import style
from nmerge_core.figures.explorer import WINDOW
from nmerge_core.neuron import see
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.frame.address import forget_outside, forget_unknown
from pages.shared.frame.choice import choose_model, decimals, text_columns
from pages.shared.frame.page import begin, command, how_computed, tell_lack
from pages.shared.frame.results import with_merges
from pages.shared.frame.text import verbatim
from pages.shared.neurons.changes import draw_neuron
from pages.shared.neurons.chosen import colours_in_order, exemplars, layer_categories, opened
from pages.shared.neurons.classified import classified, classify_missing
from pages.shared.neurons.inherited import FORMULA as OF_MERGES
from pages.shared.neurons.lists import draw_keep
from pages.shared.neurons.readings import ask_all, draw_texts

ALL = "all neurons"
BESIDE = 5  # models whose readings have room in columns
NAMED = 3  # models that are named in a sentence; more are counted
OWN_TEXT = 2000  # characters of the reader's own text, which is in the page's link
FORMULA = r"""
The texts are the exemplars with the highest score $a_j(s) = \max_t |\varphi_j(s, t)|$ of this neuron in the chosen
model; the coloured squares are the votes of its first $k$ (NeuronMerge, Eq. 2). A token is shaded in the colour of its
text's category with opacity $0.05 + 0.95 \log_{10}(1 + 9r)$ (as in Neuronpedia), $r$ being $|\varphi_j(s,t)|$ divided
by the neuron's highest score in that model; a dotted line marks strong negative activations, and the tooltip has the
value. In Qwen and Llama models the very first token can dominate every text (an attention sink): then look at the next
strongest token.
"""


def categories_of(run: Run, layer: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Categories and votes of a layer's neurons as the run was asked to count them."""
    meta = opened(run).meta
    return layer_categories(str(run.results), layer, meta["top_k"], meta["margin"])


def reading(chosen: figures.Seen, models: Sequence[figures.Seen], layer: int, neuron: int) -> str:
    """What the neuron is in the chosen model, and whether it is the same in the others, as Markdown."""
    changed = [seen.label for seen in models if seen.category != chosen.category]
    others = (
        f"in {verbatim(', '.join(changed))}"
        if len(changed) <= NAMED
        else f"in {len(changed)} of the {len(models)} models"
    )
    kept = f"It is something else {others}." if changed else "It keeps that category in every model."
    model = verbatim(style.short(chosen.label, 60))
    said = f"Layer {layer}, neuron {neuron}: a **{verbatim(chosen.category)}** neuron in {model}."
    return f"{said} {kept if len(models) > 1 else ''}"


def draw_models(models: Sequence[figures.Seen]) -> None:
    """The neuron as each model has it: a row for each."""
    st.subheader("The same neuron in every model", anchor=False)
    peaks = [seen.peak for seen in models]
    st.dataframe(
        pd.DataFrame(
            {
                "model": [seen.label for seen in models],
                "category": [seen.category for seen in models],
                "votes": [max(map(seen.votes.count, seen.votes)) for seen in models],
                "highest score": peaks,
            }
        ),
        hide_index=True,
        key="explorer_models",
        column_config={
            "votes": st.column_config.NumberColumn(help="Votes of the leading category"),
            "highest score": st.column_config.NumberColumn(format=decimals(peaks), help="Over all texts"),
        },
    )


def draw_table(table: pd.DataFrame, layer: int, model: str, labels: Sequence[str]) -> None:
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
            "neuron": st.column_config.NumberColumn(format="localized"),
            **text_columns(labels),
            "votes": st.column_config.NumberColumn(help=f"Votes of the leading category in {verbatim(model)}"),
            "highest score": st.column_config.NumberColumn(
                format=decimals(table["highest score"]), help=f"Over all texts, in {verbatim(model)}"
            ),
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


def choose_neuron(run: Run) -> tuple[int, int, NDArray[np.int64]]:
    """The chosen layer and neuron, and the neurons of the layer that one steps through."""
    found = opened(run)
    columns = st.columns(5, vertical_alignment="bottom")
    forget_unknown("layer", found.layers)
    forget_unknown("explorer_only", [ALL, *found.categories])
    with columns[0].container(key="explorer_layer"):
        layer = st.selectbox("Layer", found.layers, key="layer", bind="query-params", help="0 is nearest to the input")
    names, _ = categories_of(run, layer)
    forget_outside("neuron", 0, len(names) - 1)
    only = columns[2].selectbox(
        "Step through",
        [ALL, *found.categories],
        key="explorer_only",
        bind="query-params",
        help="Previous and next go to neurons of this category in the chosen model",
    )
    candidates = np.arange(len(names)) if only == ALL else np.flatnonzero(names == only)
    arrows = {"explorer_prev": ("Previous", "chevron_left", -1), "explorer_next": ("Next", "chevron_right", 1)}
    for column, (key, (name, icon, direction)) in zip(columns[3:], arrows.items(), strict=True):
        column.button(
            name, key=key, icon=f":material/{icon}:", on_click=step, args=(direction, candidates), width="stretch"
        )
    with columns[1].container(key="explorer_neuron"):
        neuron = st.number_input("Neuron", 0, len(names) - 1, key="neuron", bind="query-params")
    return layer, neuron, candidates


def draw_own(
    ask: Callable[[list[str]], figures.Answers],
    category: str,
    models: Sequence[figures.Seen],
    colours: Mapping[str, str],
) -> str:
    """A text of the reader's own as every model reads it, shaded as one of a category; return it."""
    st.subheader("Try a text of your own", anchor=False)
    own = st.text_area(
        "Text",
        key="explorer_text",
        bind="query-params",
        max_chars=OWN_TEXT,
        label_visibility="collapsed",
        placeholder="Type or paste a text",
    )
    if own.strip():
        read = pd.DataFrame({"category": [category], "text": [own]})
        st.html(figures.own_texts(models, read, ask([own]), colours))
    return own


def neurons_of(layer: int, model: str, done: Mapping[str, Run]) -> pd.DataFrame:
    """The neurons of a layer: their category in each model, and in the chosen one its votes and the highest score."""
    _, votes = categories_of(done[model], layer)
    of_layer = {label: categories_of(run, layer)[0] for label, run in done.items()}
    table = pd.DataFrame({"neuron": np.arange(len(votes)), **of_layer})
    table["votes"], table["highest score"] = votes.max(axis=1), opened(done[model]).top(layer, 1)[1][:, 0]
    return table


@st.fragment  # so that another neuron draws again what is of the neuron alone, and looks no model up
def explore(
    family: Family, done: Mapping[str, Run], model: str, beside: Sequence[str], count: int, whole: bool
) -> None:
    """Choose a neuron, and draw all that is known of it and its layer: of the chosen model, and of those beside it."""
    layer, neuron, candidates = choose_neuron(done[model])
    models = {label: see(opened(run), label, layer, neuron) for label, run in done.items()}
    chosen, shown = models[model], [models[label] for label in beside]
    colours = colours_in_order(family, opened(done[model]))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(reading(chosen, [*models.values()], layer, neuron), width="stretch")
        only = st.session_state["explorer_only"]
        draw_keep(layer, neuron, candidates, "" if only == ALL else only)
    texts = exemplars(str(done[model].results)).set_index("id", drop=False).loc[chosen.ids[:count]]
    asked = {label: done[label] for label in beside}
    ask = partial(ask_all, asked, layer, neuron)
    with st.container(key="explorer_texts"):
        draw_texts(
            asked,
            lambda: ask(list(texts["text"])),
            lambda answers: figures.strongest_texts(shown, texts, answers, colours, None if whole else WINDOW),
        )
    with st.container():
        if len(done) > BESIDE:
            draw_models([*models.values()])
    with st.container():
        merged_commands, merged_steps = draw_neuron(family, done, layer, neuron)
    own = draw_own(ask, chosen.category, shown, colours)
    draw_table(neurons_of(layer, model, done).iloc[candidates], layer, model, list(done))
    reference, folder = done[model].parameters["model"], f"neurons/{model}"
    settings = "".join([f", model={literal(model)}", f", count={count}", ", whole=True" if whole else ""])
    how_computed(
        FORMULA + (OF_MERGES if merged_steps else ""),
        "\n".join([command("classify", reference, "--corpus", family.corpus, "--out", folder), *merged_commands]),
        [
            Step(
                f"models = {literal({label: run.parameters['model'] for label, run in asked.items()})}\n"
                f"found = nm.classify(models, corpus={literal(family.corpus)})\n"
                f"seen = found.explore({layer}, {neuron}{settings})\n"
                "seen"
            ),
            Step("seen.texts", "## The same in numbers\n\nThe texts, with the highest |activation| in each model:"),
            Step("seen.tokens", "The activation of the neuron at each token:"),
            *(
                [Step(f"found.explore({layer}, {neuron}, texts={literal([own])})", "## A text of your own")]
                if own.strip()
                else []
            ),
            *merged_steps,
            Step(
                f'found.neurons().query("layer == {layer}").pivot(index="neuron", columns="model", values="category")',
                f"## All neurons of layer {layer}",
            ),
        ],
    )


family = begin(
    "Explorer",
    "What does this neuron react to?",
    "The texts that excite one neuron most, each token shaded by how strongly the neuron fires on it, and the same "
    "neuron of every fine-tune beside it.",
)
if not family.corpus:
    tell_lack(family, "corpus", "What a neuron reacts to is shown on the texts of one.")
    st.stop()
family = with_merges(family)
progress = st.container()  # in one place whatever it has, else what is below moves and its controls lose the address
classification = classified(family)
with progress:
    classify_missing(family, classification, "explorer_classify")
done = classification.usable
if not done:
    st.stop()

labels = list(done)
left, middle, right = st.columns([2.4, 1, 1.1], vertical_alignment="bottom", gap="large")
with left.container(key="explorer_model"):
    model = choose_model("Strongest texts of", labels, "model", explanation="Whose strongest texts are the rows below")
count = middle.slider(
    "Texts", 1, 10, 5, key="explorer_count", bind="query-params", help="How many of the strongest texts to show"
)
whole = right.toggle(
    "Whole texts", key="explorer_whole", bind="query-params", help="Or only the tokens around the strongest one"
)
beside, short = list(done), style.short_names(labels)
with st.container():
    if len(labels) > BESIDE:
        forget_unknown("explorer_beside", labels)
        chosen_beside = st.multiselect(
            "Beside it",
            [label for label in labels if label != model],
            [label for label in labels if label != model][: BESIDE - 2],
            key="explorer_beside",
            bind="query-params",
            max_selections=BESIDE - 1,
            format_func=short.__getitem__,
            help="Whose reading of the same texts is shown in columns; all models are in the table below",
        )
        beside = [label for label in labels if label == model or label in chosen_beside]
explore(family, done, model, beside, count, whole)
