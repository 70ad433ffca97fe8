"""Why a merge goes well or badly: how far it went, what it kept of each model, where these contradict, and collapse."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.family import Family
from nmerge_core.figures import health as figures
from nmerge_core.figures import style
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs import client
from pages.shared.charts.charts import dark, show
from pages.shared.frame.beside import colours_of, fingerprints, names_of, telling
from pages.shared.frame.family import content_of
from pages.shared.frame.text import verbatim
from pages.shared.tuning.asking import SECONDS, inputs_of

TEXTS = 2  # of each category of the corpus, which hidden states are measured on
CHANGE, KEPT, CONTRADICTIONS, SPREAD = "How far it went", "What it kept", "Contradictions", "Hidden states"
EXPLAINED = {
    CHANGE: "How far each layer's weights are from the base, in the merge and in each model. A merge that goes much "
    "further than any of its models is where none of them was trained to be.",
    KEPT: "How much of what each model changed is in the merge: 1 is all of it, 0 nothing, and below 0 the merge goes "
    "the opposite way.",
    CONTRADICTIONS: "Where several models changed the same weight, how often one raised it and another lowered it, and "
    "how much of all change is lost when it is simply added up. Methods that elect a sign, as TIES, are made for this.",
    SPREAD: "How many directions the output of each layer uses on some texts of the corpus, and how much it varies. A "
    "collapsed merge uses far fewer than its models: whatever it reads looks the same to it.",
}
RULES = {
    CHANGE: figures.CHANGE_RULE,
    KEPT: figures.KEPT_RULE,
    CONTRADICTIONS: figures.CONTRADICTIONS_RULE,
    SPREAD: figures.SPREAD_RULE,
}
FORMULA = r"""
With $\tau = \theta - \theta_0$ the change of a layer's attention or MLP weights, how far it went is
$\lVert\tau\rVert_2$, and what is kept of model $t$ is $\langle\tau, \tau_t\rangle / \lVert\tau_t\rVert_2^2$. Signs are
opposite where one $\tau_t$ is above and another below 0, by chance in $1 - 2^{1-k}$ of the weights that $k$ models
changed; added up, $1 - \lVert\sum_t \tau_t\rVert_1 / \sum_t \lVert\tau_t\rVert_1$ of all change is lost. The effective
rank of a layer's hidden states, less their mean over the tokens, is $\exp(-\sum_i p_i \log p_i)$, $p_i$ being their
singular values divided by the sum of these (Roy & Vetterli, EUSIPCO 2007); the first token of a text is left out.
"""


@st.cache_data(max_entries=64, show_spinner=False)
def changes(recipe: str, content: dict[str, Any], base: str, fingerprints: tuple[str, ...]) -> dict[str, Any]:
    """What the merge of a recipe and its models changed; its text and the models' content say which merge it is."""
    return client.ask("changes", timeout=SECONDS, recipe=content, base=base)


@st.cache_data(max_entries=64, show_spinner=False)
def merged_spread(
    recipe: str, content: dict[str, Any], texts: tuple[str, ...], fingerprints: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The spread of the merge's hidden states; arguments as of `changes`."""
    return client.ask("merged_spread", timeout=SECONDS, recipe=content, texts=texts)


@st.cache_data(max_entries=256, show_spinner=False)
def spread(reference: str, content: str, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    """The spread of a model's hidden states; `content` is its fingerprint."""
    return client.ask("spread", timeout=SECONDS, model=reference, texts=texts)


@st.cache_data(ttl=60, max_entries=8, show_spinner=False)
def some_texts(corpus: str) -> tuple[str, ...]:
    """The first texts of each category of a corpus."""
    found: dict[str, list[str]] = {}
    for exemplar in load_corpus(corpus).exemplars:
        found.setdefault(exemplar.category, []).append(exemplar.text)
    return tuple(text for texts in found.values() for text in texts[:TEXTS])


@st.fragment  # so that another measure draws this part of the page again, and not its controls
def draw_health(recipe: Recipe, family: Family) -> None:
    """What tells why the merge of a recipe goes well or badly: a sentence a measure, and the figure of one of them."""
    st.subheader("Health", anchor=False)
    names = names_of(recipe, family)
    colours = {**colours_of(names, family), figures.MERGE: style.MERGE}
    told: dict[str, figures.Verdict] = {}
    drawn: dict[str, Callable[[], None]] = {}
    said = set[str]()
    with st.spinner("Measuring the merge", show_time=True):
        with telling(said):
            layers, models = changes_of(recipe, family, names)
            told[CHANGE] = figures.change_told(layers, models)
            told[KEPT] = figures.kept_told(models)
            told[CONTRADICTIONS] = figures.contradictions_told(layers)
            table = models.merge(layers, on=["layer", "part"], suffixes=("", "_merge"))
            drawn[CHANGE] = lambda: chart(figures.change(layers, models, colours, dark=dark()), "change", table)
            drawn[KEPT] = lambda: chart(figures.kept(models, colours, dark=dark()), "kept", table)
            drawn[CONTRADICTIONS] = lambda: chart(figures.contradictions(layers, dark=dark()), "contradictions", layers)
        with telling(said):
            if texts := some_texts(family.corpus) if family.corpus else ():
                states = states_of(recipe, names, texts)
                told[SPREAD] = figures.spread_told(states)
                drawn[SPREAD] = lambda: draw_spread(states, colours)
    if not drawn:
        return
    for measure, verdict in told.items():
        icon = ":orange[:material/warning:]" if verdict.fault else ":material/check:"
        st.markdown(f"{icon} **{measure}**: {verbatim(verdict.sentence)}", help=RULES[measure])
    chosen = st.segmented_control(
        "Measure",
        list(drawn),
        default=next(iter(drawn)),
        required=True,
        key="health_measure",
        label_visibility="collapsed",
        persist_state="session",
    )
    st.caption(EXPLAINED[chosen])
    drawn[chosen]()
    if chosen == SPREAD:
        st.caption(f"On {style.counted(len(texts), 'text')} of the corpus.")
    elif recipe.base_model is None:
        st.caption("The recipe names no base: changes are measured from the family's.")


def changes_of(recipe: Recipe, family: Family, names: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the merge and its models changed, per layer and per layer and model, the models by their names."""
    base = recipe.base_model or family.base
    found = changes(recipe.yaml, dict(recipe.content), base, (*fingerprints(names), *inputs_of(recipe)))
    models = pd.DataFrame(found["models"])
    models["model"] = [names[recipe.references[place]] for place in models["model"]]
    return pd.DataFrame(found["layers"]), models.drop_duplicates(["layer", "part", "model"])


def states_of(recipe: Recipe, names: Mapping[str, str], texts: tuple[str, ...]) -> pd.DataFrame:
    """The spread of the hidden states of the models and of their merge: columns model, layer, rank, variance."""
    known = (*fingerprints(names), *inputs_of(recipe))
    merged = merged_spread(recipe.yaml, dict(recipe.content), texts, known)
    parts = {name: spread(reference, content_of(reference), texts) for reference, name in names.items()}
    return pd.concat([pd.DataFrame(rows).assign(model=name) for name, rows in {**parts, figures.MERGE: merged}.items()])


def draw_spread(states: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Effective rank and variance."""
    for measure in ("rank", "variance"):
        chart(figures.spread(states, measure, colours, dark=dark()), measure, states)


def chart(figure: go.Figure, measure: str, frame: pd.DataFrame) -> None:
    """Draw the figure of a measure."""
    show(figure, f"health_{measure}", frame, f"health-{measure}")
