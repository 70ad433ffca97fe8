"""Results whose inputs have changed since: told as older, with what they were made from and a button to renew them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.parameters.inputs import Classification
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.request import resolve
from pages.shared.frame.text import verbatim

NAMED = 6  # models that are named in a sentence; more are counted
FORMAT = " runs in"  # ends the name of an input that is the number format a model runs in


def older_run(kind: str, parameters: Mapping[str, Any]) -> Run | None:
    """The newest finished run that was asked for the same when its inputs, or this program, were others; else none.

    A classification among the parameters, being a result itself, may be another one.
    """
    try:
        request = resolve(cache_root(), kind, parameters)
    except InputError:
        return None
    results = {name for name, parameter in KINDS[kind].by_name.items() if isinstance(parameter, Classification)}

    def question(given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in results}

    for run in list_runs(cache_root()):
        if run.kind == kind and run.id != request.id and question(run.parameters) == question(request.parameters):
            if run.status().state == "done":
                return run
    return None


def made_from(run: Run, parameters: Mapping[str, Any]) -> str:
    """What an older run was made from, as Markdown: the inputs that are others today."""
    try:
        today = resolve(cache_root(), run.kind, parameters).inputs
    except InputError:  # an input has just gone
        return "made from what is there no more"
    changed = [
        f"an earlier {_called(name)}" for name, found in run.inputs.items() if today.get(name) not in (None, found)
    ]
    changed += [f"an earlier {_called(name)}" for name in run.inputs if name not in today]
    changed += [f"no {_called(name)} yet" for name in today if name not in run.inputs and not run.inputs.keys() - today]
    return f"made from {' and '.join(dict.fromkeys(changed)) or f'the same, by NMerge {verbatim(run.version)}'}"


def _called(name: str) -> str:
    """What an input of a run is called: a classification by what it is, all else by the end of its path."""
    path = Path(name.removesuffix(FORMAT))
    return "classification" if path.name == "results" else f"**{verbatim(path.name)}**"


def reasons(labels: Sequence[str], older: Mapping[str, Run], asked: Mapping[str, Mapping[str, Any]], never: str) -> str:
    """Why results of several models are to be made, in sentences of Markdown: there is none, or an older one."""
    told: dict[str, list[str]] = {}
    for label in labels:
        reason = f"**Older**, {made_from(older[label], asked[label])}" if label in older else never
        told.setdefault(reason, []).append(label)
    return " ".join(f"{reason}: {listed(those)}." for reason, those in told.items())


def listed(labels: Sequence[str]) -> str:
    """Models in a sentence of Markdown; many are counted from some on."""
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(f"**{verbatim(style.short(label))}**" for label in labels[:NAMED]) + more


def tell_older(run: Run, parameters: Mapping[str, Any], key: str) -> bool:
    """Say above a result that it is older than its inputs; true when the button to make it anew was clicked."""
    with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"{key}_older"):
        made = time.strftime("%d %b, %H:%M", time.localtime(run.created))
        st.markdown(f":material/history: **Older**, {made_from(run, parameters)} on {made}.", width="stretch")
        return st.button("Make it anew", key=key, type="primary")
