"""The log of candidates on the Merge page: what was tried, what it changed, and the way back to any of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.candidates import Candidate, CandidateLog
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.merge import by_layer
from nmerge_core.figures.scores import metric
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.changes import changes, told
from nmerge_core.merging.recipe.recipe import Recipe
from pages.shared.charts.charts import dark, show
from pages.shared.frame.beside import names_of, telling
from pages.shared.frame.text import marked, shortened, verbatim
from pages.shared.recipe.form import REOPENED, open_recipe, rerun_if_reopened
from pages.shared.tuning.asking import prompt_of
from pages.shared.tuning.health import changes_of
from pages.shared.tuning.prompt import saving

LISTED = 5  # candidates that are shown at first, pinned ones besides


class Trail:
    """The candidates that a visitor has looked at, in order, and where in it one stands: for undo and redo."""

    def __init__(self) -> None:
        """Begin nowhere."""
        self.numbers: list[int] = []
        self.at = -1

    def visit(self, number: int) -> None:
        """Go on to a candidate; what was undone before is forgotten."""
        if self.at < 0 or self.numbers[self.at] != number:
            self.numbers = [*self.numbers[: self.at + 1], number]
            self.at += 1

    def towards(self, by: int, log: CandidateLog) -> tuple[int, Candidate] | None:
        """The next candidate that way that was not forgotten, and where in the trail it stands."""
        at = self.at + by
        while 0 <= at < len(self.numbers):
            if candidate := log.get(self.numbers[at]):
                return at, candidate
            at += by
        return None

    @property
    def before(self) -> int | None:
        """The candidate before this one."""
        return self.numbers[self.at - 1] if self.at > 0 else None


def trail_of(family: Family) -> Trail:
    """The trail of this visit through a family's candidates."""
    found: Trail = st.session_state.setdefault(f"merge_trail_{family.name}", Trail())
    return found


@lru_cache(maxsize=512)
def read(text: str) -> Recipe | None:
    """The recipe of a candidate; None where it cannot be read any more, as when its method is gone."""
    try:
        recipe = load(text)
    except InputError:
        return None
    return recipe if isinstance(recipe, Recipe) else None


def called(candidate: Candidate, family: Family) -> str:
    """What a candidate is called: as its owner says, else by its method and what differs from the defaults."""
    recipe = read(candidate.recipe)
    return candidate.name or (told(recipe, family.labels) if recipe else "cannot be read any more")


def differs(before: Candidate | None, after: Candidate, family: Family) -> str:
    """What a candidate says otherwise than another, in one line; empty where there is none."""
    old, new = (read(each.recipe) if each else None for each in (before, after))
    return " · ".join(map(str, changes(old, new, family.labels))) if old and new else ""


def go_back(text: str, family: Family) -> None:
    """Set the controls to a candidate's recipe; of callbacks, as the controls are drawn outside of the fragment."""
    open_recipe(text, family)
    st.session_state[REOPENED] = True


def step(log: CandidateLog, family: Family, by: int) -> None:
    """Undo or redo."""
    trail = trail_of(family)
    if (found := trail.towards(by, log)) is not None:
        trail.at, candidate = found
        go_back(candidate.recipe, family)


def draw_head(candidate: Candidate, log: CandidateLog, family: Family) -> None:
    """The candidate that the controls make: its number, name, what it changes, and undo, redo, pin and name."""
    trail = trail_of(family)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        whole = called(candidate, family)
        cut = verbatim(whole) if shortened(whole, 70) != whole else ""
        title = f"**#{candidate.number}** {verbatim(shortened(whole, 70))}"
        st.markdown(title, width="stretch", help="\n\n".join(filter(None, [cut, verbatim(candidate.note)])) or None)
        for by, name, icon, keys, possible in (
            (-1, "Undo", "undo", "Ctrl+Z", trail.towards(-1, log) is not None),
            (1, "Redo", "redo", "Ctrl+Shift+Z", trail.towards(1, log) is not None),
        ):
            st.button(
                f":material/{icon}:",
                key=f"merge_{name.lower()}",
                help=name,
                type="tertiary",
                disabled=not possible,
                shortcut=keys,
                on_click=step,
                args=(log, family, by),
            )
        _pin(candidate, log, "merge_pin")
        _name(candidate, log, "merge_name")
    before = log.get(trail.before) if trail.before else None
    if before is not None and (told := differs(before, candidate, family)):
        st.caption(f"Since #{before.number}: {verbatim(told)}")


def _pin(candidate: Candidate, log: CandidateLog, key: str) -> None:
    def pin() -> None:
        saving(partial(log.change, candidate.number, pinned=not candidate.pinned))
        st.session_state[REOPENED] = True

    st.button(
        ":material/keep_off:" if candidate.pinned else ":material/keep:",
        key=key,
        type="tertiary",
        on_click=pin,
        help=f"{'Unpin' if candidate.pinned else 'Pin'}: answers and scores of a pinned one stay beside the others'",
    )


def _name(candidate: Candidate, log: CandidateLog, key: str) -> None:
    def keep() -> None:
        state = st.session_state
        named = {"name": state[f"{key}_text"].strip(), "note": state[f"{key}_note"].strip()}
        saving(partial(log.change, candidate.number, **named))
        state[REOPENED] = True

    with st.popover(":material/edit:", help="Name and note", type="tertiary", key=f"{key}_popover"):
        st.text_input("Name", candidate.name, key=f"{key}_text", max_chars=80, on_change=keep)
        st.text_area("Note", candidate.note, key=f"{key}_note", max_chars=2000, on_change=keep)


@st.fragment
def draw_log(recipe: Recipe, log: CandidateLog, family: Family) -> None:
    """Every candidate, the newest first, with what it changed and scored, and the way back to it."""
    rerun_if_reopened()
    known = log.all()
    if not known:
        return
    kept = "Every merge that was tried here, with what it changed and scored, and the way back to it"
    st.markdown(f"**Log** · {style.counted(len(known), 'candidate')}", help=kept)
    every = len(known) <= LISTED or st.toggle("Show all", key="merge_log_all")
    latest = {each.number for each in known[-LISTED:]}
    for each, before in reversed(list(zip(known, [None, *known], strict=False))):
        shown = each.recipe == recipe.yaml
        if every or shown or each.pinned or each.number in latest:
            _row(each, before, shown, log, family)


def _row(each: Candidate, before: Candidate | None, shown: bool, log: CandidateLog, family: Family) -> None:
    row = f"merge_log_{each.number}"
    with st.container(horizontal=True, wrap=False, vertical_alignment="center", gap="small", key=row):
        pin = ":material/keep: " if each.pinned else ""
        changed = shortened(differs(before, each, family), 90)
        told = [f"{pin}**#{each.number}** {verbatim(shortened(called(each, family), 60))}"]
        told += [f":small[{verbatim(line)}]" for line in (changed, scores_in_words(each.scores)) if line]
        st.markdown("  \n".join(told), width="stretch", help=verbatim(each.note) or None)
        if shown:
            st.badge("shown", color="blue")
        else:
            _quiet("Go back", f"merge_back_{each.number}", go_back, each.recipe, family)
            _quiet("Forget", f"merge_forget_{each.number}", saving, log.forget, each.number)


def _quiet(label: str, key: str, act: Callable[..., None], *arguments: Any) -> None:
    st.button(label, key=key, type="tertiary", on_click=act, args=arguments)


def scores_in_words(scores: Mapping[str, Any]) -> str:
    """A candidate's quick scores in one line."""
    return " · ".join(f"{name.partition(' · ')[0]} {score(known)}" for name, known in scores.items())


def score(known: Mapping[str, Any]) -> str:
    """A quick score with its interval and what it is in: 48.0 % (28.9 % to 67.8 %), 0.149 (0.135 to 0.165) loss."""
    of = metric(known["metric"])
    told = f"{of.write(known['value'])} ({of.write(known['low'])} to {of.write(known['high'])})"
    return told if of.share else f"{told} {of.title.partition(',')[0]}"


def draw_comparison(candidate: Candidate, log: CandidateLog, family: Family) -> None:
    """Two candidates beside each other: their parameters, scores and answers."""
    known = {each.number: each for each in log.all()}
    if len(known) < 2:
        st.info("There is one candidate so far. Move a control, and the next one can be compared with it.")
        return
    trail = trail_of(family)
    numbers = list(reversed(known))
    first = trail.before if trail.before in known else next(each for each in numbers if each != candidate.number)
    columns, now = st.columns(2), candidate.number  # another candidate is compared anew

    def title(number: int) -> str:
        return f"#{number} {shortened(called(known[number], family), 60)}"

    chosen = [
        column.selectbox(label, numbers, numbers.index(start), format_func=title, key=key)
        for column, label, start, key in zip(
            columns, ("From", "To"), (first, candidate.number), (f"merge_from_{now}", f"merge_to_{now}"), strict=True
        )
    ]
    one, other = (known[number] for number in chosen)
    _draw_changes(one, other, family)
    if both := [name for name in other.scores if name in one.scores]:
        rows = [(name, score(one.scores[name]), score(other.scores[name])) for name in both]
        st.markdown(_table(("Score", f"#{one.number}", f"#{other.number}"), rows))
    _draw_weights(one, other, family)
    for key in [key for key in other.answers if key in one.answers]:
        st.caption(verbatim(shortened(" ".join(prompt_of(key).split()), 120)))
        for column, own, beside in zip(st.columns(2), (one, other), (other, one), strict=True):
            with column.container(border=True):
                st.markdown(f"**#{own.number}**")
                st.html(marked(own.answers[key], beside.answers[key]))


def _draw_weights(one: Candidate, other: Candidate, family: Family) -> None:
    """How far each layer's weights went from the base in both, when that is asked for: each is made in turn."""
    pair = {f"#{each.number}": recipe for each in (one, other) if (recipe := read(each.recipe))}
    if not st.toggle("Weights of each layer", key="merge_compared_weights") or len(pair) < 2:
        return
    said = set[str]()
    with telling(said), st.spinner("Measuring both", show_time=True):
        found = [changes_of(each, family, names_of(each, family))[0].assign(model=name) for name, each in pair.items()]
        frame = pd.concat(found)[["model", "layer", "part", "norm"]]
        figure = by_layer(frame, "L2 norm of the change", style.merge_colours(list(pair)), from_zero=True, dark=dark())
        show(figure, "merge_compared_layers", frame, "weights-of-two-merges")


def _draw_changes(one: Candidate, other: Candidate, family: Family) -> None:
    old, new = read(one.recipe), read(other.recipe)
    found: Sequence[Any] = changes(old, new, family.labels) if old and new else []
    if not found:
        st.caption("Both have the same parameters.")
        return
    rows = [(each.what, each.before or "–", each.after or "–") for each in found]
    st.markdown(_table(("Setting", f"#{one.number}", f"#{other.number}"), rows))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, [":--"] * len(head), *([verbatim(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
