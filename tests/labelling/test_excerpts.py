"""What is cut out of texts, against a plain reading of one neuron at a time; and which neurons are drawn."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nmerge_core.activations.collect import token_activations
from nmerge_core.activations.store import open_classification
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.classification.classification import classify
from nmerge_core.errors import InputError
from nmerge_core.labelling.excerpts import _chosen, read_excerpts
from nmerge_core.labelling.sample import choose_neurons
from nmerge_core.loading import load_model
from nmerge_core.progress import silent
from tests.tiny import TEXTS, write_corpus


@pytest.mark.parametrize("skip_first", [False, True])
def test_excerpts_are_those_of_a_plain_reading(labelled: SimpleNamespace, tmp_path, skip_first: bool) -> None:
    folder = labelled.neurons
    if skip_first:
        folder = tmp_path / "neurons"
        classify(labelled.model, labelled.corpus, folder, skip_first=True)
    found, model = open_classification(folder), load_model(labelled.model)
    texts = list(found.exemplars()["text"])
    neurons = [(0, 3), (1, 0), (1, 47)]
    for shown in read_excerpts(model, found, neurons, 0, silent):
        layer, neuron = shown.neuron
        plain = token_activations(model, texts, layer, neuron)
        first = int(skip_first)
        traces = [np.abs(np.array(each.values, np.float32)) for each in plain]
        threshold = np.quantile(np.concatenate([trace[first:] for trace in traces]), 0.9)
        ids = found.top(layer)[0][neuron]

        def cut(exemplar: int, plain=plain, traces=traces, first=first, threshold=threshold) -> tuple[str, list[bool]]:
            peak = first + int(traces[exemplar][first:].argmax())
            part = slice(max(0, peak - 24), peak + 8)
            fires = [bool(at >= first and value > threshold) for at, value in enumerate(traces[exemplar])]
            return "".join(plain[exemplar].tokens[part]), fires[part]

        assert [(each.text, list(each.fires)) for each in shown.excerpts] == [cut(id) for id in ids[:10]]
        exciting = {cut(id)[0] for id in ids[10:15]}
        assert {each.text for place, each in enumerate(shown.held_out) if place in shown.excited} == exciting
        weakest = {cut(id)[0] for id in np.argsort([trace[first:].max() for trace in traces], kind="stable")[:18]}
        assert {each.text for place, each in enumerate(shown.held_out) if place not in shown.excited} <= weakest
        assert len(shown.held_out) == 10 and len(shown.excited) == 5
        again = next(read_excerpts(model, found, [shown.neuron], 0, silent))
        assert again == shown  # whatever else is read beside it
    assert next(read_excerpts(model, found, neurons[:1], 1, silent)).held_out != again.held_out


def test_a_corpus_too_small_to_hold_out_is_told_of(labelled: SimpleNamespace, tmp_path) -> None:
    classify(labelled.model, write_corpus(tmp_path / "corpus", TEXTS), tmp_path / "neurons")
    with pytest.raises(InputError, match="expected 30 exemplars or more, of which .* found 12; classify with a larger"):
        next(read_excerpts(load_model(labelled.model), open_classification(tmp_path / "neurons"), [(0, 0)], 0, silent))


def test_larger_draws_have_the_smaller(labelled: SimpleNamespace) -> None:
    found, architecture = open_classification(labelled.neurons), open_checkpoint(labelled.model).architecture
    given: dict[str, Any] = {"each_category": False, "lists": None}
    few, many = (choose_neurons(found, architecture, count=count, seed=0, **given) for count in (5, 30))
    assert set(few) < set(many) and len(many) == 30
    assert few != choose_neurons(found, architecture, count=5, seed=1, **given)
    everything = choose_neurons(found, architecture, count=10**6, seed=0, **given)
    assert everything == [(layer, neuron) for layer in (0, 1) for neuron in range(48)]


def test_categories_are_drawn_alike_and_lists_taken_whole(labelled: SimpleNamespace, tmp_path) -> None:
    found, architecture = open_classification(labelled.neurons), open_checkpoint(labelled.model).architecture
    drawn = choose_neurons(found, architecture, count=9, each_category=True, lists=None, seed=0)
    known = found.neurons().set_index(["layer", "neuron"])["category"]
    sizes = known.value_counts()
    assert Counter(known[pair] for pair in drawn) == {name: min(3, sizes[name]) for name in sizes.index}
    lists = {"mine": [[1, 2], [0, 7]]}
    assert choose_neurons(found, architecture, count=1, each_category=False, lists=lists, seed=0) == [(0, 7), (1, 2)]


def test_a_neuron_that_all_texts_excite_alike_has_texts_to_hold_out() -> None:
    """Of a dead one the strongest 15 of 30 exemplars are the first, and so is the weaker half."""
    found = SimpleNamespace(top=lambda layer, k: (np.tile(np.arange(k), (3, 1)), np.zeros((3, k), np.float32)))
    shown, held_out, excited = _chosen(found, (0, 2), np.zeros(30, np.float32), 0)  # type: ignore[arg-type]
    assert shown == [*range(10)] and {held_out[place] for place in excited} == {*range(10, 15)}
    assert {held_out[place] for place in range(10) if place not in excited} == {*range(15, 20)}
