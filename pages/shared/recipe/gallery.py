"""The gallery of merge methods: what each needs, what it does in a picture, and one click to take it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.cache import cache_root
from nmerge_core.candidates import CandidateLog
from nmerge_core.family import Family
from nmerge_core.figures.style import counted
from nmerge_core.merging.recipe.recipe import ModelEntry, Recipe
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.parameters.inputs import Corpus, Tasks
from pages.shared.recipe.form import open_recipe

ABREAST = 3
PICTURES = Path(__file__).parents[1] / "pictures"
PICTURED = "two fine-tunes' changes of 16 weights of a tiny model"
RECOMMENDED = "neuromerging"  # of the papers' two the one that needs no texts
MEASURED = "by what was measured on two small families (docs/results.md)"
MODELS, TEXTS, TASKS = "Needs nothing but the models", "Needs texts", "Needs tasks"


def need_of(method: Method) -> str:
    """What a method cannot do without, besides the models."""
    if any(isinstance(parameter, Tasks) for parameter in method.parameters):
        return TASKS
    values = {p.name: p for p in method.parameters if isinstance(p, Corpus)}
    return TEXTS if values else MODELS


def draw_gallery(methods: Mapping[str, Method]) -> None:
    """Every method, those to begin with first, then sorted by what it needs, each with a button that chooses it."""
    tuned = " and ".join(f":{colour}[{word}]" for colour, word in (("blue", "blue"), ("green", "green")))
    st.caption(f"The pictures: {PICTURED} ({tuned}), and what the method makes of them (:orange[orange]).")
    needs = (MODELS, TEXTS, TASKS)
    first = sorted((method for method in methods.values() if method.when), key=lambda each: needs.index(need_of(each)))
    _cards(f"**To begin with** · {MEASURED}", first)
    for need in needs:
        others = [method for method in methods.values() if need_of(method) == need and not method.when]
        _cards(f"**{need}** · {counted(len(others), 'more method')}", others)


def _cards(title: str, methods: Sequence[Method]) -> None:
    if not methods:
        return
    st.markdown(title)
    for start in range(0, len(methods), ABREAST):
        for column, method in zip(st.columns(ABREAST), methods[start : start + ABREAST], strict=False):
            _card(column.container(border=True, height="stretch"), method)


def _card(box: DeltaGenerator, method: Method) -> None:
    box.markdown(f"**{method.title}**")
    picture = PICTURES / f"{method.name}.svg"
    if picture.exists():  # none of a method of one's own
        box.image(picture.read_text(encoding="utf-8"), alt=f"What {method.title} makes of {PICTURED}")
    box.markdown(f"{method.summary} *{method.paper}*")
    if method.when:
        box.markdown(f":material/flag: {method.when}")
    box.caption(cost_of(method))
    box.button("Choose", key=f"merge_choose_{method.name}", on_click=choose, args=(method.name,))


def cost_of(method: Method) -> str:
    """What a merge of two models by a method with its defaults takes, in words."""
    entries = (ModelEntry("one", {}), ModelEntry("another", {}))
    values = Recipe(method.name, "base", entries, {}).values()
    if method.searches(values):
        return "Tries many merges: minutes to hours"
    if method.solves(values):
        return "Runs the models on texts first: minutes"
    passes = method.passes(values)
    return "Reads the models once" if passes == 1 else f"Reads the models {passes} times"


def choose(name: str) -> None:
    """Have the page show a method."""
    st.session_state["merge_method"] = name


def named_in_address(methods: Mapping[str, Method]) -> None:
    """Understand a method's name in the address, `merge_method=ties`, beside its title, which the control writes."""
    asked = st.query_params.get("merge_method", "")
    if asked in methods and "merge_method" not in st.session_state:
        del st.query_params["merge_method"]  # else the control would refuse it
        st.session_state["merge_method"] = asked


def opening(methods: Mapping[str, Method], family: Family) -> None:
    """Open the page alive: on the candidate shown last, else on the recommended method with its defaults."""
    if {"merge_method", "run"} & {*st.session_state, *st.query_params}:
        return
    if candidate := CandidateLog(cache_root(), family.name).last_shown:
        open_recipe(candidate.recipe, family)
    st.session_state.setdefault("merge_method", RECOMMENDED)
