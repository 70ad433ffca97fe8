"""Texts as models read them: a neuron's activation at each token, asked of the worker and drawn when it answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from nmerge_core.errors import InputError
from nmerge_core.figures.explorer import Answers
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import opened

LOADING = 180.0  # seconds for the worker to load a model and answer


@st.cache_data(max_entries=512, show_spinner=False)
def activations(
    reference: str, content: str, layer: int, neuron: int, texts: tuple[str, ...], max_length: int
) -> list[dict[str, Any]]:
    """Tokens and activations of `texts`, asked of the worker; `content` is the model's fingerprint."""
    asked: dict[str, Any] = {
        "model": reference,
        "layer": layer,
        "neuron": neuron,
        "texts": list(texts),
        "max_length": max_length,
    }
    return client.ask("token_activations", timeout=LOADING, **asked)


def ask_all(runs: Mapping[str, Run], layer: int, neuron: int, texts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The tokens and activations of `texts` in every model; a model that cannot be asked is told of and left out."""
    answers = {}
    for label, run in runs.items():
        reference = run.parameters["model"]
        content, max_length = run.inputs[reference], opened(run).meta["max_length"]
        try:
            answers[label] = activations(reference, content, layer, neuron, tuple(texts), max_length)
        except (InputError, TimeoutError, RuntimeError) as error:
            st.warning(f"The tokens of {verbatim(label)} could not be shaded. {verbatim(error)}")
    return answers


def draw_texts(runs: Mapping[str, Run], ask: Callable[[], Answers], html: Callable[[Answers], str]) -> None:
    """The strongest texts of the chosen model, as every model reads them: `html` draws the answers."""
    loaded = st.session_state.setdefault("explorer_loaded", set())
    place: Any = st
    if loaded.issuperset(run.id for run in runs.values()):
        answers = ask()
    else:  # the worker has to load the models first: plain texts until then
        place = st.empty()
        place.html(html({}))
        with st.spinner("Reading the texts with each model", show_time=True):
            answers = ask()
    loaded.update(run.id for label, run in runs.items() if label in answers)
    place.html(html(answers))
