"""What writing the merge of a recipe will take, the button that starts it, and its run."""

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import halves, is_hub_id, on_this_machine
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.merging.engine import AnyRecipe, expected
from nmerge_core.merging.recipe.mergekit_recipe import MergekitRecipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.runs.folder import Run
from pages.shared.frame.page import lack, link
from pages.shared.frame.runs import run_button
from pages.shared.frame.text import verbatim
from pages.shared.kept.report import metric

CONVERSATION = "How the merge is spoken to and where its answers end: from which model it takes each"
COMPILING = "The very first merge compiles its loops before it begins, which takes up to a minute."


def not_here(recipe: AnyRecipe) -> list[str]:
    """The Hub ids of a recipe that were not fetched yet: opening one would start its download in the page."""
    references = [*([recipe.base_model] if recipe.base_model else []), *recipe.references]
    named = dict.fromkeys(half for reference in references for half in halves(reference))
    return [half for half in named if is_hub_id(half) and not on_this_machine(half)]


def draw_run(recipe: AnyRecipe, family: Family) -> tuple[Run | None, float | None]:
    """What the merge will take, the button that starts it, and its run if there is one.

    Returns:
        The run, and the seconds that the merge may take; None where it cannot be told.
    """
    if absent := not_here(recipe):
        told = f"Not on this machine yet: {verbatim(', '.join(absent))}. Add them to a family and fetch them there, or "
        with lack(f"{told}name the folders they are in.", "download"):
            link("pages/1_Models.py", "Get the models", "arrow_forward", family)
        return None, None
    seconds = None
    if not isinstance(recipe, MergekitRecipe):
        seconds = draw_cost(recipe)
    else:
        st.caption("mergekit merges it in a process of its own; it tells no time or memory before it starts.")
    run = run_button("merge", {"recipe": recipe.content}, "Keep as a checkpoint", "merge_run", title_of(recipe, family))
    if run is not None and run.status().state == "done":
        st.success("Kept as a checkpoint. Its report is below.", icon=":material/check:")
    return run, seconds


def title_of(recipe: AnyRecipe, family: Family) -> str:
    """What the merge is called."""
    return recipe.title(family.labels, [model.label for model in family.models])


def draw_cost(recipe: Recipe | StagedRecipe) -> float:
    """What the merge will take, told from headers alone; return the seconds."""
    cost = expected(recipe, cache_root())
    at_least = "≥ " if cost.solving else ""
    more = " Running the models on texts comes on top." if cost.solving else ""
    with st.container(horizontal=True, gap="medium"):
        metric("Time", f"{at_least}{style.duration(cost.seconds)}", f"From what is read and written.{more} {COMPILING}")
        whole = "one whole model" if recipe.searches else "never a whole one"
        alone = "The worker process may hold other models beside it, which the report of a merge counts too"
        metric("Memory", style.size(cost.peak_memory), f"At its peak, by itself: rows of every model, {whole}. {alone}")
        metric("Disk", style.size(cost.bytes_written), f"{style.size(cost.disk_free)} are free")
    if cost.conversation:
        st.text(f"Conversation: {cost.conversation}", help=CONVERSATION)
    if cost.stages:
        st.text("\n".join(f"Stage {name}: {made}" for name, made in cost.stages.items()))
    if cost.warnings:
        with st.expander(f"What to know first ({len(cost.warnings)})", icon=":material/info:"):
            st.text("\n".join(cost.warnings))
    return cost.seconds
