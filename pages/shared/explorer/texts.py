"""The texts of one neuron: which, how much of each, and as every model reads them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from nmerge_core.activations.store import open_classification
from nmerge_core.figures import explorer as figures
from nmerge_core.figures.explorer import CONTEXT, CONTEXTS, Answers, Seen
from nmerge_core.figures.images import chosen_images
from nmerge_core.neuron.exemplars import STRONGEST, WAYS, choose_texts
from nmerge_core.neuron.peaks import peaks_of
from nmerge_core.runs.folder import Run
from pages.shared.neurons.chosen import exemplars, opened
from pages.shared.neurons.readings import ask_images, ask_texts, draw_read

OWN_TEXT = 2000  # characters of the reader's own text, which is in the page's link


@dataclass(frozen=True)
class Shown:
    """Which texts are shown, and how many tokens either side of the strongest one."""

    way: str
    count: int
    context: int | None


def choose_shown(*, images: bool) -> Shown:
    """The controls of which texts, or images, are shown."""
    first, second, third = st.columns([1.6, 1, 1.2], vertical_alignment="bottom", gap="large")
    way = first.segmented_control(
        "Images" if images else "Texts",
        WAYS,
        default=STRONGEST,
        required=True,
        key="explorer_way",
        bind="query-params",
        wrap=True,
        help="Bands: all by their score, cut into bands of equally many, and from each the one in its middle",
    )
    count = second.slider("How many", 1, 10, 5, key="explorer_count", bind="query-params")
    if images:
        return Shown(way, count, CONTEXTS[CONTEXT])
    context = third.segmented_control(
        "Tokens around the strongest",
        list(CONTEXTS),
        default=CONTEXT,
        required=True,
        key="explorer_context",
        bind="query-params",
    )
    return Shown(way, count, CONTEXTS[context])


def draw_corpus(
    runs: Mapping[str, Run],
    models: Sequence[Seen],
    chosen: Seen,
    place: tuple[int, int],
    shown: Shown,
    colours: Mapping[str, str],
) -> None:
    """Texts, or images, chosen by one model's scores, as some models take them, of whom `runs` are."""
    corpus = exemplars(str(runs[chosen.label].results)).set_index("id", drop=False).sort_index()
    found = choose_texts(chosen.ids, corpus["text"].to_list(), shown.way, shown.count, place)
    texts = corpus.loc[[each.id for each in found]].assign(title=[each.title for each in found])
    if opened(runs[chosen.label]).images:
        thumbnails = {label: _thumbnails(str(run.results)) for label, run in runs.items()}
        peaks = {label: peaks_of(opened(run), *place) for label, run in runs.items()}
        draw_read(
            runs,
            partial(ask_images, runs, *place, list(texts["id"])),
            lambda answers: chosen_images(models, texts, thumbnails, peaks, answers, colours),
            "images",
        )
        st.caption(
            "Beside each image its patches, shaded as strongly as the neuron fires there. Framed is the patch at which "
            "it fires most strongly, where that is kept: in its top 50."
        )
        return
    draw_read(
        runs,
        partial(ask_texts, runs, *place, list(texts["text"])),
        lambda answers: figures.chosen_texts(models, texts, answers, colours, shown.context),
        "texts",
    )


@st.cache_data(max_entries=8, show_spinner=False)
def _thumbnails(folder: str) -> dict[int, bytes]:
    return open_classification(folder).thumbnails()


def draw_own(
    ask: Callable[[list[str]], Answers], category: str, models: Sequence[Seen], colours: Mapping[str, str]
) -> tuple[str, dict[str, float]]:
    """A text of the reader's own as every model reads it, shaded as one of a category; return it and its scores."""
    own = st.text_area(
        "Your own text, as this neuron reads it",
        key="explorer_text",
        bind="query-params",
        persist_state="session",
        max_chars=OWN_TEXT,
        placeholder="Type or paste a text",
        height=80,
    )
    if not own.strip():
        return own, {}
    answers = ask([own])
    read = pd.DataFrame({"category": [category], "text": [own]})
    st.html(figures.own_texts(models, read, answers, colours))
    return own, {name: max(map(abs, text["values"]), default=0.0) for name, [text] in answers.items()}
