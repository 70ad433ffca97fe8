"""Similarity: how far fine-tuning turned each neuron's weights (NeuronMerge, App. A.3 and Fig. 8)."""

from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.similarity import MATRICES, MEASURES, interference, mean_cosine
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import csv_button, dark, show, show_picked
from pages.shared.explorer.changes_map import draw_changes, explore
from pages.shared.explorer.compared import TURNED, told_by
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.choice import as_option, choose_model, named
from pages.shared.frame.family import member_colours
from pages.shared.frame.page import begin, command, how_computed
from pages.shared.frame.results import read_table, with_merges
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import all_categories
from pages.shared.neurons.classified import classified


def reading(summary: pd.DataFrame) -> str:
    """The figure in a sentence: the least and most similar of the fine-tunes' layers and matrices."""
    low, high = (summary.loc[summary["mean"].agg(pick)] for pick in ("idxmin", "idxmax"))
    least, most = (
        f"**{row['mean']:.4f}** ({verbatim(style.short(row['model']))}, {row['matrix']} of layer {row['layer']})"
        for row in (low, high)
    )
    return f"The mean cosine lies between {least} and {most}; 1 is no change of direction at all."


def draw_moved(run: Run, family: Family) -> str:
    """The neurons of lowest cosine, each with a link to the Explorer; return the condition that chose them."""
    st.subheader("Neurons that moved most", anchor=False)
    moved = read_table(run, "moved.csv", names)
    matrices = [matrix for matrix in MATRICES if (moved["matrix"] == matrix).any()]
    left, right = st.columns(2)
    model = choose_model("Fine-tune", names, "similarity_model", left)
    forget_unknown("similarity_matrix", matrices)
    matrix = right.segmented_control(
        "Matrix",
        matrices,
        default=matrices[0],
        required=True,
        key="similarity_matrix",
        bind="query-params",
        help="A neuron has a row in up and, in most families, in gate, which decide when it fires, and a column in "
        "down: what it then writes",
    )
    rows = moved[(moved["model"] == model) & (moved["matrix"] == matrix)].sort_values("cosine")
    address = f"/Explorer?{urlencode({'family': family.name, 'model': as_option(model, names)})}"
    columns = {"explorer": [f"{address}&layer={r.layer}&neuron={r.neuron}" for r in rows.itertuples()]}
    if family.corpus and (base := classified(family).done.get("base")):
        categories = all_categories(str(base.results))
        # Of CLIP a corpus tells those of one encoder alone.
        own = [categories[r.layer][r.neuron] if r.layer in categories else "" for r in rows.itertuples()]
        columns = {"category": own} | columns
    st.dataframe(
        rows[["layer", "neuron", "cosine"]].assign(**columns),
        hide_index=True,
        height=318,
        column_config={
            "neuron": st.column_config.NumberColumn(format="localized"),
            "cosine": st.column_config.NumberColumn(format="%.4f", help="With the same neuron of the base model"),
            "category": st.column_config.TextColumn(help="In the base model"),
            "explorer": st.column_config.LinkColumn("", display_text="what it responds to →"),
        },
        key="similarity_moved",
    )
    csv_button(moved, "similarity_moved")
    return f"model == {model!r} and matrix == {matrix!r}"


def interference_reading(frame: pd.DataFrame, tunes: int) -> str:
    """The map in a sentence: the matrix where fine-tunes share most, and what signs say on average."""
    known = frame.assign(shared=frame["interference"] / frame["chance"]).dropna(subset="shared")
    if known.empty:
        return "Nothing was changed in any layer."
    most, fewest = (
        f"{verbatim(row['matrix'])} of layer {row['layer']} ({style.significant(row['shared'])} times chance)"
        for row in (known.loc[known["shared"].agg(pick)] for pick in ("idxmax", "idxmin"))
    )
    return (
        f"They share most directions in **{most}**, fewest in {fewest}. Where several changed a weight, they disagree "
        f"about its sign in **{style.percent(known['opposed'].mean())}** of the cases (by chance in up to "
        f"{style.percent(1 - 2.0 ** (1 - tunes))}), and "
        f"**{style.percent(known['lost'].mean())}** of all change is lost when it is added up."
    )


def draw_interference(asked: dict[str, Any], title: str) -> list[str]:
    """Where fine-tunes get in each other's way, as a map; the measure that is shown, if any is."""
    st.subheader("Where do they get in each other's way?", anchor=False)
    found = run_button("interference", asked, "Look for interference", "similarity_interference_run", title)
    if found is None:
        st.caption("Reads the weights once and decomposes every matrix of the layers: minutes for half a billion.")
    elif run_panel(found):
        frame = read_table(found, "interference.csv")
        st.markdown(interference_reading(frame, len(asked["models"])))
        titles = {name: measure for measure, (name, _) in MEASURES.items()}
        measure = titles[choose_model("Measure", list(titles), "similarity_measure")]
        show(interference(frame, measure, dark=dark()), "similarity_interference", frame, "interference")
        st.caption(
            "Merging adds changes up. Where fine-tunes change a matrix in the same directions, or the same weight up "
            "and down, they disturb each other; methods that elect signs (TIES) or turn directions apart (TSV-M) are "
            "made for these places."
        )
        return [measure]
    return []


family = begin(
    "Similarity",
    "How far did fine-tuning move each neuron?",
    "A neuron's weights are vectors. The **cosine** between the base model's and the fine-tune's is 1 where "
    "fine-tuning left their direction alone. Near 1 everywhere explains why neurons keep their category.",
)
family = with_merges(family)
names = [model.label for model in family.models]
run = run_button(
    "cosine",
    {"base": family.base, "models": family.references},
    "Compare the weights",
    key="similarity_run",
    title=f"Similarity of {named(names)}",
)
chosen, mapped = None, list[Step]()
if run is None:
    st.caption("Reads the weights once, block by block; needs no accelerator.")
elif run_panel(run):
    summary = read_table(run, "cosine.csv", names)
    st.markdown(reading(summary))
    figure = mean_cosine(summary, member_colours(family, dark()), dark=dark())
    clicked = show_picked(figure, "similarity_figure", summary, "similarity")
    weights = told_by(run, family)
    if weights and family.corpus:
        st.caption("A click on a point leads to the neurons of that layer in *Explorer*, those that turned most first.")
    if clicked and weights and family.corpus:
        model, layer, _ = clicked
        explore(weights, classified(family).usable, TURNED + model, model, layer)
    if zeros := int(summary["zero"].sum()):
        st.caption(f"{style.count(zeros)} zero vectors have no direction and are left out.")
    chosen = draw_moved(run, family)
    mapped = draw_changes(family, weights) if weights else []

tuned = [model.reference for model in family.models if not model.merged]
measures = []
if len(tuned) > 1:
    pair = {"base": family.base, "models": tuned}
    measures = draw_interference(pair, f"Interference of {named([m.label for m in family.models if not m.merged])}")

how_computed(
    r"For neuron $i$ and each of its vectors (row $i$ of gate and up, column $i$ of down): "
    r"$\cos(w_i^\text{base}, w_i^\text{ft}) = \frac{w_i^\text{base} \cdot w_i^\text{ft}}"
    r"{\lVert w_i^\text{base}\rVert\,\lVert w_i^\text{ft}\rVert}$, averaged over the neurons of a layer "
    "(NeuronMerge, App. A.3, Fig. 8). Zero vectors are counted, not averaged."
    "\n\n"
    r"With $\theta_0$ all weights of a neuron in the base (its rows of gate and up, its column of down) and "
    r"$\tau_t = \theta_t - \theta_0$ what fine-tune $t$ changed, the parallel share is "
    r"$\lVert \tau_\parallel \rVert^2 / \lVert \tau \rVert^2 = \langle \tau, \theta_0 \rangle^2 / "
    r"(\lVert \theta_0 \rVert^2 \lVert \tau \rVert^2)$ (NeuroMerging, §3, decomposes each row of a matrix so), and the "
    "sign conflict of two fine-tunes the share of the weights changed by both that they moved opposite ways."
    "\n\n"
    r"Shared directions are TSV-M's interference $\lVert (U^\top U - I)\,S\,(V^\top V - I)\rVert_1$ of the fine-tunes' "
    r"strongest singular triples side by side, each the top $1/T$ of a change of a matrix, over the same of random "
    "directions (Gargiulo et al., CVPR 2025; the comparison with chance is ours).",
    "\n".join(
        [
            command(
                "cosine",
                family.base,
                *family.references,
                "--out",
                "cosine.csv",
                "--moved",
                "moved.csv",
                "--neurons",
                "neurons.csv",
                "--between",
                "between.csv",
            ),
            *(command("interference", family.base, *tuned, "--out", "interference.csv") for _ in measures),
        ]
    ),
    [
        Step(
            f"models = {literal(dict(zip(names, family.references, strict=True)))}\n"
            f"found = nm.cosine({literal(family.base)}, models)\n"
            "found.figure().show()"
        ),
        Step("found.table", "## Numbers"),
        Step(f"found.moved.query({literal(chosen)})" if chosen else "found.moved", "## Neurons that moved most"),
        *mapped,
        *(
            Step(
                f"shared = nm.interference({literal(family.base)}, {literal(tuned)})\n"
                f"shared.figure({literal(measure)}).show()",
                "## Where do they get in each other's way?",
            )
            for measure in measures
        ),
    ],
)
