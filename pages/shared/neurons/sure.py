"""How sure categories are, as an option: neurons whose category other texts would give too are told from the rest."""

import pandas as pd
import streamlit as st

from nmerge_core.figures import style
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import csv_button
from pages.shared.neurons.chosen import confidence


def choose_support() -> float | None:
    """The support from which on a category counts as sure; None where the bars do not tell sure ones from others."""
    with st.container(horizontal=True, vertical_alignment="center"):
        shown = st.toggle(
            "Show how sure",
            key="neurons_sure",
            bind="query-params",
            help="Whether other texts of the same categories would give a neuron the same category.",
        )
        if not shown:
            return None
        least = st.slider(
            "Sure from a support of",
            50,
            100,
            80,
            5,
            "%d %%",
            key="neurons_support",
            bind="query-params",
            width=320,
            help="In how many of 100 corpora, drawn again from the texts of each category, the neuron keeps its "
            "category. Neurons of less are pale.",
        )
    return least / 100


def draw_confidence(sure: pd.DataFrame, total: int, support: float, done: dict[str, Run], k: int, margin: int) -> None:
    """Tell how many neurons are sure, and offer the numbers of each."""
    said = f"The category of **{style.percent(sure['base'].sum() / total)}** of the base's neurons is sure"
    if len(done) > 1:
        said += f"; **{style.percent(sure['intersection'].sum() / total)}** are sure and the same in all models"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"{said}. Pale: a support below {100 * support:.0f} %.", width="stretch")
        tables = [confidence(str(run.results), k, margin).assign(model=label) for label, run in done.items()]
        columns = ["model", "layer", "neuron", "category", "lead", "support"]
        csv_button(pd.concat(tables, ignore_index=True)[columns], "neurons_confidence", "confidence")
