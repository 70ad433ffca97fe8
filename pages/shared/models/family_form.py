"""The form that makes a family of one's own models, or changes one."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import streamlit as st

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import labels
from nmerge_core.errors import InputError
from nmerge_core.family import (
    Family,
    Member,
    check_readable,
    delete_family,
    demo_family,
    families,
    load_family,
    rename_family,
    save_family,
)
from nmerge_core.files.data_folder import walk
from pages.shared.frame.text import verbatim

CHOOSE = "models_choose"  # the setting that says which family the page is drawn again with
CATEGORY_HINTS = {"math": ("math", "gsm"), "code": ("code", "coder", "python"), "translation": ("trans", "wmt", "mt-")}
SEARCH_DEPTH = 5  # folders below a root; a merged checkpoint of a run lies four below the cache
SEARCH_LIMIT = 200


def models_here() -> list[str]:
    """Folders with a config.json under the configured roots ($NMERGE_MODEL_ROOTS, else ./models and the cache)."""
    roots = os.environ.get("NMERGE_MODEL_ROOTS", f"models{os.pathsep}{cache_root()}").split(os.pathsep)
    found: list[str] = []
    for root in roots:
        start = Path(os.path.expanduser(root)).resolve()
        with suppress(InputError):  # of a root that holds other things too what was found before counts
            for folder, folders, files in walk(start):
                if "config.json" in files:
                    found.append(str(folder))
                    folders.clear()
                elif len(folder.relative_to(start).parts) >= SEARCH_DEPTH:
                    folders.clear()
                folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".part"))
                if len(found) >= SEARCH_LIMIT:
                    return found
    return found


def likely_category(label: str) -> str:
    """The category that a fine-tune's name speaks of, or nothing."""
    name = label.lower()
    return next((category for category, words in CATEGORY_HINTS.items() if any(w in name for w in words)), "")


def choose(name: str) -> None:
    """Draw the page again with this family chosen; the sidebar's widget takes it before it is drawn."""
    st.session_state[CHOOSE] = name
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
        now = load_family(known[chosen.name]) if chosen.name in known else chosen  # as other pages left it meanwhile
        family = replace(family, neurons=now.neurons, neuron_notes=now.neuron_notes)
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
