"""One neuron: its texts, its scores, what its weights say, and the same neuron in every model."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures.explorer import CONTEXT, CONTEXTS, Seen
from nmerge_core.figures.score_histogram import scores_by_category
from nmerge_core.figures.style import plain
from nmerge_core.neuron.exemplars import STRONGEST
from nmerge_core.neuron.record import record
from nmerge_core.neuron.seen import see
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark, show
from pages.shared.explorer import weights
from pages.shared.explorer.choosing import choose_neuron
from pages.shared.explorer.finding import Found, find
from pages.shared.explorer.found import draw_table
from pages.shared.explorer.models import draw_models, reading
from pages.shared.explorer.searching import place_of
from pages.shared.explorer.texts import Shown, choose_shown, draw_corpus, draw_own
from pages.shared.frame.page import command, how_computed
from pages.shared.neurons.changes import Told, draw_neuron, turned
from pages.shared.neurons.chosen import colours_in_order, opened
from pages.shared.neurons.lists import Neurons, draw_keep
from pages.shared.neurons.notes import draw_note, note_on
from pages.shared.neurons.readings import ask_texts
from pages.shared.neurons.stacks import tell_stacks

KEPT_TEXTS = 50  # texts of each model in a neuron's JSON
FORMULA = r"""
The texts are the exemplars with the highest score $a_j(s) = \max_t |\varphi_j(s, t)|$ of this neuron in the chosen
model; the coloured squares are the votes of its first $k$ (NeuronMerge, Eq. 2). A token is shaded in the colour of its
text's category with opacity $0.05 + 0.95 \log_{10}(1 + 9r)$ (as in Neuronpedia), $r$ being $|\varphi_j(s,t)|$ divided
by the neuron's highest score in that model; a dotted line marks strong negative activations, and the tooltip has the
value. In Qwen and Llama models the very first token can dominate every text (an attention sink): then look at the next
strongest token.
"""


@st.fragment  # so that another neuron draws again what is of the neuron alone, and looks no model up
def explore(family: Family, done: Mapping[str, Run], model: str, beside: Sequence[str]) -> None:
    """Find and choose a neuron, and draw all that is known of it: of the chosen model, and of those beside it."""
    run = done[model]
    folded = st.expander("Find neurons", icon=":material/filter_list:", key="explorer_find", bind="query-params")
    with folded:
        found = find(family, done, model)
    layer, neuron = choose_neuron(run, found)
    tell_stacks(opened(run))
    with folded:
        if not len(found.rows):
            st.caption("No neuron is like that: take out a filter.")
        elif folded.open:
            draw_table(done, found, layer, neuron)
    models = [see(opened(each), label, layer, neuron) for label, each in done.items()]
    by_label = {seen.label: seen for seen in models}
    chosen, colours = by_label[model], colours_in_order(family, opened(run))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(reading(chosen, models, layer, neuron), width="stretch")
        draw_note(layer, neuron)
        draw_keep(layer, neuron, partial(_pairs, run, found), len(found.rows), opened(run).widths)
        _draw_json(done, models, layer, neuron)
    if note := note_on(layer, neuron):
        with st.container(horizontal=True, gap="small"):
            st.markdown(":material/edit_note:", width="content")
            st.text(note)
    images = opened(run).images
    shown = choose_shown(images=images)
    asked = {label: done[label] for label in beside}
    with st.container(key="explorer_texts"):
        draw_corpus(asked, [by_label[label] for label in beside], chosen, (layer, neuron), shown, colours)
    own, scores = "", dict[str, float]()
    if not images:
        asking = partial(ask_texts, asked, layer, neuron)
        own, scores = draw_own(asking, chosen.category, [by_label[x] for x in beside], colours)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(f"How strong on all {'images' if images else 'texts'}?", anchor=False)
        _draw_scores(run, chosen, colours, {"your text": scores[model]} if model in scores else {})
    with right:
        st.subheader("The same neuron in every model", anchor=False)
        draw_models(chosen, models, turned(family, done, layer, neuron))
        st.subheader("What does it say?", anchor=False)
        weights.draw_lens(run, layer, neuron)
        like = st.expander("Neurons with the most similar weights", key="explorer_like", bind="query-params")
        if like.open:
            with like:
                weights.draw_nearest(run, layer, neuron)
    told = draw_neuron(family, done, layer, neuron)
    _draw_computed(family, done, model, asked, (layer, neuron), shown, own, told)


def _pairs(run: Run, found: Found) -> Neurons:
    """The neurons found, as lists have them."""
    return {place_of(run, int(row)) for row in found.rows}


def _draw_json(done: Mapping[str, Run], models: Sequence[Seen], layer: int, neuron: int) -> None:
    folders = [opened(run) for run in done.values()]
    st.download_button(
        "JSON",
        lambda: json.dumps(
            record(folders, models, layer, neuron, KEPT_TEXTS, note_on(layer, neuron)), ensure_ascii=False, indent=1
        ).encode(),
        f"layer-{layer}-neuron-{neuron}.json",
        "application/json",
        key="explorer_json",
        type="tertiary",
        icon=":material/data_object:",
        help="What is stored of this neuron in every model, with its strongest texts, and your note",
        on_click="ignore",
    )


def _draw_scores(run: Run, chosen: Seen, colours: Mapping[str, str], marked: Mapping[str, float]) -> None:
    found = opened(run)
    scores = pd.Series(chosen.scores, chosen.ids).sort_index()
    categories = [found.categories[index] for index in found.exemplar_categories]
    figure = scores_by_category(scores.to_numpy(), categories, colours, marked, title=plain(chosen.label), dark=dark())
    table = pd.DataFrame({"exemplar": scores.index, "category": categories, "score": scores.to_numpy()})
    show(figure, "explorer_scores", table, "scores")


def _draw_computed(
    family: Family,
    done: Mapping[str, Run],
    model: str,
    asked: Mapping[str, Run],
    place: tuple[int, int],
    shown: Shown,
    own: str,
    changes: Told,
) -> None:
    """The folded end of the page."""
    layer, neuron = place
    reference, folder = done[model].parameters["model"], f"neurons/{model}"
    of = f"{layer}, {neuron}, model={literal(model)}"
    way = "" if shown.way == STRONGEST else f", way={literal(shown.way)}"
    context = "" if shown.context == CONTEXTS[CONTEXT] else f", context={shown.context}"
    marked = f", texts={{'your text': {literal(own)}}}" if own.strip() else ""
    how_computed(
        FORMULA + weights.FORMULA + changes.formula,
        "\n".join([command("classify", reference, "--corpus", family.corpus, "--out", folder), *changes.commands]),
        [
            Step(
                f"models = {literal({label: run.parameters['model'] for label, run in asked.items()})}\n"
                f"found = nm.classify(models, corpus={literal(family.corpus)})\n"
                f"seen = found.explore({of}, count={shown.count}{way}{context})\n"
                "seen"
            ),
            Step("seen.texts", "## The same in numbers\n\nThe texts, with the highest |activation| in each model:"),
            Step("seen.tokens", "The activation of the neuron at each token:"),
            *(
                [Step(f"found.explore({layer}, {neuron}, texts={literal([own])})", "## A text of your own")]
                if own.strip()
                else []
            ),
            Step(f"found.scores_figure({of}{marked}).show()", "## How strong on all texts?"),
            Step(f"found.lens({of})", "## What does it say?"),
            Step(f"found.nearest({of})", "Neurons with the most similar weights:"),
            *changes.steps,
            Step(f"found.overview({literal(model)})", "## All neurons"),
        ],
    )
