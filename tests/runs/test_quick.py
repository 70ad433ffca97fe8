"""Quick scores: a slice of a task's problems or of a corpus's held-out texts, of a model or of a merge in memory."""

from pathlib import Path

import pytest

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.evaluation import evaluate
from nmerge_core.evaluation.loss import held_out_losses
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.held import MODELS
from nmerge_core.runs.questions import Superseded
from nmerge_core.runs.short_questions import QUESTIONS
from tests.evaluation.test_scores import write
from tests.evaluation.test_tasks import CODE, DOCS, SUMS, write_task
from tests.runs.conftest import nobody_waits
from tests.runs.test_live import content
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))


def ask(row, start, stop, **whose):
    return QUESTIONS["quick_scores"](source=row["source"], name=row["name"], start=start, stop=stop, **whose)


def test_slices_of_a_merge_in_memory_are_what_its_checkpoint_scores(family, cache, tmp_path: Path) -> None:
    [row] = QUESTIONS["problems"](tasks=[family.task])
    assert (row["name"], row["metric"], row["higher_is_better"], row["count"]) == ("plain", "bits_per_byte", False, 4)
    recipe = content(family, "task_arithmetic", **{"lambda": 3.0})
    parts = [ask(row, start, start + 2, recipe=recipe) for start in (0, 2)]
    values = parts[0]["values"] + parts[1]["values"]
    merge(load_recipe(recipe), tmp_path / "merged")
    assert ask(row, 0, 4, model=str(tmp_path / "merged"))["values"] == pytest.approx(values, rel=1e-5)
    whole = evaluate([str(tmp_path / "merged")], [family.task])["value"][0]
    assert sum(values) / 4 == pytest.approx(whole, rel=1e-5)  # all four texts have 12 bytes
    assert values != pytest.approx(ask(row, 0, 4, model=family.base)["values"], rel=1e-3)


def test_documents_that_problems_share_come_with_their_scores(family, cache, tmp_path: Path) -> None:
    docs = [{"prompt": f"{n} + 1 =", "answer": "2", "story": n // 2} for n in range(4)]
    task = write_task(tmp_path, SUMS | {"metadata": {"version": 1, "cluster": "story"}}, docs)
    [row] = QUESTIONS["problems"](tasks=[task])
    found = ask(row, 1, 4, model=family.base)
    assert len(found["values"]) == 3 and found["clusters"] == ["0", "1", "1"]
    assert ask(row, 1, 4, model=family.base) == found  # as it was kept


def test_texts_that_are_held_out_where_there_are_no_tasks(family, cache) -> None:
    corpus = f"{family.corpus}[:-3]"
    rows = QUESTIONS["problems"](corpus=corpus)
    assert [(row["name"], row["metric"], row["count"]) for row in rows] == [
        ("general", "loss", 3),
        ("code", "loss", 3),
        ("math", "loss", 3),
    ]
    expected = held_out_losses([family.math], corpus).query("category == 'code'")
    found = ask(rows[1], 1, 3, model=family.math)
    assert found["values"] == pytest.approx(list(expected["loss"])[1:], abs=1e-5)
    assert found["tokens"] == list(expected["tokens"])[1:] and found["run_dtype"] == "float32"


def test_a_models_scores_are_computed_once_for_its_content(family, cache, monkeypatch) -> None:
    [row, *_] = QUESTIONS["problems"](corpus=family.corpus)
    first = ask(row, 0, 1, model=family.code)
    [file] = (cache_root() / "quick").iterdir()
    monkeypatch.setattr(MODELS, "get", lambda reference: pytest.fail("it was loaded again"))
    assert ask(row, 0, 1, model=family.code) == first
    monkeypatch.undo()
    monkeypatch.setenv("NMERGE_CACHE", str(file.parents[1]))
    file.write_text("{")  # as a disk that is full leaves it
    assert ask(row, 0, 1, model=family.code) == first and len(list(file.parent.iterdir())) == 1
    ask(row, 0, 1, model=family.math)
    ask({**row, "source": {**row["source"], "content": "changed since"}}, 0, 1, model=family.math)
    assert len(list(file.parent.iterdir())) == 3


def test_problems_that_changed_are_read_again(cache, family, tmp_path: Path) -> None:
    task = write(tmp_path, "math", [{"prompt": "a", "answer": "1"}])
    [before] = QUESTIONS["problems"](tasks=[task])
    write(tmp_path, "math", [{"prompt": "a", "answer": "1"}] * 3)
    [after] = QUESTIONS["problems"](tasks=[task])
    assert (before["count"], after["count"]) == (1, 3) and before["source"] != after["source"]
    assert after["metric"] == "exact_match" and len(ask(after, 1, 3, model=family.base)["values"]) == 2


def test_what_cannot_be_scored_says_why_and_leaves_the_rest(cache, family, tmp_path: Path) -> None:
    code = write_task(tmp_path / "code", {**SUMS, "task": "code", **CODE}, DOCS)
    together = {"metric_list": [{"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True}]}
    whole = write_task(tmp_path / "whole", {**SUMS, "task": "whole", **together}, DOCS)
    rows = QUESTIONS["problems"](tasks=[code, family.task, whole, str(tmp_path / "none.yaml")])
    assert [row["name"] for row in rows] == ["code", "plain", "whole", "none"]
    assert "runs code that the model writes, which is off by default" in rows[0]["lacks"]
    assert "lacks" not in rows[1] and "are of all problems together, and none of one alone" in rows[2]["lacks"]
    assert "no such file" in rows[3]["lacks"]
    with pytest.raises(InputError, match="code: expected one of plain"):
        ask({**rows[1], "name": "code"}, 0, 1, model=family.base)


@pytest.mark.parametrize("what", ["task", "corpus"])
def test_scoring_ends_where_nobody_waits_for_it(family, cache, what) -> None:
    asked = {"tasks": [family.task]} if what == "task" else {"corpus": family.corpus}
    row, *_ = QUESTIONS["problems"](**asked)
    with nobody_waits(), pytest.raises(Superseded):
        ask(row, 0, 1, model=family.math)
    assert len(ask(row, 0, 1, model=family.math)["values"]) == 1
