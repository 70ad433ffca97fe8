"""The loss of tiny models on held-out texts, against a plain loop and lm-eval's own perplexity."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nmerge_core.errors import InputError
from nmerge_core.evaluation import evaluate
from nmerge_core.evaluation.loss import COLUMNS, held_out_losses, text_losses
from nmerge_core.loading import LanguageModel, load_model
from tests.evaluation.test_scores import TEXTS, write
from tests.tiny import TEXTS as LINES
from tests.tiny import tiny_model, write_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def loaded(model: str) -> LanguageModel:
    return load_model(model, "cpu")


@torch.no_grad()
def plain(loaded: LanguageModel, text: str, max_length: int = 512) -> float:
    """−1/n Σ log p of one text's tokens, the first after the token that ends a text."""
    ids = torch.tensor([[0, *loaded.tokenizer(text)["input_ids"][:max_length]]])
    predicted = loaded.model(ids).logits[0, :-1].log_softmax(-1)
    return -predicted.gather(1, ids[0, 1:, None]).mean().item()


def test_batches_and_padding_change_nothing(loaded: LanguageModel) -> None:
    texts = [text for lines in LINES.values() for text in lines]
    expected = [plain(loaded, text) for text in texts]
    for batch_tokens in (1, 100, 4096):  # each text alone, some together, all at once
        found = text_losses(loaded, texts, batch_tokens=batch_tokens)
        assert [each.nats for each in found] == pytest.approx(expected, abs=1e-5)
        assert [each.tokens for each in found] == [len(text.encode()) for text in texts]


def test_it_is_what_lm_eval_makes_its_perplexity_of(loaded: LanguageModel, model: str, tmp_path: Path) -> None:
    """bits_per_byte = Σ nats · tokens / Σ bytes / ln 2, and this tokenizer has a token a byte."""
    reference = write(tmp_path, "general", [{"text": text} for text in TEXTS])
    scores = evaluate([model], [reference]).set_index("metric")
    found = text_losses(loaded, TEXTS)
    nats = sum(each.nats * each.tokens for each in found)
    size = sum(len(text.encode()) for text in TEXTS)
    bits = nats / size / torch.log(torch.tensor(2.0)).item()
    assert scores.loc["bits_per_byte", "value"] == pytest.approx(bits, rel=1e-5)


def test_long_texts_are_cut_where_the_model_or_the_caller_ends(loaded: LanguageModel) -> None:
    long = "the cat sat on the mat " * 9  # 207 tokens; the model has 64 positions
    assert [each.tokens for each in text_losses(loaded, [long])] == [64]
    (found,) = text_losses(loaded, [long], max_length=7)
    assert found.tokens == 7 and found.nats == pytest.approx(plain(loaded, long, 7), abs=1e-5)
    with pytest.raises(InputError, match="max_length must be at least 1"):
        text_losses(loaded, [long], max_length=0)


def test_what_has_no_loss_is_told(loaded: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny: the text '' has no tokens; leave it out"):
        text_losses(loaded, ["a", ""])
    broken = load_model(tiny_model(tmp_path / "broken"), "cpu")
    with torch.no_grad():
        dict(broken.model.named_parameters())["model.embed_tokens.weight"][98] = torch.nan
    with pytest.raises(InputError, match="broken: its loss on 'abc' is not finite"):
        text_losses(broken, ["abc"])
    broken.tokenizer.eos_token = None
    with pytest.raises(InputError, match="a token for the beginning or the end of a text, found neither"):
        text_losses(dataclasses.replace(broken, label="mute"), ["abc"])


def test_models_on_the_lines_that_a_corpus_leaves_out(loaded: LanguageModel, model: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, LINES)
    found = held_out_losses([model], f"{corpus}[:-2]", device="cpu")
    assert list(found) == COLUMNS and list(found["category"].unique()) == ["general", "code", "math"]
    assert list(found["text"]) == [0, 1] * 3 and set(found["model"]) == {"tiny"}
    last = [plain(loaded, text) for text in LINES["math"][-2:]]
    assert sorted(found[found["category"] == "math"]["loss"]) == pytest.approx(sorted(last), abs=1e-5)
