"""Evaluate: scores of the base, the fine-tunes and the merges on held-out tasks."""

import streamlit as st

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.runs import client
from pages.shared.charts import dark
from pages.shared.page import begin, how_computed, tell_lack
from pages.shared.results import asked_parameters, merges, model_colours
from pages.shared.scoreboard import Scoring, scoreboard
from pages.shared.tasks import code_switch, task_name

NEW_TOKENS = 64
ABREAST = 3  # answers beside each other


@st.cache_data(max_entries=256, show_spinner=False)
def answer(reference: str, content: str, prompt: str) -> str:
    """How a model continues a prompt, asked of the worker; `content` is the fingerprint of its weights."""
    return client.ask("generate", model=reference, prompt=prompt, max_new_tokens=NEW_TOKENS)


@st.fragment
def draw_prompt(models: dict[str, str]) -> None:
    """A prompt, and how each model continues it, its most likely token at a time."""
    prompt = st.text_area(
        "Prompt",
        key="evaluate_prompt",
        label_visibility="collapsed",
        placeholder="Type the beginning of a text; every chosen model continues it",
    )
    if not prompt.strip():
        return
    columns = st.columns(min(ABREAST, len(models)))
    for index, (name, reference) in enumerate(models.items()):
        with columns[index % len(columns)].container(border=True):
            st.markdown(f"**{name}**")
            try:
                with st.spinner("Asking the model", show_time=True):
                    st.text(answer(reference, fingerprint(open_checkpoint(reference)), prompt))
            except (InputError, TimeoutError, RuntimeError) as error:
                st.warning(str(error))


family = begin(
    "Evaluate",
    "Which model is best at what?",
    "Every model answers the same held-out problems. A good merge keeps every fine-tune's gain in one model.",
)
merged = merges(family)
asked = asked_parameters("evaluate")
known = {member.label: member.reference for member in family.members} | {m.name: m.reference for m in merged}
left, right = st.columns(2, gap="large")
with left:
    names = st.multiselect(
        "Models",
        list(known),
        default=[*(member.label for member in family.members), *(m.name for m in merged[:1])],
        key="evaluate_models",
        help="The family, and every checkpoint merged from it",
    )
with right:
    tasks = st.multiselect(
        "Tasks",
        list(dict.fromkeys([*family.tasks, *asked.get("tasks", ())])),
        default=asked.get("tasks", family.tasks),
        accept_new_options=True,
        format_func=task_name,
        key="evaluate_tasks",
        help="Tasks of the family; or type an lm-evaluation-harness task, or the path of a task's YAML",
    )
    limit = st.number_input(
        "Problems per task",
        10,
        None,
        asked.get("limit"),
        step=10,
        key="evaluate_limit",
        bind="query-params",
        placeholder="all",
        help="The first so many of each task; empty for all. Fewer are faster and less certain",
    )
with left:
    run_code = code_switch(tasks, "evaluate_code", asked.get("run_code", False))
if names and tasks:
    models = {name: known[name] for name in names}
    scoreboard(models, Scoring(tasks, limit, run_code), model_colours(family, merged, dark=dark()), "evaluate_run")
    st.subheader("Ask them yourself", anchor=False)
    draw_prompt(models)
elif family.tasks:
    st.info("Choose at least one model and one task.")
else:
    tell_lack(family, "tasks", "Type one above, or name those that its models are always scored on.")

references = [known[name] for name in names]
how_computed(
    "Scored by lm-evaluation-harness, greedily decoded. **Exact match**: share of answers that equal the reference. "
    "**pass@1**: share of problems whose generated function passes its tests. **chrF**: overlap of character n-grams "
    "with the reference translation, 0–100. **Perplexity**: how surprised the model is by a word of real text; lower "
    r"is better. Intervals are $\pm 1.96$ standard errors.",
    f"python -m nmerge_core evaluate {' '.join(references)} --tasks {','.join(tasks)}"
    f"{f' --limit {limit}' if limit else ''}{' --run-code' if run_code else ''} --out scores.csv",
    "from nmerge_core.evaluation import evaluate\n\n"
    f"scores = evaluate(\n    {references!r},\n    {tasks!r},\n    limit={limit!r},\n    run_code={run_code!r},\n)",
)
