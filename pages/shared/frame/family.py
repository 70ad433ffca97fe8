"""The family a page shows: the one chosen in the sidebar, and the colours of its models and categories."""

from collections.abc import Sequence
from contextlib import suppress
from os.path import expanduser
from pathlib import Path

import streamlit as st

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.family import Family, demo_family, families, load_family
from nmerge_core.figures import style
from nmerge_core.inputs import model_fingerprint
from nmerge_core.merging.recipe.mergekit_recipe import named_models
from nmerge_core.reports.parameter import open_family
from nmerge_core.runs.folder import Run, find
from nmerge_core.runs.tints import merge_tints


def chosen_family() -> Family:
    """Read the family chosen in the sidebar, which keeps it in the address (`?family=…`); the demo at first.

    Raises:
        InputError: Its file is not a family's.
    """
    file = families(cache_root()).get(st.session_state.get("family", DEMO))
    return load_family(file) if file else demo_family(cache_root())


def all_families() -> list[Family]:
    """The demo family and those that were saved; a file that is not a family's is left out."""
    found = [demo_family(cache_root())]
    for file in families(cache_root()).values():
        with suppress(InputError):
            found.append(load_family(file))
    return found


def family_of(run: Run, chosen: Family) -> Family:
    """The family that a run is of: `chosen` where its models are among that one's, else another; `chosen` if none."""
    models = _models_of(run)
    return next((family for family in (chosen, *all_families()) if models <= _references(family)), chosen)


def unfit(family: Family) -> dict[str, str]:
    """The fine-tunes that do not fit the base, by label, and why: such are neither merged nor compared."""
    base = family.base, _content(family.base)
    found = {model.label: _misfit(*base, model.reference, _content(model.reference)) for model in family.models}
    return {label: why for label, why in found.items() if why}


@st.cache_data(max_entries=256, show_spinner=False)
def _misfit(base: str, base_content: str, model: str, content: str) -> str:
    """Why a model does not fit a base, if it does not; the contents are there to make the cache forget other files."""
    return next(iter(inspect_family(base, [model]).errors), "")


def _content(reference: str) -> str:
    """The fingerprint of a model, or why it has none."""
    try:
        return content_of(reference)
    except InputError as error:
        return str(error)


def content_of(reference: str) -> str:
    """The fingerprint of a model."""
    return model_fingerprint(open_checkpoint(reference))


def _references(family: Family) -> set[str]:
    return {full(member.reference) for member in family.members}


def _models_of(run: Run) -> set[str]:
    """The models that a run reads; in place of a merged one those it was made of."""
    asked = run.parameters
    named = {asked.get("model"), asked.get("base"), *(asked.get("models") or ())} - {None}
    named |= set(named_models(asked["recipe"])) if run.kind == "merge" else set()
    if run.kind == "report":
        named |= {member.reference for member in open_family(asked["family"]).members}
    found: set[str] = set()
    for reference in named:
        merge = find(cache_root(), Path(reference).parts[-3] if reference.endswith("/results/merged") else "")
        found |= {full(reference)} if merge is None else _models_of(merge)
    return found


def full(reference: str) -> str:
    """Write a model's reference as runs keep it: a local folder by its whole path."""
    path = Path(expanduser(reference))
    return str(path.resolve()) if path.exists() else reference


def member_colours(family: Family, dark: bool = False) -> dict[str, str]:
    """The colour of each model by its short name: the base's own, a fine-tune that of its category, a merge a tint."""
    by_category, tints = category_colours(family), merge_tints()
    return {"base": style.base_colour(dark)} | {
        each.label: tints.get(each.reference, style.MERGE) if each.merged else by_category[each.category or each.label]
        for each in family.models
    }


def category_colours(family: Family, corpus: Sequence[str] = ()) -> dict[str, str]:
    """The colour of each category: the family's own first, so that they are the same with any `corpus` of more."""
    untold = [model.label for model in family.models if not model.category and not model.merged]
    return style.category_colours([*family.categories, *untold, *corpus])
