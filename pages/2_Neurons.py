"""Neurons: how many neurons of each layer belong to which category, and how many keep it in every fine-tune."""

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import neurons as figures
from nmerge_core.figures import style
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import csv_button, dark
from pages.shared.frame.address import forget_outside
from pages.shared.frame.choice import choose_model, number_columns
from pages.shared.frame.family import member_colours
from pages.shared.frame.page import begin, command, how_computed, link, tell_lack
from pages.shared.frame.results import with_merges
from pages.shared.frame.terms import KAPPA
from pages.shared.frame.text import verbatim
from pages.shared.neurons.behind import show_neurons
from pages.shared.neurons.chosen import (
    agreeing,
    chance,
    colours_in_order,
    comparison,
    confident,
    crossed,
    opened,
    undecided,
)
from pages.shared.neurons.classified import classified, classify_missing
from pages.shared.neurons.exact import tell_rounding
from pages.shared.neurons.inherited import FORMULA as OF_MERGES
from pages.shared.neurons.inherited import draw_categories
from pages.shared.neurons.labelled import draw_labels
from pages.shared.neurons.layers import choose_layers
from pages.shared.neurons.layers_map import draw_map
from pages.shared.neurons.stacks import tell_stacks
from pages.shared.neurons.sure import choose_support, draw_confidence

FORMULA = r"""
A neuron $j$ of an MLP has the activation $\varphi_j(z) = \mathrm{SiLU}(g_j \cdot z)\,(u_j \cdot z)$: the input of
`down_proj`. Its score on an exemplar $s$ is $a_j(s) = \max_t |\varphi_j(s, t)|$ over the tokens of $s$ (at most 512).

The $k$ exemplars with the highest scores vote, each for the category it comes from; the neuron belongs to the category
with the most votes (NeuronMerge, Eq. 2), if that has at least $m$ votes more than the runner-up, and to *general*
otherwise (App. D.3; $m = 1$: ties are general). The purple bar counts the neurons with the same category in the base
and in every fine-tune (Figs. 3 and 6). Scores are stored, so $k$ and $m$ need no new pass through the models.

How sure a category is: its *lead* is the share of the $k$ votes by which it has more than the runner-up. For its
*support* the texts of each category are drawn again, as many as it has, with replacement (bootstrap, 100 draws, the
same for all models); a text that was drawn twice votes twice, and the support is the share of draws that give the
neuron the same category.

Of the neurons a share $p_o$ has one category in the base and in a model; independent categories that are as frequent
would give $p_e$, the sum over the categories of the product of their shares in both. Cohen's
$\kappa = (p_o - p_e) / (1 - p_e)$. The IoU of a category is as in App. D.5, which has two corpora in the place of two
models.
"""
ABREAST = 6  # models whose shares have room beside another figure


@st.fragment  # so that a moved slider draws this part of the page again, and not its head
def draw(family: Family, done: dict[str, Run]) -> None:
    """The controls and the figures of the models whose classification is done, the base among them."""
    found = opened(done["base"])
    stored = found.top(found.layers[0])[0].shape[1]
    forget_outside("neurons_k", 1, stored)
    left, middle, right = st.columns([1, 1, 2], gap="large")
    k = 1
    if stored > 1:
        k = left.slider(
            "Voting exemplars k",
            1,
            stored,
            min(10, stored),
            key="neurons_k",
            bind="query-params",
            help="How many of a neuron's strongest texts vote on its category. The paper takes 10.",
        )
    m = middle.slider(
        "Lead m",
        0,
        8,
        1,
        key="neurons_m",
        bind="query-params",
        help="Votes by which the first category must lead the second; otherwise the neuron counts as general. "
        "1: ties are general. 0: a tie goes to the first category.",
    )
    layers = choose_layers(found.layers, "neurons_layers", right)
    tell_stacks(found)
    by_category = colours_in_order(family, found)
    frame = comparison(done, k, min(m, k), list(by_category))
    colours = member_colours(family, dark())
    total = int(frame["base"].sum())
    general = int(frame.loc[frame["category"] == "general", "base"].sum())
    kept = int(frame["intersection"].sum())
    said = f"Of the base's {total:,} neurons **{style.percent(general / total)}** are general"
    if len(done) > 1:
        others = "other model" if any(model.merged for model in family.models) else "fine-tune"
        rest = "" if len(done) > len(family.models) else f" classified so far ({len(done) - 1})"
        said += f", and **{style.percent(kept / total)}** keep their category in every {others}{rest}"
    with st.container():  # as for `progress` below
        random = chance(tuple(str(run.results) for run in done.values()), k, min(m, k))
        by_chance = f"{style.percent(random.general)} general"
        by_chance += f" and {style.percent(random.kept)} kept" if len(done) > 1 else ""
        st.markdown(
            f"{said}. With the categories of the texts shuffled it would be {by_chance}.",
            help="Models of one family react to the same texts, so that most neurons keep *any* category, and a vote "
            "without a winner is general. What goes beyond these shares is a finding.",
        )
        if open_ := undecided(str(done["base"].results), k, min(m, k)):
            st.caption(
                f"The category of {style.count(open_)} of the base's neurons hangs on the order of scores that are "
                "equal to five digits, which may differ between processors."
            )
        tell_rounding(family, done["base"], k, min(m, k))
    support = choose_support()
    with st.container():
        sure = None
        if support is not None:
            sure = confident(done, k, min(m, k), list(by_category), support)
            draw_confidence(sure, total, support, done, k, min(m, k))
        if layers:
            figure = figures.categories_by_layer(frame, layers, colours, sure, dark=dark())
            show_neurons(figure, "neurons_by_layer", family, done, "a bar", frame[frame["layer"].isin(layers)])
        else:
            st.caption("Choose at least one layer above.")

    left, right = st.columns(2, gap="large") if len(done) <= ABREAST else (st.container(), st.container())
    with left:
        st.subheader("How much of each model is what?", anchor=False)
        figure = figures.proportions(frame, list(done), by_category, dark=dark())
        show_neurons(figure, "neurons_proportions", family, done, "a part of a bar", frame)
    with right:
        st.subheader("Where in the depth?", anchor=False)
        model = choose_model("Model", list(done), "neurons_model")
        figure = figures.over_depth(frame, model, by_category, dark=dark())
        show_neurons(figure, "neurons_over_depth", family, done, "a point", frame)

    mapped = draw_map(family, done, frame, colours)

    merged_commands, merged_steps = draw_categories(family, done, k, min(m, k), list(by_category))

    st.subheader("Numbers", anchor=False)
    numbers = number_columns([*done]) | {
        "intersection": st.column_config.NumberColumn("same in all models", format="localized")
    }
    st.dataframe(frame, hide_index=True, height=300, key="neurons_table", column_config=numbers)
    csv_button(frame, "neurons_all", "neurons")
    if len(done) > 1:
        draw_agreement({label: str(run.results) for label, run in done.items()}, k, min(m, k), list(by_category))
    link("pages/3_Explorer.py", "Look at single neurons", "search", family)
    if found.images or found.stacks:
        st.caption("A language model names neurons, from excerpts, of causal language models alone.")
    else:
        draw_labels(family, done)
    models = {label: run.parameters["model"] for label, run in done.items()}
    folders = {label: f"neurons/{label}" for label in models}
    voting = ["--top-k", k, "--margin", min(m, k), "--out", "compare.csv"]
    voting += ["--neurons", "neurons.csv"] if support else []
    of_support = f", support={support}" if support else ""
    how_computed(
        FORMULA + (OF_MERGES if merged_steps else ""),
        "\n".join(
            [
                *(command("classify", models[x], "--corpus", family.corpus, "--out", folders[x]) for x in models),
                command("compare", *folders.values(), *voting),
                *merged_commands,
            ]
        ),
        [
            Step(
                f"models = {literal(models)}\n"
                f"found = nm.classify(models, corpus={literal(family.corpus)}).vote(k={k}, margin={min(m, k)})\n"
                f"found.figure({layers or None}{of_support}).show()"
            ),
            *([Step("found.confidence()", "How sure the category of each neuron is:")] if support else []),
            Step("found.proportions_figure().show()", "## How much of each model is what?"),
            Step(f"found.depth_figure({literal(model)}).show()", "## Where in the depth?"),
            Step(f"found.map_figure({literal(mapped)}).show()", "## All layers at once"),
            *merged_steps,
            Step("found.counts()", "## Numbers"),
            *(Step(f"found.agreement({literal(each)})") for each in [*done][1:]),
            Step("found.by_chance()", "Shares that random labels of the texts give:"),
            Step("found.undecided()", "Neurons whose category hangs on the order of scores equal to five digits:"),
        ],
    )


def draw_agreement(folders: dict[str, str], k: int, m: int, categories: list[str]) -> None:
    """Show how far each model's categories are those of the base."""
    st.subheader("How far does each model agree with the base?", anchor=False)
    said = "Neurons that have this category in both models, of those that have it in either (intersection over union)."
    overlaps = [f"IoU {each}" for each in categories]
    columns = {each: st.column_config.NumberColumn(format="%.1f %%", help=said) for each in overlaps}
    frame = agreeing(folders, k, m)[["model", "share", "kappa", *overlaps]]
    st.dataframe(
        frame.assign(**{each: 100 * frame[each] for each in ("share", *overlaps)}),
        hide_index=True,
        key="neurons_agreement",
        column_config=columns
        | {
            "share": st.column_config.NumberColumn(
                "same category", format="%.1f %%", help="Of all neurons, those that have one category in both models."
            ),
            "kappa": st.column_config.NumberColumn(
                "Cohen's κ",
                format="%.2f",
                help=KAPPA,
            ),
        },
    )
    base, *others = folders
    left, _ = st.columns(2, gap="large")
    model = choose_model("By category in the base (rows) and in (columns)", others, "neurons_crossed", left)
    counts = crossed(folders[base], folders[model], k, m, categories)
    hint = f"Rows: the category in the base. Columns: in {verbatim(model)}."
    left.dataframe(
        counts.reset_index(names=f"in {base}"),
        hide_index=True,
        key="neurons_crossed_table",
        column_config=number_columns(categories) | {f"in {base}": st.column_config.TextColumn(help=hint)},
    )


family = begin(
    "Neurons",
    "Which neurons do what?",
    "Every neuron is shown the same few hundred texts of each category. It belongs to the category that most of its "
    "strongest texts come from, or to *general* when none leads.",
)
if not family.corpus:
    tell_lack(family, "corpus", "A neuron gets its category from the texts of one that excite it most.")
    st.stop()
family = with_merges(family)
progress = st.container()  # in one place whatever it has, else what is below moves and its controls lose the address
found = classified(family)
with progress:
    classify_missing(family, found, "neurons_classify")
if "base" in (shown := found.usable):
    draw(family, shown)
elif shown:
    st.caption("The figures compare the models with the base: they are here as soon as it is classified too.")
