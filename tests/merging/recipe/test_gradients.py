import pytest

from nmerge_core.merging.recipe.gradients import at, filters


@pytest.mark.parametrize(
    ("position", "expected"),
    # Three points over the depth of the model: 0 at the start, 1 in the middle, 0.5 at the end.
    [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 0.75), (1.0, 0.5)],
)
def test_a_gradient_is_interpolated(position: float, expected: float) -> None:
    assert at([0.0, 1.0, 0.5], "any", position) == expected


def test_the_first_filter_that_matches_counts() -> None:
    value = [{"filter": "self_attn", "value": 1}, {"filter": "attn", "value": 2}, {"value": [0, 10]}]
    assert [at(value, name, 0.3) for name in ("l.self_attn.q", "l.attn.q", "l.mlp.up")] == [1, 2, 3.0]
    assert at(value[:2], "l.mlp.up", 0.3) is None
    assert filters(value) == ["self_attn", "attn"]


def test_a_plain_value_and_a_single_point_stay() -> None:
    assert (at(0.5, "any", 0.9), at([0.5], "any", 0.9), at("auto", "any", 0.1)) == (0.5, 0.5, "auto")


def test_of_a_value_for_each_layer_every_layer_has_exactly_its_own() -> None:
    for layers in range(1, 130):
        drawn = [0.1 + 0.7 * (layer % 3) for layer in range(layers)]
        found = [at(drawn, "w", layer / max(1, layers - 1)) for layer in range(layers)]
        assert found == drawn
