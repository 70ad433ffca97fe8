"""Linearity: where adding task vectors is safe, and how much of each (NeuronMerge, §2.4; SubModule Linearity)."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.linearity import SAFE, by_chance, nonlinearity, part_title, parts
from nmerge_core.figures.merge import by_layer
from nmerge_core.notebook import Step, literal
from nmerge_core.parameters.settings import RANDOM_GROUPS
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark
from pages.shared.frame.address import forget_outside
from pages.shared.frame.choice import choose_model, named, number_columns
from pages.shared.frame.family import member_colours
from pages.shared.frame.page import begin, command, how_computed, lack, link, tell_lack, writes
from pages.shared.frame.results import asked_parameters, read_table
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.text import verbatim
from pages.shared.neurons.behind import show_neurons
from pages.shared.neurons.chosen import colours_in_order, opened
from pages.shared.neurons.classified import classified, tell_untokenised

EVERY_GROUP = "all groups"


def reading(frame: pd.DataFrame) -> str:
    """The figure in a sentence: each part's mean over models, layers and α, least linear first."""
    mean = frame.assign(part=parts(frame)).groupby("part")["value"].mean().sort_values(ascending=False)
    values = {verbatim(part_title(str(part))): style.significant(value) for part, value in mean.items()}
    told = ", ".join(f"{part} **{value}**" for part, value in values.items())
    return f"Averaged over models and layers, from least to most linear: {told}."


def safe(frame: pd.DataFrame) -> str:
    """How many parts of layers are below the threshold, and where that comes from."""
    mean = frame.assign(part=parts(frame)).groupby(["model", "part", "layer"])["value"].mean().dropna()
    below = mean[mean <= SAFE].groupby("part").size().reindex(mean.index.unique("part"), fill_value=0)
    whole = mean.groupby("part").size()
    told = ", ".join(f"{verbatim(part_title(str(part)))} {below[part]} of {whole[part]}" for part in whole.index)
    return (
        f"**Safe** we call up to {SAFE}: the effect that is added then keeps a cosine of at least 0.995 with the one "
        f"that was wanted (√(1 − {SAFE}²)). The threshold is ours; the papers have none. Below it are, of all layers "
        f"of all fine-tunes: {told}."
    )


def compared(frame: pd.DataFrame) -> str:
    """What grouping by function does, over all layers: against all neurons together, and against chance."""
    every = frame[frame["layer"].isna() & (frame["group"] == "")].dropna(subset="value")
    if every.empty:
        return "None of the fine-tunes changed what an MLP does."
    lower, higher = every["difference_high"] < 0, every["difference_low"] > 0
    told = [
        f"**{verbatim(row['model'])}** {style.significant(row['value'])}, by chance "
        f"{style.significant(row['random'])}, not grouped {style.significant(row['whole'])}"
        for row in every.to_dict("records")
    ]
    answer = "lowers" if lower.all() else "raises" if higher.all() else "does not clearly change"
    apart = (every["value"] / every["whole"]).mean() - 1
    against = f"{style.percent(abs(apart))} {'above' if apart > 0 else 'below'} all neurons of a layer as one"
    quadratic, bend = (style.percent(every[part].sum() / every["value"].sum()) for part in ("quadratic", "bend"))
    return (
        f"Grouping by function **{answer}** non-linearity against random groups of the same sizes; it is {against}. "
        f"Over all layers: {'; '.join(told)}. By itself the quadratic term of NeuronMerge's Theorem 1 is {quadratic} "
        f"of the groups' error, the bend of the activations {bend}."
    )


def draw_by_chance(run: Run, by_base: Mapping[str, Run], family: Family, colours: Mapping[str, str]) -> None:
    """Groups by function, of the base's categories for each fine-tune, beside groups by chance."""
    frame = read_table(run, "by_chance.csv", [model.label for model in family.models]).fillna({"group": ""})
    st.subheader("Does grouping neurons by function help?", anchor=False)
    st.markdown(compared(frame))
    chosen = choose_model("Neurons", [EVERY_GROUP, *colours], "linearity_group")
    group = "" if chosen == EVERY_GROUP else chosen
    figure = by_chance(frame, group, colours, title="{} fine-tune", dark=dark())
    show_neurons(figure, "linearity_by_chance", family, by_base, "a point of a group", frame, name="groups_by_chance")
    st.caption(
        "Bars are 95 % intervals over texts; the band reaches from the lowest to the highest of "
        f"{frame['draws'].max()} random groupings. *Not grouped* is all neurons of the layer as one."
    )


def draw(run: Run, base: Run | None, family: Family) -> None:
    """Non-linearity, then the coefficients solved from it, each with its numbers."""
    names = [model.label for model in family.models]
    frame = read_table(run, "linearity.csv", names)
    st.markdown(reading(frame))
    colours = colours_in_order(family, opened(base)) if base else {}
    figure = nonlinearity(frame, colours, title="{} fine-tune", dark=dark())
    by_base = dict.fromkeys(names, base) if base else {}
    what = "a point of an MLP or of a neuron group"
    show_neurons(figure, "linearity_figure", family, by_base, what, frame, name="linearity")
    st.caption(safe(frame))
    if base is None:
        with lack("Classify the base model's neurons to see its neuron groups here too."):
            link("pages/2_Neurons.py", "Neurons", "arrow_forward", family)
    if (run.results / "by_chance.csv").exists():
        draw_by_chance(run, by_base, family, colours)
    if not (run.results / "coefficients.csv").exists():
        with lack("Say what each fine-tune was tuned for, and the merging coefficients are solved too."):
            link("pages/1_Models.py", "Change the family", "arrow_forward", family)
        return
    solved = read_table(run, "coefficients.csv", names)
    solved = solved.assign(part=parts(solved))[["model", "layer", "part", "coefficient"]]
    st.subheader("How much of each fine-tune should a merge take?", anchor=False)
    st.markdown(
        "The coefficients **α** that bring each submodule's merged change closest to what every fine-tune does on its "
        "own task. SubModule Linearity and NeuronMerge use them."
    )
    figure = by_layer(solved, "coefficient α", member_colours(family, dark()), dark=dark())
    what = "a point of the MLP"
    show_neurons(figure, "linearity_coefficients", family, by_base, what, solved, name="coefficients")
    wide = solved.assign(part=solved["part"].map(part_title)).pivot(
        index=["part", "layer"], columns="model", values="coefficient"
    )[names]
    st.dataframe(
        wide.reset_index(), hide_index=True, key="linearity_table", column_config=number_columns(names, "%.3f")
    )


family = begin(
    "Linearity",
    "Where is it safe to add fine-tunes together?",
    "Merging adds weight changes and hopes that the **effects** add up too. Non-linearity says by how much they do "
    "not: 0 is exact, 0.1 means a tenth of the effect is off.",
)
if not family.corpus:
    tell_lack(family, "corpus", "How well changes add up is measured on the texts of one.")
    st.stop()
if not writes(family):
    with lack("Linearity is measured of causal language models. These models are merged by all methods without texts."):
        link("pages/7_Merge.py", "Merge", "arrow_forward", family)
    st.stop()
if tell_untokenised(family, ["base"]):
    st.stop()
forget_outside("linearity_samples", 5, 60)
samples = st.slider(
    "Texts per category",
    5,
    60,
    asked_parameters("linearity").get("samples", 30),
    step=5,
    key="linearity_samples",
    bind="query-params",
    help="Drawn from the corpus with a fixed seed; the paper takes 30",
    width=360,
)
base = classified(family).done.get("base")
categories = [model.category for model in family.models]
parameters = {
    "base": family.base,
    "models": family.references,
    "corpus": family.corpus,
    "neurons": base.id if base else None,
    "categories": categories if all(categories) else None,
    "samples": samples,
}
run = run_button(
    "linearity",
    parameters,
    "Measure linearity",
    "linearity_run",
    f"Linearity of {named([model.label for model in family.models])}",
)
if run is None:
    beside = f"with neuron groups and {RANDOM_GROUPS.default} random groupings"
    with_groups = beside if base else "without neuron groups: the base's neurons have no category yet"
    st.caption(f"Runs {samples} texts of every category through one layer after the other, {with_groups}.")
elif run_panel(run):
    draw(run, base, family)

solves = parameters["categories"] is not None
models = literal({model.label: model.reference for model in family.models})
neurons = f"nm.classify({literal(family.base)}, corpus={literal(family.corpus)})" if base else "None"
how_computed(
    r"For a submodule $f$ on the base model's own hidden states $x$, with $\tau$ the fine-tune's weights minus the "
    r"base's and $\Delta f(x) = f(x; \theta_0 + \tau) - f(x; \theta_0)$, non-linearity at $\alpha$ is"
    "\n\n"
    r"$$\frac{\lVert f(x; \theta_0 + \alpha\tau) - f(x; \theta_0) - \alpha\,\Delta f(x)\rVert}"
    r"{\lVert\alpha\,\Delta f(x)\rVert}$$"
    "\n\n"
    r"averaged over tokens and $\alpha \in \{0.1, …, 0.9\}$ (NeuronMerge, §2.4, App. B). Groups are compared at "
    r"$\alpha = \frac{1}{2}$, where a quadratic term is what it is on average, and the error is exactly "
    r"$-\frac{1}{4}\sum_j \delta_j D_j$, Theorem 1's term with $\delta$ the change of $\varphi$ and $D$ that of down, "
    r"plus the bend of $\varphi$ itself; the mean over at most 64 tokens of a text, then over texts. The merging "
    r"coefficients solve $A\alpha = b$ with $A_{ij} = \sum_t \mathbb{E}\langle\Delta f_i, \Delta f_j\rangle$ and "
    r"$b_i = \sum_t \mathbb{E}\langle\Delta f_i, \Delta f_t\rangle$ over the samples of each task $t$ (Dai et al., "
    "ICLR 2025).",
    command(
        "linearity",
        family.base,
        *family.references,
        *("--corpus", family.corpus),
        *(["--neurons", base.results] if base else []),
        *("--samples", samples),
        *("--out", "linearity.csv"),
        *(["--categories", ",".join(categories), "--coefficients", "coefficients.csv"] if solves else []),
    ),
    [
        Step(
            f"models = {models}\n"
            "found = nm.linearity(\n"
            f"    {literal(family.base)},\n"
            "    models,\n"
            f"    corpus={literal(family.corpus)},\n"
            f"    neurons={neurons},\n"
            f"    categories={literal(parameters['categories'])},\n"
            f"    samples={samples!r},\n"
            ")\n"
            "found.figure().show()"
        ),
        *([Step("found.by_chance_figure().show()", "## Does grouping neurons by function help?")] if base else []),
        *(
            [
                Step("found.coefficients_figure().show()", "## How much of each fine-tune should a merge take?"),
                Step("found.coefficients"),
            ]
            if solves
            else []
        ),
        Step("found.table", "## Numbers"),
    ],
)
