import math

import numpy as np
import pytest
import torch

from nmerge_core.activations import collect as collecting
from nmerge_core.activations.collect import collect, token_activations
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.progress import silent
from tests.tiny import D_FFN, LAYERS, TEXTS, tiny_model, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_corpus(tmp_path_factory.mktemp("corpus"), TEXTS))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(tiny_model(tmp_path_factory.mktemp("model")), "cpu")


def naive(loaded, text, max_length, skip_first=False):
    """One sentence, φ by the formula from the MLP's own input, plain loops over tokens: {(layer, neuron): (a, t)}."""
    tokens = loaded.tokenizer(text)["input_ids"][:max_length]
    inputs = {}
    handles = [
        layer.mlp.register_forward_pre_hook(lambda module, args, index=index: inputs.update({index: args[0][0]}))
        for index, layer in enumerate(loaded.model.model.layers)
    ]
    with torch.no_grad():
        loaded.model(torch.tensor([tokens]))
    for handle in handles:
        handle.remove()
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for index, layer in enumerate(loaded.model.model.layers):
        with torch.no_grad():
            gate, up = layer.mlp.gate_proj(inputs[index]), layer.mlp.up_proj(inputs[index])  # (T, d_ffn)
        for neuron in range(D_FFN):
            for t in range(1 if skip_first and len(tokens) > 1 else 0, len(tokens)):
                g = gate[t, neuron].item()
                value = abs(g / (1 + math.exp(-g)) * up[t, neuron].item())
                if (index, neuron) not in best or value > best[index, neuron][0]:
                    best[index, neuron] = (value, t)
    return best


@pytest.mark.parametrize("skip_first", [False, True])
def test_agrees_with_plain_loops_over_single_sentences(loaded, corpus, skip_first):
    scores = collect(loaded, corpus, max_length=20, batch_size=5, skip_first=skip_first)
    assert [values.shape for values in scores.values] == [(12, D_FFN)] * LAYERS
    for exemplar in corpus.exemplars:
        for (layer, neuron), (value, position) in naive(loaded, exemplar.text, 20, skip_first).items():
            assert scores.values[layer][exemplar.id, neuron].item() == pytest.approx(value, rel=1e-4, abs=1e-6)
            assert scores.positions[layer][exemplar.id, neuron].item() == position


@pytest.mark.parametrize("batch_size", [1, 3, 12, "auto"])
def test_does_not_depend_on_batch_size(loaded, corpus, batch_size):
    expected = collect(loaded, corpus, batch_size=2)
    scores = collect(loaded, corpus, batch_size=batch_size)
    torch.testing.assert_close(scores.values, expected.values, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, scores.positions, expected.positions))


def test_does_not_depend_on_the_order_of_exemplars(loaded, corpus, tmp_path):
    turned = load_corpus(write_corpus(tmp_path, {name: texts[::-1] for name, texts in TEXTS.items()}))
    index = {exemplar.text: exemplar.id for exemplar in turned.exemplars}
    order = [index[exemplar.text] for exemplar in corpus.exemplars]
    expected, scores = collect(loaded, corpus, batch_size=5), collect(loaded, turned, batch_size=5)
    torch.testing.assert_close([values[order] for values in scores.values], [*expected.values], rtol=1e-5, atol=1e-6)


def test_keeps_the_format_it_runs_in_and_the_chosen_layers(corpus, tmp_path):
    loaded = load_model(tiny_model(tmp_path, dtype=torch.bfloat16), "cpu", "bfloat16")
    scores = collect(loaded, corpus, layers=[1])
    assert scores.layers == (1,)
    assert scores.values[0].dtype == torch.bfloat16
    assert torch.equal(scores.values[0], collect(loaded, corpus).values[1])


def no_gpu_memory():
    raise torch.OutOfMemoryError  # of this class alone on an accelerator


@pytest.mark.parametrize(
    "too_much",
    [no_gpu_memory, lambda: torch.empty(2**60), lambda: np.empty(2**60, np.uint8)],
    ids=["gpu", "cpu", "numpy"],
)
def test_halves_the_batch_when_memory_runs_out(loaded, corpus, monkeypatch, too_much):
    expected = collect(loaded, corpus, batch_size=1)
    run, sizes = collecting.run_body, []

    def limited(language_model, tokens, mask):
        sizes.append(len(tokens))
        if len(tokens) > 2:
            too_much()
        run(language_model, tokens, mask)

    monkeypatch.setattr(collecting, "run_body", limited)
    scores = collect(loaded, corpus)
    assert sizes[0] == 12
    assert sum(size for size in sizes if size <= 2) == 12
    torch.testing.assert_close(scores.values, expected.values, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="3 exemplars of up to 46 tokens do not fit in memory"):
        collect(loaded, corpus, batch_size=3)


def test_other_failures_of_a_batch_are_no_lack_of_memory(loaded, corpus, monkeypatch):
    monkeypatch.setattr(collecting, "run_body", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        collect(loaded, corpus)


def test_progress_counts_exemplars_and_can_stop_the_work(loaded, corpus):
    seen = []
    collect(loaded, corpus, batch_size=5, progress=lambda stage, done, total, unit="": seen.append((done, total, unit)))
    assert seen == [(done, 12, "exemplars") for done in (0, 5, 10, 12)]

    def stop(stage, done, total, unit=""):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(loaded, corpus, batch_size=5, progress=stop)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_activations_that_are_not_finite_are_refused(corpus, tmp_path):
    loaded = load_model(tiny_model(tmp_path), "cpu")
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(InputError, match="layer 1: activations are not finite"):
        collect(loaded, corpus, progress=silent)


@pytest.mark.parametrize("batch_size", [0, -1, "many", 2.0])
def test_a_bad_batch_size_is_refused(loaded, corpus, batch_size):
    with pytest.raises(InputError, match="batch size: expected 'auto' or a number"):
        collect(loaded, corpus, batch_size=batch_size)


def test_token_activations_explain_the_score(loaded, corpus):
    scores = collect(loaded, corpus, max_length=30)
    texts = [exemplar.text for exemplar in corpus.exemplars]
    found = token_activations(loaded, texts, 1, 7, max_length=30)
    for exemplar, text in zip(corpus.exemplars, found, strict=True):
        assert "".join(text.tokens) == exemplar.text[:30]  # one token a byte, and all of these are ASCII
        sizes = [abs(value) for value in text.values]
        assert max(sizes) == pytest.approx(scores.values[1][exemplar.id, 7].item(), rel=1e-4)
        assert sizes.index(max(sizes)) == scores.positions[1][exemplar.id, 7].item()
    assert any(value < 0 for text in found for value in text.values)


def test_a_character_of_several_tokens_appears_once(loaded):
    [found] = token_activations(loaded, ["né 在!"], 0, 0)
    assert len(found.tokens) == len(found.values) == 1 + 2 + 1 + 3 + 1  # bytes of n, é, space, 在, !
    assert "".join(found.tokens) == "né 在!"
    assert found.tokens[0] == "n"


def test_an_empty_text_has_no_activations_and_an_unknown_neuron_is_named(loaded):
    assert token_activations(loaded, [""], 0, 0)[0].tokens == []
    with pytest.raises(InputError, match="no neuron 48 in layer 1; it has 48 neurons"):
        token_activations(loaded, ["x"], 1, D_FFN)
