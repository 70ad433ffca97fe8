"""Models of an encoder and a decoder: both read every text, and neurons of both stacks are told apart by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.bart import BartConfig, BartForConditionalGeneration
from transformers.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration
from transformers.models.mbart import MBartConfig, MBartForConditionalGeneration
from transformers.models.t5 import T5Config, T5ForConditionalGeneration

from nmerge_core.activations import kept
from nmerge_core.activations.collect import Scores, collect, token_activations
from nmerge_core.activations.spread import spread
from nmerge_core.activations.store import open_classification
from nmerge_core.cli import main
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.neuron.on_text import continued
from nmerge_core.resident.departure import read_alike
from tests.evaluation.test_conditions import CHOICES, PROMPTS
from tests.evaluation.test_seq2seq import ENDED
from tests.evaluation.test_tasks import write_task
from tests.tiny import TEXTS, tiny_tokenizer, write_corpus

_TOKENS: dict[str, Any] = {"vocab_size": 257, "bos_token_id": 0, "eos_token_id": 0}
_T5 = _TOKENS | {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
_BART = _TOKENS | {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "pad_token_id": 1}
_BART |= {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_BART |= {"max_position_embeddings": 64, "init_std": 0.5}


def t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(**_T5, decoder_start_token_id=0))


def gated_t5() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(**_T5, decoder_start_token_id=0, feed_forward_proj="gated-gelu"))


def bart() -> PreTrainedModel:
    return BartForConditionalGeneration(BartConfig(**_BART, decoder_start_token_id=2))


def mbart() -> PreTrainedModel:
    """Its decoder begins with the last token before the padding, the language's."""
    return MBartForConditionalGeneration(MBartConfig(**_BART))


def m2m100() -> PreTrainedModel:
    """As NLLB is; its class has no method that shifts what the decoder reads."""
    return M2M100ForConditionalGeneration(M2M100Config(**_BART, decoder_start_token_id=2))


# The modules whose inputs are φ, the encoder's layers first.
_T5_DOWN = [f"encoder.block.{number}.layer.1.DenseReluDense.wo" for number in (0, 1)]
_T5_DOWN += [f"decoder.block.{number}.layer.2.DenseReluDense.wo" for number in (0, 1)]
_BART_DOWN = ["model.encoder.layers.0.fc2", "model.encoder.layers.1.fc2", "model.decoder.layers.0.fc2"]
DOWN = {t5: _T5_DOWN, gated_t5: _T5_DOWN, bart: _BART_DOWN, mbart: _BART_DOWN, m2m100: _BART_DOWN}
# What the decoder begins with before it writes the tokens of a text.
BEGINS: dict[Any, Callable[[list[int]], int]] = {
    t5: lambda ids: 0, gated_t5: lambda ids: 0, bart: lambda ids: 2, mbart: lambda ids: ids[-1], m2m100: lambda ids: 2
}  # fmt: skip
MAKERS = [*DOWN]


def saved(make: Callable[[], PreTrainedModel], folder: Path) -> str:
    torch.manual_seed(0)
    make().save_pretrained(folder)
    tiny_tokenizer(folder, pad=True)
    return str(folder)


def load(reference: str, dtype: str = "float32") -> LanguageModel:
    return load_model(reference, "cpu", dtype, kinds=SCORED)


def hooked(model: LanguageModel, ids: list[int], down: list[str], first: int) -> list[torch.Tensor]:
    """φ (T, d_ffn) of each layer, from plain hooks on transformers' own forward pass of one text."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0].view(len(ids), -1)})
        )
        for name in down
    ]
    with torch.no_grad():
        model.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[first, *ids[:-1]]]))
    for handle in handles:
        handle.remove()
    return [seen[name] for name in down]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacks")
    write_corpus(folder / "corpus", TEXTS)
    return folder


@pytest.fixture(scope="module")
def reference(root: Path) -> str:
    return saved(t5, root / "t5")


@pytest.mark.parametrize("make", MAKERS)
def test_both_stacks_equal_plain_hooks_on_single_texts(make: Callable, root: Path, tmp_path: Path) -> None:
    model, corpus = load(saved(make, tmp_path)), load_corpus(str(root / "corpus"))
    scores = collect(model, corpus, max_length=40, batch_size=5, statistics=True)
    assert scores.statistics and len(scores.layers) == len(DOWN[make])
    total = 0
    for exemplar in corpus.exemplars:
        ids = model.tokenizer(exemplar.text)["input_ids"][:40]
        total += len(ids)
        for layer, phi in enumerate(hooked(model, ids, DOWN[make], BEGINS[make](ids))):
            values, tokens = phi.abs().max(0)
            torch.testing.assert_close(scores.values[layer][exemplar.id], values, rtol=1e-5, atol=1e-5)
            reached = phi.abs()[scores.positions[layer][exemplar.id].long(), torch.arange(phi.shape[1])]
            torch.testing.assert_close(reached, values, rtol=1e-5, atol=1e-5)
    assert [own.tokens[0] for own in scores.statistics.values()] == [total] * len(DOWN[make])


def test_a_neuron_of_either_stack_has_an_activation_at_every_token(reference: str) -> None:
    model, text = load(reference), TEXTS["math"][1]
    ids = model.tokenizer(text)["input_ids"]
    expected = hooked(model, ids, DOWN[t5], 0)
    for layer in range(4):
        found, short = token_activations(model, [text, "7"], layer, 5)
        assert "".join(found.tokens) == text and len(short.values) == 1
        torch.testing.assert_close(torch.tensor(found.values), expected[layer][:, 5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scores_are_in_the_format_that_the_model_runs_in(dtype: str, reference: str, root: Path) -> None:
    """Of T5 transformers keeps down in float32 where the model is in float16."""
    corpus = load_corpus(str(root / "corpus"))
    scores, exact = collect(load(reference, dtype), corpus), collect(load(reference), corpus)
    for own, precise in zip(scores.values, exact.values, strict=True):
        assert own.dtype == getattr(torch, dtype)
        torch.testing.assert_close(own.float(), precise, rtol=0.1, atol=0.1 * precise.max().item())


def test_a_stopped_collection_goes_on(reference: str, root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(kept, "_PACE", 0.0)
    model, corpus, ran = load(reference), load_corpus(str(root / "corpus")), list[float]()

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        ran.append(done)
        if done >= 6 and len(ran) < 4:
            raise KeyboardInterrupt

    def run(**options: Any) -> Scores:
        return collect(model, corpus, batch_size=3, folder=tmp_path, **options)

    with pytest.raises(KeyboardInterrupt):
        run(progress=stop)
    scores, expected = run(progress=stop), collect(model, corpus, batch_size=3)
    assert ran == [0, 3, 6, 6, 9, 12]
    assert all(map(torch.equal, (*scores.values, *scores.positions), (*expected.values, *expected.positions)))


def test_classify_compare_and_knock_out_by_command(reference: str, root: Path, tmp_path: Path, capsys: Any) -> None:
    corpus, neurons, table = str(root / "corpus"), str(tmp_path / "neurons"), tmp_path / "table.csv"
    assert main(["classify", reference, "--corpus", corpus, "--out", neurons, "--top-k", "3"]) == 0
    found = open_classification(neurons)
    assert found.stacks == {"encoder": [0, 1], "decoder": [2, 3]}
    assert found.neurons().groupby("layer").size().to_dict() == dict.fromkeys(range(4), 24)
    assert main(["compare", neurons, "--out", str(table)]) == 0
    assert pd.read_csv(table)["t5"].sum() == 96
    docs = [{"prompt": prompt, "answer": 0, "choices": ENDED} for prompt in PROMPTS[:2]]
    task = write_task(tmp_path, CHOICES | {"target_delimiter": ""}, docs)
    asked = ["knockout", reference, "--neurons", neurons, "--category", "general", "--out", str(table)]
    asked += ["--proportions", "1", "--repeats", "1"]
    assert main([*asked, "--task", task]) == 0
    assert {"general", "random"} == {*pd.read_csv(table)["group"]}
    assert main([*asked, "--loss", f"{corpus}[:-1]"]) == 2
    assert (
        "t5: expected a causal language model, found a sequence-to-sequence model; it can be" in capsys.readouterr().err
    )


def test_what_needs_to_know_what_comes_after_each_token_refuses_it(reference: str) -> None:
    model = load(reference)
    for ask in (
        lambda: continued(model, "a text", 0),
        lambda: read_alike([model], "a text", 8),
        lambda: spread(model, ["a text"]),
    ):
        with pytest.raises(InputError, match="classified, scored on tasks and knocked out by them, but not asked by"):
            ask()


def test_a_decoder_without_a_beginning_is_named(root: Path, tmp_path: Path) -> None:
    model = load(saved(t5, tmp_path))
    model.model.config.decoder_start_token_id = None
    with pytest.raises(InputError, match="to say how its decoder begins .decoder_start_token_id"):
        collect(model, load_corpus(str(root / "corpus")))
