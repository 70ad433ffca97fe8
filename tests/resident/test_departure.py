"""Where a merge departs from one of its models, between two real models."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.resident.departure import (
    divergence,
    likeliest_next,
    log_probabilities,
    moved_neurons,
    read_alike,
    read_until,
)
from tests.tiny import D_FFN, tiny_model

TEXT = "if x:\n    y"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[LanguageModel]:
    folders = [tmp_path_factory.mktemp(name) for name in ("merge", "model")]
    return [load_model(tiny_model(folder, seed=seed), "cpu") for seed, folder in enumerate(folders)]


def with_more_tokens(model: LanguageModel, count: int) -> LanguageModel:
    wider = deepcopy(model.model)
    wider.resize_token_embeddings(count, mean_resizing=False)
    return replace(model, model=wider)


def test_divergence_is_that_of_torch(pair: list[LanguageModel]) -> None:
    ids = read_alike(pair, TEXT, 64).ids
    merge, model = (log_probabilities(each, ids) for each in pair)
    with torch.no_grad():
        logits = [each.model(torch.tensor([ids])).logits[0].double() for each in pair]
    ours, theirs = (each.log_softmax(-1) for each in logits)
    expected = torch.nn.functional.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)
    assert divergence(merge, model).tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert divergence(merge, merge).abs().max() == 0


def test_divergence_by_hand_is_over_the_tokens_that_both_have() -> None:
    """(½, ½) against (¼, ¾) gives ½ log 2 + ½ log ⅔; a third token, which one of them has, does not count."""
    merge, model = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.125, 0.375, 0.5]]).log()
    expected = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log()
    assert divergence(merge, model).tolist() == pytest.approx([expected.item()])
    backwards = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    assert divergence(model, merge).tolist() == pytest.approx([backwards.item()])


def test_what_comes_next_is_what_any_finds_likeliest(pair: list[LanguageModel]) -> None:
    ids = read_until(pair, TEXT, 3, 64)
    assert len(ids) == 4
    with torch.no_grad():
        ours, theirs = (each.model(torch.tensor([ids])).logits[0, -1].softmax(-1) for each in pair)
    found = likeliest_next([pair[0], with_more_tokens(pair[1], 300)], ids, 2)
    expected = {*ours.topk(2).indices.tolist(), *theirs.topk(2).indices.tolist()}
    assert [each.probabilities[0] for each in found] == pytest.approx(sorted(ours[[*expected]].tolist(), reverse=True))
    assert {each.token for each in found} >= {pair[0].tokenizer.decode([ours.argmax().item()])}
    assert len(found) == len(expected)


def test_moved_neurons_are_those_of_the_formula(pair: list[LanguageModel]) -> None:
    ids = read_until(pair, TEXT, 6, 64)
    phi: list[list[torch.Tensor]] = []
    for each in pair:
        inputs: list[torch.Tensor] = []
        handles = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda module, args, own=inputs: own.append(args[0][0, -1]))
            for layer in each.model.model.layers
        ]
        with torch.no_grad():
            each.model(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        phi.append(inputs)
    found = moved_neurons(pair[0], pair[1], ids, 2)
    assert list((found["merge"] - found["model"]).abs()) == sorted(
        (found["merge"] - found["model"]).abs(), reverse=True
    )
    for layer, (ours, theirs) in enumerate(zip(*phi, strict=True)):
        own = found[found["layer"] == layer]
        expected = sorted(range(D_FFN), key=lambda neuron: -abs(ours[neuron] - theirs[neuron]))[:2]
        assert list(own["neuron"]) == expected
        assert list(own["merge"]) == pytest.approx(ours[expected].tolist())
        assert list(own["model"]) == pytest.approx(theirs[expected].tolist())


def test_what_cannot_be_compared_is_refused(pair: list[LanguageModel]) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        read_alike(pair, "", 64)
    with pytest.raises(InputError, match=r"token 10: expected one of the 10 tokens of the text"):
        read_until(pair, "0123456789", 10, 64)

    other = deepcopy(pair[1].tokenizer)
    other.add_tokens(["ab"])
    with pytest.raises(InputError, match="model reads this text in other tokens than merge"):
        read_alike([replace(pair[0], label="merge"), replace(pair[1], label="model", tokenizer=other)], "ab", 64)
    broken = with_more_tokens(pair[0], 257)
    with torch.no_grad():
        broken.model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(InputError, match="its output is not finite in float32"):
        log_probabilities(broken, [1, 2])
