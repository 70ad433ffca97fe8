"""The controls of the Knock-out page: whose neurons, in which models and layers, and what is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from nmerge_core.activations.store import Classification
from nmerge_core.family import Family
from nmerge_core.parameters.settings import LAYERS
from pages.shared.frame.address import forget_endless, forget_unknown
from pages.shared.frame.settings import KEPT, move
from pages.shared.frame.tasks import code_switch, own_code_switch, runs_code, task_name
from pages.shared.frame.text import in_full, shortened, verbatim
from pages.shared.neurons.chosen import in_order

OFF, KEEP, MAP = "Switch off", "Keep alone", "Layer by layer"
KIND = {OFF: "knockout", KEEP: "knockout", MAP: "effects"}
PROPORTIONS = [0.2, 0.4, 0.6, 0.8, 1.0]
HELD_OUT = "held-out loss"  # in place of a task
# What one begins with, on the demo a minute: texts of each category, or problems of a task.
FIRST = {True: 20, False: 25}


@dataclass(frozen=True)
class Chosen:
    """What the controls ask: the models by name, and the parameters of each one's run but for it and its neurons."""

    view: str
    models: Mapping[str, str]
    own: bool  # whether each model is knocked out by its own categories, not by the base's
    parameters: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of run."""
        return KIND[self.view]

    @property
    def category(self) -> str:
        """The category whose neurons are knocked out; of a map, of all of them, none."""
        return self.parameters.get("category", "")

    @property
    def task(self) -> str:
        """The task, empty where the loss is measured."""
        return self.parameters.get("task", "")


def own_task(category: str, tasks: Sequence[str], *, texts: bool) -> str:
    """The task that is called as a category; else the loss, where there are texts; else one that runs no code."""
    of_its_name = [task for task in tasks if task_name(task) == category]
    loss = [HELD_OUT] if texts else []
    return next(iter([*of_its_name, *loss, *(task for task in tasks if not runs_code(task)), *tasks]))


def first_category(categories: Sequence[str], tasks: Sequence[str]) -> str:
    """The category to open with: one whose own task needs no switch, else one without a task; general if alone."""
    special = list(categories[1:]) or list(categories)
    named = {task_name(task): task for task in tasks}
    ready = [category for category in special if category in named and not runs_code(named[category])]
    return next(iter([*ready, *(category for category in special if category not in named), *special]))


def usual_models(family: Family, merges: Mapping[str, str], category: str) -> list[str]:
    """The base; where there is a merge also the newest, and the fine-tunes of the category, which it should do as well.

    Without one the base alone, as in the paper.
    """
    tuned = [member.label for member in family.models if (member.category or member.label) == category]
    return ["base", *tuned, next(iter(merges))] if merges else ["base"]


def draw_view(asked: Mapping[str, Any]) -> str:
    """The choice of a question."""
    at_first = MAP if "categories" in asked else KEEP if asked.get("keep_only") else OFF
    return st.segmented_control(
        "What is tried",
        [OFF, KEEP, MAP],
        default=at_first,
        required=True,
        key="knockout_view",
        help=f"**{OFF}** growing shares of a category's neurons, as in the paper. **{KEEP}**: all other neurons of the "
        f"layers go: is the category enough? **{MAP}**: each category's neurons of one layer at a time",
        **KEPT,
    )


def draw_controls(
    family: Family,
    merges: Mapping[str, str],
    found: Classification,
    view: str,
    asked: Mapping[str, Any],
    named: str = "",
    *,
    loss: bool,
    asked_own: bool = False,
) -> Chosen | None:
    """Draw the controls; None while one cannot be read. Without `loss` tasks alone tell what a model loses.

    They start at what a run was `asked` of the model `named`, by its own categories if `asked_own`.
    """
    known = {member.label: member.reference for member in family.members} | dict(merges)
    tasks = list(dict.fromkeys([*family.tasks, *([asked["task"]] if asked.get("task") else [])]))
    texts = loss and bool(family.corpus)

    def follow() -> None:
        """Measure what a newly chosen category is for, and in the models that should do that, unless others were."""
        state, chosen = st.session_state, st.session_state["knockout_category"]
        as_usual = state.get("knockout_models") == usual_models(family, merges, category)
        others = {"knockout_models": usual_models(family, merges, chosen)} if as_usual else {}
        move({"knockout_task": own_task(chosen, tasks, texts=texts), **others})

    category = "" if view == MAP else _category([*in_order(family, found), *family.neurons], asked, tasks, follow)
    forget_unknown("knockout_models", list(known))
    names = st.multiselect(
        "Models",
        list(known),
        [named] if named else usual_models(family, merges, category),
        format_func=shortened,
        key="knockout_models",
        wrap=True,
        help=f"Base, fine-tunes and merges: does the merge still do math with its math neurons?{in_full(known)}",
        **KEPT,
    )
    scale = _scale(tasks, category, asked, texts=texts)
    layers = _layers(found, asked)
    forget_endless("knockout_repeats")
    repeats = st.number_input(
        "Repeats",
        1,
        20,
        asked.get("repeats", 3),
        key="knockout_repeats",
        help="Draws of each share, and of as many random neurons: bands and errors show how they differ",
        **KEPT,
    )
    by_loss = scale == HELD_OUT
    limit_key = "knockout_texts" if by_loss else "knockout_limit"
    forget_endless(limit_key)
    limit = st.number_input(
        "Texts of each category" if by_loss else "Problems",
        1,
        None,
        asked.get("limit") or FIRST[by_loss],
        step=10,
        key=limit_key,
        help="The first so many: more give a steadier curve and take longer",
        **KEPT,
    )
    on_tasks = [] if by_loss else [scale]
    own = names not in ([], ["base"]) and st.toggle(
        "Own categories",
        asked_own,
        key="knockout_own",
        help="Off: the same neurons in every model, those of the base's category. On: each model's own, as it was "
        "classified by itself",
        **KEPT,
    )
    lists = {name: [list(pair) for pair in pairs] for name, pairs in family.neurons.items() if category in ("", name)}
    parameters = {
        **({} if view == MAP else {"category": category, "proportions": PROPORTIONS, "keep_only": view == KEEP}),
        **({"lists": lists} if lists else {}),
        "layers": layers,
        **({"loss": family.corpus} if by_loss else {"task": scale}),
        "repeats": repeats,
        "limit": limit,
        "run_code": code_switch(on_tasks, "knockout_code", asked.get("run_code", False)),
        "allow_task_code": own_code_switch(on_tasks, "knockout_own_code", asked.get("allow_task_code", False)),
    }
    return Chosen(view, {name: known[name] for name in names}, own, parameters) if layers else None


def _category(groups: Sequence[str], asked: Mapping[str, Any], tasks: Sequence[str], follow: Callable[[], None]) -> str:
    forget_unknown("knockout_category", groups)
    start = asked.get("category", first_category(groups, tasks))
    return st.selectbox(
        "Category",
        groups,
        groups.index(start) if start in groups else 0,
        key="knockout_category",
        on_change=follow,
        help="Whose neurons are switched off: a category's, or those of a list that the family keeps",
        **KEPT,
    )


def _scale(tasks: Sequence[str], category: str, asked: Mapping[str, Any], *, texts: bool) -> str:
    scales = [*tasks, *([HELD_OUT] if texts else [])]
    forget_unknown("knockout_task", scales)
    as_asked = (asked.get("task") or HELD_OUT) if asked and asked.get("category", "") == category else ""
    start = as_asked if as_asked in scales else own_task(category, tasks, texts=texts)
    return st.selectbox(
        "Measured by",
        scales,
        scales.index(start),
        format_func=task_name,
        key="knockout_task",
        help="The ability to measure: a task, or the loss on texts of each category that are held out of the corpus",
        **KEPT,
    )


def _layers(found: Classification, asked: Mapping[str, Any]) -> list[int] | None:
    """The layers, all where none are named; None, and what was expected, where that cannot be read."""
    every, told = list(found.layers), asked.get("layers")
    text = st.text_input(
        "Layers",
        "" if told in (None, every) else ",".join(map(str, told)),
        key="knockout_layers",
        placeholder=f"all: {every[0]}-{every[-1]}",
        help="Empty for all; one, or several such as 1,3-5. The paper takes one: layer 13 of 28",
        **KEPT,
    ).strip()
    if not text:
        return every
    try:
        chosen: list[int] = LAYERS.from_text(text)
    except ValueError:
        chosen = []
    if not chosen or set(chosen) - set(every):
        st.error(f"Expected layers from {every[0]} to {every[-1]} such as 1,3-5; found {verbatim(shortened(text))}.")
        return None
    return chosen
