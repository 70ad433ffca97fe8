"""What a language model would call some neurons: who is asked, how far it agrees with the vote, and all it said."""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.labels import agreement_matrix
from nmerge_core.labelling.asked import by_question, read_asked
from nmerge_core.labelling.cost import Cost, estimate, leaves_for
from nmerge_core.labelling.parameter import endpoint_of
from nmerge_core.labelling.tables import NO_ANSWER, Labels, describe, open_labels, spent
from nmerge_core.machine import cores
from nmerge_core.notebook import IMPORT, literal
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.kept import texts_labelled
from nmerge_core.runs.kinds import KINDS
from pages.shared.charts.charts import csv_button, dark, show_picked
from pages.shared.frame.choice import choose_model
from pages.shared.frame.estimates import OPERATIONS_PER_SECOND, START
from pages.shared.frame.page import command, link
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.terms import BALANCED, KAPPA
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.behind import explore_neuron
from pages.shared.neurons.chosen import opened

FORMULA = r"""
A language model is shown the ten excerpts that excite a neuron most, 32 tokens of each, with the tokens marked at which
$|\varphi_j|$ is above its 0.9 quantile over all tokens of the corpus. It gives every excerpt a category and a relevance
from 1 to 5; the relevances of each category are summed, and the largest sum names the neuron (NeuronMerge, App. D.4 and
Fig. 12); equal sums are general. The paper asks about each excerpt by itself, here one question has all ten. An answer
that cannot be read counts as *no answer*. The agreement with the vote of the texts is Cohen's $\kappa$, its interval a
bootstrap over neurons.

The explanation is scored by detection, which the paper does not: the model is told its explanation and ten other texts,
five of which excite the neuron (the next strongest) and five of which do not (drawn of the weaker half), and says
which do. Balanced accuracy is the mean of both shares told rightly; 50 % is chance.
"""
AT_RANDOM, EACH, LISTS = "at random", "as many of each category", "my lists"


@st.fragment
def draw_labels(family: Family, done: Mapping[str, Run]) -> None:
    """Ask a language model about neurons of a classified model, and show what it said."""
    st.subheader("What would a language model call them?", anchor=False)
    st.markdown(
        "The vote counts whose texts excite a neuron. A language model can read *what in them* does: it is shown the "
        "strongest excerpts of some neurons, names a category and says why."
    )
    name = choose_model("Model", list(done), "neurons_label_model")
    model = done[name].parameters["model"]
    earlier = [run for run in list_runs(cache_root()) if run.kind == "label" and run.parameters.get("model") == model]
    known = list(dict.fromkeys(run.parameters["by"] for run in earlier))
    left, middle, right = st.columns([2.4, 1, 1.8], gap="large")
    by = left.selectbox(
        "Asked",
        known,
        None,
        accept_new_options=True,
        key="neurons_label_by",
        placeholder="A chat model's folder or Hub id, or NAME@https://host/v1",
        help="A chat model on this machine, or a model that an OpenAI-compatible endpoint serves.",
    )
    count = int(middle.number_input("Neurons", 1, None, 100, key="neurons_label_count", help="The paper takes 100."))
    which = right.segmented_control(
        "Drawn",
        [AT_RANDOM, EACH, *([LISTS] if family.neurons else [])],
        default=AT_RANDOM,
        required=True,
        key="neurons_label_which",
        wrap=True,
    )
    if by is None:
        texts = opened(done[name]).meta.get("corpus_fingerprint")
        ended = (run for run in earlier if run.status().state == "done")
        run = next((run for run in ended if texts_labelled(run) == texts), None)
        if run is None:
            st.caption("Name who is asked. A model that follows instructions is needed: one of 7 billion or more.")
            return
    else:
        asked: dict[str, Any] = {"model": model, "neurons": str(done[name].results), "by": by, "count": count}
        asked |= {"each_category": which == EACH, "lists": _lists(family) if which == LISTS else None}
        run = _started(family, done[name], asked, name)
    if run is not None and run_panel(run):
        _draw(family, done[name], run)


def _lists(family: Family) -> dict[str, list[list[int]]]:
    """The family's lists as a run takes them."""
    return {name: [list(pair) for pair in pairs] for name, pairs in family.neurons.items()}


def _started(family: Family, classified: Run, asked: dict[str, Any], name: str) -> Run | None:
    """The run of this request; before it is started, what it will take and where texts go."""
    served = leaves_for(asked["by"]) if _understood(asked["by"]) else ""
    if served:
        asked["key_from"] = (
            st.text_input(
                "Its key is in the environment variable",
                key="neurons_label_key",
                placeholder="none; or a name that ends in _API_KEY",
                help="Set where the app is started. The key itself is kept nowhere.",
            ).strip()
            or None
        )
    run = run_button("label", asked, "Ask it", "neurons_label", f"Label neurons of {name}")
    if run is None:
        number = sum(map(len, (asked["lists"] or {}).values())) or asked["count"]
        cost = estimate(number, opened(classified).categories)
        told = f"{cost.told[0].upper()}{cost.told[1:]}{_time(asked['by'], cost)}."
        if served:
            st.warning(f"{verbatim(served)}.", icon=":material/cloud_upload:")
        st.caption(told)
    return run


def _understood(by: str) -> bool:
    """Whether an address can be asked; what is wrong with one that cannot is said when it is started."""
    try:
        endpoint_of(by)
    except ValueError:
        return False
    return True


def _time(by: str, cost: Cost) -> str:
    """About how long a model on this machine takes, as the end of a sentence; empty where nobody knows."""
    try:
        entries = 0 if endpoint_of(by) else sum(each.elements for each in open_checkpoint(by).tensors.values())
    except (InputError, ValueError):
        return ""
    operations = 2.0 * entries * (cost.prompt_tokens + cost.answer_tokens)
    return f", {style.roughly(START + operations / (OPERATIONS_PER_SECOND * cores()))}" if entries else ""


def _draw(family: Family, classified: Run, run: Run) -> None:
    """What a finished labelling found of the neurons of a classification."""
    labels = open_labels(run.results)
    st.markdown(" ".join(describe(labels)), help=f"Cohen's κ: {KAPPA} Balanced accuracy: {BALANCED}")
    st.caption(f"Asked: {verbatim(shortened(labels.meta['by'], 80))} · {spent(labels.meta)}")
    left, right = st.columns([1.3, 1], gap="large")
    with left:
        figure = agreement_matrix(labels.counts, dark=dark())
        clicked = show_picked(figure, "neurons_labels", labels.counts.reset_index())
        st.caption("A click on a cell leads to the first of its neurons in *Explorer*.")
    if clicked:
        called = labels.table[["category", "label"]].replace("", NO_ANSWER)
        row = labels.table[(called == clicked).all(axis=1)].iloc[0]
        explore_neuron(family, classified, int(row["layer"]), int(row["neuron"]))
    with right:
        frame = labels.by_category()
        st.dataframe(
            frame.assign(accuracy=100 * frame["accuracy"]),
            hide_index=True,
            key="neurons_labels_by_category",
            column_config={
                "same": st.column_config.NumberColumn("same label", format="localized"),
                "accuracy": st.column_config.NumberColumn(
                    "explained", format="%.1f %%", help="Balanced accuracy of detection; 50 % is chance."
                ),
            },
        )
    _draw_neurons(family, run, labels)
    with st.expander("How labels are made", icon=":material/function:"):
        st.markdown(FORMULA)
        st.caption("The same from the command line")
        st.code(shell(run), language="bash", wrap_lines=True)
        st.caption("The same in Python")
        st.code(script(run), language="python")


def _draw_neurons(family: Family, run: Run, labels: Labels) -> None:
    """A row per neuron; of one that is chosen, what was asked and answered."""
    table = labels.table.assign(explained=100 * labels.balanced_accuracy)
    chosen = st.dataframe(
        table[["layer", "neuron", "category", "label", "read", "explained", "explanation"]],
        hide_index=True,
        height=300,
        key="neurons_labels_table",
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "read": st.column_config.NumberColumn(
                "lines read", help="Excerpts, of ten, that the answer has a line for."
            ),
            "explained": st.column_config.NumberColumn(format="%.0f %%", help="Balanced accuracy of detection."),
            "explanation": st.column_config.TextColumn(width="large"),
        },
    ).selection.rows
    csv_button(labels.table, "neurons_labels_all", "labels")
    if not chosen or chosen[0] >= len(table):
        st.caption("Choose a neuron to read what was asked about it and answered.")
        return
    row = table.iloc[chosen[0]]
    layer, neuron = int(row["layer"]), int(row["neuron"])
    for (own_layer, own, about), asked in by_question(read_asked(run.results)).items():
        if (own_layer, own) == (layer, neuron):
            question, answer = st.columns([1.6, 1], gap="large")
            question.caption(f"Question, {about}")
            question.code(asked.prompt, language=None, wrap_lines=True, height=340)
            answer.caption("Answer")
            answer.code(asked.answer or " ", language=None, wrap_lines=True, height=340)
    link("pages/3_Explorer.py", "Look at this neuron", "search", family, layer=layer, neuron=neuron)


def _options(run: Run) -> dict[str, Any]:
    """What a run was asked for beside the defaults."""
    fixed = ("model", "neurons", "by")
    kind = KINDS["label"].by_name
    own = {name: value for name, value in run.parameters.items() if name not in fixed and name in kind}
    return {name: value for name, value in own.items() if value not in (kind[name].default, {})}


def shell(run: Run) -> str:
    """The command that gives what a run gave."""
    words: list[object] = []
    for name, value in _options(run).items():
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [option, json.dumps(value) if isinstance(value, dict) else value]
    given = run.parameters
    return command("label", given["model"], "--neurons", given["neurons"], "--by", given["by"], *words)


def script(run: Run) -> str:
    """The Python that gives what a run gave, and its figure."""
    given = run.parameters
    options = "".join(f", {name}={literal(value)}" for name, value in _options(run).items())
    called = f"nm.label({literal(given['model'])}, {literal(given['neurons'])}, {literal(given['by'])}{options})"
    return f"{IMPORT}\n\nlabels = {called}\nlabels.figure().show()\nlabels.table"
