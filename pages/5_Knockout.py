"""Knock-out: does a category's ability go when its neurons are switched off? (NeuronMerge, §2.3, Figs 4 and 7)."""

from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.knockout import RANDOM, curves, spread
from nmerge_core.figures.scores import metric
from nmerge_core.notebook import Step, literal
from nmerge_core.runs.folder import Run
from pages.shared.charts import dark, show
from pages.shared.family import full
from pages.shared.neurons import classify_parameters, colours_in_order, finished, opened
from pages.shared.page import begin, command, how_computed, tell_lack
from pages.shared.results import asked_parameters, read_table
from pages.shared.runs import latest_run, run_button, run_panel
from pages.shared.tasks import code_switch, has_own_code, own_code_switch, runs_code, task_name
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


def settings(family: Family, model: str, classified: Run, asked: dict[str, Any]) -> dict[str, Any]:
    """The controls of a knock-out, and the parameters of its run; they start at those `asked` for."""
    neurons = opened(classified)
    first_category = asked.get("category", neurons.categories[min(1, len(neurons.categories) - 1)])
    first_layers = asked.get("layers", neurons.layers)
    category = st.selectbox(
        "Category",
        neurons.categories,
        neurons.categories.index(first_category),
        key="knockout_category",
        bind="query-params",
        help="The neurons to switch off",
    )
    tasks = list(dict.fromkeys([*family.tasks, *([asked["task"]] if asked else [])]))
    own_task = asked["task"] if asked.get("category") == category else category
    task = st.selectbox(
        "Task",
        tasks,
        tasks.index(own_task) if own_task in tasks else 0,
        format_func=task_name,
        key=f"knockout_task_{category}",
        help="The ability to measure; it starts at the category's own",
    )
    first, last = st.slider(
        "Layers",
        neurons.layers[0],
        neurons.layers[-1],
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
        10,
        None,
        asked.get("limit", 100),
        step=10,
        key="knockout_limit",
        bind="query-params",
        help="The first so many of the task: more give a steadier curve and take longer",
    )
    run_code = code_switch([task], "knockout_code", asked.get("run_code", False))
    allow_task_code = own_code_switch([task], "knockout_own_code", asked.get("allow_task_code", False))
    return {
        "model": model,
        "neurons": classified.id,
        "category": category,
        "layers": list(range(first, last + 1)),
        "proportions": PROPORTIONS,
        "task": task,
        "repeats": repeats,
        "limit": limit,
        "run_code": run_code,
        "allow_task_code": allow_task_code,
    }


def draw(run: Run, category: str, classified: Run, family: Family) -> str:
    """The figure, its reading and its numbers; return the metric that was chosen."""
    frame = read_table(run, "knockout.csv")
    names = list(dict.fromkeys(frame["metric"]))
    name = names[0]
    if len(names) > 1:
        name = st.segmented_control(
            "Metric",
            names,
            default=names[0],
            required=True,
            format_func=lambda n: verbatim(metric(n).title),
            key="knockout_metric",
        )
    st.markdown(reading(frame, category, name))
    colours = colours_in_order(family, opened(classified))
    show(curves(frame, name, colours, dark=dark()), "knockout_figure", frame, f"knockout-{category}")
    known, rows = metric(name), frame[frame["metric"] == name]
    table = pd.concat(spread(group).assign(group=label) for label, group in rows.groupby("group", sort=False))
    for column in ("mean", "low", "high"):
        table[column] = table[column].map(known.write)
    table["proportion"] = table["proportion"].map(style.percent)
    st.dataframe(
        table[["group", "proportion", "neurons", "mean", "low", "high", "repeats"]],
        hide_index=True,
        column_config={"neurons": st.column_config.NumberColumn(format="localized")},
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
controls, view = st.columns([1, 3], gap="large")
with controls:
    asked = asked_parameters("knockout")
    names = [member.label for member in family.members]
    references = [full(member.reference) for member in family.members]
    asked = asked if asked.get("model") in references else {}
    start = references.index(asked["model"]) if asked else 0
    label = st.selectbox("Model", names, start, key="knockout_model", bind="query-params")
member = next(member for member in family.members if member.label == label)
classified = finished({label: latest_run("classify", classify_parameters(family, member))}).get(label)
if not family.tasks and not asked:
    with view:
        tell_lack(family, "tasks", "What a model loses shows in its score on one.")
    st.stop()
if classified is None:
    with view:
        st.markdown(f"First the neurons of **{verbatim(label)}** need their categories: one pass over the corpus.")
        started = run_button(
            "classify",
            classify_parameters(family, member),
            "Classify the neurons",
            "knockout_classify",
            f"Classify {label}",
        )
        if started is not None:
            run_panel(started)
    st.stop()
with controls:
    parameters = settings(family, member.reference, classified, asked)
with view:
    if runs_code(parameters["task"]) and not parameters["run_code"]:
        st.info("This task runs the programs that the model writes. Switch on “Run its code” to score it.")
        st.stop()
    if has_own_code(parameters["task"]) and not parameters["allow_task_code"]:
        st.info("This task runs code of its own. Switch on “Run the task's own code” to score on it.")
        st.stop()
    layers = parameters["layers"]
    where = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}"
    run = run_button(
        "knockout",
        parameters,
        "Knock them out",
        "knockout_run",
        f"Knock-out of {parameters['category']} in {label}, {where}, on {task_name(parameters['task'])}",
    )
    chosen = None
    if run is None:
        times = 1 + len(PROPORTIONS) * (1 + parameters["repeats"])
        st.caption(
            f"Scores {verbatim(label)} on {verbatim(task_name(parameters['task']))} {times} times, "
            f"{parameters['limit']} problems each."
        )
    elif run_panel(run):
        chosen = draw(run, parameters["category"], classified, family)

how_computed(
    r"A neuron is off when its activation $\varphi_j$, the input of down's column $j$, is set to 0: the same as "
    "zeroing its weights. Which neurons make up 20 % is a seeded random choice, each share containing the smaller "
    "ones; the control takes the same number from all neurons of the same layers (NeuronMerge, §2.3, Figs 4 and 7).",
    command(
        "knockout",
        member.reference,
        *("--neurons", classified.results),
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
