"""What a sweep searches, how, and what its trials are scored on, by controls."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import streamlit as st
import yaml

from nmerge_core.errors import InputError, shown
from nmerge_core.family import Family
from nmerge_core.figures.sweep import title_of
from nmerge_core.merging.recipe.changes import told
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import Method, methods
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Choice, Flag, Number
from nmerge_core.search.presets import Preset, presets_of
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.settings import KEPT, STAYS
from pages.shared.frame.tasks import CODE_SWITCH, code_switch, own_code_switch, runs_code, task_name
from pages.shared.frame.text import verbatim
from pages.shared.recipe.start import default_recipe, for_all_models, recipe_on_merge, steps_from_merge, steps_on_merge
from pages.shared.recipe.steps import choose_steps

FIRST = "neuromerging"  # the method that the page opens with
KEEP_HELP = "Of the best trials, so many are written to the disk; the others are merged in memory alone"
PARAMETERS_HELP = "The settings that trials differ in; their values stand below, all others stay as they are"
STRATEGIES = {"grid": "Grid", "random": "Random", "tpe": "TPE", "cma": "CMA-ES", "nsga2": "NSGA-II, two objectives"}
OWN = "own"
SEARCHED = (Number, Choice, Flag, MethodPart)
_FIFTHS, _ABOVE = (0.0, 0.25, 0.5, 0.75, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0)


def sweep_settings(family: Family) -> tuple[dict[str, Any], bool, bool]:
    """Draw the controls; return the sweep as its YAML has it, and whether code of models, and of tasks, may run."""
    available = {name: method for name, method in methods().items() if method.takes_base and _searched(method)}
    names = list(available)
    name = st.selectbox(
        "Method",
        names,
        names.index(FIRST),
        format_func=lambda each: available[each].title,
        key="sweep_method",
        **KEPT,
    )
    method = available[name]
    on_merge = recipe_on_merge(family, method)
    recipe = on_merge or default_recipe(family, method)
    presets = {preset.title: preset for preset in presets_of(recipe)}
    listed = {title: f"{title} ({each.paper})" for title, each in presets.items()} | {OWN: "my own choice"}
    key = f"sweep_preset_{name}"
    forget_unknown(key, listed)
    chosen = st.selectbox("As in the paper", list(listed), format_func=listed.__getitem__, key=key, **STAYS)
    preset = presets.get(chosen)
    if on_merge:
        st.caption(f"What is not searched is as on Merge: {verbatim(told(load_recipe(on_merge), family.labels))}.")
    if preset:
        recipe = recipe | {"parameters": recipe["parameters"] | preset.parameters}
    then = choose_steps("sweep_then", default=steps_on_merge())
    recipe = {key: value for key, value in recipe.items() if key != "then"}
    if then:
        recipe["then"] = steps_from_merge(family, then)
    search = _search(method, then, preset)
    recipe = for_all_models(recipe, [key.removeprefix("parameters.") for key in search])
    strategy = st.pills(
        "Strategy",
        STRATEGIES,
        default="grid",
        required=True,
        format_func=STRATEGIES.__getitem__,
        key="sweep_strategy",
        wrap=True,
        **STAYS,
        help="Grid tries every combination of the values, random draws them. TPE and CMA-ES go by what earlier trials "
        "scored. NSGA-II looks for settings that no other beats on both of two objectives.",
    )
    content: dict[str, Any] = {"recipe": recipe, "search": search, "strategy": strategy}
    left, right = st.columns(2)
    if strategy != "grid":
        content["trials"] = left.number_input("Trials", 1, None, 20, key="sweep_trials", **STAYS)
        minutes = right.number_input("Minutes", 1, None, None, key="sweep_minutes", placeholder="no limit", **STAYS)
        content |= {"minutes": minutes} if minutes else {}
    scored, names, run_code, own_code = _scored_on(family)
    content |= scored
    if strategy == "nsga2":
        content["objectives"] = _objectives(names)
    left, right = st.columns(2)
    of_each = "Of each task"
    content["limit"] = left.number_input("Problems", 1, None, 50, step=10, key="sweep_limit", help=of_each, **STAYS)
    kept = right.number_input("Checkpoints kept", 0, 20, 1, key="sweep_keep", help=KEEP_HELP, **STAYS)
    content["keep"] = kept or "none"
    if strategy != "nsga2":
        content["prune"] = st.toggle(
            "End hopeless trials early",
            key="sweep_prune",
            **STAYS,
            help="Those that go worse than the best on the same problems; with two objectives there is no one best",
        )
    return content, run_code, own_code


def _searched(method: Method) -> bool:
    return any(isinstance(parameter, SEARCHED) for parameter in method.parameters)


def _search(method: Method, then: Sequence[Method], preset: Preset | None) -> dict[str, Any]:
    """Draw which parameters are searched, of a method and the steps after it, and over what; return that by key."""
    places = {"parameters": method, **{f"then[{index}]": step for index, step in enumerate(then)}}
    known = {f"{at}.{p.name}": p for at, of in places.items() for p in of.parameters if isinstance(p, SEARCHED)}
    start = dict(preset.search) if preset else {}
    named = preset.title if preset else OWN
    options, key = list(dict.fromkeys([*start, *known])), f"sweep_parameters_{method.name}_{named}"
    first = list(start) or list(known)[:1]
    keys = st.multiselect(
        "Parameters", options, default=first, format_func=title_of, key=key, help=PARAMETERS_HELP, **STAYS
    )
    widget = f"sweep_values_{method.name}_{named}"
    inner = {
        f"parameters.{part.name}.{each.name}": each
        for part in method.parameters
        if isinstance(part, MethodPart)
        for each in chain.from_iterable(part.words.values())
    }
    about = inner | known
    return {key: _values(key, about.get(key), start.get(key), f"{widget}_{key}") for key in keys}


def _values(key: str, parameter: Parameter | None, start: list[Any] | None, widget: str) -> Any:
    """Draw the values of one key, those of a preset to begin with; return them as a sweep's YAML has them."""
    title, about = title_of(key), parameter.help if parameter else None
    if isinstance(parameter, Number):
        text = ", ".join(map(str, start)) if start else suggested(parameter)
        how = f"{about} Values between commas, or a range such as 0.1 … 1, or 0.001 … 1 log"
        return read_values(st.text_input(title, text, key=widget, help=how, **STAYS))
    if isinstance(parameter, Choice | MethodPart):
        every: list[Any] = list(parameter.choices)
    else:
        every = [False, True] if isinstance(parameter, Flag) else start or []
    first = [place for place, value in enumerate(every) if value in (start or every)]
    forget_unknown(widget, range(len(every)))
    places = st.multiselect(
        title, range(len(every)), first, format_func=lambda place: said(every[place]), key=widget, help=about, **STAYS
    )
    return [every[place] for place in places]


def said(value: Any) -> str:
    """A searched value as pages say it: of models that are merged, their folders' names."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " + ".join(str(each["model"]).rstrip("/").rpartition("/")[2] for each in value)
    return str(value)


def suggested(parameter: Number) -> str:
    """Values to begin with, as one types them: those of the parameter's description."""
    low = parameter.low if parameter.low is not None else 0.0
    default = parameter.default if isinstance(parameter.default, int | float) else low + 1
    high = parameter.high if parameter.high is not None else max(2 * default, low + 1)
    values = [low + (high - low) * share for share in (_ABOVE if parameter.above_low else _FIFTHS)]
    return ", ".join(f"{round(value) if parameter.whole else round(value, 4):g}" for value in dict.fromkeys(values))


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
    if ends := re.fullmatch(r"\s*(\S+?)\s*(?:…|\.\.+)\s*(\S+?)\s*(log)?\s*", text):
        low, high = (yaml.safe_load(end) for end in ends.groups()[:2])
        return {"low": low, "high": high, **({"log": True} if ends[3] else {})}
    return [yaml.safe_load(part) for part in text.split(",") if part.strip()]


def _scored_on(family: Family) -> tuple[dict[str, Any], list[str], bool, bool]:
    """Draw what trials are scored on; return that, the names that objectives weigh, and what code may run."""
    if not family.tasks:
        st.caption("This family names no tasks: trials are scored by their loss on held-out texts of its corpus.")
        return {"loss": family.corpus}, family.categories, False, False
    forget_unknown("sweep_tasks", family.tasks)
    tasks = st.multiselect("Tasks", family.tasks, family.tasks, format_func=task_name, key="sweep_tasks", **STAYS)
    run_code, own_code = code_switch(tasks, "sweep_code"), own_code_switch(tasks, "sweep_own_code")
    allowed = [task for task in tasks if run_code or not runs_code(task)]
    if len(allowed) < len(tasks):
        st.caption(f"Without “{CODE_SWITCH}” tasks that run code are left out.")
    return {"tasks": allowed}, allowed, run_code, own_code


def _objectives(names: Sequence[str]) -> list[Mapping[str, float]]:
    """Draw two objectives, each the mean of some tasks or categories."""
    for key in ("sweep_first", "sweep_second"):
        forget_unknown(key, names)
    left, right = st.columns(2)
    told: dict[str, Any] = {"format_func": task_name, **STAYS}
    first = left.multiselect("First objective", names, list(names)[:1], key="sweep_first", **told)
    second = right.multiselect("Second objective", names, list(names)[1:], key="sweep_second", **told)
    return [dict.fromkeys(some, 1.0) for some in (first, second)]
