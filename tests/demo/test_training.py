import os
from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer

from nmerge_core.cli import main
from nmerge_core.demo import training
from nmerge_core.demo.family import WEIGHTS
from nmerge_core.errors import Cancelled


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture
def short_phase(monkeypatch):
    """A few small steps."""
    monkeypatch.setattr(training, "ROWS", 2)
    return replace(training.BASE[0], steps=10)


def test_rows_start_with_a_document_and_repeat_from_the_seed(tokenizer, short_phase):
    streams = [training.packed_rows(tokenizer, short_phase) for _ in range(2)]
    first, again = ([next(stream) for _ in range(5)] for stream in streams)
    assert first == again
    texts = [tokenizer.decode([token for token, _ in row]) for row in first]
    assert all(len(row) == training.ROW for row in first) and all(training.END in text for text in texts)
    # every row begins as a document does: with a capital, a quotation mark or a function
    assert all(text[0].isupper() or text.startswith(('"', "def ")) for text in texts)


def test_answers_weigh_more_than_prompts(tokenizer):
    phase = replace(training.BASE[0], mixture={"math": 1.0})
    row = next(training.packed_rows(tokenizer, phase))
    document = next(training.examples("math", "train", phase.seed))
    answer = len(document.answer)  # digits and their space: one token more than digits, plus the end token
    length = len(tokenizer(document.text)["input_ids"]) + 1
    weights = [weight for _, weight in row[:length]]
    assert weights == [training.PROMPT_WEIGHT] * (length - answer - 2) + [1.0] * (answer + 2)


def test_the_loss_is_the_weighted_mean(tokenizer):
    model = training.new_model(0)
    tokens, weights = [5, 7, 9], [1.0, 0.5, 1.0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits.float()[0].log_softmax(-1)  # (3, vocabulary)
        expected = -(0.5 * logits[0, 7] + 1.0 * logits[1, 9]) / 1.5  # the first token is nobody's next
        loss = training.batch_loss(model, [list(zip(tokens, weights, strict=True))])
    assert loss.item() == pytest.approx(expected.item(), rel=2e-2)  # bfloat16 products where the hardware has them


def test_ten_steps_lower_the_loss(tokenizer, short_phase):
    losses = training.train(training.new_model(0), tokenizer, short_phase)
    assert len(losses) == 10
    assert losses[0] == pytest.approx(torch.log(torch.tensor(training.VOCABULARY)).item(), abs=0.2)  # nothing known yet
    assert sum(losses[-3:]) / 3 < losses[0] - 0.7


def test_training_stops_between_steps(tokenizer, short_phase):
    def cancel(stage: str, done: float, total: float, unit: str = "") -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        training.train(training.new_model(0), tokenizer, short_phase, cancel)


def test_prompts_are_cut_into_tokens_as_in_training(tokenizer):
    for prompt, rest in (
        ('def double(n):\n    """Double n."""\n', "    return n * 2"),
        ("Question: 3 + 14?\nAnswer:", " 17"),
        ("English: The cat sleeps.\nSpanish:", " El gato duerme."),
    ):
        whole = tokenizer(prompt + rest)["input_ids"]
        assert whole == tokenizer(prompt)["input_ids"] + tokenizer(rest)["input_ids"]
        assert tokenizer.decode(whole) == prompt + rest
    assert len(tokenizer("17")["input_ids"]) == 2


def test_retrain_writes_the_files_of_the_shipped_family(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ROWS", 1)
    monkeypatch.setattr(training, "BASE", tuple(replace(phase, steps=1) for phase in training.BASE))
    monkeypatch.setattr(training, "FINE_TUNES", tuple(replace(phase, steps=1) for phase in training.FINE_TUNES))
    monkeypatch.setattr(training, "TOKENIZER_DOCUMENTS", 300)
    assert main(["demo", "--retrain", "--out", str(tmp_path / "retrained")]) == 0
    assert main(["demo", "--out", str(tmp_path / "shipped")]) == 0
    retrained, shipped = (
        {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("retrained", "shipped")
    )
    assert retrained == shipped
    weights = [tmp_path / name / "math/model.safetensors" for name in ("retrained", "shipped")]
    assert os.path.getsize(weights[0]) == os.path.getsize(weights[1])
