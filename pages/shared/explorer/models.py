"""The same neuron in every model: what it is there, how far its weights turned, whether the same texts excite it."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from nmerge_core.figures.explorer import Seen
from nmerge_core.figures.style import short
from pages.shared.frame.choice import decimals
from pages.shared.frame.terms import VOTES
from pages.shared.frame.text import verbatim

NAMED = 3  # models that are named in a sentence; more are counted


def reading(chosen: Seen, models: Sequence[Seen], layer: int, neuron: int) -> str:
    """What the neuron is in the chosen model, and whether it is the same in the others, as Markdown."""
    changed = [seen.label for seen in models if seen.category != chosen.category]
    others = (
        f"in {verbatim(', '.join(changed))}"
        if len(changed) <= NAMED
        else f"in {len(changed)} of the {len(models)} models"
    )
    kept = f"It is something else {others}." if changed else "It keeps that category in every model."
    model = verbatim(short(chosen.label, 60))
    said = f"Layer {layer}, neuron {neuron}: a **{verbatim(chosen.category)}** neuron in {model}."
    return f"{said} {kept if len(models) > 1 else ''}"


def draw_models(chosen: Seen, models: Sequence[Seen], turned: pd.DataFrame) -> None:
    """The neuron as each model has it, a row for each; `turned` has cosine, change and parallel of each, or nothing."""
    peaks = [seen.peak for seen in models]
    rows = pd.DataFrame(
        {
            "model": [seen.label for seen in models],
            "category": [seen.category for seen in models],
            "votes": [max(map(seen.votes.count, seen.votes)) for seen in models],
            "highest score": peaks,
            "same texts": [100 * seen.overlap(chosen) for seen in models],
        }
    )
    st.dataframe(
        rows.join(turned, on="model") if len(turned) else rows,
        hide_index=True,
        key="explorer_models",
        column_config={
            "votes": st.column_config.NumberColumn(help=VOTES),
            "highest score": st.column_config.NumberColumn(format=decimals(peaks), help="Over all texts"),
            "same texts": st.column_config.NumberColumn(
                format="%.0f %%", help=f"Of its voting texts, those that vote in {verbatim(chosen.label)} too"
            ),
            "cosine": st.column_config.NumberColumn(format="%.4f", help="Of its weights with those of the base's"),
            "change": st.column_config.NumberColumn(
                format="percent", help="How long the change of its weights is, beside its weights in the base"
            ),
            "parallel": st.column_config.NumberColumn(
                format="percent", help="Share of the change that lies along its weights in the base"
            ),
        },
    )
