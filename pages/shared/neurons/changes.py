"""What fine-tunes changed in one neuron, whether they agree, and what each merge kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.changes import QUANTITIES
from nmerge_core.inheritance.tables import NeuronChanges
from nmerge_core.notebook import Step, literal
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.frame.beside import telling
from pages.shared.frame.page import command
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.inherited import FORMULA as OF_MERGES
from pages.shared.neurons.inherited import MEANING, few, measured_by, parted

SECONDS = 60.0  # for the worker to read one neuron of every model
OF_PAIRS = r"""
Of two fine-tunes $s$ and $t$: the cosine of $\tau_s$ and $\tau_t$, each $\tau = \theta - \theta_0$ all that was changed
in the neuron's rows of gate and up, their biases, and its column of down; and the sign conflict, the share of
$\tau_{s,i} \tau_{t,i} < 0$ among the weights $i$ with $\tau_{s,i} \tau_{t,i} \neq 0$.
"""


@dataclass(frozen=True)
class Told:
    """How what is drawn of a neuron's changes is computed: formula, commands and Python."""

    formula: str = ""
    commands: Sequence[str] = ()
    steps: Sequence[Step] = ()


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
        found = changes_of(family, done, layer, neuron).own([*models, *merges])
        frame = pd.concat([pd.DataFrame({"cosine": 1.0, "change": 0.0}, index=["base"]), found.set_index("model")])
    return frame


def draw_neuron(family: Family, done: Mapping[str, Run], layer: int, neuron: int) -> Told:
    """Whether the fine-tunes agree about one neuron, and what each merge kept of what they changed in it."""
    models, merges = parted(family, done)
    pairs = len(models) > 1
    if not models or not (pairs or merges):
        return Told()
    if "base" not in done:
        st.caption("What a model changed is told as soon as the base is classified too.")
        return Told()
    with telling(set()):
        changes = changes_of(family, done, layer, neuron)
        if pairs:
            st.subheader("Do the fine-tunes agree about it?", anchor=False)
            _draw_pairs(changes.between(models))
        if merges:
            st.subheader("What was kept of it", anchor=False)
            _draw_kept(changes.table(models, merges))
    named = {label: done[label].parameters["model"] for label in ("base", *models, *merges)}
    base, tuned = named["base"], [named[each] for each in models]
    of = f", merges={literal(merges)}" if merges else ""
    return Told(
        (OF_PAIRS if pairs else "") + (OF_MERGES if merges else ""),
        [
            *([command("cosine", base, *tuned, "--out", "cosine.csv", "--between", "between.csv")] if pairs else []),
            *(measured_by(named[merge], base, tuned) for merge in merges),
        ],
        [
            Step(
                f"compared = nm.classify({literal(named)}, corpus={literal(family.corpus)})\n"
                f"changed = compared.changes({layer}, {neuron}{of})\n"
                "changed.models",
                "## What was changed in it",
            ),
            *([Step("changed.between", "Every two fine-tunes:")] if pairs else []),
            *([Step("changed.kept", "What each merge kept:")] if merges else []),
        ],
    )


def _draw_pairs(between: pd.DataFrame) -> None:
    """How far every two fine-tunes agree about a neuron, in a sentence and in numbers."""
    st.markdown(_apart(between))
    cosine, opposed = QUANTITIES["cosine"], QUANTITIES["opposed"]
    st.dataframe(
        between,
        hide_index=True,
        key="explorer_between",
        column_config={
            "one": "fine-tune",
            "other": "and",
            "cosine": st.column_config.NumberColumn("cosine of changes", format="%.3f", help=cosine.meaning),
            "opposed": st.column_config.NumberColumn(opposed.title, format="percent", help=opposed.meaning),
        },
    )


def _apart(between: pd.DataFrame) -> str:
    """The two fine-tunes that are furthest apart in a sentence."""
    known = between.dropna()
    if known.empty:
        return "No two fine-tunes changed the same weights of this neuron."
    row = known.iloc[0]
    names = " and ".join(f"**{verbatim(shortened(row[each]))}**" for each in ("one", "other"))
    return (
        f"{'Furthest apart are ' if len(known) > 1 else ''}{names}: the cosine of their changes is "
        f"**{style.significant(row['cosine'])}**, and **{style.percent(row['opposed'])}** of the weights that both "
        "changed they moved opposite ways; unrelated changes have 0 and 50 %."
    )


def _told(merge: str, rows: pd.DataFrame) -> str:
    """What a merge has of each fine-tune in a sentence."""
    moved = rows.dropna(subset="kept")
    if moved.empty:
        return f"No fine-tune changed this neuron. **{verbatim(shortened(merge))}** has it as the base does."
    if not moved["merge_change"].any():
        return f"**{verbatim(shortened(merge))}** has this neuron as the base does: nothing is kept of any fine-tune."
    parts = [f"**{style.percent(row.kept)}** of what {verbatim(row.model)} changed" for row in moved.itertuples()]
    return f"**{verbatim(shortened(merge))}** has, in this neuron, {few(parts)}."


def _draw_kept(table: pd.DataFrame) -> None:
    """What each merge has of each fine-tune, in a sentence and in numbers."""
    for merge, rows in table.groupby("merge", sort=False):
        st.markdown(_told(str(merge), rows))
    st.caption(MEANING)
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
