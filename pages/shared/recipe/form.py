"""A recipe made on the Merge page, by controls or as text, and taken from the one into the other."""

from typing import Any

import streamlit as st
import yaml

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.figures import style
from nmerge_core.files.yaml_file import LARGEST
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.recipe import DTYPES, Recipe
from nmerge_core.merging.recipe.registry import Method, Preset
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.merging.recipe.template_choice import AUTO
from nmerge_core.merging.recipe.tokenizer_choice import BASE, UNION
from pages.shared.frame.address import forget_endless
from pages.shared.frame.drafts import packed, unpacked
from pages.shared.frame.family import unfit
from pages.shared.frame.settings import KEPT, move, put
from pages.shared.frame.text import verbatim
from pages.shared.recipe.controls import control_states, members_of, models_key
from pages.shared.recipe.data import known_of, tell_lacks, tuned_for
from pages.shared.recipe.parameters import Drawn, controls
from pages.shared.recipe.start import LAST, default_recipe, for_all_models, recipe_on_merge
from pages.shared.recipe.steps import draw_steps

ADDRESS = "merge_recipe"  # the setting that a recipe as text is in the address
REOPENED = "merge_reopened"  # set where a callback has moved controls that are drawn outside of a fragment


def recipe_of_controls(family: Family, method: Method, available: dict[str, Method]) -> dict[str, Any]:
    """Draw the method's controls and return the recipe they make."""
    left_out = unfit(family)
    labelled = {model.label: model for model in family.models if model.label not in left_out}
    for label, why in left_out.items():
        st.caption(f"**{verbatim(label)}** is left out, as it does not fit the base. {verbatim(why)}")
    short = style.short_names(labelled)
    chosen = st.multiselect(
        "Fine-tunes",
        list(labelled),
        default=list(labelled)[: method.most],
        max_selections=method.most,
        format_func=lambda label: short.get(label, label),
        key=models_key(method),
        help=f"The models to merge, in order: {method.models_told}",
        **KEPT,
    )
    draw_presets(method, family)
    members = [labelled[label] for label in chosen]
    known = known_of(family, method, members)
    shared, each = controls(Drawn(method, chosen, tuned_for(members), known, family), available)
    tell_lacks(family, method, shared)
    recipe: dict[str, Any] = {"merge_method": method.name}
    if method.takes_base:
        recipe["base_model"] = family.base
    models = [{"model": m.reference, "parameters": own} for m, own in zip(members, each, strict=True)]
    recipe |= {"models": models, "parameters": shared}
    if method.takes_base and (then := draw_steps(family)):
        recipe["then"] = then
    return recipe | _written(method, members)


def draw_presets(method: Method, family: Family) -> None:
    """The settings of a method that are to be had at a click, beside each other, each with where it comes from."""
    if not method.presets:
        return
    for column, preset in zip(st.columns(len(method.presets)), method.presets, strict=True):
        column.button(
            preset.title,
            key=f"merge_preset_{preset.title}",
            icon=":material/settings_suggest:",
            on_click=take_preset,
            args=(preset, method, family),
            width="stretch",
        )
        column.caption(preset.sentence)


def take_preset(preset: Preset, method: Method, family: Family) -> None:
    """Set the controls to a preset, and leave what it says nothing of."""
    start = recipe_on_merge(family, method) or default_recipe(family, method)
    parameters = start.get("parameters", {}) | preset.parameters
    taken = for_all_models(start | {"parameters": parameters}, preset.parameters)
    open_recipe(yaml.safe_dump(taken, sort_keys=False), family)


def _written(method: Method, members: list[Member]) -> dict[str, Any]:
    """Draw what is not about the merged numbers themselves, and return the part of the recipe it makes."""
    with st.expander("Number format, tokenizer, chat template, seed", icon=":material/description:"):
        columns = [*st.columns(2), *st.columns(2)]
    middle, words, talk, right = columns
    dtype = middle.selectbox(
        "Written as",
        list(DTYPES),
        index=None,
        placeholder="as the base",
        key="merge_dtype",
        help="The number format of the merged checkpoint; the arithmetic is always float32",
        **KEPT,
    )
    tokenizers = {BASE: "the base's" if method.takes_base else "the first one's", UNION: "all tokens"}
    tokenizers |= {member.reference: f"{member.label}'s" for member in members}
    tokenizer = words.selectbox(
        "Tokenizer",
        list(tokenizers),
        index=None,
        format_func=lambda name: tokenizers.get(name, name),
        placeholder=tokenizers[BASE],
        key="merge_tokenizer",
        help="Whose tokens the merge has. Rows of embeddings are then matched by token; without it by position",
        **KEPT,
    )
    speakers = {AUTO: "as most", BASE: tokenizers[BASE]} | {member.reference: f"{member.label}'s" for member in members}
    template = talk.selectbox(
        "Chat template",
        list(speakers),
        index=None,
        format_func=lambda name: speakers.get(name, name),
        placeholder=speakers[AUTO],
        key="merge_chat_template",
        help="Whose chat template, end tokens and generation settings the merge has: those of most models, unless one "
        "is named. A file of your own can be named in the YAML",
        **KEPT,
    )
    forget_endless("merge_seed")
    seed = right.number_input(
        "Seed", 0, None, 0, key="merge_seed", help="Of random masks; the same seed merges the same", **KEPT
    )
    chosen_by_word = (("dtype", dtype), ("tokenizer", tokenizer), ("chat_template", template))
    return {"seed": seed} | {key: value for key, value in chosen_by_word if value}


def open_recipe(text: str, family: Family) -> None:
    """Set the controls to a recipe, given as YAML; where they have no place, it stands as text, and why is told."""
    move({"merge_source": "YAML", "merge_yaml": text})
    try:
        recipe = load(text)
        if isinstance(recipe, StagedRecipe):
            raise InputError("They have no place for stages.")
        if not isinstance(recipe, Recipe):
            method = recipe.content["merge_method"]
            move({"merge_method": method, f"merge_yaml_{method}_{family.name}": text})
            return
        move({"merge_method": recipe.merge_method})
        known = known_of(family, recipe.method, members_of(recipe, family))
        of_steps = {step.step: known_of(family, step.method) for step in recipe.then}
        move({**control_states(recipe, family, known, of_steps), "merge_source": "Controls"})
    except InputError as error:
        st.session_state["merge_untaken"] = str(error)


def rerun_if_reopened() -> None:
    """Draw the whole page where a callback of a fragment has changed what stands outside of it."""
    if st.session_state.pop(REOPENED, False):
        st.rerun()


def turned(family: Family) -> None:
    """Take what was set in the controls over into the text, or the other way round."""
    if st.session_state["merge_source"] == "YAML":
        st.session_state["merge_yaml"] = st.session_state.get(LAST, "")
    else:
        open_recipe(st.session_state["merge_yaml"], family)


def recipe_of_yaml(start: str, key: str = "merge_yaml") -> str:
    """Draw the recipe as text to write or upload, and return it; `start` is what stands there at first."""
    if untaken := st.session_state.pop("merge_untaken", ""):
        st.info(f"The recipe stays text: the controls cannot hold it. {verbatim(untaken)}", icon=":material/edit_note:")
    uploaded = st.file_uploader("Upload a recipe", ["yaml", "yml"], key="merge_upload")
    if uploaded is not None and st.session_state.get("merge_uploaded") != uploaded.file_id:
        st.session_state["merge_uploaded"] = uploaded.file_id
        if uploaded.size <= LARGEST:  # the browser would get more at every click
            st.session_state[key] = uploaded.getvalue().decode("utf-8-sig", errors="replace")
    if uploaded is not None and uploaded.size > LARGEST:
        st.error(f"Expected a recipe of at most {LARGEST:,} bytes, found {uploaded.size:,}.")
    if key not in st.session_state:
        st.session_state[key] = _asked(start)
    help_ = "mergekit's recipes are understood too"
    text = st.text_area("Recipe", key=key, height=360, help=help_, persist_state="session")
    put(ADDRESS, packed(text))
    return text


def _asked(start: str) -> str:
    """The recipe in the address, else `start`; one that cannot be read is said."""
    asked = st.query_params.get(ADDRESS)
    if asked is None:
        return start
    st.session_state[ADDRESS] = asked
    text = unpacked(asked)
    if text is None:
        st.warning("The recipe in the address is cut off, or its draft is gone: it cannot be shown.")
    return start if text is None else text


def recipe_of_mergekit(name: str, family: Family) -> str:
    """Draw the recipe of a method of mergekit's, which has no controls here, as text, and return it."""
    models = [{"model": member.reference} for member in family.models]
    content = {"merge_method": name, "base_model": family.base, "models": models, "parameters": {}}
    return recipe_of_yaml(mergekit.MergekitRecipe(content).yaml, f"merge_yaml_{name}_{family.name}")
