"""Scores of tiny models by the real engine, against naive references."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lm_eval.api.metrics import weighted_perplexity

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.evaluation import Evaluator, evaluate
from nmerge_core.evaluation.samples import _value
from nmerge_core.evaluation.score_rows import jackknife
from nmerge_core.evaluation.scores import COLUMNS
from nmerge_core.loading import load_model
from tests.evaluation.test_tasks import DOCS, SUMS, write_task
from tests.tiny import tiny_model

TASKS = Path(__file__).parents[2] / "nmerge_core" / "demo" / "tasks"
TEXTS = ["The cat sat.", "Rain fell on the hill.", "A long walk", "Bread and salt, twice."]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def write(folder: Path, name: str, docs: list[dict], **changes: object) -> str:
    """One of the demo family's task YAMLs, with documents of ours."""
    text = (TASKS / f"{name}.yaml").read_text()
    for key, value in changes.items():
        text = "\n".join(
            f"  {key}: {value}" if line.strip().startswith(f"{key}:") else line for line in text.splitlines()
        )
    (folder / f"{name}.yaml").write_text(text)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return str(folder / f"{name}.yaml")


def greedy(model: str, prompt: str, tokens: int) -> str:
    """Naive greedy decoding, a full forward pass a token, up to the end of text or of the line."""
    loaded = load_model(model, "cpu")
    ids = loaded.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == loaded.tokenizer.eos_token_id:
            break
    return str(loaded.tokenizer.decode(ids[start:], skip_special_tokens=True)).split("\n")[0]


def test_perplexity_equals_a_plain_loop(model: str, tmp_path: Path) -> None:
    """Σ log p over all tokens (the first given the end-of-text token), over words and over bytes."""
    reference = write(tmp_path, "general", [{"text": text} for text in TEXTS])
    scores = evaluate([model], [reference], batch_size=3).set_index("metric")
    loaded = load_model(model, "cpu")
    loglikelihood = 0.0
    for text in TEXTS:
        ids = torch.tensor([[0, *loaded.tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, :-1].log_softmax(-1)
        loglikelihood += logits.gather(1, ids[0, 1:, None]).sum().item()
    words = sum(len(text.split()) for text in TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    assert scores.loc["word_perplexity", "value"] == pytest.approx(math.exp(-loglikelihood / words), rel=1e-4)
    assert scores.loc["bits_per_byte", "value"] == pytest.approx(-loglikelihood / size / math.log(2), rel=1e-5)
    assert (scores["samples"] == 4).all() and (scores["stderr"] > 0).all()


def test_exact_match_and_chrf_of_the_models_own_words(model: str, tmp_path: Path) -> None:
    """Targets taken from naive greedy decoding: 3 of 4 right is 0.75, its standard error √(0.75·0.25/3) = 0.25."""
    prompts = [
        "English: a\nSpanish:",
        "Spanish: la casa\nEnglish:",
        "English: two cats\nSpanish:",
        "Spanish: y\nEnglish:",
    ]
    docs = [{"prompt": prompt, "target": greedy(model, prompt, 12).strip(), "direction": ""} for prompt in prompts]
    docs[2]["target"] += "x"
    reference = write(tmp_path, "translation", docs, max_gen_toks=12)
    for batch_size in (1, 4):
        scores = evaluate([model], [reference], batch_size=batch_size)
        assert list(scores.columns) == COLUMNS
        assert list(scores["metric"]) == ["exact_match", "chrf"]
        assert scores.loc[0, "value"] == 0.75 and scores.loc[0, "stderr"] == pytest.approx(0.25)
        assert 75 < scores.loc[1, "value"] < 100 and scores.loc[1, "stderr"] > 0


def test_math_reads_the_first_number(model: str, tmp_path: Path) -> None:
    """The task's filter on completions as they come: spaces, units, a second number, none at all."""
    from nmerge_core.evaluation.tasks import load_task

    docs = [{"prompt": "a", "answer": answer} for answer in ("12", "-3", "5", "7")]
    task = load_task(write(tmp_path, "math", docs), run_code=False)["tasks"]["math"]
    task.build_all_requests()
    for request, completion in zip(task.instances, (" 12 apples", " -3", " 15 - 10 = 5", " seven"), strict=True):
        request.resps.append(completion)
    task.apply_filters()
    matches = [
        task.process_results(doc, [request.filtered_resps["first_number"]])["exact_match"]
        for doc, request in zip(docs, task.instances, strict=True)
    ]
    assert matches == [1, 1, 0, 0]


def test_code_runs_what_the_model_writes(model: str, tmp_path: Path) -> None:
    """A random model writes no Python: where that is a comment the program passes, where a body it fails."""
    begun = "def f(n):\n    return n\n#"
    docs = [
        {"prompt": begun, "tests": "assert f(1) == 1", "entry_point": "f", "solution": ""},
        {"prompt": "def f(n):\n", "tests": "assert f(1) == 1", "entry_point": "f", "solution": "    return n"},
    ]
    reference = write(tmp_path, "code", docs, max_gen_toks=12)
    with pytest.raises(InputError, match="--run-code"):
        evaluate([model], [reference])
    stages: set[str] = set()

    def remember(stage: str, done: float, total: float, unit: str = "") -> None:
        assert 0 <= done <= total
        stages.add(stage)

    scores = evaluate([model], [reference], run_code=True, progress=remember)
    assert scores.loc[0, ["task", "metric", "value", "stderr", "samples"]].tolist() == ["code", "pass@1", 0.5, 0.5, 2]
    assert stages == {"tiny on code", "tiny on code, running programs"}


def test_a_perplexity_that_no_number_holds_is_told_of_the_task_and_no_crash(model: str, tmp_path: Path) -> None:
    """A byte costs about ln 257 = 5.5 nats: a word of 200 letters has e¹¹⁰⁰, where numbers end near e⁷⁰⁹."""
    with pytest.raises(InputError, match=r"general.yaml': lm-eval cannot score tiny on it – OverflowError"):
        evaluate([model], [write(tmp_path, "general", [{"text": "x" * 200}])])
    assert _value(weighted_perplexity, (-1100.0, 1)) is None  # of that problem alone
    assert _value(weighted_perplexity, (-5.5, 1)) == pytest.approx(math.exp(5.5))
    # Of both texts it is e⁵⁵⁰, and e¹¹⁰⁰ of the second alone, which the jackknife asks for.
    assert math.isnan(jackknife(weighted_perplexity, [(0.0, 1), (-1100.0, 1)]))


def test_models_with_the_same_last_name_get_labels_of_their_own(model: str, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other" / "tiny", seed=1)
    reference = write(tmp_path, "general", [{"text": text} for text in TEXTS])
    scores = evaluate([model, other], [reference])
    assert scores["model"].nunique() == 2
    assert scores.groupby("metric")["value"].nunique().eq(2).all()


def test_limit_takes_the_first_problems(model: str, tmp_path: Path) -> None:
    reference = write(tmp_path, "general", [{"text": text} for text in TEXTS])
    limited = evaluate([model], [reference], limit=2)
    assert (limited["samples"] == 2).all()
    (tmp_path / "first").mkdir()
    first = write(tmp_path / "first", "general", [{"text": text} for text in TEXTS[:2]])
    pd.testing.assert_frame_equal(limited, evaluate([model], [first]))


def test_a_group_of_tasks_gives_a_row_for_each_and_for_itself(model: str, tmp_path: Path) -> None:
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
    docs = [{"question": str(n), "choices": ["yes", "no", "maybe"], "answer": n % 3} for n in range(6)]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **config}))
    group = {"group": "both", "task": ["one", "two"], "aggregate_metric_list": [{"metric": "acc"}]}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    scores = evaluate([model], [str(tmp_path / "both.yaml")]).set_index("task")
    assert scores["group"].to_dict() == {"both": True, "one": False, "two": False}
    assert scores.loc["both", "value"] == scores.loc["one", "value"] == scores.loc["two", "value"]


def test_cancel_within_generation(model: str, tmp_path: Path) -> None:
    """The report after a generated token may raise; the next evaluation is unharmed."""
    docs = [{"prompt": "Question: 1 + 1?\nAnswer:", "answer": "2"}]
    evaluator = Evaluator([write(tmp_path, "math", docs)])
    loaded = load_model(model, "cpu")

    def cancel(stage: str, done: float, total: float, unit: str = "") -> None:
        if 0 < done < total:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluator.scored(loaded, cancel)
    assert len(evaluator.scored(loaded).table) == 1


def test_nothing_but_the_result(model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither lm-eval nor datasets nor transformers writes on the terminal."""
    evaluator = Evaluator([write(tmp_path, "general", [{"text": text} for text in TEXTS])])
    evaluator.scored(load_model(model, "cpu"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("arguments", "message"), [({"limit": 0}, "limit"), ({"batch_size": 0}, "batch_size")])
def test_numbers_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Evaluator(["general"], **arguments)


def test_no_task_and_a_task_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one task"):
        Evaluator([])
    reference = write(tmp_path, "general", [{"text": "a b"}])
    (tmp_path / "copy.yaml").write_text(Path(reference).read_text())
    with pytest.raises(InputError, match="'general' more than once"):
        Evaluator([reference, str(tmp_path / "copy.yaml")])


def test_jackknife_of_a_mean_is_the_closed_form() -> None:
    """Items 1, 2, 6: leaving one out gives means 4, 3.5, 1.5; SE² = 2/3·(1 + 0.25 + 2.25) = 7/3 = s²/3 with s² = 7."""
    assert jackknife(np.mean, [1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(jackknife(np.mean, [1.0]))


def test_jackknife_with_groups_is_near_the_closed_form() -> None:
    items = list(np.random.default_rng(0).normal(size=2000))
    assert jackknife(np.mean, items) == pytest.approx(np.std(items) / math.sqrt(2000), rel=0.4)


def test_no_model() -> None:
    with pytest.raises(InputError, match="at least one model"):
        evaluate([], ["general"])


def test_the_objective_is_the_mean_of_primary_metrics_and_larger_is_better(model: str, tmp_path: Path) -> None:
    texts = write(tmp_path, "general", [{"text": text} for text in TEXTS])
    sums = write(tmp_path, "math", [{"prompt": "1 + 1", "answer": "2"}])
    evaluator = Evaluator([texts, sums])
    first, second = evaluator.names
    rows = [
        (first, "word_perplexity", 40.0), (first, "bits_per_byte", 3.0), (second, "exact_match", 0.5),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["task", "metric", "value"])
    assert evaluator.objective(scores) == (-40.0 + 0.5) / 2  # of perplexity less is better
    # Weights 1 and 3: (1 · −40 + 3 · 0.5) / 4; a task without a weight does not count.
    assert evaluator.objective(scores, {first: 1, second: 3}) == -9.625
    assert evaluator.objective(scores, {second: 2}) == 0.5
    filtered = scores.assign(metric=["word_perplexity", "bits_per_byte", "exact_match,strict-match"])
    assert evaluator.objective(filtered) == evaluator.objective(scores)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"filter_list": [{"name": "a", "filter": [{"function": "regex", "regex_pattern": "("}]}]}, "unterminated"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "custom", "filter_fn": "len"}]}]}, "not callable"),
        ({"process_results": "exact"}, "TypeError"),
        ({"doc_to_image": "picture"}, "multimodal"),
        ({"generation_kwargs": {"until": ["\n"], "max_gen_toks": 2, "tempereture": 1}}, "tempereture"),
    ],
)
def test_what_a_task_says_wrongly_of_scoring_is_the_tasks_mistake(
    setting: dict[str, object], found: str, model: str, tmp_path: Path
) -> None:
    reference = write_task(tmp_path, SUMS | setting, DOCS)
    with pytest.raises(InputError) as refused:
        evaluate([model], [reference])
    message = str(refused.value)
    assert message.startswith(f"task '{reference}': lm-eval cannot score tiny on it – ") and found in message
