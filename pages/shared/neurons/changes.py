"""What each merge kept of what each fine-tune changed in one neuron."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.inheritance.tables import NeuronChanges
from nmerge_core.notebook import Step, literal
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.frame.beside import telling
from pages.shared.frame.choice import number_columns
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.inherited import MEANING, few, measured_by, parted

SECONDS = 60.0  # for the worker to read one neuron of every model


@st.cache_data(max_entries=512, show_spinner=False)
def _asked(
    base: str, models: Sequence[str], merges: Sequence[str], content: Sequence[str], layer: int, neuron: int
) -> dict[str, list[Any]]:
    """What fine-tunes and merges changed in a neuron; `content` are the models' fingerprints."""
    found: dict[str, list[Any]] = client.ask(
        "neuron_changes", timeout=SECONDS, base=base, models=models, merges=merges, layer=layer, neuron=neuron
    )
    return found


def changes_of(family: Family, done: Mapping[str, Run], layer: int, neuron: int) -> NeuronChanges:
    """What fine-tunes and merges, in this order, changed in one neuron of the base, which is classified too.

    Raises:
        InputError, TimeoutError, RuntimeError: the worker's; each a sentence for the user.
    """
    models, merges = parted(family, done)
    named = {label: done[label].parameters["model"] for label in ("base", *models, *merges)}
    content = [done[label].inputs[reference] for label, reference in named.items()]
    tuned, merged = ([named[label] for label in labels] for labels in (models, merges))
    found = _asked(named["base"], tuned, merged, content, layer, neuron)
    return NeuronChanges(**{name: np.array(value, float) for name, value in found.items()})


def turned(family: Family, done: Mapping[str, Run], layer: int, neuron: int) -> pd.DataFrame:
    """What each model changed in a neuron, by label: the cosine with the base's weights, change and parallel.

    `change` is how long it is beside the base's weights, `parallel` the share along them. Empty where it is not known.
    """
    models, merges = parted(family, done)
    if "base" not in done or not (models or merges):
        return pd.DataFrame()
    frame = pd.DataFrame()
    with telling(set()):
        found = changes_of(family, done, layer, neuron)
        changed = {"cosine": found.turned, "change": found.sizes, "parallel": found.parallel}
        base = pd.DataFrame({"cosine": 1.0, "change": 0.0}, index=["base"])
        frame = pd.concat([base, pd.DataFrame(changed, index=[*models, *merges])])
    return frame


def draw_neuron(family: Family, done: Mapping[str, Run], layer: int, neuron: int) -> tuple[list[str], list[Step]]:
    """What each merge kept of what each fine-tune changed in one neuron.

    Returns:
        The commands and the Python that give the same; none without a merge.
    """
    models, merges = parted(family, done)
    if not models or not merges:
        return [], []
    st.subheader("What was kept of it", anchor=False)
    if "base" not in done:
        st.caption("What a model changed is told as soon as the base is classified too.")
        return [], []
    named = {label: done[label].parameters["model"] for label in ("base", *models, *merges)}
    with telling(set()):
        changes = changes_of(family, done, layer, neuron)
        table = changes.table(models, merges)
        for merge, rows in table.groupby("merge", sort=False):
            st.markdown(_told(str(merge), rows))
        st.caption(MEANING)
        _draw_tables(table, changes.between(models))
    commands = [measured_by(named[merge], named["base"], [named[each] for each in models]) for merge in merges]
    return commands, [
        Step(
            f"compared = nm.classify({literal(named)}, corpus={literal(family.corpus)})\n"
            f"changed = compared.changes({layer}, {neuron}, merges={literal(merges)})",
            "## What was kept of it",
        ),
        Step("changed.kept"),
        Step("changed.between", "The cosine of every two fine-tunes' changes:"),
    ]


def _told(merge: str, rows: pd.DataFrame) -> str:
    """What a merge has of each fine-tune in a sentence."""
    moved = rows.dropna(subset="kept")
    if moved.empty:
        return f"No fine-tune changed this neuron. **{verbatim(shortened(merge))}** has it as the base does."
    if not moved["merge_change"].any():
        return f"**{verbatim(shortened(merge))}** has this neuron as the base does: nothing is kept of any fine-tune."
    parts = [f"**{style.percent(row.kept)}** of what {verbatim(row.model)} changed" for row in moved.itertuples()]
    return f"**{verbatim(shortened(merge))}** has, in this neuron, {few(parts)}."


def _draw_tables(table: pd.DataFrame, between: pd.DataFrame) -> None:
    percent = {name: 100 * table[name] for name in ("kept", "change", "merge_change")}
    several = table["merge"].nunique() > 1
    merges = table["merge"].map(style.short_names(table["merge"].unique()))
    length = "How long it is, beside the neuron's weights in the base"
    st.dataframe(
        table.assign(**percent, merge=merges),
        hide_index=True,
        key="explorer_kept",
        column_order=[*(["merge"] if several else []), "model", "kept", "cosine", "change", "merge_change"],
        column_config={
            "model": "fine-tune",
            "kept": st.column_config.NumberColumn(
                "kept, %", format="%.1f", help="Share of the fine-tune's change that is in the merge"
            ),
            "cosine": st.column_config.NumberColumn(
                format="%.3f",
                help="Between the merge's change and the fine-tune's: 1 same direction, 0 unrelated, −1 opposite",
            ),
            "change": st.column_config.NumberColumn("fine-tune's change, %", format="%.2f", help=length),
            "merge_change": st.column_config.NumberColumn("merge's change, %", format="%.2f", help=length),
        },
    )
    if len(between) > 1:
        st.dataframe(
            between,
            hide_index=True,
            key="explorer_between",
            column_config={
                "model": st.column_config.TextColumn(
                    "cosine between",
                    help="Of what two fine-tunes changed: 1 same direction, 0 unrelated, −1 opposite",
                ),
                **number_columns(list(between["model"]), "%.3f"),
            },
        )
