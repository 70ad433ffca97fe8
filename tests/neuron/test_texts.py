"""Which texts show a neuron, the table of all, and what is strongest on a text of one's own."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nmerge_core.activations.collect import collect
from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.neuron.exemplars import BANDS, RANDOM, STRONGEST, choose_texts
from nmerge_core.neuron.on_text import check_tokens, continued, strongest
from nmerge_core.neuron.overview import overview
from nmerge_core.neuron.pieces import pieces_of_texts
from nmerge_core.neuron.seen import scores_of, see
from tests.tiny import D_FFN, LAYERS, TEXTS, tiny_model, write_corpus

IDS, SAID = [3, 1, 4, 0, 5, 2], ["a", "b", "c", "d", "b", "e"]  # exemplars 1 and 4 have the same text


@pytest.mark.parametrize(
    ("way", "count", "expected"),
    [
        (STRONGEST, 3, [(3, "1"), (1, "2 · and 1 more of the same text"), (0, "3")]),
        # five texts, 3 1 0 5 2, in two bands: the middle of the first half is number 1, of the second number 3
        (BANDS, 2, [(1, "50 to 100 % · and 1 more of the same text"), (5, "0 to 50 %")]),
        (STRONGEST, 9, [(3, "1"), (1, "2 · and 1 more of the same text"), (0, "3"), (5, "4"), (2, "5")]),
    ],
)
def test_texts_are_chosen_once_each(way: str, count: int, expected: list[tuple[int, str]]) -> None:
    assert [(each.id, each.title) for each in choose_texts(IDS, SAID, way, count, (0, 0))] == expected


def test_random_texts_are_drawn_by_their_seed() -> None:
    drawn = [tuple(each.id for each in choose_texts(IDS, SAID, RANDOM, 2, (0, seed))) for seed in range(20)]
    assert all(len({*each}) == 2 for each in drawn) and len({*drawn}) > 5
    assert drawn[3] == tuple(each.id for each in choose_texts(IDS, SAID, RANDOM, 2, (0, 3)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    root = tmp_path_factory.mktemp("tiny")
    model, corpus = tiny_model(root / "model", dtype=torch.bfloat16), write_corpus(root / "corpus", TEXTS)
    classify(model, corpus, root / "found", top_k=3, device="cpu", run_dtype="bfloat16")
    loaded = load_model(model, "cpu", "bfloat16")
    yield SimpleNamespace(model=model, corpus=corpus, found=open_classification(root / "found"), loaded=loaded)


def test_scores_of_one_neuron_are_those_collected(tiny: SimpleNamespace) -> None:
    found: Classification = tiny.found
    scores = collect(tiny.loaded, load_corpus(tiny.corpus))
    ids, values = found.top(1)
    for neuron in (0, 7, D_FFN - 1):
        assert scores_of(found, 1, neuron).tolist() == scores.values[1][:, neuron].float().tolist()
        seen = see(found, "m", 1, neuron)
        assert (seen.ids, seen.scores) == (ids[neuron].tolist(), values[neuron].tolist())  # all 12 are stored
    with pytest.raises(InputError, match="neuron 48: expected 0 to 47"):
        scores_of(found, 1, D_FFN)


def test_the_table_of_all_neurons(tiny: SimpleNamespace) -> None:
    table = overview(tiny.found)
    assert len(table) == LAYERS * D_FFN and list(table["neuron"][:D_FFN]) == list(range(D_FFN))
    stored = tiny.found.neurons()
    assert list(table["category"]) == list(stored["category"])
    counts = stored[[name for name in stored if name.startswith("count_")]].to_numpy()
    ranked = np.sort(counts, axis=1)
    assert list(table["votes"]) == list(ranked[:, -1])
    assert list(table["lead"]) == list(ranked[:, -1] - ranked[:, -2])
    # All 12 texts are stored, and four of them are of each category.
    assert (table["selectivity"] == np.float32(4 / 12)).all() and not table["dead"].any()
    assert table["score"][D_FFN + 7] == scores_of(tiny.found, 1, 7).max()


def test_the_strongest_neurons_of_each_token(tiny: SimpleNamespace) -> None:
    text = TEXTS["math"][1]
    read = continued(tiny.loaded, text, 3)
    assert "".join(read.pieces[: read.given]) == text and len(read.ids) == read.given + 3
    assert "".join(read.pieces[read.given :]) == tiny.loaded.tokenizer.decode(read.ids[read.given :])
    found = strongest(tiny.loaded, tiny.found, read.ids[: read.given], 3)
    scores = collect(tiny.loaded, load_corpus(tiny.corpus))
    phi: dict[int, torch.Tensor] = {}
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda module, args, at=at: phi.update({at: args[0][0].float()}))
        for at, layer in enumerate(tiny.loaded.model.model.layers)
    ]
    with torch.no_grad():
        tiny.loaded.model(torch.tensor([read.ids[: read.given]]))
    for hook in hooks:
        hook.remove()
    shares = torch.cat([phi[at].abs() / scores.values[at].float().amax(0) for at in range(LAYERS)], dim=1)
    for token in range(read.given):
        best = shares[token].topk(3)
        assert [each.share for each in found[token]] == pytest.approx(best.values.tolist(), rel=1e-6)
        assert found[token][0].layer * D_FFN + found[token][0].neuron in best.indices.tolist()
        assert found[token][0].activation == phi[found[token][0].layer][token, found[token][0].neuron].item()


def test_texts_are_cut_where_tokens_end(tiny: SimpleNamespace) -> None:
    assert pieces_of_texts(tiny.model, ["ab né", "xyz"], 5) == [["a", "b", " ", "n", "é"], ["x", "y", "z"]]


def test_tokens_are_the_same_to_every_model_that_reads_them(tiny: SimpleNamespace) -> None:
    """One that a fine-tune was given has no row in the base's embeddings; of another tokenizer all are other texts."""
    read = continued(tiny.loaded, "ab", 2)
    check_tokens(tiny.loaded, read.ids, read.names)
    with pytest.raises(InputError, match=r"model: expected token 9999 to be '<\|im_end\|>', .* found None; models of"):
        check_tokens(tiny.loaded, [*read.ids, 9999], [*read.names, "<|im_end|>"])
    with pytest.raises(InputError, match=rf"expected token {read.ids[0]} to be 'Ġthe', .* found 'a'"):
        check_tokens(tiny.loaded, read.ids, ["Ġthe", *read.names[1:]])
