"""Problems that are scored some at a time, of groups, of tasks with several filters or metrics."""

import json
from pathlib import Path

import pytest
import yaml

from nmerge_core.errors import InputError
from nmerge_core.evaluation import evaluate
from nmerge_core.evaluation.problems import Problems, Source, open_problems
from nmerge_core.loading import load_model
from nmerge_core.progress import silent
from tests.evaluation.test_tasks import SUMS, write_task
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def in_slices(problems: Problems, model: str) -> list[float]:
    loaded = load_model(model, "cpu")
    starts = range(0, problems.count, 4)
    parts = [problems.score(loaded, start, min(start + 4, problems.count), silent) for start in starts]
    assert all(tokens == [] for _, tokens in parts)
    return [value for values, _ in parts for value in values]


def test_each_task_of_a_group_is_scored_as_by_evaluate(model: str, tmp_path: Path) -> None:
    docs = [{"question": str(n), "choices": ["yes", "no", "maybe"], "answer": n % 3} for n in range(10)]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    config = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "choices.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    for name, text in (("one", "{{question}}"), ("two", "? {{question}}")):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**config, "task": name, "doc_to_text": text}))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["one", "two"]}))
    both = str(tmp_path / "both.yaml")
    found = open_problems(Source(both, ""))
    assert [(each.name, each.metric, each.count) for each in found] == [("one", "acc", 10), ("two", "acc", 10)]
    whole = evaluate([model], [both]).set_index("task")["value"]
    for each in found:
        values = in_slices(each, model)
        assert set(values) <= {0, 1} and sum(values) / 10 == pytest.approx(whole[each.name])


def test_the_first_filter_and_the_best_liked_metric_count(model: str, tmp_path: Path) -> None:
    """Whatever is written, the first filter makes "5" of it, and the second "6"; chrF of two texts is of each alone."""
    said = {"function": "regex", "group_select": 0, "fallback": "5", "regex_pattern": "(no such thing)"}
    filters = [
        {"name": fallback, "filter": [{**said, "fallback": fallback}, {"function": "take_first"}]} for fallback in "56"
    ]
    metrics = [{"metric": name, "higher_is_better": True} for name in ("chrf", "exact_match")]
    docs = [{"prompt": "a", "answer": answer} for answer in ("5", "6", "5", "7", "5")]
    both = write_task(tmp_path, {**SUMS, "task": "both", "filter_list": filters, "metric_list": metrics}, docs)
    [found] = open_problems(Source(both, ""))
    assert found.metric == "exact_match" and in_slices(found, model) == [1, 0, 1, 0, 1]
    alone = write_task(tmp_path, {**SUMS, "task": "alone", "filter_list": filters, "metric_list": metrics[:1]}, docs)
    [found] = open_problems(Source(alone, ""))
    assert found.metric == "chrf" and in_slices(found, model) == [100, 0, 100, 0, 100]


def test_a_task_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_problems(Source(str(tmp_path / "none.yaml"), ""))
