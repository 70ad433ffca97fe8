"""What fine-tunes changed in the neurons of every layer, as a map whose cells lead to the neurons behind them."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures.changes import QUANTITIES, over_layers
from nmerge_core.figures.style import short
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from nmerge_core.similarity.tables import layer_means
from pages.shared.charts.charts import dark, show_picked
from pages.shared.explorer.compared import APART, CHANGED, CONFLICT, PARALLEL, Compared, measured
from pages.shared.explorer.searching import ALL, Query, found_by, place_of, table_of
from pages.shared.frame.choice import as_option, choose_model
from pages.shared.frame.text import verbatim
from pages.shared.neurons.classified import classified

ORDERS = {"change": CHANGED, "parallel": PARALLEL, "cosine": APART, "opposed": CONFLICT}  # of the neurons of a cell
EACH, EVERY_TWO = "each fine-tune", "every two fine-tunes"


def draw_changes(family: Family, compared: Compared) -> list[Step]:
    """Draw the map with its choosers; return the Python that gives it of `found`, the comparison."""
    st.subheader("What was changed, and do they agree?", anchor=False)
    several = len(compared.names) > 1
    titles = {each.title: name for name, each in QUANTITIES.items() if several or not each.mutual}
    left, right = st.columns([1.3, 1], gap="large")
    quantity = titles[choose_model("Quantity", list(titles), "similarity_quantity", left)]
    shown = QUANTITIES[quantity]
    frame = _measured(compared.results, dict(compared.names), mutual=shown.mutual)
    keys = ["one", "other"] if shown.mutual else ["model"]
    rows = {" and ".join(names): names for names in frame[keys].drop_duplicates().itertuples(index=False, name=None)}
    done = classified(family).usable if family.corpus else {}
    whole = EVERY_TWO if shown.mutual else EACH
    chosen = whole
    if "base" in done:
        told = "The neurons of one row are parted by their category in the base"
        chosen = choose_model("Of", [whole, *rows], "similarity_of", right, told)
    of = rows.get(chosen, ())
    categories = table_of(str(done["base"].results)) if of else None
    means = layer_means(frame, quantity, of, categories)
    st.markdown(reading(means, quantity))
    clicked = show_picked(over_layers(means, quantity, dark=dark()), "similarity_changes", means, f"neurons-{quantity}")
    leads = " A click on a cell leads to its neurons in *Explorer*." if done else ""
    st.caption(shown.meaning + leads)
    if clicked and done:
        layer, row = clicked
        models = of or rows[row]
        order = compared.between(ORDERS[quantity], models) if shown.mutual else ORDERS[quantity] + models[0]
        explore(compared, done, order, next(iter(done)), layer, row if of else ALL)
    return _steps(family, quantity, of)


@st.cache_resource(max_entries=4, show_spinner="Reading what was changed in all neurons")  # nobody changes it
def _measured(results: str, names: Mapping[str, str], *, mutual: bool) -> pd.DataFrame:
    """What a comparison kept of every neuron, its models under the names that pages have for them."""
    frame = measured(results, mutual=mutual)
    called = {name: label for label, name in names.items()}
    return frame.assign(**{each: frame[each].map(called) for each in ("model", "one", "other") if each in frame})


def reading(means: pd.DataFrame, quantity: str) -> str:
    """The map in a sentence: where most of it is, and where least."""
    known = means.dropna(subset="value")
    if known.empty:
        return "Nothing was changed in any neuron."
    least, most = (
        f"**{QUANTITIES[quantity].write(row['value'])}** ({verbatim(short(row['row']))}, layer {row['layer']})"
        for row in (known.loc[known["value"].agg(pick)] for pick in ("idxmin", "idxmax"))
    )
    return f"The mean {QUANTITIES[quantity].title} of a layer's neurons lies between {least} and {most}."


def explore(
    compared: Compared, done: Mapping[str, Run], order: str, model: str, layer: int, category: str = ALL
) -> None:
    """Go to a layer's neurons, all or of one category of a model, in an order of the comparison."""
    asked = {"layer": str(layer), "explorer_layers": str(layer), "explorer_find": "true", "explorer_order": order}
    asked |= {"explorer_only": category, "model": as_option(model, [*done])}
    if model in done:
        by = (compared.results, compared.orders()[order])
        rows = found_by(Query(model, category, "", (layer,), order), done, by)
        asked |= {"neuron": str(place_of(done[model], int(rows[0]))[1])} if len(rows) else {}
    st.switch_page("pages/3_Explorer.py", query_params=asked)


def _steps(family: Family, quantity: str, of: tuple[str, ...]) -> list[Step]:
    """The Python of the map, and of the neurons behind it."""
    categories = f"neurons = nm.classify({literal(family.base)}, corpus={literal(family.corpus)}).overview()\n"
    shown = f"{literal(quantity)}, {literal(list(of))}, neurons" if of else literal(quantity)
    drawn = f"{categories if of else ''}found.map_figure({shown}).show()"
    behind = "found.conflicts()" if QUANTITIES[quantity].mutual else "found.neurons"
    return [Step(drawn, "## What was changed, and do they agree?"), Step(behind)]
