"""The models beside a merge: what they are called, their colours, and asking about them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import streamlit as st

from nmerge_core.checkpoints import labels
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.merging.recipe.recipe import Recipe
from pages.shared.charts.charts import dark
from pages.shared.frame.family import content_of, member_colours
from pages.shared.frame.text import verbatim


@contextmanager
def telling(said: set[str]) -> Iterator[None]:
    """Tell of a question that cannot be answered, unless it was `said` before, and go on."""
    try:
        yield
    except (InputError, TimeoutError, RuntimeError) as error:  # each a sentence for the user
        if str(error) not in said:
            said.add(str(error))
            (st.info if isinstance(error, InputError) else st.warning)(verbatim(error))


def names_of(recipe: Recipe, family: Family) -> dict[str, str]:
    """What the base, the recipe's or the family's, and each model of a recipe are called, by their references.

    A model that is not of the family and would be called as one of it goes by its reference.
    """
    known = {member.reference: member.label for member in family.members}
    references = list(dict.fromkeys([recipe.base_model or family.base, *recipe.references]))
    others = {
        name: name if own in known.values() else own for name, own in zip(references, labels(references), strict=True)
    }
    return {name: known.get(name) or others[name] for name in references}


def colours_of(names: Mapping[str, str], family: Family) -> dict[str, str]:
    """The colour of each of these models by its name: those of the family have their own."""
    known = member_colours(family, dark())
    further = style.category_colours([name for name in names.values() if name not in known])
    return {name: known.get(name) or further[name] for name in names.values()}


def fingerprints(names: Mapping[str, str]) -> tuple[str, ...]:
    """The content of some models, by their references."""
    return tuple(map(content_of, names))
