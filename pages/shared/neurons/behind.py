"""Charts of neurons: a click on what stands for some of them leads to these in the Explorer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.family import Family, Member
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import show, show_picked
from pages.shared.frame.choice import as_option
from pages.shared.frame.family import full
from pages.shared.frame.results import BESIDE, merges
from pages.shared.frame.text import shortened
from pages.shared.neurons.chosen import layer_categories, opened
from pages.shared.neurons.classified import classified


def show_neurons(
    figure: go.Figure,
    key: str,
    family: Family,
    done: Mapping[str, Run],
    what: str,
    frame: pd.DataFrame | None = None,
    *,
    name: str | None = None,
    layers: Sequence[int] = (),
    merge: Run | None = None,
) -> None:
    """Draw a figure in full width, and say that a click on `what` in it leads to its neurons.

    The `customdata` of a point is [model, layer, category], None for all layers or categories, and perhaps the category
    that they have in a merge.

    Args:
        figure: The figure.
        key: The chart's, unique on the page.
        family: The chosen one.
        done: The classification by which each of the figure's models has its categories; where there are none yet a
            click leads nowhere.
        what: What is clicked: "a bar".
        frame: The numbers behind the figure.
        name: Of the files that it is saved as.
        layers: Those that are meant where a point names none; all if empty.
        merge: The classification of the merge.
    """
    if not done:
        show(figure, key, frame, name)
        return
    clicked = show_picked(figure, key, frame, name)
    st.caption(f"A click on {what} leads to its neurons in *Explorer*.")
    if clicked:
        model, layer, category, *after = clicked
        became = [(merge, each) for each in after if merge is not None]
        explore(family, done[model], layers if layer is None else [layer], category, became)


def explore(
    family: Family,
    run: Run,
    layers: Sequence[int],
    category: str | None = None,
    became: Sequence[tuple[Run, str]] = (),
) -> None:
    """Go to the neurons of some layers (empty: all) that have a category (None: any) in a classification.

    The first of them is shown: of a list of the family's, its first; of neurons that `became` of a category in another
    classification, the first of these.
    """
    found = opened(run)
    if category is None or category in found.categories:
        alike = [(run, category), *became] if category else []
        layer, neuron = _first(layers or found.layers, alike)
    else:
        layer, neuron = min(pair for pair in family.neurons[category] if not layers or pair[0] in layers)
    only = {"explorer_only": category} if category in found.categories else {}
    chosen = [str(each) for each in layers if {*layers} != {*found.layers}]
    explore_neuron(family, run, layer, neuron, explorer_find="true", explorer_layers=chosen, **only)


def explore_neuron(family: Family, run: Run, layer: int, neuron: int, **asked: str | Sequence[str]) -> None:
    """Go to a neuron of the model of a classification; `asked` sets the Explorer's other controls."""
    model, merged = full(run.parameters["model"]), st.session_state.get(BESIDE, ())
    made = [Member(each.reference, each.name, merged=True) for each in merges(family)]
    beside = [each for each in made if each.label in merged or full(each.reference) == model]
    whole = replace(family, models=(*(each for each in family.models if not each.merged), *beside))
    label = next(each.label for each in whole.members if full(each.reference) == model)
    place = {
        "model": as_option(label, [*classified(whole).usable]),
        "layer": str(layer),
        "neuron": str(neuron),
        **({BESIDE: [shortened(each.label) for each in beside]} if {each.label for each in beside} - {*merged} else {}),
    }
    st.switch_page("pages/3_Explorer.py", query_params={**place, **asked})  # the family goes along by itself


def _first(layers: Sequence[int], alike: Sequence[tuple[Run, str]]) -> tuple[int, int]:
    """The first neuron that has each of some categories in its classification; where there is none the first of all."""
    for layer in layers:
        have = [_categories(run, layer) == category for run, category in alike]
        if have and len(found := np.flatnonzero(np.logical_and.reduce(have))):
            return layer, int(found[0])
    return layers[0], 0


def _categories(run: Run, layer: int) -> NDArray[Any]:
    """The category of each neuron of a layer, as the run was asked to count them, (d_ffn,)."""
    meta = opened(run).meta
    return layer_categories(str(run.results), layer, meta["top_k"], meta["margin"])[0]
