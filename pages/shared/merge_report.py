"""What a finished merge did: where its checkpoint is, what it took and found, and how good it is."""

import json
from pathlib import Path

import pandas as pd
import streamlit as st

from nmerge_core.checkpoints import labels
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.merge import coefficients
from pages.shared.charts import dark, show
from pages.shared.family import member_colours
from pages.shared.page import tell_lack
from pages.shared.results import Merged, model_colours, zipped
from pages.shared.scoreboard import Scoring, scoreboard
from pages.shared.tasks import code_switch

DOWNLOAD_LIMIT = 64e6  # bytes of a checkpoint that is offered as a zip


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
        st.markdown("A complete checkpoint, for `AutoModelForCausalLM.from_pretrained`:")
        st.code(str(folder), language=None, wrap_lines=True)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size <= DOWNLOAD_LIMIT:
            st.download_button(
                f"Download ({style.size(size)})",
                lambda: zipped(folder),
                f"{merge.run.id}.zip",
                "application/zip",
                key="merge_download",
                icon=":material/download:",
                on_click="ignore",
            )
    with right:
        with st.container(horizontal=True, gap="medium"):
            metric("Took", style.duration(sum(report["seconds"].values())), "Preparing and merging")
            metric("Memory", style.size(report["peak_memory"]), "The worker process at its peak")
            metric("Written", style.size(report["bytes_written"]), "The weights")
        if "lambda_2" in facts:
            st.caption(f"λ2 = **{style.significant(facts['lambda_2'])}**")
    references = [model["model"] for model in report["models"]]
    names = {own: family.labels.get(ref, own) for own, ref in zip(labels(references), references, strict=True)}
    if scales := facts.get("scales"):
        took = " · ".join(f"{names[own]} **{style.significant(scale)}**" for own, scale in scales.items())
        st.caption(f"How much it took of each fine-tune: {took}")
    for warning in facts.get("warnings", []):
        st.warning(warning)
    if solved := facts.get("coefficients"):
        st.subheader("How much of each fine-tune it took", anchor=False)
        frame = pd.DataFrame(solved).replace({"model": names})
        colours = member_colours(family, dark())
        show(coefficients(frame, colours, dark=dark()), "merge_coefficients", frame, "coefficients")
    st.subheader("How good it is", anchor=False)
    draw_scores(merge, family)


def draw_scores(merge: Merged, family: Family) -> None:
    """Scores of the base, the fine-tunes and the merge."""
    if not family.tasks:
        tell_lack(family, "tasks", "Scores of the base, the fine-tunes and the merge need at least one.")
        return
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    limit = left.number_input(
        "Problems per task",
        10,
        None,
        None,
        step=10,
        key="merge_score_limit",
        placeholder="all",
        help="The first so many of each",
    )
    with right:
        run_code = code_switch(family.tasks, "merge_code")
    models = {member.label: member.reference for member in family.members} | {merge.name: merge.reference}
    colours = model_colours(family, [merge], dark=dark())
    scoreboard(models, Scoring(family.tasks, limit, run_code), colours, "merge_evaluate")
