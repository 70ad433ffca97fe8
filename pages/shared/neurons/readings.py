"""Texts and images as models read them: a neuron's activations, asked of the worker and drawn when it answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import streamlit as st

from nmerge_core.errors import InputError
from nmerge_core.figures.images import Patches
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import opened

LOADING = 180.0  # seconds for the worker to load a model and answer

Answer = TypeVar("Answer")


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


@st.cache_data(max_entries=512, show_spinner=False)
def _on_images(folder: str, content: str, layer: int, neuron: int, ids: tuple[int, ...]) -> list[list[float]]:
    """Activations at all tokens of images of a classification, asked of the worker; `content` as above."""
    asked: dict[str, Any] = {"neurons": folder, "layer": layer, "neuron": neuron, "ids": list(ids)}
    return client.ask("image_activations", timeout=LOADING, **asked)


def ask_texts(
    runs: Mapping[str, Run], layer: int, neuron: int, texts: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The tokens and activations of `texts` in every model; a model that cannot be asked is told of and left out."""

    def ask(run: Run) -> list[dict[str, Any]]:
        reference, max_length = run.parameters["model"], opened(run).meta["max_length"]
        return activations(reference, run.inputs[reference], layer, neuron, tuple(texts), max_length)

    return _ask_all(runs, ask, "tokens")


def ask_images(runs: Mapping[str, Run], layer: int, neuron: int, ids: Sequence[int]) -> dict[str, list[Patches]]:
    """The activations at the patches of images in every model, as `ask_texts`; of models whose patches are known."""

    def ask(run: Run) -> list[Patches]:
        grid, content = opened(run).grid, run.inputs[run.parameters["model"]]
        found = _on_images(str(run.results), content, layer, neuron, tuple(ids))
        return [grid.patches(np.array(values)) for values in found] if grid else []

    return _ask_all({label: run for label, run in runs.items() if opened(run).grid}, ask, "patches")


def _ask_all(runs: Mapping[str, Run], ask: Callable[[Run], Answer], what: str) -> dict[str, Answer]:
    answers = {}
    for label, run in runs.items():
        try:
            answers[label] = ask(run)
        except (InputError, TimeoutError, RuntimeError) as error:
            st.warning(f"The {what} of {verbatim(label)} could not be shaded. {verbatim(error)}")
    return answers


def draw_read(
    runs: Mapping[str, Run], ask: Callable[[], dict[str, Answer]], html: Callable[[dict[str, Answer]], str], what: str
) -> None:
    """Draw texts or images, `what` they are called, as every model reads them: `html` draws what `ask` answers."""
    loaded = st.session_state.setdefault("explorer_loaded", set())
    place: Any = st
    if loaded.issuperset(run.id for run in runs.values()):
        answers = ask()
    else:  # the worker has to load the models first: plain until then
        place = st.empty()
        place.html(html({}))
        with st.spinner(f"Reading the {what} with each model", show_time=True):
            answers = ask()
    loaded.update(run.id for label, run in runs.items() if label in answers)
    place.html(html(answers))
