"""Merge: choose a method, see what it costs, run it, and see what it did."""

from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.candidates import CandidateLog
from nmerge_core.checkpoints import halves, is_hub_id, on_this_machine
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.merging.engine import AnyRecipe, load
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.notebook import Step, literal, text_literal
from nmerge_core.runs.folder import Run
from pages.shared.candidates import REOPENED, draw_log
from pages.shared.gallery import draw_gallery, named_in_address, opening
from pages.shared.merge_report import draw_report, metric, scoring
from pages.shared.page import begin, command, how_computed, lack, link, tell_refused
from pages.shared.recipe_form import (
    ADDRESS,
    open_recipe,
    recipe_of_controls,
    recipe_of_mergekit,
    recipe_of_yaml,
    turned,
)
from pages.shared.results import merges
from pages.shared.runs import run_button, run_panel
from pages.shared.settings import KEPT, newly_named_run, put
from pages.shared.text import verbatim
from pages.shared.tuning import draw_tuning, follows

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
    if isinstance(recipe, Recipe):
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


def draw_cost(recipe: Recipe) -> float:
    """What the merge will take, told from headers alone; return the seconds."""
    # Imported here: it brings torch along, which the head of the page need not wait for.
    from nmerge_core.merging.plan.estimate import estimate

    cost = estimate(recipe, cache_root())
    at_least = "≥ " if cost.solving else ""
    more = " Running the models on texts comes on top." if cost.solving else ""
    with st.container(horizontal=True, gap="medium"):
        metric("Time", f"{at_least}{style.duration(cost.seconds)}", f"From what is read and written.{more} {COMPILING}")
        whole = "one whole model" if recipe.method.searches(recipe.values()) else "never a whole one"
        metric("Memory", style.size(cost.peak_memory), f"At its peak: rows of every model, {whole}")
        metric("Disk", style.size(cost.bytes_written), f"{style.size(cost.disk_free)} are free")
    st.text(f"Conversation: {cost.conversation}")
    if cost.warnings:
        with st.expander(f"What to know first ({len(cost.warnings)})", icon=":material/info:"):
            st.text("\n".join(cost.warnings))
    return cost.seconds


def formula(recipe: AnyRecipe) -> str:
    """How the method of a recipe merges, with its source."""
    if not isinstance(recipe, Recipe):
        return (
            "mergekit computes it in a process of its own; NMerge checks recipe and models first and adds the report."
        )
    method = recipe.method
    return (
        f"{method.title} ({method.paper}): {method.summary}\n\n{method.computes}\n\n"
        r"Every difference $\tau_t = \theta_t - \theta_0$ is taken and merged in float32 and rounded once, on writing."
    )


def commands(recipe: AnyRecipe, family: Family) -> str:
    """The lines for a shell that merge by a recipe and score the merge beside the family."""
    merge = [f"cat > recipe.yaml <<'YAML'\n{recipe.yaml}YAML", command("merge", "recipe.yaml", "merged-model")]
    models = [member.reference for member in family.members]
    scored = scoring(family)
    scores = ["evaluate", *models, "merged-model", *scored.arguments(), "--out", "scores.csv"]
    return "\n".join([*merge, *([command(*scores)] if scored.allowed.tasks else [])])


def steps(recipe: AnyRecipe, name: str, family: Family) -> list[Step]:
    """The same in Python, with what the merge, called `name`, took and found."""
    models = {member.label: member.reference for member in family.members}
    found = Step(
        "for figure in merged.figures().values():\n"
        "    figure.show()\n"
        "for title, number in merged.numbers.items():\n"
        '    print(f"{title}: {number}")\n'
        "for title, table in merged.tables.items():\n"
        '    print(title, table.to_string(index=False), sep="\\n")',
        "## What the method found",
    )
    scored = scoring(family)
    scores = Step(
        f"models = {literal(models)}\n"
        f"scores = {scored.call(f'{{**models, {literal(name)}: merged}}')}\n"
        "scores.figure().show()\n"
        "scores.table",
        "## How good it is",
    )
    prompt = st.session_state.get("merge_prompt", "").strip()
    asked = Step(
        f"answers = nm.generate({{**{literal(models)}, {literal(name)}: merged}}, {literal(prompt)})\n"
        r'print(*map(": ".join, answers.items()), sep="\n\n")',
        "## Try it",
    )
    return [
        Step(
            f"recipe = {text_literal(recipe.yaml)}\n" + 'print(*nm.estimate(recipe).lines, sep="\\n")',
            "## The recipe, and what it will take",
        ),
        Step(
            "merged = nm.merge(recipe)\nmerged.path",
            "## The merge\n\nA complete checkpoint, for `AutoModelForCausalLM.from_pretrained`:",
        ),
        Step('{name: merged.report[name] for name in ("seconds", "peak_memory", "bytes_written")}', "It took:"),
        *([found] if isinstance(recipe, Recipe) else []),
        *([asked] if prompt else []),
        *([scores] if scored.allowed.tasks else []),
    ]


family = begin(
    "Merge",
    "How do we make one model out of these?",
    "A merge adds what each fine-tune changed to the base, so that one model can do what each of them can. "
    "Move a control and see what it does; keep what you like.",
)
st.session_state.pop(REOPENED, None)  # the controls are drawn now, as they were set
with st.spinner("Loading the merge methods", show_time=True):  # the first time in this process it brings torch along
    available = dict(methods())
named_in_address(available)
opening(available, family)
top, beside = st.columns([1, 2], vertical_alignment="bottom", gap="large")
name = top.selectbox(
    "Method",
    [*available, *(sorted({*mergekit.METHODS} - {*available}) if mergekit.installed() else ())],
    index=None,
    format_func=lambda method: available[method].title if method in available else f"{method} (mergekit)",
    key="merge_method",
    placeholder="Choose a method",
    **KEPT,
)
recipe: AnyRecipe | None = None
if name is None:
    draw_gallery(available)
    done = merges(family)
else:
    method = available.get(name)  # none of a method of mergekit's
    about = (
        f"{method.summary} *{method.paper}*"
        if method
        else "A method of mergekit's: [its documentation](https://github.com/arcee-ai/mergekit) has the parameters."
    )
    with beside.container(horizontal=True, vertical_alignment="center"):
        st.markdown(about, width="stretch")
        with st.popover("All methods", icon=":material/apps:", key="merge_gallery", on_change="rerun") as methods_shown:
            if methods_shown.open:
                draw_gallery(available)
    settings, effect = st.columns([5, 7], gap="large")
    run = seconds = None
    with settings:
        given: str | dict[str, Any]
        if method is None:
            given = recipe_of_mergekit(name, family)
        elif "YAML" == st.segmented_control(
            "Recipe from",
            ["Controls", "YAML"],
            default="Controls",
            required=True,
            key="merge_source",
            label_visibility="collapsed",
            on_change=turned,
            args=(family,),
            **KEPT,
        ):
            given = recipe_of_yaml(st.session_state.get("merge_last_recipe", ""))
        else:
            put(ADDRESS, None)
            given = recipe_of_controls(family, method, available)
        with st.container(border=True):
            try:
                recipe = load(given)
                st.session_state["merge_last_recipe"] = recipe.yaml
                run, seconds = draw_run(recipe, family)
            except InputError as error:
                st.error(verbatim(error))
            if recipe is not None:
                with st.expander("The recipe", icon=":material/description:"):
                    st.code(recipe.yaml, language="yaml", height=300, wrap_lines=True)
    with effect:
        if run is not None:
            run_panel(run)
        if follows(seconds) and isinstance(recipe, Recipe) and seconds is not None:
            draw_tuning(recipe, family)
        if isinstance(recipe, Recipe):
            draw_log(recipe, CandidateLog(cache_root(), family.name), family)
    done = merges(family)
    if run is not None and run.status().state == "done" and st.session_state.get("merge_shown") != run.id:
        st.session_state["merge_shown"] = st.session_state["merge_report"] = run.id

if done:
    by_id = {merge.run.id: merge for merge in done}
    if (asked := newly_named_run("merge")) is not None:
        st.session_state["merge_report"] = asked.id
    if st.session_state.get("merge_report") not in by_id:
        st.session_state["merge_report"] = done[0].run.id
    st.divider()
    st.subheader("Merged checkpoints", anchor=False)
    beside = st.container(horizontal=True)
    chosen = beside.selectbox(
        "Merge",
        list(by_id),
        format_func=lambda id: by_id[id].name,
        key="merge_report",
        label_visibility="collapsed",
        persist_state="session",
    )
    beside.button(
        "Open in the controls",
        key="merge_open",
        icon=":material/tune:",
        on_click=lambda: open_recipe(load(by_id[chosen].run.parameters["recipe"]).yaml, family),
        help="Set the controls above to this merge's recipe, to change it and merge again",
    )
    draw_report(by_id[chosen], family)

if recipe is not None:
    how_computed(formula(recipe), commands(recipe, family), steps(recipe, title_of(recipe, family), family))
elif name is None and done:
    shown = load(by_id[chosen].run.parameters["recipe"])
    how_computed(formula(shown), commands(shown, family), steps(shown, by_id[chosen].name, family))
else:
    tell_refused()
