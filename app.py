"""NMerge's home page: what it is for, the chosen models, and the last runs."""

from pathlib import Path

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.family import Family
from nmerge_core.runs.folder import list_runs
from pages.shared.frame.page import begin, link
from pages.shared.frame.runs import draw_links
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import classification_runs, colours_in_order, comparison, finished, opened

STEPS = {
    "Understand": (
        "A fine-tune changes a base model. Sort the neurons of each by what they react to, look at single ones, and "
        "see how far fine-tuning has moved them.",
        [
            ("pages/2_Neurons.py", "Which neurons do what?", "bar_chart"),
            ("pages/3_Explorer.py", "One neuron, up close", "search"),
            ("pages/4_Similarity.py", "What has moved?", "compare_arrows"),
        ],
    ),
    "Test": (
        "Do these neurons matter? Switch them off and score the model; measure how well the changes of several "
        "fine-tunes add up.",
        [
            ("pages/5_Knockout.py", "What breaks without?", "content_cut"),
            ("pages/6_Linearity.py", "Do the changes add up?", "timeline"),
        ],
    ),
    "Merge": (
        "Put several fine-tunes into one model, neuron group by neuron group, and compare it with its sources.",
        [
            ("pages/7_Merge.py", "Make one model", "merge"),
            ("pages/10_Sweep.py", "Which settings are best?", "travel_explore"),
            ("pages/8_Evaluate.py", "How good is each model?", "checklist"),
            ("pages/11_Report.py", "Both papers, on these models", "article"),
        ],
    ),
}
PICTURES = Path(__file__).parent / "pages" / "shared" / "pictures"
LAST_RUNS = 5
LONG = 200  # letters of fine-tunes' names: where there are more they are counted


def draw_family(family: Family) -> None:
    """The chosen models in one line, or the way to get them."""
    name, tuned = verbatim(family.name), "its fine-tunes " + verbatim(", ".join(model.label for model in family.models))
    if len(tuned) > LONG:
        tuned = f"{len(family.models)} fine-tunes"
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if family.missing:
            st.markdown(f"The family **{name}** is not unpacked yet.", width="stretch")
            link("pages/1_Models.py", "Get the models", "deployed_code", family)
        else:
            st.markdown(f"Chosen models: **{name}**, a base and {tuned}.", width="stretch")
            link("pages/1_Models.py", "Change", "deployed_code", family)


def draw_figures(family: Family) -> None:
    """What is known of the family: the neurons of its models, once the base's are classified; until then the demo's."""
    done = {} if family.missing or not family.corpus else finished(classification_runs(family))
    if "base" not in done:
        st.subheader("What there is to see", anchor=False)
        st.image(PICTURES / f"neurons-{st.context.theme.type or 'light'}.png", width="stretch")
        st.caption(
            "Neurons of the demo family, by the texts that excite them. Those of your models stand here once they are "
            "classified, by one click on *Which neurons do what?*"
        )
        return
    # Imported here: a first visit has no figure to wait for.
    from nmerge_core.figures.neurons import proportions
    from pages.shared.charts.charts import dark
    from pages.shared.neurons.behind import show_neurons

    found = opened(done["base"])
    by_category = colours_in_order(family, found)
    frame = comparison(done, min(10, found.top(found.layers[0])[0].shape[1]), 1, list(by_category))
    st.subheader(f"The neurons of {verbatim(family.name)}", anchor=False)
    figure = proportions(frame, list(done), by_category, dark=dark())
    show_neurons(figure, "home_neurons", family, done, "a part of a bar", frame, name="neurons")


family = begin(
    "Home",
    "See the neurons of language models, and merge models by them",
    "Several fine-tunes of one base can become one model that has learnt all of their tasks, without training. NMerge "
    "shows which neurons serve which task, and merges neuron by neuron, after the papers *NeuronMerge* and "
    "*NeuroMerging*.",
    needs_models=False,
)
draw_family(family)
for column, (name, (text, links)) in zip(st.columns(len(STEPS), gap="medium"), STEPS.items(), strict=True):
    with column.container(border=True, height="stretch"):
        st.subheader(name, anchor=False)
        st.markdown(text)
        for path, label, icon in links:
            link(path, label, icon, family)
draw_figures(family)
if last := list_runs(cache_root())[:LAST_RUNS]:
    st.subheader("Last runs", anchor=False)
    draw_links(last, family)
    link("pages/9_Runs.py", "All runs", "list_alt", family)
