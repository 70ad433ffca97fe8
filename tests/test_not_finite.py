"""What is measured of weights refuses those that are not finite, in one line that says where they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from nmerge_core import nonlinearity
from nmerge_core.errors import InputError
from nmerge_core.inheritance.measure import inherited, neuron_changes
from nmerge_core.similarity.measure import cosine
from tests.tiny import TEXTS, tiny_model, write_corpus


@pytest.mark.parametrize(
    "measured",
    [
        lambda base, tuned, corpus: cosine(base, [tuned]),
        lambda base, tuned, corpus: inherited(base, base, [tuned]),
        lambda base, tuned, corpus: neuron_changes(base, [tuned], [], 0, 3),
        lambda base, tuned, corpus: nonlinearity.measure(base, [tuned], corpus, samples=1),
        lambda base, tuned, corpus: nonlinearity.solve(base, [tuned], corpus, ["math"], samples=1),
    ],
    ids=["cosine", "inherited", "neuron changes", "linearity", "coefficients"],
)
@pytest.mark.parametrize("entry", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_told(
    measured: Callable[[str, str, str], object], entry: float, tmp_path: Path
) -> None:
    base, tuned = (tiny_model(tmp_path / name) for name in ("base", "tuned"))
    name = "model.layers.0.mlp.up_proj.weight"
    weights = load_file(file := tmp_path / "tuned/model.safetensors")
    weights[name][3, 5] = entry
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError, match=f"{tuned}, tensor {name}: holds NaN or infinite entries"):
        measured(base, tuned, write_corpus(tmp_path / "corpus", TEXTS))
