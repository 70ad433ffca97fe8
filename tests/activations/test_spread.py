"""How much of its space a model uses."""

import math

import pytest
import torch

from nmerge_core.activations.spread import effective_rank, spread
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from tests.tiny import D_MODEL, tiny_model


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((2.0, 2.0), 2.0),
        ((5.0, 0.0), 1.0),
        ((3.0, 1.0), 4 / 3**0.75),  # exp(−¾ log ¾ − ¼ log ¼)
        ((0.0, 0.0), 0.0),
    ],
)
def test_effective_rank_of_singular_values(sizes: tuple[float, float], expected: float) -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    matrix = turn @ torch.diag(torch.tensor(sizes, dtype=torch.float64)) @ torch.eye(2, 5, dtype=torch.float64)
    assert effective_rank(matrix) == pytest.approx(expected)
    assert effective_rank(matrix.T) == pytest.approx(expected)


def test_what_is_not_finite_has_no_rank() -> None:
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.inf], [0.0, 1.0]])))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    return load_model(tiny_model(tmp_path_factory.mktemp("model")), "cpu")


def test_hidden_states_are_those_that_transformers_gives_without_first_tokens(loaded) -> None:
    texts = ["the cat sat", "", "2 + 2 = 4 and more", "x"]
    states = []
    for ids in ([*map(int, loaded.tokenizer(text)["input_ids"][:12])] for text in texts if text):
        with torch.no_grad():
            hidden = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0].double()
        states.append(hidden[1:] if len(ids) > 1 else hidden)
    hidden = torch.cat(states)
    assert hidden.shape == (10 + 11 + 1, D_MODEL)
    sizes = torch.linalg.svdvals(hidden - hidden.mean(0))
    shares = sizes / sizes.sum()
    found = spread(loaded, texts, max_length=12)
    assert list(found["layer"]) == [0, 1]
    assert found["rank"][0] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares.tolist() if p > 1e-12)))
    assert found["variance"][0] == pytest.approx(hidden.var(0, correction=0).mean().item())


def test_texts_without_tokens_are_refused(loaded) -> None:
    with pytest.raises(InputError, match="found none with a token"):
        spread(loaded, ["", ""])
