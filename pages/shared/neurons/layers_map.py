"""All layers of a family at once: the share of every category in every layer, whose cells lead to their neurons."""

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.neuron_map import heat_map
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark
from pages.shared.frame.choice import choose_model
from pages.shared.neurons.behind import show_neurons

SAME = "same in all models"


def draw_map(family: Family, done: dict[str, Run], frame: pd.DataFrame, colours: dict[str, str]) -> str:
    """The share of every category in every layer of one model, whose cells lead to their neurons; return the column."""
    st.subheader("All layers at once", anchor=False)
    names = [*done, SAME] if len(done) > 1 else [*done]
    chosen = choose_model("Model", names, "neurons_map")
    column, colour = ("intersection", style.INTERSECTION) if chosen == SAME else (chosen, colours[chosen])
    show_neurons(heat_map(frame, column, colour, dark=dark()), "neurons_heat_map", family, done, "a cell", frame)
    return column
