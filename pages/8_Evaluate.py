"""Evaluate: scores of the base, the fine-tunes and the merges on held-out tasks."""

import streamlit as st

from nmerge_core.checkpoints import labels, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.inputs import model_fingerprint
from nmerge_core.notebook import Step, literal
from nmerge_core.runs import client
from pages.shared.charts import dark
from pages.shared.family import full
from pages.shared.page import begin, command, how_computed, tell_lack
from pages.shared.results import asked_parameters, merges, model_colours
from pages.shared.scoreboard import Scoring, scoreboard
from pages.shared.settings import KEPT, newly_named_run
from pages.shared.tasks import code_switch, own_code_switch, task_name
from pages.shared.text import verbatim

NEW_TOKENS = 64
ABREAST = 3  # answers beside each other
FORMULA = (
    "Scored by lm-evaluation-harness, greedily decoded. **Exact match**: share of answers that equal the reference. "
    "**pass@1**: share of problems whose generated function passes its tests. **chrF**: overlap of character n-grams "
    "with the reference translation, 0–100. **Perplexity**: how surprised the model is by a word of real text; lower "
    r"is better. Intervals are $\pm 1.96$ standard errors."
)


@st.cache_data(max_entries=256, show_spinner=False)
def answer(reference: str, content: str, prompt: str) -> str:
    """How a model continues a prompt, asked of the worker; `content` is its fingerprint."""
    return client.ask("generate", model=reference, prompt=prompt, max_new_tokens=NEW_TOKENS)


def draw_answers(models: dict[str, str], prompt: str) -> None:
    """How each model continues a prompt, its most likely token at a time."""
    columns = st.columns(min(ABREAST, len(models)))
    for index, (name, reference) in enumerate(models.items()):
        with columns[index % len(columns)].container(border=True):
            st.markdown(f"**{verbatim(name)}**")
            try:
                with st.spinner("Asking the model", show_time=True):
                    st.text(answer(reference, model_fingerprint(open_checkpoint(reference)), prompt))
            except (InputError, TimeoutError, RuntimeError) as error:
                st.warning(verbatim(error))


@st.fragment  # so that a prompt draws this part of the page again, and not its figure
def draw_end(models: dict[str, str], scoring: Scoring) -> None:
    """A prompt and the models' answers, and how the page is computed."""
    st.subheader("Ask them yourself", anchor=False)
    prompt = st.text_area(
        "Prompt",
        key="evaluate_prompt",
        label_visibility="collapsed",
        placeholder="Type the beginning of a text; every chosen model continues it",
        **KEPT,
    )
    if prompt.strip():
        draw_answers(models, prompt)
    steps = [Step(f"models = {literal(models)}")]
    if scoring.allowed.tasks:
        steps = [
            Step(f"models = {literal(models)}\nscores = {scoring.call('models')}\nscores.figure().show()"),
            Step("scores.table", "## Numbers\n\n± and whiskers: 95 % confidence interval over the problems."),
        ]
    if prompt.strip():
        asked = f"answers = nm.generate(models, {literal(prompt)})\n"
        shown = r'print(*map(": ".join, answers.items()), sep="\n\n")'
        steps.append(Step(asked + shown, "## Ask them yourself"))
    scored = command("evaluate", *models.values(), *scoring.arguments(), "--out", "scores.csv")
    how_computed(FORMULA, scored if scoring.allowed.tasks else "# Without a task there is nothing to score.", steps)


family = begin(
    "Evaluate",
    "Which model is best at what?",
    "Every model answers the same held-out problems. A good merge keeps every fine-tune's gain in one model.",
)
merged = merges(family)
asked = asked_parameters("evaluate")
known = {member.label: member.reference for member in family.members} | {m.name: m.reference for m in merged}
names_of = {full(reference): name for name, reference in known.items()}
for reference in asked.get("models", ()):  # one that is not the family's is called by its folder
    known.setdefault(names_of.setdefault(reference, labels([reference])[0]), reference)
if newly_named_run("evaluate"):
    st.session_state["evaluate_models"] = [names_of[reference] for reference in asked["models"]]
    st.session_state["evaluate_tasks"] = list(asked["tasks"])
    st.session_state["evaluate_limit"], st.session_state["evaluate_code"] = asked.get("limit"), asked.get("run_code")
short = style.short_names(known)
left, right = st.columns(2, gap="large")
with left:
    names = st.multiselect(
        "Models",
        list(known),
        default=[*(member.label for member in family.members), *(m.name for m in merged[:1])],
        format_func=lambda name: short.get(name, name),
        key="evaluate_models",
        help="The family, and every checkpoint merged from it",
        **KEPT,
    )
with right:
    tasks = st.multiselect(
        "Tasks",
        list(dict.fromkeys([*family.tasks, *asked.get("tasks", ())])),
        default=asked.get("tasks", family.tasks),
        accept_new_options=True,
        format_func=task_name,
        key="evaluate_tasks",
        **KEPT,
        help="Tasks of the family; or type an lm-evaluation-harness task, or the path of a task's YAML",
    )
    limit = st.number_input(
        "Problems per task",
        10,
        None,
        asked.get("limit"),
        step=10,
        key="evaluate_limit",
        placeholder="all",
        **KEPT,
        help="The first so many of each task; empty for all. Fewer are faster and less certain",
    )
with left:
    run_code = code_switch(tasks, "evaluate_code", asked.get("run_code", False))
    allow_task_code = own_code_switch(tasks, "evaluate_own_code", asked.get("allow_task_code", False))
scoring = Scoring(tasks, limit, run_code, allow_task_code)
models = {name: known[name] for name in names}
if not names:
    st.info("Choose at least one model.")
elif tasks:
    scoreboard(models, scoring, model_colours(family, merged, dark=dark()), "evaluate_run")
elif family.tasks:
    st.info("Choose at least one task to score the models.")
else:
    tell_lack(family, "tasks", "Type one above, or name those that its models are always scored on.")
if names:
    draw_end(models, scoring)
