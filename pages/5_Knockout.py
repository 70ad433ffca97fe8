"""Knock-out: does a category's ability go when its neurons are switched off? (NeuronMerge, §2.3, Figs 4 and 7)."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.activations.store import open_classification
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.knockout import RANDOM, curves, spread
from nmerge_core.figures.scores import metric
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.address import forget_outside, forget_unknown
from pages.shared.charts import dark, show
from pages.shared.classified import classified, classify_missing
from pages.shared.estimates import measurements, told_time
from pages.shared.family import full
from pages.shared.neurons import colours_in_order, in_order, opened
from pages.shared.page import begin, command, how_computed, lack, tell_lack
from pages.shared.results import asked_parameters, read_table, with_merges
from pages.shared.runs import run_button, run_panel
from pages.shared.tasks import CODE_SWITCH, code_switch, has_own_code, own_code_switch, runs_code, task_name
from pages.shared.text import verbatim

PROPORTIONS = [0.2, 0.4, 0.6, 0.8, 1.0]


def reading(frame: pd.DataFrame, category: str, name: str) -> str:
    """The figure in a sentence: what is left when all of the category's neurons, or as many random ones, are off."""
    known, rows = metric(name), frame[frame["metric"] == name]
    ours, control = (spread(rows[rows["group"] == group]) for group in (category, RANDOM))
    last, random = ours.iloc[-1], control.iloc[-1]
    intact = rows.loc[rows["proportion"] == 0, "value"].mean()
    return (
        f"With all {style.count(last['neurons'])} of these {verbatim(category)} neurons off, {verbatim(known.title)} "
        f"goes from {known.write(intact)} to **{known.write(last['mean'])}**; with as many random neurons off, to "
        f"**{known.write(random['mean'])}**."
    )


def own_task(category: str, tasks: Sequence[str]) -> str:
    """The task that is called as a category, else the first that runs no generated code, else the first."""
    of_its_name = [task for task in tasks if task_name(task) == category]
    return next(iter([*of_its_name, *(task for task in tasks if not runs_code(task)), *tasks]))


def first_category(categories: Sequence[str], tasks: Sequence[str]) -> str:
    """The category to open with: one whose own task needs no switch where there is one; general only if alone."""
    special = list(categories[1:]) or list(categories)
    ready = (category for category in special if not runs_code(own_task(category, tasks)))
    return next(ready, special[0])


def settings(family: Family, model: str, neurons: Run, asked: dict[str, Any]) -> dict[str, Any]:
    """The controls of a knock-out, and the parameters of its run; they start at those `asked` for."""
    found = opened(neurons)
    tasks = list(dict.fromkeys([*family.tasks, *([asked["task"]] if asked else [])]))
    categories = in_order(family, found)
    start = asked.get("category", first_category(categories, tasks))
    first_layers = asked.get("layers", found.layers)
    forget_unknown("knockout_category", categories)
    forget_unknown("knockout_task", tasks)
    forget_outside("knockout_layers", found.layers[0], found.layers[-1])

    def to_its_task() -> None:
        st.session_state["knockout_task"] = own_task(st.session_state["knockout_category"], tasks)

    category = st.selectbox(
        "Category",
        categories,
        categories.index(start) if start in categories else 0,
        key="knockout_category",
        bind="query-params",
        on_change=to_its_task,
        help="The neurons to switch off",
    )
    task = st.selectbox(
        "Task",
        tasks,
        tasks.index(asked["task"] if asked.get("category") == category else own_task(category, tasks)),
        format_func=task_name,
        key="knockout_task",
        bind="query-params",
        help="The ability to measure; it starts at the category's own",
    )
    layers = (found.layers[0], found.layers[0])
    if len(found.layers) > 1:
        layers = st.slider(
            "Layers",
            found.layers[0],
            found.layers[-1],
            (first_layers[0], first_layers[-1]),
            key="knockout_layers",
            bind="query-params",
            help="Neurons are switched off in these layers, ends included. The paper takes one: layer 13 of 28",
        )
    repeats = st.number_input(
        "Repeats",
        1,
        20,
        asked.get("repeats", 3),
        key="knockout_repeats",
        bind="query-params",
        help="Random choices of neurons that are averaged; the band reaches from the lowest to the highest",
    )
    limit = st.number_input(
        "Problems",
        1,
        None,
        asked.get("limit") or 100,
        step=10,
        key="knockout_limit",
        bind="query-params",
        help="The first so many of the task: more give a steadier curve and take longer",
    )
    run_code = code_switch([task], "knockout_code", asked.get("run_code", False))
    allow_task_code = own_code_switch([task], "knockout_own_code", asked.get("allow_task_code", False))
    return {
        "model": model,
        "neurons": neurons.id,
        "category": category,
        "layers": list(range(layers[0], layers[1] + 1)),
        "proportions": PROPORTIONS,
        "task": task,
        "repeats": repeats,
        "limit": limit,
        "run_code": run_code,
        "allow_task_code": allow_task_code,
    }


@st.cache_data(max_entries=64, show_spinner=False)
def members(folder: str, category: str, layers: tuple[int, ...]) -> int:
    """How many neurons of a category a classification has in some layers."""
    neurons = open_classification(folder).neurons()
    return int(((neurons["category"] == category) & neurons["layer"].isin(layers)).sum())


def draw(run: Run, category: str, neurons: Run, family: Family) -> str:
    """The figure, its reading and its numbers; return the metric that was chosen."""
    frame = read_table(run, "knockout.csv")
    names = list(dict.fromkeys(frame["metric"]))
    name = names[0]
    if len(names) > 1:
        forget_unknown("knockout_metric", names)
        name = st.segmented_control(
            "Metric",
            names,
            default=names[0],
            required=True,
            format_func=lambda n: verbatim(metric(n).title),
            key="knockout_metric",
            bind="query-params",
        )
    st.markdown(reading(frame, category, name))
    colours = colours_in_order(family, opened(neurons))
    show(curves(frame, name, colours, dark=dark()), "knockout_figure", frame, f"knockout-{category}")
    known, rows = metric(name), frame[frame["metric"] == name]
    table = pd.concat(spread(group).assign(group=label) for label, group in rows.groupby("group", sort=False))
    for column in ("mean", "low", "high"):
        table[column] = table[column].map(known.write)
    table["proportion"] = table["proportion"].map(style.percent)
    table["neurons"] = table["neurons"].round().astype(int)
    st.dataframe(
        table[["group", "proportion", "neurons", "mean", "low", "high", "repeats"]],
        hide_index=True,
        column_config={
            "neurons": st.column_config.NumberColumn(format="localized"),
            **dict.fromkeys(("proportion", "mean", "low", "high"), st.column_config.TextColumn(alignment="right")),
        },
        key="knockout_table",
    )
    return name


family = begin(
    "Knock-out",
    "Do these neurons do what their category says?",
    "Switch off a category's neurons and see what the model loses. If the category means anything, it loses more of "
    "that ability than with **as many random neurons** of the same layers switched off.",
)
if not family.corpus:
    tell_lack(family, "corpus", "A neuron gets its category, which says what to switch off, from the texts of one.")
    st.stop()
family = with_merges(family)
controls, view = st.columns([1, 3], gap="large")
asked = asked_parameters("knockout")
names = [member.label for member in family.members]
references = [full(member.reference) for member in family.members]
asked = asked if asked.get("model") in references else {}
if not family.tasks and not asked:
    tell_lack(family, "tasks", "What a model loses shows in its score on one.")
    st.stop()
with controls:
    forget_unknown("knockout_model", names)
    start = references.index(asked["model"]) if asked else 0
    label = st.selectbox("Model", names, start, key="knockout_model", bind="query-params")
member = next(member for member in family.members if member.label == label)
found = classified(family).only(label)
with view:
    classify_missing(family, found, "knockout_classify")
neurons = found.there.get(label)
if neurons is None:
    with view:
        st.caption("What can be switched off is known when the neurons of this model have their categories.")
    st.stop()
with controls:
    parameters = settings(family, member.reference, neurons, asked)
layers = parameters["layers"]
chosen = None
with view:
    if runs_code(parameters["task"]) and not parameters["run_code"]:
        lack(f"This task runs the programs that the model writes. Switch on “{CODE_SWITCH}” beside it to score it.")
        st.stop()
    switched_off = members(str(neurons.results), parameters["category"], tuple(layers))
    if not switched_off:
        lack("None of these layers has a neuron of this category. Choose more layers, or another category.")
        st.stop()
    if has_own_code(parameters["task"]) and not parameters["allow_task_code"]:
        lack("This task runs code of its own. Switch on “Run the task's own code” to score on it.")
        st.stop()
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}"
    run = run_button(
        "knockout",
        parameters,
        "Knock them out",
        "knockout_run",
        f"Knock-out of {parameters['category']} in {label}, {where}, on {task_name(parameters['task'])}",
    )
    if run is None:
        off = style.counted(switched_off, "neuron")
        st.caption(
            f"Scores the model {measurements(parameters)} times with up to {off} off, "
            f"on {style.counted(parameters['limit'], 'problem')} each{told_time('knockout', [parameters])}."
        )
    elif run_panel(run):
        chosen = draw(run, parameters["category"], neurons, family)

how_computed(
    r"A neuron is off when its activation $\varphi_j$, the input of down's column $j$, is set to 0: the same as "
    "zeroing its weights. Which neurons make up 20 % is a seeded random choice, each share containing the smaller "
    "ones; the control takes the same number from all neurons of the same layers (NeuronMerge, §2.3, Figs 4 and 7).",
    command(
        "knockout",
        member.reference,
        *("--neurons", neurons.results),
        *("--category", parameters["category"]),
        *("--layers", f"{layers[0]}-{layers[-1]}"),
        *("--proportions", ",".join(map(str, PROPORTIONS))),
        *("--task", parameters["task"]),
        *("--repeats", parameters["repeats"]),
        *(["--limit", parameters["limit"]] if parameters["limit"] else []),
        *(["--run-code"] if parameters["run_code"] else []),
        *(["--allow-task-code"] if parameters["allow_task_code"] else []),
        *("--out", "knockout.csv"),
    ),
    [
        Step(
            f"model = {literal(member.reference)}\n"
            f"neurons = nm.classify(model, corpus={literal(family.corpus)})\n"
            "found = nm.knockout(\n"
            "    model,\n"
            "    neurons,\n"
            f"    category={literal(parameters['category'])},\n"
            f"    layers={layers!r},\n"
            f"    task={literal(parameters['task'])},\n"
            f"    proportions={PROPORTIONS!r},\n"
            f"    repeats={parameters['repeats']!r},\n"
            f"    limit={parameters['limit']!r},\n"
            f"    run_code={parameters['run_code']!r},\n"
            f"    allow_task_code={parameters['allow_task_code']!r},\n"
            ")\n"
            f"found.figure({literal(chosen) if chosen else ''}).show()"
        ),
        Step("found.curve", "## Numbers"),
    ],
)
