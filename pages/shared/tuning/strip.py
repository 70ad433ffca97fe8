"""Where a merge departs from its models: a text shaded by it, and at a chosen token what each expects and who moved."""

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import departure as figures
from nmerge_core.figures import style
from nmerge_core.figures.health import MERGE
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs import client
from pages.shared.charts.charts import csv_button, dark, show
from pages.shared.charts.tokens import token_strip
from pages.shared.frame.beside import colours_of, fingerprints, names_of, telling
from pages.shared.frame.choice import abreast, as_option, decimals
from pages.shared.frame.terms import DIVERGENCE
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import all_categories
from pages.shared.neurons.classified import classified
from pages.shared.tuning.asking import SECONDS, inputs_of

TOKENS = 256  # of a text that are read
LIKELIEST = 5  # next tokens of each model
NEURONS = 3  # of each layer that moved most
FORMULA = r"""
After each token the merge and a model give every possible next token a probability; the shade is
$\mathrm{KL}(p_\text{merge} \,\Vert\, p_\text{model}) = \sum_v p_\text{merge}(v) \ln \frac{p_\text{merge}(v)}
{p_\text{model}(v)}$ in nats: how much likelier than the model the merge finds what it would itself say, on average. In
this direction it is large where the merge says what the model would not, and small where it only leaves something out.
Neurons are those whose activation $\varphi$ at the token differs most between the two.
"""


@st.cache_data(max_entries=128, show_spinner=False)
def asked(question: str, recipe: str, content: dict[str, Any], known: tuple[str, ...], **arguments: Any) -> Any:
    """What the worker answers about the merge of a recipe, whose text and models' content say which merge it is."""
    return client.ask(question, timeout=SECONDS, recipe=content, max_length=TOKENS, **arguments)


@st.fragment  # so that a click draws this part of the page again, and not its controls
def draw_strip(recipe: Recipe, family: Family, text: str) -> None:
    """A text as the merge reads it, shaded by how differently a model goes on; and what happens at a chosen token."""
    st.subheader("Where it departs", anchor=False)
    names = names_of(recipe, family)
    compared: dict[str, list[float]] = {}
    said = set[str]()
    with telling(said), st.spinner("Reading the text with each model", show_time=True):
        which = (recipe.yaml, dict(recipe.content), (*fingerprints(names), *inputs_of(recipe)))
        found = asked("divergence", *which, models=list(names), text=text)
        for name, answer in zip(names.values(), found["models"], strict=True):
            if "refused" in answer:
                st.info(verbatim(answer["refused"]))
            else:
                compared[name] = answer["values"]
    if not compared:
        return
    model = choose_parent(list(compared))
    token = draw_tokens(found["tokens"], compared[model], model, text)
    means = ", ".join(f"{style.significant(fmean(own))} from {verbatim(name)}" for name, own in compared.items())
    read = style.counted(len(found["tokens"]), "token")
    cut = f" Only the first {read} of the text are read." if len("".join(found["tokens"])) < len(text) else ""
    st.caption(
        "A token is shaded by how differently the merge goes on after it, fully from "
        f"{style.significant(figures.FULL)} nats on. Click one, or go to it by the arrow keys and press Enter.{cut} "
        f"Over the whole text the merge is this many nats away: {means}.",
        help=DIVERGENCE,
    )
    nats = style.significant(compared[model][token])
    st.markdown(f"**After {verbatim(repr(found['tokens'][token]))}**: {nats} nats from {verbatim(model)}")
    references = {name: reference for reference, name in names.items() if name in compared}
    at: dict[str, Any] = {"text": text, "token": token}
    with telling(said):
        several = list(references.values())
        draw_next(
            asked("next_tokens", *which, models=several, likeliest=LIKELIEST, **at), [MERGE, *references], names, family
        )
    with telling(said):
        moved = asked("moved_neurons", *which, model=references[model], neurons=NEURONS, **at)
        draw_moved(pd.DataFrame(moved), model, family)


def choose_parent(names: Sequence[str]) -> str:
    """The model that the text is compared with, the first at the start."""
    if st.session_state.get("strip_model") not in names:  # of another family, or not compared any more
        st.session_state.pop("strip_model", None)
    if not abreast(names):
        return st.selectbox("How far from", names, key="strip_model", persist_state="session")
    return st.segmented_control(
        "How far from",
        names,
        default=names[0],
        required=True,
        format_func=verbatim,
        key="strip_model",
        persist_state="session",
    )


def draw_tokens(tokens: Sequence[str], values: Sequence[float], model: str, text: str) -> int:
    """The strip of tokens; return the place of the chosen one, at first of that after which they differ most."""
    farthest = max(range(len(values)), key=values.__getitem__)
    key = f"strip_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return token_strip(key, figures.pieces(tokens, values, model), farthest)


def draw_next(
    following: Sequence[Mapping[str, Any]], models: Sequence[str], names: Mapping[str, str], family: Family
) -> None:
    """What the merge and each model expect after the chosen token."""
    tokens = [each["token"] for each in following]
    columns = zip(*(each["probabilities"] for each in following), strict=True)
    probabilities = dict(zip(models, columns, strict=True))
    colours = {**colours_of(names, family), MERGE: style.MERGE}
    table = pd.DataFrame({"token": tokens, **probabilities})
    show(figures.next_tokens(tokens, probabilities, colours, dark=dark()), "strip_next", table, "next-tokens")


def draw_moved(moved: pd.DataFrame, model: str, family: Family) -> None:
    """The neurons that the merge and a model activate most differently, with their category and a link to each."""
    st.markdown("Neurons whose activation differs most")
    table = pd.DataFrame(
        {
            "layer": moved["layer"],
            "neuron": moved["neuron"],
            MERGE: moved["merge"],
            model: moved["model"],
        }
    )
    digits = decimals(moved["merge"])
    if family.corpus and model in (known := classified(family)).done:
        categories = all_categories(str(known.done[model].results))
        table["category"] = [categories[row.layer][row.neuron] for row in moved.itertuples()]
        address = f"/Explorer?{urlencode({'family': family.name, 'model': as_option(model, list(known.usable))})}"
        table["explorer"] = [f"{address}&layer={row.layer}&neuron={row.neuron}" for row in moved.itertuples()]
    st.dataframe(
        table,
        hide_index=True,
        height=318,
        column_config={
            "neuron": st.column_config.NumberColumn(format="localized"),
            MERGE: st.column_config.NumberColumn(format=digits, help="Its activation at the token"),
            model: st.column_config.NumberColumn(style.short(model), format=digits),
            "category": st.column_config.TextColumn(help=f"In {verbatim(model)}"),
            "explorer": st.column_config.LinkColumn("", display_text="what it responds to →"),
        },
        key="strip_moved",
    )
    csv_button(table.drop(columns="explorer", errors="ignore"), "strip_moved", "moved-neurons")
