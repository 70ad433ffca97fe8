"""Models: choose a base and its fine-tunes, and see whether they can be merged."""

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import FamilyReport, inspect_family, is_hub_id, labels, resolve
from nmerge_core.errors import InputError
from nmerge_core.family import (
    Family,
    Member,
    check_readable,
    delete_family,
    demo_family,
    families,
    rename_family,
    save_family,
)
from nmerge_core.figures import style
from nmerge_core.notebook import Step, literal
from pages.shared.page import begin, command, how_computed
from pages.shared.text import verbatim

CATEGORY_HINTS = {"math": ("math", "gsm"), "code": ("code", "coder", "python"), "translation": ("trans", "wmt", "mt-")}
SEARCH_DEPTH = 5  # folders below a root; a merged checkpoint of a run lies four below the cache
SEARCH_LIMIT = 200


def models_here() -> list[str]:
    """Folders with a config.json under the configured roots ($NMERGE_MODEL_ROOTS, else ./models and the cache)."""
    roots = os.environ.get("NMERGE_MODEL_ROOTS", f"models{os.pathsep}{cache_root()}").split(os.pathsep)
    found: list[str] = []
    for root in roots:
        start = Path(os.path.expanduser(root)).resolve()
        for folder, folders, files in os.walk(start):
            if "config.json" in files:
                found.append(folder)
                folders.clear()
            elif len(Path(folder).relative_to(start).parts) >= SEARCH_DEPTH:
                folders.clear()
            folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".part"))
            if len(found) >= SEARCH_LIMIT:
                return found
    return found


def likely_category(label: str) -> str:
    """The category that a fine-tune's name speaks of, or nothing."""
    name = label.lower()
    return next((category for category, words in CATEGORY_HINTS.items() if any(w in name for w in words)), "")


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
    with st.container(horizontal=True, gap="large"):
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


def choose(name: str) -> None:
    """Draw the page again with this family chosen; the sidebar's widget takes it before it is drawn."""
    st.session_state["models_choose"] = name
    st.rerun()


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


def save(
    chosen: Family,
    name: str,
    base: str | None,
    tuned: pd.DataFrame,
    corpus: str | None,
    tasks: list[str],
    *,
    rename: bool,
) -> None:
    """Save the family of the form and choose it; what the form does not ask stays as in the one it was filled with."""
    rows = tuned.fillna("").to_dict("records")
    models = tuple(Member(row["where"], row["label"].strip(), row["tuned for"].strip()) for row in rows)
    if not base or not models:
        st.error("A family needs a base and at least one fine-tune. Choose them above.")
        return
    folder, known = cache_root() / "families", families(cache_root())
    family = replace(chosen, base=base, models=models, corpus=corpus, tasks=tuple(tasks))
    try:
        if name != chosen.name and name in known:
            raise InputError(f"There is a family “{name}” already. Choose it on the left, or another name.")
        with st.spinner("Reading what the family names", show_time=True):
            check_readable(family)
        if rename:
            rename_family(family, name, cache_root())
        else:
            save_family(replace(family, name=name), folder)
    except InputError as error:
        st.error(verbatim(error))
    else:
        choose(name)


def draw_delete(family: Family) -> None:
    """Take the family away, after a question."""
    with st.popover("Delete this family", icon=":material/delete:", key="models_delete_ask"):
        st.markdown("Delete what is said of the family here? Its models and all that was computed of them stay.")
        if st.button("Delete for good", type="primary", key="models_delete"):
            delete_family(family.name, cache_root())
            choose(DEMO)


def start_form(family: Family) -> None:
    """Fill the form with a family when it is first drawn for that."""
    if st.session_state.get("models_form_of") == family.name and "models_base" in st.session_state:
        return
    st.session_state["models_form_of"] = st.session_state["models_name"] = family.name
    st.session_state["models_base"] = family.base or None
    st.session_state["models_tuned"] = family.references
    st.session_state["models_corpus"] = family.corpus
    st.session_state["models_tasks"] = list(family.tasks)


def own_family(family: Family) -> None:
    """The form that makes a family of the user's own models, or changes `family`."""
    start_form(family)
    demo = demo_family(cache_root())
    here = list(dict.fromkeys(filter(None, [family.base, *family.references, *models_here()])))
    st.markdown(
        "Pick from the models found on this machine, or type a folder or a Hugging Face Hub id such as "
        "`Qwen/Qwen2.5-0.5B`. A LoRA is named with its model, as `MODEL+ADAPTER`. Nothing is changed in their folders."
    )
    base = st.selectbox("Base", here, None, accept_new_options=True, key="models_base", placeholder="Folder or id")
    chosen = st.multiselect(
        "Fine-tunes of that base", here, accept_new_options=True, key="models_tuned", placeholder="Folders or ids"
    )
    known = {model.reference: (model.label, model.category) for model in family.models}
    guessed = {where: (name, likely_category(name)) for where, name in zip(chosen, labels(chosen), strict=True)}
    told = [(*known.get(where, guessed[where]), where) for where in chosen]
    rows = pd.DataFrame(told, columns=["label", "tuned for", "where"], dtype=str)
    key = "_".join(["models_labels", family.name, *chosen])  # what is typed stays with its model
    tuned = st.data_editor(rows, hide_index=True, disabled=["where"], key=key)
    left, right = st.columns(2)
    corpus = left.selectbox(
        "Corpus (optional)",
        list(dict.fromkeys(filter(None, [family.corpus, demo.corpus]))),
        None,
        accept_new_options=True,
        key="models_corpus",
        placeholder="Folder or YAML",
        help="The texts that classify neurons: a folder with one <category>.jsonl per category, general.jsonl among "
        "them; or a YAML of dataset sources. `corpus[:-60]` holds out the last 60 lines of each",
    )
    tasks = right.multiselect(
        "Tasks (optional)",
        list(dict.fromkeys([*family.tasks, *demo.tasks])),
        accept_new_options=True,
        key="models_tasks",
        placeholder="Names or YAMLs",
        help="What the models are scored on: a demo task, an lm-evaluation-harness task, or the path of a task's YAML",
    )
    box = st.text_input("Name of the family", max_chars=40, key="models_name", placeholder="qwen-math-code")
    name, of_form = box.strip(), (base, tuned, corpus, tasks)
    with st.container(horizontal=True):
        other = bool(family.name) and name != family.name
        label = "Save as another family" if other else "Save and use this family"
        if st.button(label, type="primary", key="models_save"):
            save(family, name, *of_form, rename=False)
        if other and st.button(f"Save and rename {verbatim(family.name)}", key="models_rename"):
            save(family, name, *of_form, rename=True)
        if family.name:
            draw_delete(family)


if chosen_here := st.session_state.pop("models_choose", None):
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

if st.button(
    "Use the demo family",
    type="primary" if family.name == DEMO and missing else "secondary",
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
