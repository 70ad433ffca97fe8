"""The family a page shows: the one chosen in the sidebar, and the colours of its models and categories."""

from collections.abc import Sequence

import streamlit as st

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.family import Family, demo_family, families, load_family
from nmerge_core.figures import style


def chosen_family() -> Family:
    """Read the family chosen in the sidebar, which keeps it in the address (`?family=…`); the demo at first.

    Raises:
        InputError: Its file is not a family's.
    """
    file = families(cache_root()).get(st.session_state.get("family", DEMO))
    return load_family(file) if file else demo_family(cache_root())


def member_colours(family: Family, dark: bool = False) -> dict[str, str]:
    """The colour of each model by its short name: the base's own, a fine-tune that of its category."""
    by_category = category_colours(family)
    tuned = {model.label: by_category[model.category or model.label] for model in family.models}
    return {"base": style.base_colour(dark), **tuned}


def category_colours(family: Family, corpus: Sequence[str] = ()) -> dict[str, str]:
    """The colour of each category: the family's own first, so that they are the same with any `corpus` of more."""
    untold = [model.label for model in family.models if not model.category]
    return style.category_colours([*family.categories, *untold, *corpus])
