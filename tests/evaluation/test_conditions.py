"""Under which conditions models are scored: decoding, examples, chat templates, batches, room; and what is kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.evaluator
import pytest
import torch
from lm_eval.tasks import TaskManager
from transformers import GenerationConfig

from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate, harness
from nmerge_core.evaluation.harness import Harness
from nmerge_core.loading import load_model
from tests.evaluation.test_scores import greedy
from tests.evaluation.test_tasks import CODE, SUMS, write_task
from tests.tiny import tiny_model

PROMPTS = ["1 + 1 =", "2 + 3 =", "4 + 5 + 6 =", "7 =", "a b", "what is 9 - 2 =", "- 1", "12 ="]
CHOICES = {
    "task": "choices",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/sums.jsonl"}},
    "test_split": "test",
    "fewshot_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{prompt}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
TEXTS = {name: CHOICES[name] for name in ("dataset_path", "dataset_kwargs", "test_split")} | {
    "task": "texts",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{prompt}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}
FLOAT32 = {"dtype": "float32"}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}~{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def penalised(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model, whose checkpoint asks for a penalty on what was said before."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    reference = tiny_model(folder)
    GenerationConfig(eos_token_id=0, repetition_penalty=1.3, no_repeat_ngram_size=2).save_pretrained(folder)
    tokenizer = load_model(reference, "cpu").tokenizer
    tokenizer.pad_token = tokenizer.eos_token  # lm-eval would make one that the model does not know
    tokenizer.save_pretrained(folder)
    return reference


@pytest.fixture(scope="module")
def own_words(model: str) -> list[dict[str, Any]]:
    """Problems whose answers are what the model says greedily."""
    return [{"prompt": prompt, "answer": greedy(model, prompt, 8)} for prompt in PROMPTS]


def alone(
    model: str, references: list[str], batch_size: int, runs_in: Mapping[str, str] = FLOAT32, **given: Any
) -> dict[str, Any]:
    """What lm-eval itself says of tasks' YAMLs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # of the machine: seconds
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": model, **runs_in},
            tasks=references,
            task_manager=TaskManager(include_path=Path(references[0]).parent, include_defaults=False),
            batch_size=batch_size,
            device="cpu",
            bootstrap_iters=0,
            **given,
        )
    assert found is not None
    return found


def test_a_penalty_of_the_checkpoint_changes_nothing_unless_its_own_settings_are_wanted(
    model: str, penalised: str, own_words: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alike, each model says its greedy words; by its own settings, just what lm-eval alone makes it say."""
    reference = write_task(tmp_path, SUMS, own_words)
    monkeypatch.chdir(tmp_path)  # from where lm-eval takes the data
    alike = evaluate([model, penalised], [reference], batch_size=3)
    assert list(alike["value"]) == [1, 1] and set(alike["decoding"]) == {"alike"}
    samples = tmp_path / "samples.jsonl"
    own = evaluate([penalised], [reference], decoding="own", batch_size=3, samples=samples)
    found = alone(penalised, [reference], 3)
    assert own.loc[0, "value"] == found["results"]["sums"]["exact_match,none"] < 1
    answers = [json.loads(line)["answer"] for line in samples.read_text().splitlines()]
    logged = sorted(found["samples"]["sums"], key=lambda each: each["doc_id"])
    assert answers == [each["resps"][0][0] for each in logged]
    assert load_model(penalised, "cpu").model.generation_config.repetition_penalty == 1.3


def test_numbers_are_those_of_lm_eval_by_itself(
    penalised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit: log-likelihoods of words, behind examples, and of texts."""
    docs = [{"prompt": p, "answer": n % 3, "choices": ["yes", "no", "or"]} for n, p in enumerate(PROMPTS)]
    monkeypatch.chdir(tmp_path)
    tasks, file = [write_task(tmp_path, CHOICES, docs), write_task(tmp_path, TEXTS, docs)], tmp_path / "samples.jsonl"
    ours = evaluate([penalised], tasks, decoding="own", batch_size=3, shots=2, samples=file).set_index("task")
    theirs = alone(penalised, tasks, 3, num_fewshot=2)
    assert ours.at["choices", "value"] == theirs["results"]["choices"]["acc,none"]
    assert ours.at["texts", "value"] == theirs["results"]["texts"]["bits_per_byte,none"]
    assert ours.at["choices", "shots"] == theirs["n-shot"]["choices"] == 2
    assert ours.at["texts", "shots"] == 0  # nothing stands before them, whatever lm-eval says
    assert ours["higher_is_better"].to_dict() == {"choices": True, "texts": False}
    prompts = [json.loads(line)["prompt"] for line in file.read_text().splitlines()][: len(docs)]
    logged = sorted(theirs["samples"]["choices"], key=lambda each: each["doc_id"])
    assert prompts == [each["arguments"][0][0] for each in logged]


def test_log_likelihoods_of_bfloat16_are_not_rounded_to_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits tell 1,320 nats from 1,328; lm-eval does as we do where it is told to take the softmax in float32."""
    reference = write_task(tmp_path, TEXTS, [{"prompt": " ".join(PROMPTS) + f" {n}"} for n in range(3)])
    monkeypatch.chdir(tmp_path)
    ours = evaluate([model], [reference], run_dtype="bfloat16", batch_size=3).loc[0, "value"]

    def theirs(**more: str) -> float:
        found = alone(model, [reference], 3, {"dtype": "bfloat16"} | more)
        return float(found["results"]["texts"]["bits_per_byte,none"])

    assert ours == theirs(softmax_dtype="float32") != theirs()


def test_every_model_sees_the_same_examples_which_the_seed_decides(
    model: str, penalised: str, own_words: list[dict[str, Any]], tmp_path: Path
) -> None:
    reference = write_task(tmp_path, SUMS, own_words)
    prompts: dict[int, list[str]] = {}
    for seed in (1, 2):
        file = tmp_path / f"{seed}.jsonl"
        scores = evaluate([model, penalised], [reference], shots=1, seed=seed, limit=4, samples=file)
        assert list(scores["shots"]) == [1, 1] and list(scores["seed"]) == [seed, seed]
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        prompts[seed] = [row["prompt"] for row in rows[:4]]
        assert prompts[seed] == [row["prompt"] for row in rows[4:]]
        assert all(row["prompt"].count("\n\n") == 1 for row in rows)
    assert prompts[1] != prompts[2]


@pytest.mark.parametrize("splits", [{}, {"fewshot_split": "test"}, {"test_split": None, "validation_split": "test"}])
def test_no_problem_stands_with_its_answer_before_itself(
    model: str, tmp_path: Path, splits: dict[str, str | None]
) -> None:
    """Of three problems the two others are shown, whatever the task calls the split that all of them are in."""
    docs = [{"prompt": word, "answer": "yes"} for word in ("one", "two", "six")]
    file = tmp_path / "samples.jsonl"
    evaluate([model], [write_task(tmp_path, SUMS | splits, docs)], shots=2, samples=file)
    for row in map(json.loads, file.read_text().splitlines()):
        assert sorted(part.split()[0] for part in row["prompt"].split("\n\n")) == ["one", "six", "two"]


def test_a_chat_template_frames_problems_and_ends_answers(
    own_words: list[dict[str, Any]], model: str, tmp_path: Path
) -> None:
    """The turn's end is no end token of the checkpoint, and ends answers all the same."""
    reference, folder = write_task(tmp_path, SUMS, own_words), tmp_path / "chat"
    tiny_model(folder)
    loaded = load_model(str(folder), "cpu")
    loaded.tokenizer.chat_template = TEMPLATE
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": ["~"]})
    loaded.tokenizer.save_pretrained(folder)
    file = tmp_path / "samples.jsonl"
    scores = evaluate([str(folder)], [reference], chat_template=True, shots=1, limit=2, samples=file)
    assert scores.loc[0, "chat_template"]
    first = json.loads(file.read_text().splitlines()[0])
    assert first["prompt"].count("<u>") == 2 and first["prompt"].endswith("<u>1 + 1 =~<a>")
    harness = Harness(load_model(str(folder), "cpu"), 1, "", lambda *_: None, chat_template=True)
    assert harness._ends == [0, loaded.tokenizer.convert_tokens_to_ids("~")]
    with pytest.raises(InputError, match="tiny: has no chat template; score it without one"):
        evaluate([model], [reference], chat_template=True)


@pytest.mark.parametrize("kind", ["sums", "choices", "texts"])
def test_a_batch_that_does_not_fit_is_halved_and_no_answer_is_asked_for_twice(
    kind: str, model: str, own_words: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Memory for three texts, after some passes of the model itself: 4 become 2, and what was answered stays."""
    docs = [
        each | {"choices": ["yes!", "no!"], "answer": each["answer"] if kind == "sums" else 0} for each in own_words
    ]
    config = CHOICES if kind == "choices" else SUMS
    if kind == "texts":
        config = {**CHOICES, "task": "texts", "output_type": "loglikelihood_rolling", "doc_to_target": "{{prompt}}"}
        config["metric_list"] = [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}]
        del config["doc_to_choice"]
    reference = write_task(tmp_path, config, docs)
    evaluator, loaded = Evaluator([reference], batch_size=4), load_model(model, "cpu")
    whole = evaluator.scored(loaded)
    passes: list[int] = []
    room = 3

    def short_of_memory(of: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        texts = len(inputs[0])
        if texts > room and len(passes) >= (10 if kind == "sums" else 1):  # of an answer 8, then into the second batch
            raise torch.OutOfMemoryError
        passes.append(texts)

    embeddings = loaded.model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Module)
    with embeddings.register_forward_pre_hook(short_of_memory):
        halved = evaluator.scored(loaded)
        assert [each["answer"] for each in halved.samples] == [each["answer"] for each in whole.samples]
        assert halved.table.loc[0, "value"] == pytest.approx(whole.table.loc[0, "value"], rel=1e-6)
        assert halved.table.loc[0, ["batch_size", "batch_used"]].tolist() == [4, 2]
        assert whole.table.loc[0, ["batch_size", "batch_used"]].tolist() == [4, 4]
        if kind != "sums":
            assert sum(passes) == (16 if kind == "choices" else 8)
        else:  # the second batch was cut after some of its tokens, and only it is asked again
            assert passes[0] == 4 and passes[-1] == 2 and passes.count(4) == 10
        room = 0
        with pytest.raises(InputError, match="a single text does not fit in the memory of cpu"):
            evaluator.scored(loaded)


def test_on_a_cpu_a_batch_found_by_itself_has_logits_that_fit(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "12 = yes" is the longest of 8 tokens of 257 logits each: three texts of them, and some, fit."""
    docs = [{"prompt": f"{n} =", "answer": 0, "choices": ["yes", "no"]} for n in range(10, 16)]
    reference = write_task(tmp_path, CHOICES, docs)
    whole = evaluate([model], [reference])
    monkeypatch.setattr(harness, "_CPU_LOGITS", 3 * 8 * 257 + 5)
    parted = evaluate([model], [reference])
    assert (whole.loc[0, "batch_used"], parted.loc[0, "batch_used"]) == (64, 3)
    assert (whole.loc[0, "batch_size"], parted.loc[0, "batch_size"]) == ("auto", "auto")
    assert whole.loc[0, "value"] == parted.loc[0, "value"]


def test_what_is_longer_than_a_model_takes_is_said_before_any_is_asked(model: str, tmp_path: Path) -> None:
    """The model takes 64 tokens, a byte each: 60 and the 8 of an answer are 68."""
    docs = [{"prompt": "a" * length, "answer": "", "choices": ["2"]} for length in (10, 60, 57, 56)]
    short = write_task(tmp_path / "short", SUMS | {"task": "short"}, docs[:1])
    reference = write_task(tmp_path, SUMS, docs)
    asked: list[str] = []
    with pytest.raises(InputError) as refused:
        Evaluator([short, reference]).scored(load_model(model, "cpu"), lambda stage, *_: asked.append(stage))
    assert str(refused.value) == (
        "tiny on sums: expected problems that fit with their answers in the 64 tokens that the model takes, found 2 of "
        "4 that do not, the longest of 68 with its answer; give fewer examples, lower max_gen_toks in the task's YAML, "
        "or leave the task or the model out"
    )
    assert not asked
    choices = write_task(tmp_path, CHOICES, [docs[1] | {"choices": ["yes", "nooooo"], "answer": 0}])
    with pytest.raises(InputError, match="1 of 1 that do not, the longest of 67"):
        evaluate([model], [choices])
    choices = write_task(tmp_path, CHOICES, [{"prompt": "a" * 61, "choices": ["yes", "no"], "answer": 0}])
    assert len(evaluate([model], [choices]))  # a space and the last of the three letters are the 65th: it is not read


def test_samples_of_choices_that_begin_one_ending_are_the_beginnings(model: str, tmp_path: Path) -> None:
    """As Winogrande asks: `doc_to_text` is the place of the right choice, `doc_to_target` what follows every one."""
    config = CHOICES | {"doc_to_text": "{{answer}}", "doc_to_target": "{{rest}}"}
    docs = [{"choices": ["Ann", "Bob"], "answer": 1, "rest": f"sat {n}"} for n in range(6)]
    file = tmp_path / "samples.jsonl"
    scores = evaluate([model], [write_task(tmp_path, config, docs)], samples=file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["reference"] for row in rows} == {"Bob"} and {row["answer"] for row in rows} <= {"Ann", "Bob"}
    assert [row["value"] for row in rows] == [float(row["answer"] == "Bob") for row in rows]
    assert scores.loc[0, "value"] == sum(row["value"] for row in rows) / 6


def test_samples_tell_what_was_chosen_and_what_a_program_died_of(model: str, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    docs = [{"prompt": p, "answer": 1, "choices": ["yes", "no"], "book": n // 2} for n, p in enumerate(PROMPTS[:4])]
    reference = write_task(tmp_path, CHOICES | {"metadata": {"version": 2, "cluster": "book"}}, docs)
    scores = evaluate([model], [reference], samples=file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["value"] for row in rows] == [float(row["answer"] == "no") for row in rows]
    assert [row["cluster"] for row in rows] == ["0", "0", "1", "1"] and {row["reference"] for row in rows} == {"no"}
    assert scores.loc[0, "interval"] == "Wilson, by documents" and scores.loc[0, "task_version"] == 2
    other = write_task(tmp_path, CHOICES | {"metadata": {"version": 2, "cluster": "author"}}, docs)
    with pytest.raises(InputError, match="task 'choices', metadata, key 'cluster': expected a field .* book; found"):
        evaluate([model], [other])
    code = SUMS | CODE | {"metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}]}
    filters = [
        {"function": "run_code", "program": "{{prompt}}#{{body}}\n\nassert x == 1\n"},
        {"function": "take_first"},
    ]
    code |= {"filter_list": [{"name": "sandbox", "filter": filters}]}
    reference = write_task(tmp_path, code, [{"prompt": f"x = {n}\n", "answer": ""} for n in (1, 2)])
    text = Path(reference).read_text() + "process_results: !function nmerge_core.evaluation.code.pass_at_1\n"
    Path(reference).write_text(text)
    scores = evaluate([model], [reference], run_code=True, samples=file)
    passed, failed = [json.loads(line) for line in file.read_text().splitlines()]
    assert (passed["filtered"], passed["value"], passed["error"]) == ("passed", 1.0, "")
    assert (failed["filtered"], failed["value"]) == ("failed", 0.0) and "AssertionError" in failed["error"]
    assert "assert x == 1" in failed["error"] and "bridge.py" not in failed["error"]  # where, in the tests
    # Wilson of 1 in 2: (0.5 + 1.92/2) / (1 + 1.92) ± …, from 9.5 % to 90.5 %.
    assert (scores.loc[0, "low"], scores.loc[0, "high"]) == pytest.approx((0.0945, 0.9055), abs=1e-3)
    assert scores.loc[0, "interval"] == "Wilson"
