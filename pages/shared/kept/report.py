"""What a finished merge did: where its checkpoint is, what it took and found, and how good it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.checkpoints import labels, open_checkpoint
from nmerge_core.checkpoints.uses import classes_in, loader_of
from nmerge_core.family import Family, Member
from nmerge_core.figures import style
from nmerge_core.figures.merge import by_layer, history
from pages.shared.charts.charts import dark, show
from pages.shared.evaluate.scoreboard import draw_bars, draw_table, scoreboard
from pages.shared.frame.family import member_colours
from pages.shared.frame.page import NAVIGATION, link, tell_lack
from pages.shared.frame.results import BESIDE, Merged, model_colours
from pages.shared.frame.runs import run_button, run_panel
from pages.shared.frame.scoring import Scoring
from pages.shared.frame.tasks import code_switch, own_code_switch
from pages.shared.frame.text import shortened, verbatim
from pages.shared.kept.carrying import draw_carrying
from pages.shared.neurons.chosen import classify_parameters


def metric(name: str, value: str, explanation: str) -> None:
    """A figure with its name, as wide as it is."""
    st.metric(name, value, help=explanation, width="content")


def draw_report(merge: Merged, family: Family) -> None:
    """Where the merged checkpoint is, what the merge took and found, and its scores beside those of its parts."""
    folder = Path(merge.reference)
    report = json.loads((folder / "nmerge_report.json").read_text())
    facts = report["facts"]
    left, right = st.columns([3, 2], gap="large")
    with left:
        loader = loader_of(classes_in(open_checkpoint(merge.reference).config))
        st.markdown(f"A complete checkpoint, for `{loader}.from_pretrained`:")
        st.code(str(folder), language=None, wrap_lines=True)
        draw_carrying(merge, family)
    with right:
        with st.container(horizontal=True, gap="medium"):
            metric("Took", style.duration(sum(report["seconds"].values())), "Preparing and merging")
            beside = "At its peak, with all that it held beside this merge: PyTorch, and merges in memory"
            metric("Process memory", style.size(report["peak_memory"]), beside)
            metric("Written", style.size(report["bytes_written"]), "The weights")
    if stages := facts.get("stages"):  # those of earlier merges were all written
        st.text("\n".join(f"Stage {name}: {each.get('weights', 'written once')}" for name, each in stages.items()))
    references = [model["model"] for model in report["models"]]
    names = {own: family.labels.get(ref, own) for own, ref in zip(labels(references), references, strict=True)}
    for warning in facts.get("warnings", []):
        st.warning(verbatim(warning))
    for result in report.get("results", []):
        draw_result(result, facts[result["name"]], names, family)
    draw_neurons(merge, family)
    st.subheader("How good it is", anchor=False)
    draw_scores(merge, family)


def draw_neurons(merge: Merged, family: Family) -> None:
    """What became of the neurons in a merge: classify it, then it stands beside the base and the fine-tunes."""
    st.subheader("What became of its neurons", anchor=False)
    if not family.corpus:
        tell_lack(family, "corpus", "A neuron gets its category from the texts of one that excite it most.")
        return
    member = Member(merge.reference, merge.name, merged=True)
    run = run_button(
        "classify",
        classify_parameters(family, member),
        "Classify this merge",
        "merge_classify",
        f"Classify {merge.name}",
    )
    name = shortened(merge.name)
    if run is not None and run_panel(run):
        with st.container(horizontal=True, gap="medium"):
            for path, label, icon in NAVIGATION["Understand"][1:]:
                link(path, label, icon, family, **{BESIDE: name})
            st.caption("with the merge beside the base and the fine-tunes")
    [(path, _, icon), *_] = NAVIGATION["Test"]
    link(path, "Knock out its neurons, beside the base's", icon, family, knockout_models=["base", name])


def draw_result(result: Mapping[str, str], found: Any, names: Mapping[str, str], family: Family) -> None:
    """Draw something that the method found out, in the form that it declares (`prepared.Result`)."""
    name, title, form = result["name"], result["title"], result["form"]
    if form == "number":
        st.caption(f"{title} = **{number(found)}**", help=result["help"] or None)
    elif form == "models":
        short = style.short_names(names.get(own, own) for own in found)
        each = " · ".join(
            f"{verbatim(name)} **{number(value)}**" for name, value in zip(short.values(), found.values(), strict=True)
        )
        st.caption(f"{title}: {each}", help=result["help"] or None)
    elif form == "history":
        st.subheader(title, anchor=False)
        show(history(found, title, dark=dark()), f"merge_{name}", pd.DataFrame({name: found}), name)
    elif form == "layers" and found:
        st.subheader(title, anchor=False)
        frame = pd.DataFrame(found).replace({"model": dict(names)})
        show(by_layer(frame, title, member_colours(family, dark()), dark=dark()), f"merge_{name}", frame, name)
    elif form == "table":
        with st.expander(title, icon=":material/table:"):
            st.dataframe(pd.DataFrame(found), hide_index=True, key=f"merge_{name}_table")


def number(value: float | None) -> str:
    """A number of a report, which has null for one that is not finite."""
    return "not finite" if value is None else style.significant(value)


def draw_scores(merge: Merged, family: Family) -> None:
    """Scores of the base, the fine-tunes and the merge."""
    if not family.tasks:
        tell_lack(family, "tasks", "Scores of the base, the fine-tunes and the merge need at least one.")
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    left.number_input(
        "Problems per task",
        1,
        None,
        None,
        step=10,
        key="merge_score_limit",
        placeholder="all",
        help="The first so many of each",
    )
    with right:
        code_switch(family.tasks, "merge_code")
        own_code_switch(family.tasks, "merge_own_code")
    models = {member.label: member.reference for member in family.members} | {merge.name: merge.reference}
    board = scoreboard(models, scoring(family), "merge_evaluate")
    if board is not None:
        draw_bars(board, model_colours(family, [merge], dark=dark()), "merge_evaluate")
        draw_table(board, "merge_evaluate")


def scoring(family: Family) -> Scoring:
    """What a report's models are scored on, as its controls stand."""
    state = st.session_state
    allowed = state.get("merge_code", False), state.get("merge_own_code", False)
    return Scoring(family.tasks, state.get("merge_score_limit"), *allowed)
