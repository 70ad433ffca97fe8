"""What the health of a merge comes to in a sentence."""

import math

import pandas as pd
import pytest

from nmerge_core.figures import health


def tables(*, norms: list[float], merged: float, kept: list[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One layer's attention as it should be, and its MLP with these norms of the models' changes and of the merge's."""
    place = [{"layer": 3, "part": part} for part in ("attention", "mlp")]
    layers = [place[0] | {"norm": 0.1}, place[1] | {"norm": merged}]
    models = [
        each | {"model": f"m{number}", "norm": norm, "kept": share}
        for each, own in zip(place, ([1.0] * len(norms), norms), strict=True)
        for number, (norm, share) in enumerate(zip(own, kept, strict=True))
    ]
    return pd.DataFrame(layers), pd.DataFrame(models)


@pytest.mark.parametrize(
    ("merged", "fault", "said"),
    [
        (4.0, False, "In the MLP of layer 3 the merge is 1.00 times as far from the base as m1, the furthest of its"),
        (7.4, False, "there, and nowhere further. Fine: there up to 1.88 times, 1.5 times what"),
        (7.6, True, "1.90 times as far from the base as m1, the furthest of its models there: further than all their"),
        (0.1, False, "In the attention of layer 3 the merge is 0.100 times as far from the base as m0"),
    ],
)
def test_how_far_it_went(merged: float, fault: bool, said: str) -> None:
    """Changes of 3 and 4 that have nothing in common add up to 5: half more, 7.5, is 1.875 times the larger one."""
    found = health.change_told(*tables(norms=[3.0, 4.0], merged=merged, kept=[1.0, 1.0]))
    assert said in found.sentence and found.fault is fault


def test_a_merge_that_is_its_base_says_so() -> None:
    layers, models = tables(norms=[3.0, 4.0], merged=0.02, kept=[0.0, 0.0])
    found = health.change_told(layers.assign(norm=0.02), models)
    assert found == health.Verdict(
        "The merge is as good as its base: at most 0.0200 times as far from it as the furthest of its models.", True
    )
    nothing = models.assign(norm=0.0, kept=math.nan)
    for verdict in (health.change_told(layers, nothing), health.kept_told(nothing)):
        assert verdict == health.Verdict("None of the models changed anything in its layers.", True)


def test_what_was_kept_is_of_the_whole_change() -> None:
    """Of a model whose parts changed by 1 and 3, half of one and all of the other: (½ · 1 + 1 · 9) / 10."""
    _, models = tables(norms=[3.0, 3.0], merged=1.0, kept=[1.0, 0.04])
    models.loc[0, "kept"] = 0.5
    found = health.kept_told(models)
    assert found.sentence == (
        "Of what its models changed the merge has 95.0 % of m0, 4.0 % of m1. Next to nothing is left of m1."
    )
    assert found.fault
    against = health.kept_told(models.assign(kept=[-0.5, 0.3] * 2))
    assert against.sentence.endswith("-50.0 % of m0, 30.0 % of m1. It goes against m0.") and against.fault
    assert health.kept_told(models.assign(kept=[0.5, 0.3] * 2)).sentence.endswith(
        "30.0 % of m1. Fine: at least 5 % of each."
    )
    many = health.kept_told(tables(norms=[1.0] * 9, merged=1.0, kept=[0.1 * n for n in range(1, 10)])[1])
    assert "has 10.0 % of m0, 90.0 % of m8, of the 7 others between these." in many.sentence and not many.fault


def test_contradictions_count_beyond_chance() -> None:
    layers = pd.DataFrame({"opposed": [0.5, 0.6], "chance": [0.5, 0.5], "cancelled": [0.2, 0.4]})
    found = health.contradictions_told(layers)
    assert "in 55.0 % of the cases, of signs by chance it would be 50.0 %; 30.0 % of all change" in found.sentence
    assert found.fault and found.sentence.endswith("is lost when it is added up.")
    for opposed, fine in ((0.4, "no more"), (0.51, "hardly more")):
        found = health.contradictions_told(layers.assign(opposed=opposed))
        assert not found.fault and found.sentence.endswith(f"added up. Fine: {fine} than by chance.")
    alone = health.contradictions_told(layers.assign(opposed=math.nan, chance=math.nan))
    assert "they cannot contradict each other" in alone.sentence and not alone.fault


def states(rank: float, variance: float) -> pd.DataFrame:
    rows = [("base", 0, 20.0, 1.0), ("math", 0, 10.0, 2.0), (health.MERGE, 0, rank, variance)]
    return pd.DataFrame(rows, columns=["model", "layer", "rank", "variance"])


@pytest.mark.parametrize(
    ("rank", "variance", "said"),
    [
        (9.0, 1.5, "at least 0.900 times as many directions as those of the model with the fewest: 9.00 and 10.0"),
        (7.0, 1.5, "they have collapsed"),
        (9.0, 6.0, "they vary 3.00 times as much as any model's"),
        (9.0, 0.25, "they vary only 0.250 times as much as any model's"),
        (math.nan, 1.0, "are not finite"),
    ],
)
def test_hidden_states(rank: float, variance: float, said: str) -> None:
    found = health.spread_told(states(rank, variance))
    assert said in found.sentence and found.fault is ("directions as those" not in said)
    assert found.fault is ("Fine: they have not collapsed" not in found.sentence)
