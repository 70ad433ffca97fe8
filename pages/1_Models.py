"""Models: choose a base and its fine-tunes, and see whether they can be merged."""

import pandas as pd
import streamlit as st

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import FamilyReport, inspect_family, is_hub_id, resolve
from nmerge_core.errors import InputError
from nmerge_core.family import Family, families
from nmerge_core.figures import style
from nmerge_core.notebook import Step, literal
from pages.shared.frame.page import begin, command, how_computed
from pages.shared.frame.text import verbatim
from pages.shared.models.corpus_table import draw_corpus
from pages.shared.models.family_form import CHOOSE, choose, own_family


def facts(report: FamilyReport, family: Family) -> pd.DataFrame:
    """One row per model: what its headers say."""
    members = {member.reference: member for member in family.members}
    return pd.DataFrame(
        {
            "model": members[model.reference].label,
            "tuned for": members[model.reference].category or "–",
            "parameters": model.parameters,
            "neuronal (%)": 100 * model.neuronal / model.parameters,
            "point (%)": 100 * model.point / model.parameters,
            "size": style.size(model.bytes),
            "dtype": model.dtype,
            "shards": model.shards,
            "where": model.reference,
        }
        for model in report.models
    )


def draw_report(family: Family) -> None:
    """The verdict on merging, the architecture and the table of facts."""
    report = inspect_family(family.base, family.references)
    if report.mergeable and report.needs_tokenizer:
        st.info(
            "These models can be merged, by a recipe that says whose tokenizer the merge has: same architecture, "
            "another vocabulary.",
            icon=":material/check_circle:",
        )
    elif report.mergeable:
        st.success("These models can be merged: same architecture, tensors and shapes.", icon=":material/check_circle:")
    for error in report.errors:
        st.error(verbatim(error))
    for warning in report.warnings:
        st.warning(verbatim(warning))
    if not report.models:
        return
    base = report.models[0]
    facts_of_base: dict[str, tuple[str | int | None, str]] = {
        "Architecture": (base.model_type, "The model family, from config.json"),
        "Layers": (base.layers, "Transformer blocks, each with one attention and one MLP"),
        "Neurons per layer": (
            base.neurons,
            "d_ffn: rows of the MLP's gate and up, columns of its down",
        ),
        "Width": (style.count(base.d_model), "d_model: numbers in a token's hidden state"),
        "Heads": (f"{base.heads} / {base.kv_heads}", "Attention heads: for queries / for keys and values"),
        "Vocabulary": (style.count(base.vocabulary), "Tokens the model knows"),
    }
    with st.container(horizontal=True, gap="medium"):
        for name, (value, hint) in facts_of_base.items():
            st.metric(name, verbatim(value), help=hint, width="content")
    st.dataframe(
        facts(report, family),
        hide_index=True,
        column_config={
            "parameters": st.column_config.NumberColumn(format="localized"),
            "neuronal (%)": st.column_config.NumberColumn(
                format="%.1f", help="Parameters in matrices: a row each is a weight neuron of NeuroMerging"
            ),
            "point (%)": st.column_config.NumberColumn(format="%.1f", help="Parameters in vectors: norms and biases"),
            "size": st.column_config.TextColumn(alignment="right"),
            "shards": st.column_config.NumberColumn(help="Files the weights are split into"),
        },
        key="models_facts",
    )


def unpack_demo() -> None:
    """Write the demo family's files to the cache (seconds, no network) and choose it."""
    from nmerge_core.demo.family import write_family

    try:
        write_family(cache_root() / DEMO)
    except InputError as error:
        st.error(verbatim(error))
    else:
        choose(DEMO)


def fetch(references: list[str]) -> None:
    """Get models from the Hub, saying what is fetched and how long it has taken."""
    for reference in references:
        with st.spinner(f"Fetching {verbatim(reference)} from the Hugging Face Hub", show_time=True):
            try:
                resolve(reference)
            except InputError as error:
                st.error(verbatim(error))
                return
    st.rerun()


if chosen_here := st.session_state.pop(CHOOSE, None):
    st.session_state["family"] = st.session_state["family_chosen"] = chosen_here
family = begin(
    "Models",
    "Which models are we looking at?",
    "A **family** is one base model and fine-tunes of it. Fine-tunes of the same base share its architecture, so their "
    "changes can be compared neuron by neuron, and merged. All pages look at the family chosen on the left.",
    needs_models=False,
)
missing = family.missing
if family.name == DEMO and missing:
    st.info(
        "The demo family comes with the program: a small base model trained on general text, math, code and "
        "translation, and a fine-tune of it for each of the last three.",
        icon=":material/inventory_2:",
    )
elif missing:
    st.warning(f"Not on this machine yet: {verbatim(', '.join(missing))}.", icon=":material/download:")
    fetchable = [reference for reference in missing if is_hub_id(reference)]
    if fetchable and st.button("Fetch from the Hub", type="primary", key="models_fetch"):
        fetch(fetchable)
else:
    draw_report(family)
    draw_corpus(family)

if (family.name != DEMO or missing) and st.button(
    "Use the demo family",
    type="primary" if family.name == DEMO else "secondary",
    key="models_use_demo",
    icon=":material/inventory_2:",
):
    unpack_demo()
title = "Use your own models" if family.name == DEMO else "Change this family, or make another"
with st.expander(title, icon=":material/add:", expanded=not families(cache_root()) and not missing):
    own_family(Family("", "", ()) if family.name == DEMO else family)
how_computed(
    "Only headers are read: `config.json` and the tables of contents of the safetensors files. "
    "**Neuronal** parameters are those of matrices, whose rows NeuroMerging treats as weight neurons (its §3); "
    "**point** parameters are those of vectors (norms, biases). An MLP neuron of NeuronMerge (§2) is one row of gate "
    "and up with the same column of down.",
    command("inspect", family.base, *family.references),
    [
        Step(
            f"models = {literal({member.label: member.reference for member in family.members})}\n"
            "found = nm.inspect(models)\n"
            "found.mergeable, found.errors, found.warnings"
        ),
        Step("found.models", "## Facts"),
    ],
)
