"""All layers of a family at once: the share of every category in every layer, whose cells lead to their neurons."""

import pandas as pd
import streamlit as st

from nmerge_core.figures import style
from nmerge_core.figures.neuron_map import heat_map
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark, show_picked
from pages.shared.frame.choice import as_option, choose_model
from pages.shared.neurons.chosen import layer_categories, opened

SAME = "same in all models"


def draw_map(done: dict[str, Run], frame: pd.DataFrame, colours: dict[str, str]) -> str:
    """The share of every category in every layer of one model, whose cells lead to their neurons; return the column."""
    st.subheader("All layers at once", anchor=False)
    names = [*done, SAME] if len(done) > 1 else [*done]
    chosen = choose_model("Model", names, "neurons_map")
    column, colour = ("intersection", style.INTERSECTION) if chosen == SAME else (chosen, colours[chosen])
    picked = show_picked(heat_map(frame, column, colour, dark=dark()), "neurons_heat_map", frame)
    st.caption("A click on a cell leads to its neurons in *Explorer*.")
    if picked:
        explore(done, "base" if chosen == SAME else chosen, *picked)
    return column


def explore(done: dict[str, Run], model: str, layer: int, category: str) -> None:
    """Go to a layer's first neuron of a category, as the run was asked to count them."""
    meta = opened(done[model]).meta
    names, _ = layer_categories(str(done[model].results), layer, meta["top_k"], meta["margin"])
    first = int((names == category).argmax())  # 0 where there is none
    asked = {"layer": str(layer), "explorer_only": category, "neuron": str(first)}  # the family goes along by itself
    st.switch_page("pages/3_Explorer.py", query_params={**asked, "model": as_option(model, [*done])})
