"""Evaluate: scores of the base, the fine-tunes and the merges on held-out tasks or texts, and where they differ."""

import streamlit as st

from nmerge_core.checkpoints import labels
from nmerge_core.comparison.score_tables import primary
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.figures.leaderboard import own_fine_tunes
from nmerge_core.notebook import Step, literal
from pages.shared.charts.charts import dark
from pages.shared.evaluate.comparisons import draw_differences
from pages.shared.evaluate.conditions import conditions, opened
from pages.shared.evaluate.continuing import draw_continued
from pages.shared.evaluate.elsewhere import draw_elsewhere
from pages.shared.evaluate.leaderboard import draw_charts, draw_leaderboard, in_order, numbers_of
from pages.shared.evaluate.samples import draw_samples
from pages.shared.evaluate.scoreboard import draw_bars, scoreboard
from pages.shared.evaluate.view import draw_view
from pages.shared.frame.address import forget_endless
from pages.shared.frame.family import full
from pages.shared.frame.page import begin, command, how_computed, tell_lack, writes
from pages.shared.frame.results import asked_parameters, merges, model_colours
from pages.shared.frame.scoring import Scoring, Texts
from pages.shared.frame.settings import KEPT, named_run, newly_named_run
from pages.shared.frame.tasks import code_switch, own_code_switch, task_name
from pages.shared.frame.text import verbatim
from pages.shared.kept.facts import BASE, FINE_TUNE, kinds_of, parameters_of

state = st.session_state
TASKS, TEXTS = "Tasks", "Held-out texts"
FORMULA = (
    "Scored by lm-evaluation-harness. Models are decoded *alike*: greedily, unless the task draws, without penalties "
    "that a checkpoint asks for, ending at its end tokens; or each by its *own* generation settings. "
    "**Exact match**: share of answers that equal the reference. "
    "**pass@1**: share of problems whose generated function passes its tests. **chrF**: overlap of character n-grams "
    "with the reference translation, 0–100. **Perplexity**: how surprised the model is by a word of real text; lower "
    r"is better. **Loss**: the mean of $-\ln p$ over a text's tokens, then over the texts of a category."
    "\n\n"
    "95 % intervals are Wilson's where each problem is right or wrong, a bootstrap's (10,000 draws) of other means, "
    r"and $\pm 1.96$ jackknife standard errors of metrics of all problems together. Two models are compared problem by "
    "problem: by exact McNemar where each is right or wrong, else by a paired bootstrap; p is adjusted by Holm."
)


def draw_scored(models: dict[str, str], scoring: Scoring | Texts) -> None:
    """What the models score: figure, leaderboard, trade-offs, differences, and the problems behind them."""
    try:
        board = scoreboard(models, scoring, "evaluate_run")
    except InputError as error:  # the corpus is none, or what was scored is damaged
        st.warning(verbatim(error))
        return
    tasks = [task_name(each) for each in scoring.tasks] if isinstance(scoring, Scoring) else []
    if board is None:
        draw_elsewhere(models, family, tasks)
        return
    kinds = kinds_of({name: models[name] for name in board.names}, family, [merge.name for merge in merged])
    view = draw_view(board, kinds)
    if not (names := view.names(kinds)):
        st.info("No model is so called or of that kind.")
        return
    tuned = {m.label: m.category or m.label for m in family.models if kinds.get(m.label) == FINE_TUNE}
    own = own_fine_tunes(board.scores, tuned)
    found, gained = numbers_of(board, BASE if BASE in board.names else "", own, view)
    colours = model_colours(family, merged, dark=dark())
    bars, leaderboard = st.container(), st.container()  # the bars as the board below them is sorted
    with leaderboard:
        shown = board.only(in_order(found, names, view.pinned), view.tasks)
        found = found.loc[shown.names]
        draw_leaderboard(shown, found, parameters_of({n: models[n] for n in shown.names}, family), gained, "evaluate")
    with bars:
        draw_bars(shown, colours, "evaluate_run")
    if tasks:
        draw_elsewhere({name: models[name] for name in shown.names}, family, (), shown, view.words)
    draw_charts(found, len(primary(shown.scores)["task"].unique()), colours)
    draw_differences(board, shown)
    draw_samples(shown, own, {name for name, kind in kinds.items() if kind not in (BASE, FINE_TUNE)})


@st.fragment  # so that a prompt draws this part of the page again, and not its figure
def draw_end(models: dict[str, str], scoring: Scoring | Texts) -> None:
    """A prompt and the models' answers, and how the page is computed."""
    prompt = draw_continued(models, family)
    steps = [Step(f"models = {literal(models)}")]
    if scoring.allowed.wanted:
        steps = [
            Step(f"models = {literal(models)}\nscores = {scoring.call('models')}\nscores.figure().show()"),
            *([Step("scores.leaderboard", "## Leaderboard")] if isinstance(scoring, Scoring) else []),
            Step("scores.table", "## Numbers\n\nIn brackets and as whiskers: 95 % intervals over the problems."),
        ]
        if len(models) > 1:
            baseline = state.get("evaluate_baseline")
            sides = [st.query_params.get(f"evaluate_{name}") for name in ("task", "model", "against")]
            against = literal(baseline if baseline in models else next(iter(models)))
            steps.append(Step(f"scores.compare({against})", "## Differences\n\nPaired tests, adjusted by Holm."))
            if isinstance(scoring, Scoring) and {*sides[1:]} <= {*models}:
                shown = ", ".join(map(literal, sides))
                steps.append(Step(f"scores.sides({shown})", "## Lost and gained\n\nProblem by problem."))
    if prompt:
        asked = f"answers = nm.generate(models, {literal(prompt)})\n"
        shown = r'print(*map(": ".join, answers.items()), sep="\n\n")'
        steps.append(Step(asked + shown, "## Ask them yourself"))
    scored = command("evaluate", *models.values(), *scoring.arguments(), "--out", "scores.csv")
    how_computed(FORMULA, scored if scoring.allowed.wanted else "# Without a task there is nothing to score.", steps)


family = begin(
    "Evaluate",
    "Which model is best at what?",
    "Every model answers the same held-out problems. A good merge keeps every fine-tune's gain in one model.",
)
merged = merges(family)
loss_run = named_run(Texts.kind)
asked = asked_parameters(Texts.kind if loss_run else Scoring.kind)
known = {member.label: member.reference for member in family.members} | {m.name: m.reference for m in merged}
names_of = {full(reference): name for name, reference in known.items()}
for reference in asked.get("models", ()):  # one that is not the family's is called by its folder
    known.setdefault(names_of.setdefault(reference, labels([reference])[0]), reference)
if newly_named_run(Scoring.kind):
    state["evaluate_models"] = [names_of[reference] for reference in asked["models"]]
    state["evaluate_tasks"], state["evaluate_on"] = list(asked["tasks"]), TASKS
    state["evaluate_limit"], state["evaluate_code"] = asked.get("limit"), asked.get("run_code")
    state.update(opened(asked))
elif newly_named_run(Texts.kind):
    state["evaluate_models"] = [names_of[reference] for reference in asked["models"]]
    state["evaluate_corpus"], state["evaluate_on"] = asked["corpus"], TEXTS
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
scoring: Scoring | Texts
with right:
    on = st.segmented_control(
        "Scored on",
        [TASKS, TEXTS],
        default=TEXTS if loss_run or (family.corpus and not family.tasks and writes(family)) else TASKS,
        required=True,
        key="evaluate_on",
        help="Without tasks, models are judged by their loss on texts of each category that are held out of a corpus",
        **KEPT,
    )
    if on == TASKS:
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
        forget_endless("evaluate_limit")
        limit = st.number_input(
            "Problems per task",
            1,
            None,
            asked.get("limit"),
            step=10,
            key="evaluate_limit",
            placeholder="all",
            **KEPT,
            help="The first so many of each task; empty for all. Fewer are faster and less certain",
        )
    else:
        corpus = st.text_input(
            "Corpus",
            asked.get("corpus") or family.corpus or "",
            key="evaluate_corpus",
            placeholder="a folder with one JSONL file per category",
            help="Of CORPUS[:-60] the last 60 texts of each category are held out; of a whole corpus a fifth is taken",
            **KEPT,
        ).strip()
with left:
    given = conditions(asked, Scoring.kind if on == TASKS else Texts.kind)
    if on == TASKS:
        run_code = code_switch(tasks, "evaluate_code", asked.get("run_code", False))
        allow_task_code = own_code_switch(tasks, "evaluate_own_code", asked.get("allow_task_code", False))
        scoring = Scoring(tasks, limit, run_code, allow_task_code, given)
    else:
        scoring = Texts(corpus, given)
models = {name: known[name] for name in names}
if not names:
    st.info("Choose at least one model.")
elif scoring.wanted:
    draw_scored(models, scoring)
elif on == TEXTS:
    tell_lack(family, "corpus", "Name one above: a folder with a JSONL file of texts for each category.")
elif family.tasks:
    st.info("Choose at least one task to score the models.")
else:
    tell_lack(family, "tasks", "Type one above, choose *Held-out texts*, or name tasks that its models are scored on.")
if names:
    draw_end(models, scoring)
