"""Where fine-tunes disagree, and the means of layers, by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nmerge_core.errors import InputError
from nmerge_core.face.weights import Cosines
from nmerge_core.figures.changes import over_layers
from nmerge_core.similarity.tables import conflicts, layer_means

PAIRS = [("math", "code"), ("math", "merge"), ("code", "merge")]


def between() -> pd.DataFrame:
    """Two neurons of one layer; of the second only math and code changed the same weights."""
    opposed = [[0.5, 0.2], [0.3, np.nan], [0.1, np.nan]]
    cosine = [[-0.4, 0.8], [0.2, 0.0], [0.5, np.nan]]
    rows = [
        (one, other, 0, neuron, cosine[pair][neuron], opposed[pair][neuron])
        for pair, (one, other) in enumerate(PAIRS)
        for neuron in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["one", "other", "layer", "neuron", "cosine", "opposed"])


def test_conflicts_are_means_over_every_two_most_opposed_first() -> None:
    found = conflicts(between())
    assert found["neuron"].tolist() == [0, 1]
    np.testing.assert_allclose(found["opposed"], [(0.5 + 0.3 + 0.1) / 3, 0.2])
    np.testing.assert_allclose(found["cosine"], [(-0.4 + 0.2 + 0.5) / 3, (0.8 + 0.0) / 2])
    among = conflicts(between(), ["math", "code"])
    np.testing.assert_allclose(among[["neuron", "opposed", "cosine"]], [[0, 0.5, -0.4], [1, 0.2, 0.8]])
    last = conflicts(between(), ["code", "merge"])
    assert last["neuron"].tolist() == [0, 1] and np.isnan(last["opposed"].iloc[1])


def test_layers_have_the_mean_of_the_neurons_that_have_the_quantity() -> None:
    found = layer_means(between(), "opposed")
    assert sorted(found["row"]) == ["code and merge", "math and code", "math and merge"]
    by_row = found.set_index("row")
    np.testing.assert_allclose(by_row.loc["math and code", ["neurons", "value"]].astype(float), [2, (0.5 + 0.2) / 2])
    np.testing.assert_allclose(by_row.loc["math and merge", ["neurons", "value"]].astype(float), [1, 0.3])
    kinds = pd.Categorical(["python", "general"], ["general", "python", "sums"])
    categories = pd.DataFrame({"layer": 0, "neuron": [0, 1], "category": kinds})
    own = layer_means(between(), "opposed", ("math", "merge"), categories)
    assert own["row"].tolist() == ["general", "python"] and own["neurons"].tolist() == [0, 1]
    np.testing.assert_allclose(own["value"], [np.nan, 0.3])
    assert layer_means(between(), "opposed", ("merge", "math"), categories).equals(own)


def test_a_map_of_models_that_are_not_there_is_refused(tmp_path: Path) -> None:
    between().to_parquet(tmp_path / "between.parquet")
    found = Cosines(tmp_path, {name: name for name in ("math", "code", "merge")})
    neurons = pd.DataFrame({"layer": 0, "neuron": [0, 1], "category": "general"})
    assert len(found.map_figure("opposed", ("merge", "math"), neurons).data[0].y) == 1
    for of, categories in (("math", neurons), (("math", "maths"), neurons), (("math", "code"), None)):
        with pytest.raises(InputError, match="of: expected two of math, code, merge, with the base's categories"):
            found.map_figure("opposed", of, categories)


def test_the_map_tells_what_has_no_number_apart() -> None:
    frame = pd.DataFrame({"row": ["a<b", "c"], "layer": [1, 1], "neurons": [3, 0], "value": [0.25, np.nan]})
    [cells] = over_layers(frame, "opposed").data
    assert (list(cells.x), list(cells.y)) == ([1], ["a&lt;b", "c"])
    assert [list(row) for row in cells.z] == [[0.25], [None]]
    assert [list(row) for row in cells.text] == [["25.0 %"], ["–"]]
    assert cells.hovertext[0][0] == "layer 1 · a&lt;b<br>sign conflict 25.0 %, the mean of 3 neurons"
    assert cells.hovertext[1][0] == "layer 1 · c<br>no neuron has a sign conflict"
    assert cells.customdata[0][0] == [1, "a&lt;b"]
