"""Tasks on sequence-to-sequence models: rank classification and generation, as lm-eval has them by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.t5 import T5Config, T5ForConditionalGeneration

from nmerge_core.answers import prompt_tokens
from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate
from nmerge_core.evaluation.loss import text_losses
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from tests.evaluation.test_conditions import CHOICES, PROMPTS, alone
from tests.evaluation.test_tasks import SUMS, write_task
from tests.tiny import tiny_tokenizer

ENDED = ["yes<eos>", "no<eos>", "maybe so<eos>"]  # as T5's choices in TIES, which end in the end of the text


def tiny_t5(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=257,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_factor=3.0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tiny_tokenizer(folder, pad=True)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_t5(tmp_path_factory.mktemp("models") / "t5")


def ranked(model: str, prompt: str, choices: list[str]) -> int:
    """The choice whose tokens have the largest sum of log-probabilities, by a plain loop."""
    loaded = load_model(model, "cpu", kinds=SCORED)
    sums = []
    for choice in choices:
        asked, said = (
            loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            for text in (prompt, choice)
        )
        with torch.no_grad():
            logits = loaded.model(input_ids=asked, labels=said).logits[0]
        sums.append(logits.log_softmax(-1).gather(1, said[0][:, None]).sum().item())
    return max(range(len(sums)), key=sums.__getitem__)


def test_choices_are_ranked_by_the_sum_of_their_tokens(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right where the answer is what a plain loop finds likeliest, wrong where it is the next; as lm-eval has it."""
    best = [ranked(model, prompt, ENDED) for prompt in PROMPTS]
    pairs = zip(PROMPTS, best, strict=True)
    docs = [{"prompt": p, "answer": (b + n % 2) % 3, "choices": ENDED} for n, (p, b) in enumerate(pairs)]
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    task: dict[str, Any] = CHOICES | {"metric_list": metrics, "target_delimiter": ""}
    reference = write_task(tmp_path, task, docs)
    samples = tmp_path / "samples.jsonl"
    found = evaluate([model], [reference], batch_size=3, samples=samples, device="cpu")
    assert found.loc[0, ["metric", "value", "samples", "interval"]].tolist() == ["acc", 0.5, 8, "Wilson"]
    answers = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [each["answer"] for each in answers] == [ENDED[place] for place in best]
    assert [each["value"] for each in answers] == [1, 0] * 4
    monkeypatch.chdir(tmp_path)
    theirs = alone(model, [reference], 3)["results"]["choices"]
    assert found.set_index("metric")["value"].to_dict() == {n: theirs[f"{n},none"] for n in ("acc", "acc_norm")}


def test_answers_are_those_of_lm_eval_by_itself(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy words; the decoder begins as the checkpoint says, also where its other settings do not count."""
    docs = [{"prompt": prompt, "answer": "x"} for prompt in PROMPTS]
    reference = write_task(tmp_path, SUMS, docs)
    answers = []
    for decoding in ("alike", "own"):
        samples = tmp_path / f"{decoding}.jsonl"
        evaluate([model], [reference], batch_size=3, decoding=decoding, samples=samples, device="cpu")
        answers.append([json.loads(line)["answer"] for line in samples.read_text().splitlines()])
    monkeypatch.chdir(tmp_path)
    logged = sorted(alone(model, [reference], 3)["samples"]["sums"], key=lambda each: each["doc_id"])
    assert answers == [[each["resps"][0][0] for each in logged]] * 2 and any(answers[0])


def test_what_needs_to_know_what_comes_after_each_token_refuses_it(model: str) -> None:
    loaded = load_model(model, "cpu", kinds=SCORED)
    refused = "t5: expected a causal language model, found a sequence-to-sequence model"
    with pytest.raises(InputError, match=refused):
        text_losses(loaded, ["a text"])
    with pytest.raises(InputError, match=refused):
        prompt_tokens(loaded, "a text")
    with pytest.raises(InputError, match=refused):
        load_model(model, "cpu")


def test_prompt_and_answer_have_room_of_their_own(model: str, tmp_path: Path) -> None:
    """Of 12 tokens of a length of 8 no prompt fits; 8 of the prompt and 8 of the answer do."""
    loaded = load_model(model, "cpu", kinds=SCORED)
    loaded.tokenizer.model_max_length = 8
    docs: list[dict[str, Any]] = [{"prompt": "a prompt", "answer": 0, "choices": ["a choice", "b"]}]
    task = CHOICES | {"target_delimiter": ""}
    Evaluator([write_task(tmp_path, task, docs)], batch_size=1).scored(loaded)
    docs[0]["prompt"] += "ed s"
    with pytest.raises(InputError, match="8 tokens that the model takes, found 1 of 1 that do not, the longest of 12"):
        Evaluator([write_task(tmp_path, task, docs)], batch_size=1).scored(loaded)
