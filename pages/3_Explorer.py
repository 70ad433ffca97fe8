"""Explorer: find a neuron, and see what it reacts to, what it says, and the same neuron in every model."""

import streamlit as st

from nmerge_core.figures import style
from pages.shared.explorer.one import explore
from pages.shared.explorer.own_text import draw_own_text
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.choice import choose_model
from pages.shared.frame.page import begin, tell_lack
from pages.shared.frame.results import with_merges
from pages.shared.frame.settings import KEPT
from pages.shared.neurons.chosen import opened
from pages.shared.neurons.classified import classified, classify_missing

ONE, TEXT = "One neuron", "A text of yours"
BESIDE = 5  # models whose readings have room in columns

family = begin(
    "Explorer",
    "What does this neuron react to?",
    "The texts, or images, that excite one neuron most, each token shaded by how strongly the neuron fires on it, and "
    "the same neuron of every fine-tune beside it.",
)
if not family.corpus:
    tell_lack(family, "corpus", "What a neuron reacts to is shown on the texts of one.")
    st.stop()
family = with_merges(family)
progress = st.container()  # in one place whatever it has, else what is below moves and its controls lose the address
classification = classified(family)
with progress:
    classify_missing(family, classification, "explorer_classify")
done = classification.usable
if not done:
    st.stop()

labels = list(done)
view = ONE
if not opened(next(iter(done.values()))).images:
    view = st.segmented_control(
        "View",
        [ONE, TEXT],
        default=ONE,
        required=True,
        key="explorer_view",
        label_visibility="collapsed",
        **KEPT,
    )
with st.container(key="explorer_model"):
    model = choose_model("Model", labels, "model", explanation="Whose neurons are found, and whose texts are the rows")
beside, short = labels, style.short_names(labels)
with st.container():
    if len(labels) > BESIDE:
        forget_unknown("explorer_beside", labels)
        chosen_beside = st.multiselect(
            "Beside it",
            [label for label in labels if label != model],
            [label for label in labels if label != model][: BESIDE - 2],
            key="explorer_beside",
            bind="query-params",
            max_selections=BESIDE - 1,
            format_func=short.__getitem__,
            help="Whose reading of the same texts is shown in columns; all models are in the table below",
        )
        beside = [label for label in labels if label == model or label in chosen_beside]
if view == ONE:
    explore(family, done, model, beside)
else:
    draw_own_text(family, {label: done[label] for label in beside}, model)
