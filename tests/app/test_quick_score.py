"""Quick scores on a page: what is asked next, how the merge stands, and what is told of it."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.comparison.paired import compare, mean_interval
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.short_questions import QUESTIONS
from pages.shared.frame.family import content_of
from pages.shared.tuning.asking import inputs_of
from pages.shared.tuning.quick_asking import Memory, Sight
from pages.shared.tuning.quick_board import (
    BEST,
    MERGE,
    Row,
    Scored,
    finished,
    next_to_score,
    points_of,
    standings,
    table,
)
from tests.evaluation.test_tasks import CODE, DOCS, SUMS, write_task
from tests.tiny_family import make_family

RIGHT = Row("math", "exact_match", True, 8, "a task")
LOSS = Row("math", "loss", False, 4, "a corpus")


def scored(*values: float, tokens: tuple[int, ...] = (), run_dtype: str = "float32") -> Scored:
    return Scored(values, tokens, run_dtype)


def test_the_merge_comes_first_and_all_rows_advance_together() -> None:
    board: dict[str, dict[str, Scored]] = {}
    order = []
    while (wanted := next_to_score([RIGHT, LOSS], [MERGE, "base"], board, {("base", LOSS.title)})) is not None:
        model, row, start = wanted
        order.append((model, row.metric, start))
        more = {"values": [0.0] * min(3, row.count - start), "tokens": [], "clusters": [], "run_dtype": "float32"}
        own = board.setdefault(model, {})
        own[row.title] = own.get(row.title, Scored()).plus(more)
    rights = [("exact_match", 0), ("loss", 0), ("exact_match", 3), ("loss", 3), ("exact_match", 6)]
    assert order == [(MERGE, *each) for each in rights] + [("base", "exact_match", start) for start in (0, 3, 6)]


def test_a_merge_stands_against_the_best_on_the_problems_it_was_scored_on() -> None:
    """After 6 problems of 8: math has 6 of 6 and ends with 6 of 8, code 0 of 6; the merge has none of 6."""
    board = {
        MERGE: {RIGHT.title: scored(*[0] * 6), LOSS.title: scored(1.0, 1.1, 1.2, 1.3)},
        "math": {RIGHT.title: scored(*[1] * 6, 0, 0), LOSS.title: scored(2.0, 2.2, 2.1, 2.4)},
        "code": {RIGHT.title: scored(*[0] * 6, 1, 1), LOSS.title: scored(3.0, 3.0, 3.0, 3.0)},
        "late": {RIGHT.title: scored(1), LOSS.title: scored(0.1)},
    }
    parents = ["math", "code", "late"]
    right, loss = standings([RIGHT, LOSS], parents, board)
    assert (right.against, right.comparison.problems, right.comparison.difference) == ("math", 6, -1)
    assert right.comparison.p == 2 / 64 and right.comparison.adjusted == 4 / 64 and not right.comparison.distinguishable
    assert loss.against == "math" and loss.better and not right.better
    assert standings([RIGHT], parents, board, "code")[0].comparison == compare([0] * 6, [0] * 6)
    assert standings([RIGHT], parents, board, "late")[0].comparison is None
    told = table([right, loss], parents).set_index("")
    assert (
        told.loc["math · exact match", MERGE] == "0.0 % (6 of 8)" and told.loc["math · exact match", "math"] == "75.0 %"
    )
    assert list(told.loc["math · exact match"])[1:5] == [
        "too few problems so far",
        "math",
        "-100.0 points",
        "-100.0 to -44.8",
    ]
    assert told.loc["math · exact match", "Could show"] == "–"
    alone = table(standings([RIGHT], parents, board), parents)  # of one row, six of six are enough
    assert alone["Verdict"].tolist() == ["worse so far"]  # of the merge 6 of 8
    assert list(told.loc["math · loss, nats per token"])[2:4] == ["math", "-1.02"]
    assert list(finished([right, loss])) == [LOSS.title]
    assert finished([right, loss])[LOSS.title]["value"] == pytest.approx(1.15)
    drawn = points_of([right, loss]).set_index(["metric", "model"])
    assert drawn.loc[("exact_match", "late"), ["value", "problems"]].tolist() == [1, 1] and len(drawn) == 8


def test_what_may_yet_be_otherwise_is_told_so_far() -> None:
    """Of two models the merge beats the one that is scored; the other may be the best yet, unless it has failed."""
    row = Row("math", "loss", False, 6, "a corpus")
    board = {name: {row.title: scored(*(loss,) * count)} for name, loss, count in ((MERGE, 1.0, 6), ("math", 2.0, 6))}

    def verdict(against: str, failed: list[tuple[str, str]], **late: Scored) -> str:
        known = {**board, **{name: {row.title: own} for name, own in late.items()}}
        return str(table(standings([row], ["math", "late"], known, against, failed), []).loc[0, "Verdict"])

    assert verdict(BEST, []) == "better so far"
    assert verdict("math", []) == verdict(BEST, [("late", row.title)]) == "better"
    assert verdict(BEST, [], late=scored(*(0.5,) * 6)) == "worse"


def test_problems_of_one_document_count_as_one() -> None:
    """Eight problems of two documents, four each, of which the merge loses all: by twos, that is chance."""
    documents = ("a", "b") * 4
    ours, theirs = (Scored((float(value),) * 8, (), "float32", documents) for value in (0, 1))
    board = {MERGE: {RIGHT.title: ours}, "math": {RIGHT.title: theirs}}
    [found] = standings([RIGHT], ["math"], board)
    assert found.comparison == compare([0] * 8, [1] * 8, clusters=documents)
    assert found.comparison.p == 0.5 and compare([0] * 8, [1] * 8).p < 0.01
    part = ours.first(3).plus({"values": [1.0], "tokens": [], "clusters": ["c"], "run_dtype": "float32"})
    assert part.clusters == ("a", "b", "a", "c") and len(part.values) == 4
    done = finished([found])[RIGHT.title]
    ends = mean_interval([0.0] * 8, clusters=documents)
    assert (done["low"], done["high"]) == (ends.low, ends.high)


def test_what_does_not_compare_says_why() -> None:
    own = {LOSS.title: scored(1, 2, tokens=(5, 6))}
    for other, reason in (
        (scored(1, 2, tokens=(5, 7)), "other tokens"),
        (scored(1, 2, tokens=(5, 6), run_dtype="bfloat16"), "ran in float32, base in bfloat16"),
    ):
        [found] = standings([LOSS], ["base"], {MERGE: own, "base": {LOSS.title: other}})
        assert found.comparison is None and found.reason == reason
        assert reason in table([found], ["base"]).loc[0].tolist()


def ask(question: str, *, timeout: float, **arguments: Any) -> Any:
    return QUESTIONS[question](**arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_visit_asks_until_all_is_scored_and_never_twice(made: Any, cache: Path) -> None:
    recipe = load_recipe(made.recipe)
    models = {"base": made.base, "math": made.math}
    keys = {"base": 1, "math": 2, MERGE: 3}
    sight = Sight(recipe.content, models, keys, 6, corpus=f"{made.corpus}[:-6]")
    memory, asked = Memory(), []

    def remembering(question: str, **arguments: Any) -> Any:
        asked.append((question, arguments.get("model", MERGE), arguments.get("name"), arguments.get("start")))
        if arguments.get("model") == made.math and arguments["name"] == "code":
            raise InputError("its loss is not finite")
        return ask(question, **arguments)

    while memory.unfinished(sight):
        memory.advance(sight, remembering)
    rows = memory.rows_of(sight)
    assert rows is not None and [row.count for row in rows] == [6, 6, 6] and len(set(asked)) == len(asked)
    assert asked[0][0] == "problems" and {each[1] for each in asked[1:7]} == {MERGE}
    assert memory.failures(sight, rows) == ["its loss is not finite"]
    found = memory.standings(sight, rows, BEST)
    assert [each.comparison.problems for each in found] == [6, 6, 6] and found[1].against == "base"
    fewer = Sight(recipe.content, models, keys, 2, corpus=sight.corpus)
    assert not memory.unfinished(fewer) and [row.count for row in memory.rows_of(fewer) or []] == [2, 2, 2]
    other = Sight(recipe.content, models, {**keys, MERGE: 4}, 6, corpus=sight.corpus)
    assert memory.unfinished(other) and not memory.unfinished(sight)  # what comes for one is not taken for the other


def test_what_does_not_come_twice_is_not_asked_again_until_one_says_so(made: Any, cache: Path) -> None:
    recipe = load_recipe(made.recipe)
    sight = Sight(recipe.content, {"base": made.base}, {"base": 1, MERGE: 2}, 2, corpus=made.corpus)
    memory = Memory()
    memory.advance(sight, ask)

    def dies_of_the_merge(question: str, **arguments: Any) -> Any:
        if "recipe" in arguments:
            raise RuntimeError("The worker process stopped")
        return ask(question, **arguments)

    for _ in range(2):
        with pytest.raises(RuntimeError):
            memory.advance(sight, dies_of_the_merge)
    while memory.unfinished(sight):
        memory.advance(sight, dies_of_the_merge)
    rows = memory.rows_of(sight) or []
    assert memory.failures(sight, rows) == ["The worker process stopped"]
    assert {name for name, own in memory.board(sight, rows).items() if own} == {"base"}
    memory.forgive(sight)
    while memory.unfinished(sight):
        memory.advance(sight, ask)
    assert not memory.failures(sight, rows) and len(finished(memory.standings(sight, rows, BEST))) == 3


def test_asking_keeps_no_page_waiting_and_what_it_raised_is_told_later(made: Any, cache: Path) -> None:
    recipe = load_recipe(made.recipe)
    sight = Sight(recipe.content, {"base": made.base}, {"base": 1, MERGE: 2}, 2, corpus=made.corpus)
    memory, let_go, asked = Memory(), threading.Event(), []

    def held_up(question: str, **arguments: Any) -> Any:
        asked.append(question)
        let_go.wait()
        raise RuntimeError("The worker process stopped")

    for _ in range(3):
        memory.advance_meanwhile(sight, held_up)
    let_go.set()
    memory.asking.join()
    assert asked == ["problems"]
    with pytest.raises(RuntimeError, match="The worker process stopped"):
        memory.advance_meanwhile(sight, ask)
    memory.asking.join()
    memory.advance_meanwhile(replace(sight, count=1), held_up)
    memory.asking.join()
    memory.advance_meanwhile(sight, ask)  # which is not what failed
    memory.asking.join()
    assert memory.board(sight, memory.rows_of(sight) or [])[MERGE]


def page(file: str, recipe: str) -> None:
    import streamlit as st

    from nmerge_core.family import load_family
    from nmerge_core.merging.recipe.reading import load_recipe
    from pages.shared.tuning.quick_score import draw_quick_scores

    st.json(draw_quick_scores(load_recipe(recipe), load_family(file)))


def test_the_page_draws_what_came(made: Any, cache: Path, tmp_path: Path) -> None:
    text = f"base: {made.base}\nmodels: {{math: {made.math}, code: {made.code}}}\ntasks: [{made.task}]\n"
    copytree(made.corpus, tmp_path / "corpus")
    (tmp_path / "mine.yaml").write_text(f"{text}corpus: corpus\n")
    app = AppTest.from_function(page, args=(str(tmp_path / "mine.yaml"), str(made.recipe)), default_timeout=60).run()
    assert not app.exception and [each.value for each in app.caption] == ["Reading the problems."]
    recipe, models = load_recipe(made.recipe), {"base": made.base, "math": made.math, "code": made.code}
    prints = {name: content_of(reference) for name, reference in models.items()}
    keys = {**prints, MERGE: (recipe.yaml, *prints.values(), *inputs_of(recipe))}
    sight = Sight(recipe.content, models, keys, 20, (made.task,))
    memory = app.session_state["quick_memory"]
    assert app.json[0].value == "{}"
    while memory.unfinished(sight):
        memory.advance(sight, ask)
    app.run()
    assert not app.exception
    [told] = [each.value for each in app.dataframe]
    assert told[""].tolist() == ["plain · bits per byte"] and {"base", "math", "code", MERGE} <= set(told)
    assert list(json.loads(app.json[0].value)) == ["plain · bits_per_byte"]
    memory.failed[sight.keys[MERGE], memory.rows_of(sight)[0].key] = "its loss is <b>not</b> finite"
    app.run()
    assert [each.value for each in app.info] == [r"its loss is \<b\>not\</b\> finite"]
    app.button(key="quick_again").click().run()
    assert not app.info and not memory.failed
    app.segmented_control(key="quick_on").set_value("Held-out texts").run()
    assert [each.value for each in app.caption] == ["Reading the problems."]
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    app.run()
    assert not app.exception and "no such corpus" in app.info[0].value


def test_a_link_does_not_switch_generated_code_on(made: Any, cache: Path, tmp_path: Path) -> None:
    """As scoring begins by itself: on Evaluate a button is pressed first."""
    code = write_task(tmp_path / "code", {**SUMS, "task": "code", **CODE}, DOCS)
    text = f"base: {made.base}\nmodels: {{math: {made.math}, code: {made.code}}}\ntasks: [{code}, {made.task}]\n"
    (tmp_path / "mine.yaml").write_text(text)
    app = AppTest.from_function(page, args=(str(tmp_path / "mine.yaml"), str(made.recipe)), default_timeout=60)
    app.query_params["quick_code"] = "true"
    app.run()
    assert not app.exception and app.toggle(key="quick_code").value is False
    assert "Left out: code, which would run what the models write" in app.caption[0].value
    app.toggle(key="quick_code").set_value(True).run()
    assert not any("Left out" in each.value for each in app.caption)
