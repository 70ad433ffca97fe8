"""Two models on the same problems: what one lost and gained against the other, problem by problem."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from nmerge_core.comparison.score_tables import BOTH, GAINED, LOST, NEITHER, counts, primary, searched, sides
from nmerge_core.figures import style
from nmerge_core.figures.scores import Metric, metric
from pages.shared.frame.scoring import Board
from pages.shared.frame.settings import KEPT, put
from pages.shared.frame.text import MARKED, marked, verbatim

PAGE = 10  # problems at once
ALL = "all"
CODE = "pass@1"  # the metric of tasks whose answers are programs
SIDES = (LOST, GAINED, BOTH, NEITHER, ALL)
SAID = {
    LOST: "**{ours}** lost {number}",
    GAINED: "gained {number}",
    BOTH: "{number} both solve",
    NEITHER: "{number} neither",
}
SAID_OF_NUMBERS = {LOST: "**{ours}** is worse on {number}", GAINED: "better on {number}", BOTH: "{number} equal"}


def draw_samples(board: Board, own: Mapping[str, str], merged: Collection[str]) -> None:
    """Draw the problems that one model lost or gained against another; all that is chosen stands in the address.

    Args:
        board: What was scored.
        own: The fine-tune of each task, which a merge is first looked at against.
        merged: The names of merges, the first of which is looked at.
    """
    st.subheader("What was lost, what was gained?", anchor=False)
    kept = primary(board.scores)
    tasks = list(dict.fromkeys(kept["task"]))
    if len(board.names) < 2:
        st.caption("Score a second model, to see on which problems the two differ.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):

        def follow() -> None:
            st.session_state["evaluate_against"] = None

        task = _linked("Task", tasks, "evaluate_task", tasks[0], on_change=follow)
        first = next((name for name in board.names if name in merged), board.names[-1])
        ours = _linked("Model", board.names, "evaluate_model", first)
        others = [name for name in board.names if name != ours]
        own_one = own[task] if own.get(task) in others else others[0]
        about = "At first the task's own fine-tune"
        theirs = _linked("Against", others, "evaluate_against", own_one, help=about)
    draw_between(board, task, ours, theirs)


def draw_between(board: Board, task: str, ours: str, theirs: str) -> None:
    """Draw the problems of a task that one model lost or gained against another, those that are asked for."""
    st.html(MARKED)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        which = st.segmented_control("Problems", SIDES, default=LOST, required=True, key="evaluate_which", **KEPT)
        words = st.text_input(
            "Search", key="evaluate_search", placeholder="Words in prompts, answers, errors; or #7", **KEPT
        ).strip()
    kept = primary(board.scores)
    row = kept[kept["task"] == task].iloc[0]
    known, better = metric(str(row["metric"])), bool(row["higher_is_better"])
    found = sides(board.samples, task, str(row["metric"]), ours, theirs, better=better)
    if found.empty:
        st.caption(f"No problem of {verbatim(task)} was kept of both.")
        return
    binary = found["value_ours"].isin([0, 1]).all() and found["value_theirs"].isin([0, 1]).all()
    said, shown = SAID if binary else SAID_OF_NUMBERS, counts(found)
    parted = any(shown.values())
    told = (
        ", ".join(said[side].format(ours=verbatim(ours), number=shown[side]) for side in said)
        if parted
        else "The metric is of all problems together, none is better or worse by itself"
    )
    st.markdown(f"{told} · of {len(found)} problems, against **{verbatim(theirs)}**")
    everywhere = searched(found, words)
    chosen = everywhere if which == ALL or not parted else everywhere[everywhere["side"] == which]
    if not binary:  # the largest difference first
        apart = (chosen["value_ours"].astype(float) - chosen["value_theirs"].astype(float)).abs()
        chosen = chosen.loc[apart.sort_values(ascending=False, kind="stable").index]
    if chosen.empty:
        others = ", ".join(everywhere["side"].unique())
        st.caption(f"None of these; what is searched is among: {others}." if words and others else "None of these.")
    else:
        _draw_page(chosen, ours, theirs, known)
    st.download_button(
        "These problems as JSON Lines",
        lambda: chosen.to_json(orient="records", lines=True, force_ascii=False),
        f"{task}.jsonl",
        "application/x-ndjson",
        key="evaluate_download",
        icon=":material/download:",
        on_click="ignore",
        disabled=chosen.empty,
    )


def _address(problem: object) -> str:
    """The address of this view with one problem alone."""
    changed = {"evaluate_search": f"#{problem}", "evaluate_which": ALL}
    kept = {name: st.query_params.get_all(name) for name in st.query_params if name != "evaluate_page"}
    return "?" + urlencode(kept | changed, doseq=True)


def _linked(label: str, options: Sequence[str], name: str, first: str, **how: Any) -> str:
    """A choice that always stands in the address; while none is made it is `first`, which a newer merge changes.

    What stands for no choice is not set by the page: a browser that answers late would seem to have chosen it.
    """
    if name not in st.session_state:
        asked = st.query_params.get(name)
        st.session_state[name] = asked if asked in options else None
    made: str | None = st.selectbox(label, options, None, key=name, placeholder=first, persist_state="session", **how)
    put(name, chosen := made or first)
    return chosen


def _draw_page(chosen: pd.DataFrame, ours: str, theirs: str, known: Metric) -> None:
    pages = -(-len(chosen) // PAGE)
    page = 1
    if pages > 1:
        page = st.number_input(f"Page, of {pages}", 1, pages, 1, key="evaluate_page", width=160)
    for problem in chosen.iloc[(page - 1) * PAGE : page * PAGE].to_dict("records"):
        with st.container(border=True):
            _draw_problem(problem, ours, theirs, known, metric(CODE) == known)


def _draw_problem(problem: Mapping[str, object], ours: str, theirs: str, known: Metric, code: bool) -> None:
    """One problem: its prompt, what both answered, the words that differ marked, and the reference; `code` or not."""

    def draw(text: str) -> None:
        if code:
            st.code(text, "python", wrap_lines=True)
        else:
            st.text(text)

    with st.container(horizontal=True, horizontal_alignment="distribute"):
        st.caption(" · ".join(filter(None, (f"Problem {problem['id']}", str(problem["side"])))))
        st.caption(f"[:material/link: Link]({_address(problem['id'])})", width="content")
    if problem["prompt"]:
        draw(str(problem["prompt"]))
    if problem["answer_ours"] is None or problem["answer_ours"] != problem["answer_ours"]:  # a text, not a question
        ends = ((ours, "ours"), (theirs, "theirs"))
        st.markdown(" · ".join(f"**{verbatim(name)}** {_value(problem, end, known)}" for name, end in ends))
        return
    for column, name, end, other in zip(
        st.columns(2), (ours, theirs), ("ours", "theirs"), ("theirs", "ours"), strict=True
    ):
        with column:
            st.markdown(f"**{verbatim(name)}** · {_value(problem, end, known)}")
            answer, beside = str(problem[f"answer_{end}"]), str(problem[f"answer_{other}"])
            st.html(f'<div class="code">{marked(answer, beside)}</div>' if code else marked(answer, beside))
            if (filtered := str(problem[f"filtered_{end}"]).strip()) not in (answer.strip(), "passed", "failed"):
                st.caption(f"Taken of it: {verbatim(filtered)}")
            if error := str(problem[f"error_{end}"] or "").strip():
                st.code(error, language=None, wrap_lines=True)
    if "\n" in (reference := str(problem["reference"]).strip()):
        st.caption("Reference")
        draw(reference)
    elif reference:
        st.caption(f"Reference: {verbatim(reference)}")


def _value(problem: Mapping[str, object], end: str, known: Metric) -> str:
    """The verdict on an answer, or its value."""
    value = problem[f"value_{end}"]
    if value is None or value != value:
        return "no value of its own"
    number = float(str(value))
    if known.share and number in (0, 1):
        return ":material/check: right" if number else ":material/close: wrong"
    return known.write(number) if known.share else style.significant(number)
