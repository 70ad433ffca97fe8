"""What φ is like over all tokens: by hand, against plain hooks and loops, by tensors, stopped, and out of memory."""

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nmerge_core.activations import kept, statistics
from nmerge_core.activations.collect import collect
from nmerge_core.activations.statistics import BINS, EDGES, LayerStatistics, load, save, table
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from tests.tiny import D_FFN, LAYERS, TEXTS, tiny_model, write_corpus

PLACES = ["max_exemplar", "max_token", "min_exemplar", "min_token"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return load_corpus(write_corpus(tmp_path_factory.mktemp("corpus"), TEXTS))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(tiny_model(tmp_path_factory.mktemp("model") / "model"), "cpu")


def counted(phi, gate=None, ids=(0,)):
    """Statistics of some texts, φ (B, T, d_ffn), all of whose tokens count."""
    phi = torch.tensor(phi)
    own = LayerStatistics.of(max(ids) + 1, phi.shape[2])
    lengths = torch.full((len(phi),), phi.shape[1])
    own.add(phi, torch.zeros_like(lengths), lengths, ids, None if gate is None else torch.tensor(gate) > 0)
    return own


def test_by_hand():
    # One neuron, φ = 1, −1, 3, 1: Σ = 4, mean 1; deviations 0, −2, 2, 0: m₂ = 8 / 4 = 2, m₃ = 0, m₄ = 32 / 4 = 8.
    own = counted([[[1.0], [-1.0], [3.0], [1.0]]], [[[1.0], [1.0], [-1.0], [1.0]]])
    (row,) = table({5: own}).to_dict("records")
    assert row == {
        "layer": 5, "neuron": 0, "tokens": 4, "mean": 1, "variance": 2, "skew": 0, "kurtosis": 2, "positive": 0.75,
        "max": 3, "max_exemplar": 0, "max_token": 2, "min": -1, "min_exemplar": 0, "min_token": 1,
        # gate > 0 and φ > 0 (twice), gate > 0 and φ < 0, gate < 0 and φ > 0, so that up < 0
        "gate_pos_up_pos": 0.5, "gate_pos_up_neg": 0.25, "gate_neg_up_pos": 0, "gate_neg_up_neg": 0.25,
    }  # fmt: skip
    # 1 and 1 lie in [1, 2), 3 in [2, 4), −1 in (−2, −1].
    filled = {(float(EDGES[i - 1]), float(EDGES[i])): int(n) for i, n in enumerate(own.histogram[0]) if n}
    assert filled == {(-2, -1): 1, (1, 2): 2, (2, 4): 1}
    assert math.isnan(table({0: counted([[[2.0], [2.0]]])})["kurtosis"][0])  # it does not vary


def test_the_ends_of_the_histogram():
    values = [0.0, 2.0**-15, -(2.0**-15), 2.0**-14, -5000.0, 1024.0]
    histogram = counted([[[value] for value in values]]).histogram[0]
    assert (histogram[BINS // 2], histogram[BINS // 2 + 1], histogram[0], histogram[-1]) == (3, 1, 1, 1)


def test_equal_extrema_are_of_the_first_exemplar():
    own = counted([[[1.0], [2.0]], [[2.0], [1.0]]], ids=(3, 1))
    assert own.places[:, :, 0].tolist() == [[1, 0], [1, 1]]  # the largest and the smallest of exemplar 1


@pytest.mark.parametrize(("skip_first", "batch_size"), [(False, 5), (True, 12)])
def test_agrees_with_plain_hooks_and_loops(loaded, corpus, skip_first, batch_size):
    found = table(collect(loaded, corpus, batch_size=batch_size, skip_first=skip_first, statistics=True).statistics)
    seen: dict[tuple[int, str], torch.Tensor] = {}
    handles = []
    for layer, name in product(range(LAYERS), ("gate", "up")):
        module = getattr(loaded.model.model.layers[layer].mlp, f"{name}_proj")
        handles.append(
            module.register_forward_hook(lambda _, inputs, output, at=(layer, name): seen.update({at: output[0]}))
        )
    tokens: dict[tuple[int, int], list[tuple[float, int, int, bool, bool]]] = {}  # φ, exemplar, token, gate, up
    for exemplar in corpus.exemplars:
        ids = loaded.tokenizer(exemplar.text)["input_ids"]
        with torch.inference_mode():
            loaded.model(input_ids=torch.tensor([ids]))
        for layer in range(LAYERS):
            gate, up = seen[layer, "gate"], seen[layer, "up"]
            phi = (torch.nn.functional.silu(gate) * up).tolist()  # (T, d_ffn)
            for token, neuron in product(range(int(skip_first and len(ids) > 1), len(ids)), range(D_FFN)):
                signs = bool(gate[token, neuron] > 0), bool(up[token, neuron] > 0)
                tokens.setdefault((layer, neuron), []).append((phi[token][neuron], exemplar.id, token, *signs))
    for handle in handles:
        handle.remove()
    rows = []
    for (layer, neuron), all_ in tokens.items():
        values = np.array([each[0] for each in all_])
        off = values - values.mean()
        high, low = max(all_, key=lambda each: each[0]), min(all_, key=lambda each: each[0])
        pairs = [sum((g, u) == signs for *_, g, u in all_) / len(all_) for signs in product((True, False), repeat=2)]
        moments = [values.mean(), (off**2).mean(), (off**3).mean() / (off**2).mean() ** 1.5]
        moments += [(off**4).mean() / (off**2).mean() ** 2, (values > 0).mean()]
        rows.append([layer, neuron, len(all_), *moments, *high[:3], *low[:3], *pairs])
        own = found.loc[layer * D_FFN + neuron]
        for side, extreme in (("max", high), ("min", low)):  # texts that begin alike reach it alike, to rounding
            place = own[f"{side}_exemplar"], own[f"{side}_token"]
            [there] = [value for value, *at, _, _ in all_ if tuple(at) == place]
            assert there == pytest.approx(extreme[0], rel=1e-5)
    expected = pd.DataFrame(rows, columns=found.columns).drop(columns=PLACES)
    pd.testing.assert_frame_equal(found.drop(columns=PLACES), expected, check_dtype=False, rtol=1e-4, atol=1e-6)
    assert found["tokens"].iloc[0] == sum(len(each.text.encode()) for each in corpus.exemplars) - skip_first * 11  # "7"


def test_by_tensors_as_on_an_accelerator(loaded, corpus, monkeypatch):
    monkeypatch.setattr("nmerge_core.activations.statistics._ROWS", 7)  # so that texts come in several parts
    chance = np.random.default_rng(0)
    phi = (chance.standard_normal((3, 20, 6)) * 10.0 ** chance.integers(-6, 5, (3, 20, 6))).astype(np.float32)
    gate: Any = chance.standard_normal(phi.shape)
    phi[0, 3] = phi[1, 4] = phi[2].max()  # equal ones
    for opened in (gate, None):
        one = counted(phi, opened, (2, 0, 1))
        other = LayerStatistics.of(3, 6)
        if opened is None:
            other.signs[2:] = -1
        for row, id in ((1, 0), (2, 1), (0, 2)):
            other.add_text(torch.tensor(phi[row]), 0, id, None if opened is None else torch.tensor(opened[row]) > 0)
        np.testing.assert_allclose(other.sums, one.sums, rtol=1e-12)
        for name in ("extrema", "places", "signs", "histogram"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))


def test_parts_of_several_processes_add_up():
    phi = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)
    whole, first, second = (
        counted(phi, phi, range(4)),
        counted(phi[:2], phi[:2], (0, 1)),
        counted(phi[2:], phi[2:], (2, 3)),
    )
    one = LayerStatistics.of(4, 3)
    for part in (second, first):
        wide = LayerStatistics.of(4, 3)
        wide.seen[: len(part.seen)] = part.seen
        one.merge(
            LayerStatistics(wide.seen, part.tokens, part.sums, part.extrema, part.places, part.signs, part.histogram)
        )
    pd.testing.assert_frame_equal(table({0: one}), table({0: whole}))
    assert one.seen.all()


def test_a_stopped_collection_counts_nothing_twice(loaded, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_PACE", 0.0)
    expected = collect(loaded, corpus, batch_size=3, statistics=True).statistics

    def stop(stage, done, total, unit=""):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(loaded, corpus, batch_size=3, statistics=True, folder=tmp_path, progress=stop)
    assert int(load(tmp_path, [1])[1].seen.sum()) == 9
    again = collect(loaded, corpus, batch_size=3, statistics=True, folder=tmp_path).statistics
    pd.testing.assert_frame_equal(table(again), table(expected))
    save(again, tmp_path)
    pd.testing.assert_frame_equal(table(load(tmp_path, range(LAYERS))), table(expected))


def test_a_batch_that_ran_out_of_memory_half_way_is_not_counted_twice(loaded, corpus):
    expected = table(collect(loaded, corpus, batch_size=1, statistics=True).statistics)

    def refuse(module, inputs):
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError("out of memory")

    handle = loaded.model.model.layers[1].register_forward_pre_hook(refuse)  # when layer 0 is done
    try:
        found = table(collect(loaded, corpus, statistics=True).statistics)
    finally:
        handle.remove()
    assert found["tokens"].eq(expected["tokens"]).all()
    pd.testing.assert_frame_equal(found.drop(columns=PLACES), expected.drop(columns=PLACES), rtol=1e-4, atol=1e-6)


def test_a_text_that_ran_out_of_memory_half_way_is_not_counted(monkeypatch):
    phi, count, parts = torch.arange(10.0).view(5, 2), statistics._counts, []

    def limited(part, gate):
        parts.append(len(part))
        if len(parts) == 2:
            raise torch.OutOfMemoryError
        return count(part, gate)

    monkeypatch.setattr(statistics, "_counts", limited)
    monkeypatch.setattr(statistics, "_ROWS", 2)
    own = LayerStatistics.of(1, 2)
    with pytest.raises(torch.OutOfMemoryError):
        own.add_text(phi, 0, 0, None)
    assert parts == [2, 2] and not own.seen.any() and not own.sums.any() and not own.histogram.any()
    own.add_text(phi, 0, 0, None)
    assert own.seen.all() and own.tokens == [5] and own.sums[0].tolist() == [20, 25]  # 0 + 2 + … + 8, 1 + 3 + … + 9
    assert own.extrema.tolist() == [[8, 9], [0, 1]] and own.places[:, 1].tolist() == [[4, 4], [0, 0]]


def test_a_folder_without_says_so(tmp_path):
    with pytest.raises(InputError, match=r"expected a classification with statistics.safetensors; classify with"):
        load(tmp_path, [0])
