"""What became of the neurons of each category in a merge, and what it kept of each fine-tune in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import neuron_categories
from nmerge_core.family import Family
from nmerge_core.figures import inheritance as figures
from nmerge_core.figures import style
from nmerge_core.files.kept_files import read_parquet
from nmerge_core.inheritance.tables import became, kept_by, with_categories
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark
from pages.shared.frame.choice import choose_model
from pages.shared.frame.family import member_colours
from pages.shared.frame.page import command
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.behind import show_neurons

FORMULA = r"""
Of a merge: with $\theta_0$ a neuron's weights in the base (its rows of gate and up, their biases, its column of down),
$\tau_t = \theta_t - \theta_0$ what fine-tune $t$ changed in it and $\Delta$ what the merge did, the merge kept
$\langle \Delta, \tau_t \rangle / \lVert \tau_t \rVert^2$ of it, the part of $\Delta$ that points along $\tau_t$; of
several neurons $\sum_j \langle \Delta_j, \tau_{t,j} \rangle / \sum_j \lVert \tau_{t,j} \rVert^2$. The measure is ours;
the papers have none.
"""
NAMED = 4  # fine-tunes that a sentence names; figures and tables have all
MEANING = (
    "What a model changed in a neuron is how its weights differ from the base's. *Kept* is the part of a fine-tune's "
    "change that the merge has: 100 % all of it, 0 % nothing; below 0 the merge moved the neuron the other way."
)


def parted(family: Family, done: Mapping[str, Run]) -> tuple[list[str], list[str]]:
    """The fine-tunes and the merges among the models that are classified."""
    models = [model for model in family.models if model.label in done]
    return [each.label for each in models if not each.merged], [each.label for each in models if each.merged]


def few(parts: Sequence[str]) -> str:
    """Some parts of a sentence; of many the first few, and how many more there are."""
    *before, last = [*parts[:NAMED], f"more of {len(parts) - NAMED} others (below)"] if len(parts) > NAMED else parts
    return f"{', '.join(before)} and {last}" if before else last


@st.cache_data(max_entries=32, show_spinner=False)
def _voted(folder: str, k: int, margin: int) -> pd.DataFrame:
    """Layer, neuron and category of every neuron of a finished run."""
    return neuron_categories(open_classification(folder), k=k, margin=margin)


@st.cache_data(max_entries=32, show_spinner=False)
def _became(folders: Mapping[str, str], merge: str, k: int, margin: int, order: Sequence[str]) -> pd.DataFrame:
    after = _voted(merge, k, margin)
    found = [became(_voted(folder, k, margin), after, order).assign(model=name) for name, folder in folders.items()]
    return pd.concat(found, ignore_index=True)[["model", "before", "after", "neurons", "share"]]


@st.cache_data(max_entries=16, show_spinner=False)
def _kept(
    results: str, names: Sequence[str], base: str, k: int, margin: int, order: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a run measured, by category, and by category and layer; `names` are the models' in the run's order."""
    measured = read_parquet(Path(results) / "inherited.parquet", ("layer", "neuron", "model", "change", "kept"))
    called = dict(zip(measured["model"].unique(), names, strict=True))
    frame = with_categories(measured.assign(model=measured["model"].map(called)), _voted(base, k, margin), order)
    return kept_by(frame, ["category"]), kept_by(frame, ["category", "layer"])


def draw_categories(
    family: Family, done: Mapping[str, Run], k: int, margin: int, order: Sequence[str]
) -> tuple[list[str], list[Step]]:
    """Where the neurons of each category ended up in a merge, and what that kept of them; the base is among the models.

    Returns:
        The commands and the Python that give the same; none without a merge.
    """
    models, merges = parted(family, done)
    if not models or not merges:
        return [], []
    st.subheader("What became of them in the merge?", anchor=False)
    merge = merges[0] if len(merges) == 1 else choose_model("Merge", merges, "neurons_merge")
    folders = {label: str(done[label].results) for label in ("base", merge, *models)}
    frame = _became({label: folders[label] for label in models}, folders[merge], k, margin, order)
    st.markdown(_kept_category(frame, merge))
    show_neurons(figures.became(frame, dark=dark()), "neurons_became", family, done, "a cell", frame, merge=done[merge])
    asked: dict[str, Any] = {
        "merge": done[merge].parameters["model"],
        "base": done["base"].parameters["model"],
        "models": [done[label].parameters["model"] for label in models],
    }
    steps = [Step(f"found.became_figure({literal(merge)}).show()", "## What became of them in the merge?")]
    st.subheader("What did it keep of whom?", anchor=False)
    run = run_button("inherited", asked, "Compare the weights", "neurons_inherited", f"What {merge} kept")
    if run is None:
        st.caption("Reads the MLP weights of all these models once, block by block; needs no accelerator.")
    elif run_panel(run):
        whole, by_layer = _kept(str(run.results), models, folders["base"], k, margin, order)
        colours = member_colours(family, dark())
        st.markdown(_kept_most(whole, merge))
        st.caption(f"{MEANING} Of many neurons it is the share of all their change taken together.")
        by_base = dict.fromkeys(models, done["base"])
        show_neurons(figures.kept(whole, colours, dark=dark()), "neurons_kept", family, by_base, "a bar", whole)
        figure = figures.kept_over_depth(by_layer, colours, dark=dark())
        show_neurons(figure, "neurons_kept_depth", family, by_base, "a point", by_layer)
    tuned = {label: done[label].parameters["model"] for label in models}
    called = f"nm.inherited({literal(asked['merge'])}, {literal(asked['base'])}, {literal(tuned)})"
    steps += [
        Step(f"inherited = {called}\nfound.kept_figure(inherited).show()", "## What did it keep of whom?"),
        Step("found.kept_depth_figure(inherited).show()"),
    ]
    return [measured_by(**asked)], steps


def measured_by(merge: str, base: str, models: Sequence[str]) -> str:
    """The command that measures what a merge kept in every neuron."""
    return command("inherited", merge, base, *models, "--out", "inherited.csv")


def _kept_category(frame: pd.DataFrame, merge: str) -> str:
    """How many of each fine-tune's neurons are of the same category in a merge."""
    same = frame[frame["before"] == frame["after"]].groupby("model", sort=False)["neurons"].sum()
    shares = same / frame.groupby("model", sort=False)["neurons"].sum()
    told = [f"**{style.percent(share)}** of {verbatim(style.short(str(model)))}'s" for model, share in shares.items()]
    return (
        f"Of the neurons {few(told)} are of the same category in **{verbatim(shortened(merge))}**. Each row tells "
        "where the neurons of one category ended up."
    )


def _kept_most(whole: pd.DataFrame, merge: str) -> str:
    """The most and the least that a merge kept, in a sentence."""
    known = whole.dropna(subset="kept")
    if known.empty:
        return "None of the fine-tunes changed a neuron."
    most, least = (known.loc[known["kept"].agg(pick)] for pick in ("idxmax", "idxmin"))
    told = [
        f"**{style.percent(row['kept'])}** of what {verbatim(row['model'])} changed in "
        f"{verbatim(row['category'])} neurons"
        for row in (most, least)
    ]
    return f"**{verbatim(shortened(merge))}** kept most, {told[0]}, and least, {told[1]}."
