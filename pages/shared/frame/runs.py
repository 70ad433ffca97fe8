"""Starting a run from a page and watching it: the page never does the work, it looks at the run's folder."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, Status, delete, list_runs
from nmerge_core.runs.workers import who_does
from pages.shared.frame.family import family_of
from pages.shared.frame.older import older_run, reasons, tell_older
from pages.shared.frame.page import result_link
from pages.shared.frame.text import verbatim

BADGES = {"done": "green", "running": "blue", "queued": "gray", "failed": "red"}
_EARLIER = 5  # runs that are offered beside those of the controls


def latest_run(kind: str, parameters: dict[str, Any]) -> Run | None:
    """The run these parameters and today's files lead to, if it was ever started; starts nothing."""
    try:
        return client.lookup(kind, parameters)
    except InputError:
        return None


def took(status: Status) -> str:
    """How long an ended run went on; nothing where that is not known, or too short to tell."""
    seconds = status.seconds if status.seconds is not None and not status.active else 0.0
    return style.duration(seconds) if seconds >= 0.5 else ""


def run_line(run: Run, status: Status) -> str:
    """One line of Markdown for a run: its state, what it is, when it was started and how long it took."""
    lasted = f" · {seconds}" if (seconds := took(status)) else ""
    return f"{state_badge(status)} **{verbatim(run.title)}** · {began(run)}{lasted}"


def state_badge(status: Status) -> str:
    """A run's state in its colour, as Markdown."""
    return f":{BADGES.get(status.state, 'orange')}-badge[{status.state}]"


def began(run: Run) -> str:
    """When a run was started, in the words of lists."""
    return time.strftime("%d %b, %H:%M", time.localtime(run.created))


def draw_links(runs: Iterable[Run], chosen: Family) -> None:
    """A line for each run: its state, the way to its result, and when it was started."""
    for run in runs:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(state_badge(run.status()), width="content")
            result_link(run, verbatim(run.title), chosen)
            st.caption(began(run), width="content")


def draw_earlier(title: str, kinds: Collection[str], shown: Collection[Run], family: Family) -> None:
    """The way to the family's other runs of some kinds, newest first, whose settings the controls have no longer."""
    runs = [run for run in list_runs(cache_root()) if run.kind in kinds and run not in shown]
    others = [run for run in runs if not run.status().active]  # these have a panel, or stand on Runs
    if own := [run for run in others if family_of(run, family) == family][:_EARLIER]:
        st.subheader(title, anchor=False)
        draw_links(own, family)


def run_button(kind: str, parameters: dict[str, Any], label: str, key: str, title: str = "") -> Run | None:
    """A button that starts a run, and the run to show: the one of these parameters or, before it is done, an older one.

    The button gives way to `run_panel` while the run is going, and where it has ended without a result. An older run is
    told as what it is, with a button to make it anew. Wrong input is shown as a sentence.
    """
    run = latest_run(kind, parameters)
    if run is not None and (run.status().active or run.status().state == "done"):
        return run
    older = older_run(kind, parameters)
    if run is not None and older is None and not run.damage:
        return run  # whose panel says why there is no result, and starts it again
    if older is not None and run is not None:
        run_panel(run)
    if tell_older(older, parameters, key) if older else st.button(label, type="primary", key=key):
        start_all(kind, {title: parameters})
    return older or run


def run_each(
    kind: str,
    asked: Mapping[str, dict[str, Any]],
    titles: Mapping[str, str],
    label: str,
    key: str,
    told: Callable[[list[str]], str],
) -> dict[str, Run]:
    """A run for each of several models: a button that starts those missing, and the runs to show, older ones too.

    Args:
        kind: The kind of run.
        asked: The parameters of each model's run.
        titles: What each is called.
        label: The button's.
        key: The button's.
        told: What the runs of some models will do, as a sentence.
    """
    runs = {name: latest_run(kind, parameters) for name, parameters in asked.items()}
    states = {name: run.status().state if run else "" for name, run in runs.items()}
    earlier = {name: older_run(kind, asked[name]) for name, state in states.items() if state != "done"}
    older = {name: run for name, run in earlier.items() if run is not None}
    if rest := [name for name, state in states.items() if state not in ("done", "queued", "running")]:
        if old := [name for name in rest if name in older]:
            st.markdown(f":material/history: {reasons(old, older, asked, '')}")
        if st.button(label, type="primary", key=key):
            start_all(kind, {titles[name]: asked[name] for name in rest})
        st.caption(told(rest))
    going = sorted(
        (name for name in runs if states[name] in ("queued", "running")), key=lambda n: states[n] == "queued"
    )
    for name in [*going[:1], *rest]:
        if (run := runs[name]) is not None:
            run_panel(run)
    if len(going) > 1:
        st.caption(f"Then {verbatim(', '.join(going[1:]))}.")
    return {name: run for name in asked if (run := runs[name] if states[name] == "done" else older.get(name))}


def start_all(kind: str, asked: Mapping[str, dict[str, Any]]) -> None:
    """Queue runs by their titles and draw the page again; wrong input is shown as a sentence."""
    try:
        for title, parameters in asked.items():
            client.submit(kind, parameters, title)
    except InputError as error:
        st.error(verbatim(error))
    else:
        st.rerun()


def run_panel(run: Run) -> bool:
    """The state of a run while it goes and what to do when it failed; true when its results are there.

    Redraws itself every second while the run is going, and the page once when it has ended.
    """
    status = run.status()
    if status.state == "done":
        return True
    st.fragment(_draw_panel, run_every=1 if status.active else None)(run, status.active)
    return False


def _draw_panel(run: Run, active_at_page_draw: bool) -> None:
    status = run.status()
    if active_at_page_draw and not status.active:
        st.rerun()
    with st.container(border=True):
        if status.active:
            _draw_progress(run, status)
        else:
            _draw_ended(run, status)


def _draw_progress(run: Run, status: Status) -> None:
    attempt(client.ensure_worker)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(status.fraction, text=progress_sentence(run, status), width="stretch")
        if st.button("Cancel", key=f"run_cancel_{run.id}", icon=":material/close:"):
            attempt(partial(client.cancel, run))


def progress_sentence(run: Run, status: Status) -> str:
    """What is being done, how far it is, how fast, and how long it will take."""
    if status.state == "queued":
        return f"{verbatim(run.title)}: waiting its turn"
    parts = [f"{verbatim(run.title)}: {verbatim(status.stage or 'starting')}"]
    if status.total:
        parts.append(f"{style.count(status.done)} of {style.count(status.total)} {verbatim(status.unit)}".strip())
    if status.rate and status.rate < 1:
        parts.append(f"{style.duration(1 / status.rate)} each")
    elif status.rate:
        parts.append(f"{style.significant(status.rate)} {verbatim(status.unit or 'steps')}/s")
    if status.eta is not None:
        parts.append(f"{style.duration(status.eta)} left")
    with suppress(InputError):  # told where a worker is started
        parts += filter(None, [who_does(cache_root(), run.id)])
    return " · ".join(parts)


def ended(run: Run, status: Status) -> str:
    """How a run ended and why, as Markdown; a message that only says the state again is left out."""
    said = status.message.rstrip(".").lower() != status.state
    return f"**{verbatim(run.title)}** · {status.state}.{f' {verbatim(status.message)}' if said else ''}"


def _draw_ended(run: Run, status: Status) -> None:
    """Why there is no result, and what can be done: start again, or delete what is damaged."""
    (st.error if status.state == "failed" else st.warning)(ended(run, status))
    damaged = status.state == "damaged"
    with st.container(horizontal=True):
        again = "Make it anew" if damaged else "Start again"
        if not run.damage and st.button(again, key=f"run_restart_{run.id}", icon=":material/replay:"):
            attempt(partial(client.restart, run), rerun=True)
        if damaged and st.button("Delete it", key=f"run_remove_{run.id}", icon=":material/delete:"):
            attempt(partial(delete, run), rerun=True)


def attempt(change: Callable[[], object], *, rerun: bool = False) -> None:
    """Change something in the cache and draw the page again if wanted, or say in a sentence why that cannot be."""
    try:
        change()
    except InputError as error:
        st.error(verbatim(error))
    else:
        if rerun:
            st.rerun()
