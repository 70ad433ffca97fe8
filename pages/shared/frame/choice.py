"""Choosing one of several models: as buttons beside each other where they have room, else from a list."""

from collections.abc import Iterable, Sequence
from math import floor, log10

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.elements.lib.column_types import ColumnConfig

from nmerge_core.figures import style
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.text import verbatim

ROOM = 48  # characters that fit beside each other, with those that the frame of a button takes
FRAME = 3


def choose_model(
    label: str, names: Sequence[str], key: str, place: DeltaGenerator | None = None, explanation: str | None = None
) -> str:
    """The chosen one of some names, the first at the start; it is in the address under `key`."""
    forget_unknown(key, names)
    at = place or st
    if not abreast(names):
        return at.selectbox(label, names, key=key, bind="query-params", help=explanation)
    return at.segmented_control(
        label,
        names,
        default=names[0],
        required=True,
        format_func=verbatim,
        key=key,
        bind="query-params",
        help=explanation,
    )


def abreast(names: Sequence[str]) -> bool:
    """Whether names have room beside each other."""
    return sum(len(name) + FRAME for name in names) <= ROOM


def as_option(name: str, names: Sequence[str]) -> str:
    """What the address calls one of the names that `choose_model` offers."""
    return verbatim(name) if abreast(names) else name


def named(names: Sequence[str]) -> str:
    """Models in a title: by their names where there is room, else how many there are."""
    return ", ".join(names) if sum(map(len, names)) <= 2 * ROOM else f"{len(names)} fine-tunes"


def number_columns(names: Sequence[str], number_format: str = "localized") -> dict[str, ColumnConfig]:
    """Columns of numbers, one a model: under a short name, with the whole one as their help."""
    return {
        name: st.column_config.NumberColumn(short, help=verbatim(name) if short != name else None, format=number_format)
        for name, short in style.short_names(names).items()
    }


def text_columns(names: Sequence[str]) -> dict[str, ColumnConfig]:
    """Columns of texts, as `number_columns`."""
    return {
        name: st.column_config.TextColumn(short, help=verbatim(name) if short != name else None)
        for name, short in style.short_names(names).items()
    }


def decimals(numbers: Iterable[float]) -> str:
    """The format of a column of numbers that gives the middle one three significant digits, all as many decimals."""
    sizes = sorted(filter(None, map(abs, numbers)))
    return f"%.{max(0, 2 - floor(log10(sizes[len(sizes) // 2])))}f" if sizes else "%.2f"
