"""Our tasks on the problems of a file of one's own, NAME=FILE: GSM8K, HumanEval, MBPP, translation, CMMLU, texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from lm_eval.tasks import TaskManager
from transformers import GenerationConfig

from nmerge_core.cache import own_tasks, task_data
from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate, tasks
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.evaluation.translation import bleu_zh, signature
from nmerge_core.inputs import Places
from tests.tiny import tiny_model

HUMAN = {"prompt": "def f(n):\n    return n\n#", "entry_point": "f", "canonical_solution": "", "task_id": "HumanEval/0"}
FILES: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": f"{n} + 1?", "answer": f"It is <<{n}+1={n + 1}>>.\n#### {n + 1}"} for n in range(3)],
    "humaneval": [HUMAN | {"test": f"def check(f):\n    assert f(1) == {n}\n"} for n in (1, 2)],
    "mbpp": [
        {"text": "Say.", "code": "x = 1", "test_list": ["assert 1", "assert 1", "assert 1"], "test_setup_code": ""}
    ],
    "zh_en": [{"zh": "\u732b", "en": "cat"}, {"zh": "\u72d7", "en": "dog"}],
    "en_zh": [{"zh": "\u732b", "en": "cat"}, {"zh": "\u72d7", "en": "dog"}],
    "cmmlu": [dict(zip("ABCD", "1234", strict=True)) | {"Question": f"{n}?", "Answer": "ABCD"[n]} for n in range(3)],
    "perplexity": [{"text": "Rain fell on the hill."}, {"text": "A walk"}],
}
METRICS = {
    "gsm8k": ["exact_match,strict-match", "exact_match,flexible-extract"],
    "humaneval": ["pass@1"],
    "mbpp": ["pass@1"],
    "zh_en": ["bleu", "chrf"],
    "en_zh": ["bleu", "chrf"],
    "cmmlu": ["acc"],
    "perplexity": ["bits_per_byte"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    reference = tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    config = Path(reference) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 2048}))
    GenerationConfig(eos_token_id=list(range(257))).save_pretrained(reference)  # it says one token, and no 512
    return reference


def write(folder: Path, name: str, docs: list[dict[str, Any]]) -> str:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return f"{name}={file}"


def test_every_task_of_ours_is_asked_of_a_file_and_scored(model: str, tmp_path: Path) -> None:
    assert own_tasks() == sorted(FILES)
    references = [write(tmp_path, name, docs) for name, docs in FILES.items()]
    scores = evaluate([model], references, run_code=True, shots=0)
    assert {task: own["metric"].tolist() for task, own in scores.groupby("task")} == METRICS
    assert scores.set_index("task")["samples"].to_dict() == {name: len(docs) for name, docs in FILES.items()}
    told = scores.set_index(["task", "metric"])["signature"]
    assert told["zh_en", "bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "|tok:zh|" in told["en_zh", "bleu"] and told["en_zh", "chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|")
    assert told["cmmlu", "acc"] == ""
    assert scores.set_index("task").at["humaneval", "value"] == 0.5  # a comment after a body that passes one of two


@pytest.mark.parametrize(
    ("said", "right"),
    [("So 1 + 1 = 2. #### 2", (1, 1)), ("It makes 2 apples", (0, 1)), ("#### 1,2", (0, 0)), ("#### 3", (0, 0))],
)
def test_gsm8k_takes_the_marked_number_or_the_last_one(said: str, right: tuple[int, int], tmp_path: Path) -> None:
    task = load_task(write(tmp_path, "gsm8k", FILES["gsm8k"]), run_code=False)["tasks"]["gsm8k"]
    assert task.get_config("num_fewshot") == 5  # as lm-eval's, of whose task the answers are read so
    task.set_config(key="num_fewshot", value=1)
    task.build_all_requests()
    doc, request = task.eval_docs[1], task.instances[1]
    assert request.args[0].count("Question:") == 2 and request.args[0].endswith("Question: 1 + 1?\nAnswer:")
    for each in task.instances:
        each.resps.append(said)
    task.apply_filters()
    found = [task.process_results(doc, [request.filtered_resps[name]]) for name in ("strict-match", "flexible-extract")]
    assert tuple(each["exact_match"] for each in found) == right


def test_a_file_with_fewer_problems_than_examples_before_each_says_so(model: str, tmp_path: Path) -> None:
    reference = write(tmp_path, "gsm8k", FILES["gsm8k"])  # three, and five are shown by default
    with pytest.raises(InputError, match=r"expected at least 6 problems, as the 5 examples .* found 3; give fewer"):
        evaluate([model], [reference])
    with pytest.raises(InputError, match="expected at least 4 problems"):
        Evaluator([reference], shots=3)
    assert Evaluator([reference], shots=2).names == ["gsm8k"]


def test_chinese_is_compared_by_characters() -> None:
    """Three of four characters in order: words parted by spaces alone, there would be nothing alike."""
    items = [("\u6211\u7231\u4f60\u4eec\u5417", "\u6211\u7231\u4f60\u4eec\u5462")]
    assert bleu_zh(items) == pytest.approx(sacrebleu.corpus_bleu([items[0][1]], [[items[0][0]]], tokenize="zh").score)
    assert bleu_zh(items) > 50 > sacrebleu.corpus_bleu([items[0][1]], [[items[0][0]]]).score
    assert signature(bleu_zh, [(["a", "b"], "a")]).startswith("nrefs:2|") and signature(sum, items) == ""


def test_what_a_file_lacks_is_said_and_what_it_holds_is_in_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_builtin", lambda: TaskManager(include_defaults=False))  # an index of all takes long
    with pytest.raises(InputError, match=r"expected problems with the fields zh, en; found zh, eng, without en"):
        load_task(write(tmp_path, "zh_en", [{"zh": "a", "eng": "b"}]), run_code=False)
    with pytest.raises(InputError, match="task 'cmmlu=nowhere.csv': no file nowhere.csv"):
        load_task("cmmlu=nowhere.csv", run_code=False)
    with pytest.raises(InputError, match="or NAME=FILE with one of cmmlu, en_zh, gsm8k, "):
        load_task("gsm8=problems.jsonl", run_code=False)
    with pytest.raises(InputError, match="--run-code"):
        load_task(write(tmp_path, "humaneval", FILES["humaneval"]), run_code=False)
    assert task_data("/a=b/task.yaml") == ("/a=b/task.yaml", "") and task_data("cmmlu=a=b") == ("cmmlu", "a=b")
    places, reference = Places(tmp_path), write(tmp_path, "perplexity", FILES["perplexity"])
    named, before = places.task(reference)
    assert named == reference and places.task(reference) == (named, before)
    write(tmp_path, "perplexity", FILES["perplexity"][:1])
    assert places.task(reference)[1] != before
    table = tmp_path / "questions.csv"
    table.write_text("Question,A,B,C,D,Answer\n1 + 1?,1,2,3,4,B\n")
    [task] = load_task(f"cmmlu={table}", run_code=False)["tasks"].values()
    assert task.doc_to_target(task.eval_docs[0]) == 1
