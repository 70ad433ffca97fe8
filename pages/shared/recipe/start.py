"""The recipe that one goes on from: as it stands on the Merge page, else a method with its defaults."""

from collections.abc import Collection, Sequence
from typing import Any

import streamlit as st
import yaml

from nmerge_core.family import Family
from nmerge_core.merging.recipe.registry import Method
from pages.shared.frame.family import unfit
from pages.shared.recipe.data import known_of

LAST = "merge_last_recipe"  # the key of the Merge page's recipe, as YAML


def default_recipe(family: Family, method: Method) -> dict[str, Any]:
    """The recipe of a method with its defaults, of a family's models that fit its base, and what it tells of data."""
    members = [model for model in family.models if model.label not in unfit(family)][: method.most]
    takes = {parameter.name: parameter for parameter in method.parameters}
    known = {name: value for name, value in known_of(family, method, members).items() if name in takes}
    each = [
        {name: values[index] for name, values in known.items() if takes[name].per_model}
        for index in range(len(members))
    ]
    recipe: dict[str, Any] = {"merge_method": method.name}
    if method.takes_base:
        recipe["base_model"] = family.base
    models = [{"model": m.reference, "parameters": own} for m, own in zip(members, each, strict=True)]
    return recipe | {"models": models, "parameters": {n: v for n, v in known.items() if not takes[n].per_model}}


def recipe_on_merge(family: Family, method: Method) -> dict[str, Any] | None:
    """The recipe on the Merge page, every default filled in; None where it is of another method or other models.

    Nor is it one of slices, of stages or of mergekit's engine.
    """
    last = _last()
    models = [each["model"] for each in last.get("models") or ()]
    same = last.get("merge_method") == method.name and last.get("base_model", family.base) == family.base
    if not (same and models and {*models} <= {*family.references}) or "engine" in last:
        return None
    return last


def for_all_models(recipe: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A recipe without what stands beside models of parameters that are said for all of them: it would go first."""
    models = [
        model | {"parameters": {name: own for name, own in model.get("parameters", {}).items() if name not in names}}
        for model in recipe["models"]
    ]
    return recipe | {"models": models}


def steps_on_merge() -> list[str]:
    """The names of the steps of the recipe on the Merge page."""
    return list(dict.fromkeys(each["method"] for each in _last().get("then") or ()))


def steps_from_merge(family: Family, chosen: Sequence[Method]) -> list[dict[str, Any]]:
    """Some steps as the recipe on the Merge page has them, others with their defaults and what a family tells."""
    there = {each["method"]: each for each in _last().get("then") or ()}
    return [there.get(step.name) or _default_step(family, step) for step in chosen]


def _default_step(family: Family, step: Method) -> dict[str, Any]:
    known = known_of(family, step)
    return {"method": step.name, **{p.name: known[p.name] for p in step.parameters if p.name in known}}


def _last() -> dict[str, Any]:
    last = yaml.safe_load(st.session_state.get(LAST, ""))
    return last if isinstance(last, dict) else {}
