"""What a sweep has found so far: its figures, its trials, and what the one that is picked answered."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.comparison.score_tables import primary
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.sweep import front, heat, importance, parallel, progress, title_of
from nmerge_core.files.kept_files import read_csv
from nmerge_core.runs.folder import Run
from nmerge_core.search.plan import Sweep
from pages.shared.charts.charts import dark, show
from pages.shared.evaluate.samples import draw_between
from pages.shared.frame.scoring import Board
from pages.shared.frame.text import verbatim
from pages.shared.recipe.form import open_recipe
from pages.shared.sweep.found import WALKED, Found, Lead, lead_of, read_found, read_trial

PICKED = "sweep_trial"  # the setting that holds the number of the trial that is looked at


def draw_found(run: Run, plan: Sweep, family: Family) -> None:
    """What was found so far."""
    try:
        if (found := read_found(run, plan)) is not None:
            _tell_best(found)
            with suppress(InputError):  # a trial's scores are damaged, which is said where they are shown
                if len(found.objectives) == 1 and (lead := lead_of(found)):
                    st.markdown(told(lead))
            _draw_figures(found)
            st.subheader("Every trial", anchor=False)
            _draw_trial(found, _picked(found), family)
        elif run.status().active:
            st.caption("The first trial is on its way.")
    except InputError as error:  # a file is damaged, or is being replaced
        st.error(verbatim(error))


def _tell_best(found: Found) -> None:
    best, several = found.trials.iloc[0], len(found.objectives) > 1
    point = ", ".join(f"{verbatim(title_of(key))} **{verbatim(str(best[key]))}**" for key in found.keys)
    values = " and ".join(f"**{style.significant(best[name])}**" for name in found.objectives)
    st.markdown(
        f"Best of {style.counted(len(found.trials), 'trial')}{' by the mean' if several else ''}: number "
        f"{int(best['trial'])} with {point}, {'objectives' if several else 'objective'} {values}.",
        help="The objective is what trials make large: the mean of what models are scored on, a share of problems from "
        "0 to 1, and what is better when it is lower, as bits per byte or a loss, below 0.",
    )


def told(lead: Lead) -> str:
    """How sure it is that the best trial is better than those after it, as Markdown."""
    low, high = (f"{end:+.3g}" for end in (lead.interval.low, lead.interval.high))
    led = f"It is ahead of the next, number {lead.next}, by {style.significant(lead.difference)} "
    led += f"(95 % interval {low} to {high}, problem by problem)"
    if not lead.within:
        return f"{led}: more than the error, though the best of many is a little flattered by these problems."
    least = "at least " if lead.within == WALKED else ""
    after = f", as are {least}{lead.within - 1} after it" if lead.within > 1 else ""
    return f"{led}: :orange[within the error]{after}. Which of them is best, these problems do not tell."


def _draw_figures(found: Found) -> None:
    trials, keys, theme = found.trials.sort_values("trial"), found.keys, {"dark": dark()}
    first, *more = found.objectives
    if more:
        show(front(trials, found.objectives, **theme), "sweep_front", trials, "sweep", _pick)
    else:
        show(progress(trials, first, **theme), "sweep_progress", trials, "sweep", _pick)
    if len(keys) > 1:
        st.subheader("Where is it good?", anchor=False)
        across, up, of = st.columns(3)
        one = across.selectbox("Across", keys, 0, format_func=title_of, key="sweep_across")
        other = up.selectbox("Up", keys, 1, format_func=title_of, key="sweep_up")
        columns = [*found.objectives, *(name for name in trials if "/" in name)]
        colour = of.selectbox("Colour", columns, format_func=title_of, key="sweep_colour")
        if one != other:
            show(heat(trials, one, other, colour, **theme), "sweep_heat", picked=_pick)
        show(parallel(trials, keys, colour if colour in found.objectives else first, **theme), "sweep_parallel")
    if (found.folder / "importance.csv").exists():
        st.subheader("Which parameters matter?", anchor=False)
        shares = read_csv(found.folder / "importance.csv", ("key", "importance"))
        show(importance(shares, **theme), "sweep_importance")


def _pick(number: Any) -> None:
    st.session_state[PICKED] = int(number)


def _picked(found: Found) -> int:
    """Draw the trials as a table; return the number of the one that is picked there or in a figure, else the best."""
    trials = found.trials
    scores = [name for name in trials if "/" in name]
    last = [name for name in ("state", "seconds", "failure") if name in trials]
    shown = trials[["trial", *found.keys, *found.objectives, *scores, *last]]
    numbers = [int(number) for number in trials["trial"]]

    def pick() -> None:
        if rows := st.session_state["sweep_table"].selection["rows"]:
            _pick(numbers[rows[0]])

    st.dataframe(
        shown.rename(columns=title_of),
        hide_index=True,
        on_select=pick,
        selection_mode="single-row",
        key="sweep_table",
    )
    picked = st.session_state.get(PICKED)
    return picked if picked in numbers else numbers[0]


def _draw_trial(found: Found, number: int, family: Family) -> None:
    """What can be done with a trial."""
    recipe = found.of(number) / "nmerge_recipe.yaml"
    best = int(found.trials["trial"].iloc[0])
    about = ", the best" if number == best else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Trial {number}**{about}. Pick a row, or a point of a figure, for another.", width="stretch")
        if st.button("Open in the Merge controls", key="sweep_open", icon=":material/tune:") and recipe.exists():
            open_recipe(recipe.read_text(encoding="utf-8"), family)
            st.switch_page("pages/7_Merge.py", query_params={})  # the family goes along by itself
    scored = [int(each) for each in found.trials["trial"] if _has_samples(found.of(int(each)))]
    others = [each for each in scored if each != number]
    if number in scored and others:
        st.subheader(f"What trial {number} answered", anchor=False)
        _draw_samples(found, number, [others[-1], *others[:-1]] if number == best else others)


def _has_samples(folder: Path) -> bool:
    return (folder / "scores.csv").exists() or (folder / "losses.csv").exists()


def _draw_samples(found: Found, number: int, others: Sequence[int]) -> None:
    """The problems that a trial lost or gained against another, at first the first of `others`."""
    left, right = st.columns(2)
    against = left.selectbox("Against trial", others, key=f"sweep_against_{number}")
    names = [f"trial {each}" for each in (number, against)]
    tables = [read_trial(found, each, name) for each, name in zip((number, against), names, strict=True)]
    scores, samples = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
    task = right.selectbox("Task", list(dict.fromkeys(primary(scores)["task"])), key="sweep_task")
    draw_between(Board(names, scores, samples), task, *names)
