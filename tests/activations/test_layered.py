"""Layer by layer a model gives the scores that it gives as a whole, and a collection that was killed goes on."""

import os
import signal
import weakref
from dataclasses import replace

import pytest
import torch

from nmerge_core.activations import kept
from nmerge_core.activations.collect import Scores, collect
from nmerge_core.activations.layered import Walk, open_layered
from nmerge_core.activations.statistics import table
from nmerge_core.activations.write import best_exemplars
from nmerge_core.classification.categories import categorise
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from tests.families import CAUSAL, family_of
from tests.peft_adapters import random_adapter
from tests.tiny import TEXTS, tiny_model, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_corpus(tmp_path_factory.mktemp("corpus"), TEXTS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("layered"), tied=False)


def same(found: Scores, expected: Scores) -> bool:
    pairs = [(found.values, expected.values), (found.positions, expected.positions)]
    return found.layers == expected.layers and all(all(map(torch.equal, *pair)) for pair in pairs)


@pytest.mark.parametrize("family", CAUSAL, ids=lambda family: family.title)
def test_scores_are_those_of_the_whole_model(family, made_family, corpus):
    """Bit for bit; what routed experts read at padding decides how they share the work, and so a last bit."""
    folder = made_family(family).base
    expected = collect(load_model(folder, "cpu"), corpus, batch_size=5)
    layered = open_layered(folder, "cpu")
    found = collect(layered, corpus, batch_size=5)
    if not any(layer.routed for layer in layered.architecture.layers):
        assert same(found, expected)
        return
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-5)
    voting = corpus.labels, len(corpus.categories), 3, 1
    for pair in zip(found.values, expected.values, strict=True):
        ours, theirs = (categorise(best_exemplars(values, 3).numpy(), *voting)[0] for values in pair)
        assert (ours == theirs).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_other_formats_too(dtype, made_family, corpus):
    for title in ("Llama", "GLM-4-MoE"):  # one keeps some weights in float32
        folder = made_family(family_of(title)).base
        pair = [collect(opened(folder, "cpu", dtype), corpus, layers=[1]) for opened in (open_layered, load_model)]
        assert same(*pair) and str(pair[0].values[0].dtype) == f"torch.{dtype}"


def test_statistics_and_an_adapter_are_those_of_the_whole_model(model, corpus, tmp_path):
    random_adapter(model, tmp_path, target_modules=["q_proj", "down_proj"])
    pair = [
        collect(opened(f"{model}+{tmp_path}", "cpu"), corpus, batch_size=5, skip_first=True, statistics=True)
        for opened in (open_layered, load_model)
    ]
    assert same(*pair)
    assert table(pair[0].statistics).equals(table(pair[1].statistics))


def test_one_layer_is_in_memory_at_a_time_and_no_head(model, corpus, monkeypatch):
    layered = open_layered(model, "cpu")
    held: list[tuple[str, weakref.ref]] = []
    told: list[tuple] = []
    layer_of, own = layered.architecture.layer_of, type(layered).read

    def read(self, name):
        beside = {layer_of(other) for other, tensor in held if tensor() is not None}
        assert beside <= {None, layer_of(name)}, name
        value = own(self, name)
        held.append((name, weakref.ref(value)))
        return value

    monkeypatch.setattr(type(layered), "read", read)
    collect(layered, corpus, batch_size=5, progress=lambda *of: told.append(of[1:]))
    names = [name for name, _ in held]
    assert sorted(names) == sorted({*layered.checkpoint.tensors} - {"lm_head.weight"})  # each read once
    assert told == [(done, 24, "steps") for done in (0, 5, 10, 12, 17, 22, 24)]


@pytest.mark.parametrize("statistics", [False, True])
def test_killed_at_seven_tenths_it_goes_on(model, corpus, tmp_path, monkeypatch, statistics):
    """17 of 24 steps: the second layer has 5 of 12 exemplars, and has overwritten none of what it reads."""
    monkeypatch.setattr(kept, "_PACE", 0.0)
    layered = open_layered(model, "cpu")
    expected = collect(layered, corpus, batch_size=5, statistics=statistics)

    def die(stage, done, total, unit=""):
        if done >= 0.7 * total:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            collect(layered, corpus, batch_size=5, statistics=statistics, folder=tmp_path, progress=die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    told = []
    found = collect(
        layered, corpus, batch_size=5, statistics=statistics, folder=tmp_path, progress=lambda *of: told.append(of[1])
    )
    assert told == [17, 22, 24]
    assert same(found, expected)
    if statistics:
        assert table(found.statistics).equals(table(expected.statistics))


def test_states_that_the_next_layer_overwrites_are_noted_before(tmp_path, corpus, monkeypatch):
    """Stopped within the third layer, which writes where the second has read, long before the next note is due."""
    monkeypatch.setattr(kept, "_PACE", 1e9)
    model = open_layered(tiny_model(tmp_path / "model", layers=3), "cpu")
    expected = collect(model, corpus, batch_size=5)

    def stop(stage, done, total, unit=""):
        if done == 29:  # 5 of 12 at layer 2
            raise KeyboardInterrupt

    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyboardInterrupt):
        collect(model, corpus, batch_size=5, folder=tmp_path / "kept", progress=stop)
    told = []
    found = collect(model, corpus, batch_size=5, folder=tmp_path / "kept", progress=lambda *of: told.append(of[1]))
    assert told[0] == 24 and same(found, expected)


def test_halves_the_batch_when_memory_runs_out(model, corpus, monkeypatch):
    layered, sizes, run = open_layered(model, "cpu"), [], Walk._run
    expected = collect(layered, corpus, batch_size=1)

    def limited(walk, number, tokens, real, ids):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError
        run(walk, number, tokens, real, ids)

    monkeypatch.setattr(Walk, "_run", limited)
    found = collect(layered, corpus)
    assert sizes[:3] == [12, 6, 3] and sum(size for size in sizes if size <= 3) == 24
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-6)


def test_families_that_cannot_run_so_are_refused_in_a_sentence(made_family, corpus):
    gemma = family_of("Gemma 4 (text)")
    kinds = ["sliding_attention", "full_attention"] * 2
    shared = {**gemma.settings, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": kinds}
    folder = made_family(replace(gemma, title="Gemma 4, shared", settings=shared)).base
    with pytest.raises(InputError, match="its last layers attend by keys and values of earlier ones; it cannot be run"):
        open_layered(folder, "cpu")
    with pytest.raises(InputError, match="expected a causal language model, found a sequence-to-sequence model"):
        open_layered(made_family(family_of("T5")).base, "cpu")
