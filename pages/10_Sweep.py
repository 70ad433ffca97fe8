"""Sweep: which settings of a merge are best? Trials are merged in memory and scored, and can be watched."""

import streamlit as st

from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.figures.sweep import title_of
from nmerge_core.files.yaml_file import yaml_text
from nmerge_core.notebook import Step, literal
from nmerge_core.search.plan import Sweep
from nmerge_core.search.reading import load_sweep
from pages.shared.frame.estimates import told_scoring, told_time
from pages.shared.frame.page import begin, command, how_computed, lack, link, writes
from pages.shared.frame.runs import draw_earlier, run_button, run_panel
from pages.shared.frame.settings import named_run
from pages.shared.frame.text import verbatim
from pages.shared.sweep.form import sweep_settings
from pages.shared.sweep.trials import draw_found

FORMULA = (
    "Each trial is merged in memory, with the bits that the merge writes, and scored by lm-evaluation-harness. The "
    "**objective** is the mean of the tasks' primary metrics, negative where less is better. **Grid** tries every "
    "combination; **TPE** and **CMA-ES** (Optuna's) go where trials were good; **NSGA-II** looks for the front of two "
    "objectives, and ends no trial early. **Importance** is the share of the objective's differences that a parameter "
    "makes (fANOVA; Hutter et al., ICML 2014). The best of many trials is a little lucky: score what you keep on "
    "problems that the sweep has not seen."
)

SWITCHES = ("run_code", "allow_task_code")


def told(plan: Sweep, base: str) -> str:
    """How many trials there are, and how long they take."""
    if not plan.trials:
        return "As many trials as there is time for."
    count, asked = style.counted(plan.trials, "trial"), {"models": [base], "limit": plan.limit}
    if plan.loss:
        return f"{count}{told_time('loss', [asked | {'corpus': plan.loss}], plan.trials)}."
    return f"{count}. {told_scoring([asked | {'tasks': plan.tasks}], plan.trials)}"


family = begin(
    "Sweep",
    "Which settings are best?",
    "A sweep merges by many settings, one after the other in memory, scores each merge on the same problems, and shows "
    "which settings matter. Stop it when you like, and go on later.",
)
if not family.tasks and not (family.corpus and writes(family)):
    with lack("This family names neither tasks nor texts that its models could write: nothing scores a merge."):
        link("pages/1_Models.py", "Change the family", "arrow_forward", family)
    st.stop()
controls, view = st.columns([2, 3], gap="large")
named = named_run("sweep")
try:
    with controls, st.spinner("Loading the merge methods", show_time=True):
        if named is None:
            content, run_code, own_code = sweep_settings(family)
        else:
            content, run_code, own_code = (named.parameters.get(name, False) for name in ("sweep", *SWITCHES))
            st.code(yaml_text(content), language="yaml", height=500, wrap_lines=True)
            link("pages/10_Sweep.py", "Another sweep", "arrow_forward", family)
    plan = load_sweep(content)
except InputError as error:
    view.error(verbatim(error))
    st.stop()
allowed = dict(zip(SWITCHES, (run_code, own_code), strict=True))
with view:
    run = named
    if named is None:
        beforehand = st.empty()
        title = f"Sweep of {', '.join(title_of(axis.key) for axis in plan.axes)}, {content['recipe']['merge_method']}"
        given = {"sweep": plan.content, **allowed}
        run = run_button("sweep", given, "Start the sweep", "sweep_run", title)
        if run is None or run.status().state != "done":
            beforehand.caption(told(plan, family.base))
    if run is not None:
        run_panel(run)
        st.fragment(draw_found, run_every=2 if run.status().active else None)(run, plan, family)
    if named is None:
        draw_earlier("Earlier sweeps", ["sweep"], [run] if run else [], family)
written = yaml_text(content)
on = [name for name, switched in allowed.items() if switched]
sweeping = command("sweep", "sweep.yaml", "swept", *(f"--{name.replace('_', '-')}" for name in on))
how_computed(
    FORMULA,
    f"cat > sweep.yaml <<'YAML'\n{written}YAML\n{sweeping}",
    [
        Step(f"found = nm.sweep({', '.join([literal(content), *(f'{name}=True' for name in on)])})\nfound.trials"),
        Step("print(found.best.read_text())", "## The best recipe"),
    ],
)
