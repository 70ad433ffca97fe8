"""Task references: paths, names, data beside the YAML, and what is refused."""

import json
from pathlib import Path

import lm_eval.tasks
import pytest
import yaml
from lm_eval.tasks import TaskManager

from nmerge_core.cache import BENCHMARKS
from nmerge_core.errors import InputError
from nmerge_core.evaluation import tasks
from nmerge_core.evaluation.tasks import load_task

SUMS = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/sums.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
DOCS = [{"prompt": "1 + 1 =", "answer": " 2"}, {"prompt": "2 + 3 =", "answer": " 5"}]
CODE = {"unsafe_code": True, "filter_list": [{"name": "s", "filter": [{"function": "run_code", "program": "pass"}]}]}


def write_task(folder: Path, config: dict, docs: list[dict]) -> str:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "sums.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    path = folder / f"{config['task']}.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def documents(loaded: dict) -> list[dict]:
    (task,) = loaded["tasks"].values()
    return list(task.eval_docs)


def test_data_files_count_from_the_yaml(tmp_path: Path) -> None:
    loaded = load_task(write_task(tmp_path, SUMS, DOCS), run_code=False)
    assert list(loaded["tasks"]) == ["sums"]
    assert documents(loaded) == DOCS


def test_changed_data_are_read_again(tmp_path: Path) -> None:
    reference = write_task(tmp_path, SUMS, DOCS)
    load_task(reference, run_code=False)
    assert documents(load_task(write_task(tmp_path, SUMS, DOCS[:1]), run_code=False)) == DOCS[:1]


def test_a_name_is_looked_up_in_the_demo_family_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    write_task(tmp_path / "demo" / "tasks", SUMS, DOCS)
    assert documents(load_task("sums", run_code=False)) == DOCS


def test_a_group_and_its_members(tmp_path: Path) -> None:
    write_task(tmp_path, SUMS, DOCS)
    write_task(tmp_path, SUMS | {"task": "sums_again"}, DOCS)
    group = {"group": "arithmetic", "task": ["sums", "sums_again"]}
    (tmp_path / "arithmetic.yaml").write_text(yaml.safe_dump(group))
    loaded = load_task(str(tmp_path / "arithmetic.yaml"), run_code=False)
    assert sorted(loaded["tasks"]) == ["sums", "sums_again"] and list(loaded["groups"]) == ["arithmetic"]


def test_errors_name_the_task_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nowhere.yaml.*no such file"):
        load_task(str(tmp_path / "nowhere.yaml"), run_code=False)
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(InputError, match="list.yaml.*not a task YAML"):
        load_task(str(tmp_path / "list.yaml"), run_code=False)
    (tmp_path / "broken.yaml").write_text("task: [\n")
    with pytest.raises(InputError, match="broken.yaml.*not a task YAML"):
        load_task(str(tmp_path / "broken.yaml"), run_code=False)
    lost = write_task(tmp_path, SUMS | {"dataset_kwargs": {"data_files": {"test": "data/lost.jsonl"}}}, DOCS)
    with pytest.raises(InputError, match="sums.yaml, key 'data_files': no file .*lost.jsonl"):
        load_task(lost, run_code=False)
    empty = write_task(tmp_path, SUMS, [])
    with pytest.raises(InputError, match="lm-eval cannot load it"):
        load_task(empty, run_code=False)
    metric = SUMS | {"metric_list": [{"metric": "no_such_metric"}]}
    with pytest.raises(InputError, match="lm-eval cannot load it"):
        load_task(write_task(tmp_path, metric, DOCS), run_code=False, allow_task_code=True)


def test_code_must_be_switched_on_and_must_use_the_sandbox(tmp_path: Path) -> None:
    reference = write_task(tmp_path, SUMS | CODE, DOCS)
    with pytest.raises(InputError, match="task 'sums': it runs code.*--run-code"):
        load_task(reference, run_code=False)
    assert list(load_task(reference, run_code=True)["tasks"]) == ["sums"]
    own = write_task(tmp_path, SUMS | {"unsafe_code": True}, DOCS)
    with pytest.raises(InputError, match="by its own means.*sandbox"):
        load_task(own, run_code=True)


def test_names_of_lm_eval_come_last_and_unknown_ones_are_answered_with_near_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two folders of lm-eval's tasks stand for all of them, whose index takes it many seconds."""
    own = Path(lm_eval.tasks.__file__).parent
    few = TaskManager(include_path=[own / "hellaswag", own / "humaneval"], include_defaults=False)
    monkeypatch.setattr(tasks, "_builtin", lambda: few)
    with pytest.raises(InputError, match="task 'hellaswagg'.*did you mean.*hellaswag"):
        load_task("hellaswagg", run_code=False)
    with pytest.raises(InputError, match="'humaneval_64'.*by its own means"):
        load_task("humaneval_64", run_code=True)


def local_benchmark(name: str, docs: list[dict], folder: Path) -> str:
    """The YAML of a benchmark with its documents read from a file here; everything else stays as it is."""
    text = (BENCHMARKS / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("dataset_path", "dataset_name"))]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    lines += ["dataset_path: json", "dataset_kwargs: {data_files: {test: docs.jsonl}}"]
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines))
    return str(path)


def test_benchmarks_score_right_and_wrong_programs(tmp_path: Path) -> None:
    """HumanEval and MBPP as their data sets are laid out: the right completion passes, a wrong one does not."""
    human = {
        "task_id": "HumanEval/0",
        "prompt": 'def double(n: int) -> int:\n    """Twice n."""\n',
        "entry_point": "double",
        "canonical_solution": "    return 2 * n\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6\n",
    }
    mostly = {
        "task_id": 11,
        "text": "Write a function to double.",
        "code": "def double(n):\r\n  return 2 * n",
        "test_list": ["assert double(1) == 2", "assert double(2) == 4", "assert double(0) == 0"],
        "test_setup_code": "",
    }
    for name, doc, right, wrong in (
        ("humaneval", human, "    return n + n\n", "    return n\n"),
        ("mbpp", mostly, "def double(n):\n  return n + n\n", "def double(n):\n  return n\n"),
    ):
        loaded = load_task(local_benchmark(name, [doc], tmp_path), run_code=True)
        task = loaded["tasks"][name]
        for completion, score in ((right, 1.0), (wrong, 0.0)):
            task.build_all_requests()
            (request,) = task.instances
            request.resps.append(completion)
            task.apply_filters()
            assert task.process_results(doc, [request.filtered_resps["sandbox"]]) == {"pass@1": score}
        shots = request.args[0].count("[BEGIN]")
        assert shots == (4 if name == "mbpp" else 0)
