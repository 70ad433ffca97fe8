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


def test_choices_are_ranked_by_the_sum_of_their_tokens_and_all_is_as_lm_eval_has_it(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right where the answer is what a plain loop finds likeliest, wrong where it is the next.

    Words are lm-eval's too: the decoder begins as the checkpoint says, also where its other settings do not count.
    """
    best = [ranked(model, prompt, ENDED) for prompt in PROMPTS]
    pairs = zip(PROMPTS, best, strict=True)
    docs = [{"prompt": p, "answer": (b + n % 2) % 3, "choices": ENDED} for n, (p, b) in enumerate(pairs)]
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    task: dict[str, Any] = CHOICES | {"metric_list": metrics, "target_delimiter": ""}
    references = [write_task(tmp_path, each, docs) for each in (task, SUMS)]
    found, samples = {}, {}
    for decoding in ("alike", "own"):
        file = tmp_path / f"{decoding}.jsonl"
        found[decoding] = evaluate([model], references, batch_size=3, decoding=decoding, samples=file, device="cpu")
        samples[decoding] = [json.loads(line) for line in file.read_text().splitlines()]
    chosen, said = ([s for s in samples["alike"] if s["task"] == name] for name in ("choices", "sums"))
    row = found["alike"].loc[0, ["metric", "value", "samples", "interval"]]
    assert row.tolist() == ["acc", 0.5, 8, "Wilson"]
    assert [each["answer"] for each in chosen] == [ENDED[place] for place in best]
    assert [each["value"] for each in chosen] == [1, 0] * 4
    assert [each["answer"] for each in samples["own"]] == [each["answer"] for each in chosen + said]
    monkeypatch.chdir(tmp_path)
    theirs = alone(model, references, 3)
    for each in found["alike"].itertuples():
        assert each.value == theirs["results"][each.task][f"{each.metric},none"]
    logged = sorted(theirs["samples"]["sums"], key=lambda each: each["doc_id"])
    assert [each["answer"] for each in said] == [each["resps"][0][0] for each in logged]
    assert any(each["answer"] for each in said)


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
