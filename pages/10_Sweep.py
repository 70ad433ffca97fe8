"""Sweep: which settings of a merge are best? Trials are merged in memory and scored, and can be watched."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
import yaml

from nmerge_core.errors import InputError, shown
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.sweep import heat, importance, parallel, progress, title_of
from nmerge_core.merging.recipe.registry import Method, methods
from nmerge_core.notebook import Step, literal
from nmerge_core.parameters import Choice, Flag, Number, Parameter
from nmerge_core.runs.folder import Run
from nmerge_core.search.plan import Sweep
from nmerge_core.search.presets import Preset, presets_of
from nmerge_core.search.reading import load_sweep
from nmerge_core.yaml_file import yaml_text
from pages.shared.charts import dark, show
from pages.shared.page import begin, command, how_computed, lack, link
from pages.shared.recipe_form import default_recipe, open_recipe
from pages.shared.runs import run_button, run_panel
from pages.shared.settings import named_run
from pages.shared.tasks import CODE_SWITCH, code_switch, own_code_switch, runs_code, task_name
from pages.shared.text import verbatim

FIRST = "neuromerging"  # the method that the page opens with
SHOWN = ("grid", "random", "tpe", "cma")  # of one objective
FORMULA = (
    "Each trial is merged in memory, with the bits that the merge writes, and scored by lm-evaluation-harness. The "
    "**objective** is the mean of the tasks' primary metrics, negative where less is better. **Grid** tries every "
    "combination; **TPE** and **CMA-ES** (Optuna's) go where trials were good. **Importance** is the share of the "
    "objective's differences that a parameter makes (PED-ANOVA; Watanabe et al., IJCAI 2023). The best of many trials "
    "is a little lucky: score what you keep on problems that the sweep has not seen."
)


def suggested(parameter: Parameter) -> str:
    """Values to begin with, as one types them: those of the parameter's description."""
    if isinstance(parameter, Choice):
        return ", ".join(parameter.choices)
    if isinstance(parameter, Flag):
        return "false, true"
    assert isinstance(parameter, Number)
    low = parameter.low if parameter.low is not None else 0.0
    default = parameter.default if isinstance(parameter.default, int | float) else low + 1
    high = parameter.high if parameter.high is not None else max(2 * default, low + 1)
    values = [low + (high - low) * share for share in ((0.2, 0.4, 0.6, 0.8, 1.0) if parameter.above_low else _FIFTHS)]
    return ", ".join(f"{round(value) if parameter.whole else round(value, 4):g}" for value in dict.fromkeys(values))


_FIFTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def read_values(text: str) -> Any:
    """What stands in a box: values between commas, or a range, 0.1 … 1, evenly in its logarithm with `log` after it.

    Raises:
        InputError: a value is none.
    """
    try:
        return _read_values(text)
    except yaml.YAMLError as error:
        raise InputError(f"expected values between commas, or a range such as 0.1 … 1, found {shown(text)}") from error


def _read_values(text: str) -> Any:
    if ends := re.fullmatch(r"\s*(\S+)\s*(?:…|\.\.+)\s*(\S+?)\s*(log)?\s*", text):
        low, high = (yaml.safe_load(end) for end in ends.groups()[:2])
        return {"low": low, "high": high, **({"log": True} if ends[3] else {})}
    return [yaml.safe_load(part) for part in text.split(",") if part.strip()]


def chosen_search(method: Method, preset: Preset | None) -> dict[str, Any]:
    """Draw which parameters are searched, and over what; return that by recipe key."""
    known = {f"parameters.{p.name}": p for p in method.parameters if isinstance(p, Number | Choice | Flag)}
    start = dict(preset.search) if preset else {}
    named = preset.title if preset else "own"
    keys = st.multiselect(
        "Parameters",
        list(known),
        default=[key for key in start if key in known] or list(known)[:1],
        format_func=title_of,
        key=f"sweep_parameters_{method.name}_{named}",
    )
    search = {}
    for key in keys:
        values = ", ".join(f"{each}" for each in start[key]) if key in start else suggested(known[key])
        text = st.text_input(
            title_of(key),
            values,
            key=f"sweep_values_{method.name}_{named}_{key}",
            help=f"{known[key].help} Values between commas, or a range such as 0.1 … 1, or 0.001 … 1 log",
        )
        search[key] = read_values(text)
    return search


def settings(family: Family) -> tuple[dict[str, Any], bool, bool]:
    """Draw the controls; return the sweep as its YAML has it, and whether code may run."""
    available = {name: method for name, method in methods().items() if method.needs_base and _searched(method)}
    names = list(available)
    name = st.selectbox(
        "Method",
        names,
        names.index(FIRST),
        format_func=lambda each: available[each].title,
        key="sweep_method",
        bind="query-params",
    )
    method = available[name]
    presets = {preset.title: preset for preset in presets_of(name)}
    preset = None
    if presets:
        told = {title: f"{title} ({each.paper})" for title, each in presets.items()} | {"own": "my own choice"}
        chosen = st.selectbox("As in the paper", list(told), format_func=told.__getitem__, key=f"sweep_preset_{name}")
        preset = presets.get(chosen)
    search = chosen_search(method, preset)
    strategy = st.segmented_control("Strategy", SHOWN, default="grid", required=True, key="sweep_strategy")
    content: dict[str, Any] = {"recipe": default_recipe(family, method), "search": search, "strategy": strategy}
    left, right = st.columns(2)
    if strategy != "grid":
        content["trials"] = left.number_input("Trials", 1, None, 20, key="sweep_trials")
        minutes = right.number_input("Minutes", 1, None, None, key="sweep_minutes", placeholder="no limit")
        content |= {"minutes": minutes} if minutes else {}
    run_code = own_code = False
    if family.tasks:
        tasks = st.multiselect("Tasks", family.tasks, family.tasks, format_func=task_name, key="sweep_tasks")
        run_code, own_code = code_switch(tasks, "sweep_code"), own_code_switch(tasks, "sweep_own_code")
        content["tasks"] = [task for task in tasks if run_code or not runs_code(task)]
        if len(content["tasks"]) < len(tasks):
            st.caption(f"Without “{CODE_SWITCH}” tasks that run code are left out.")
    elif family.corpus:
        st.caption("This family names no tasks: trials are scored by their loss on held-out texts of its corpus.")
        content["loss"] = family.corpus
    content["limit"] = left.number_input("Problems", 1, None, 50, step=10, key="sweep_limit", help="Of each task")
    content["keep"] = right.number_input("Checkpoints kept", 0, 20, 1, key="sweep_keep") or "none"
    content["prune"] = st.toggle(
        "End hopeless trials early", key="sweep_prune", help="Those that go worse than the best on the same problems"
    )
    return content, run_code, own_code


def _searched(method: Method) -> bool:
    return any(isinstance(parameter, Number | Choice) for parameter in method.parameters)


def table_of(run: Run) -> tuple[pd.DataFrame | None, Path]:
    """The trials so far, and the folder they are in."""
    folder = run.results if run.status().state == "done" else run.part
    file = folder / "trials.csv"
    return (pd.read_csv(file) if file.exists() else None), folder


def draw_found(run: Run, plan: Sweep, family: Family) -> None:
    """What was found so far."""
    trials, folder = table_of(run)
    if trials is None or trials["objective"].notna().sum() == 0:
        st.caption("The first trial is on its way.")
        return
    keys = [axis.key for axis in plan.axes]
    best = trials.loc[trials["objective"].idxmax()]
    said = ", ".join(f"{verbatim(title_of(key))} **{verbatim(str(best[key]))}**" for key in keys)
    st.markdown(
        f"Best of {style.counted(len(trials), 'trial')}: number {int(best['trial'])} with {said}, objective "
        f"**{style.significant(best['objective'])}**."
    )
    show(progress(trials, "objective", dark=dark()), "sweep_progress", trials, "sweep")
    if len(keys) > 1:
        st.subheader("Where is it good?", anchor=False)
        across, up = st.columns(2)
        first = across.selectbox("Across", keys, 0, format_func=title_of, key="sweep_across")
        second = up.selectbox("Up", keys, 1, format_func=title_of, key="sweep_up")
        if first != second:
            show(heat(trials, first, second, "objective", dark=dark()), "sweep_heat")
        show(parallel(trials, keys, "objective", dark=dark()), "sweep_parallel")
    if (folder / "importance.csv").exists():
        st.subheader("Which parameters matter?", anchor=False)
        show(importance(pd.read_csv(folder / "importance.csv"), dark=dark()), "sweep_importance")
    st.subheader("Every trial", anchor=False)
    draw_trials(trials, keys, folder, family)


def draw_trials(trials: pd.DataFrame, keys: Sequence[str], folder: Path, family: Family) -> None:
    """The trials as a table, and what can be done with the one that is picked."""
    scores = [name for name in trials if "/" in name]
    shown = trials[["trial", *keys, "objective", *scores, "state", "seconds"]]
    event = st.dataframe(
        shown.rename(columns={key: title_of(key) for key in keys}).sort_values("objective", ascending=False),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="sweep_table",
    )
    rows: Mapping[str, Any] = event.selection
    order = shown.sort_values("objective", ascending=False)["trial"].tolist()
    number = int(order[rows["rows"][0]]) if rows["rows"] else int(order[0])
    recipe = folder / "recipes" / str(number) / "nmerge_recipe.yaml"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"Trial {number}{'' if rows['rows'] else ', the best'}; pick a row for another.", width="stretch")
        if st.button("Open in the Merge controls", key="sweep_open", icon=":material/tune:") and recipe.exists():
            open_recipe(recipe.read_text(encoding="utf-8"), family)
            st.switch_page("pages/7_Merge.py", query_params={"family": family.name})


family = begin(
    "Sweep",
    "Which settings are best?",
    "A sweep merges by many settings, one after the other in memory, scores each merge on the same problems, and shows "
    "which settings matter. Stop it when you like, and go on later.",
)
if not family.tasks and not family.corpus:
    with lack("This family names neither tasks nor a corpus: there is nothing to score a merge on."):
        link("pages/1_Models.py", "Change the family", "arrow_forward", family)
    st.stop()
controls, view = st.columns([2, 3], gap="large")
named = named_run("sweep")
try:
    with controls, st.spinner("Loading the merge methods", show_time=True):
        if named is None:
            content, run_code, own_code = settings(family)
        else:
            content, run_code = named.parameters["sweep"], named.parameters["run_code"]
            st.code(yaml_text(content), language="yaml", height=500, wrap_lines=True)
            link("pages/10_Sweep.py", "Another sweep", "arrow_forward", family)
    plan = load_sweep(content)
except InputError as error:
    view.error(verbatim(error))
    st.stop()
with view:
    run = named
    if named is None:
        count = style.counted(plan.trials, "trial") if plan.trials else "As many trials as there is time for"
        st.caption(f"{count}.")
        title = f"Sweep of {', '.join(title_of(axis.key) for axis in plan.axes)}, {content['recipe']['merge_method']}"
        given = {"sweep": plan.content, "run_code": run_code, "allow_task_code": own_code}
        run = run_button("sweep", given, "Start the sweep", "sweep_run", title)
    if run is not None:
        run_panel(run)
        st.fragment(draw_found, run_every=2 if run.status().active else None)(run, plan, family)
written = yaml_text(content)
sweeping = command("sweep", "sweep.yaml", "swept", *["--run-code"] * run_code)
how_computed(
    FORMULA,
    f"cat > sweep.yaml <<'YAML'\n{written}YAML\n{sweeping}",
    [
        Step(f"found = nm.sweep({literal(content)}, run_code={run_code!r})\nfound.trials"),
        Step("print(found.best.read_text())", "## The best recipe"),
    ],
)
