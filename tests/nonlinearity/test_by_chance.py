"""Neuron groups beside random ones: against whole models and plain loops, and their table by hand."""

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.errors import Cancelled
from nmerge_core.nonlinearity import by_chance
from nmerge_core.nonlinearity.by_chance import TOKENS, _shuffled, _thinned
from nmerge_core.nonlinearity.by_chance_table import Values, table
from nmerge_core.nonlinearity.submodules import Inputs
from tests.families import family_of
from tests.nonlinearity.conftest import fine_tune
from tests.nonlinearity.reference import functions, load
from tests.tiny import TEXTS

EVERY_TEXT = [text for texts in TEXTS.values() for text in texts]
DRAWS = 2


def mixed(base: str, tuned: str, share: Mapping[bool, float]):
    """Whole weights between a base and a fine-tune: so much of down's change and of all others'."""
    model, origin, other = load(base), load(base).state_dict(), load(tuned).state_dict()
    down = {name: "down_proj.weight" in name or "4h_to_h.weight" in name for name in origin}
    model.load_state_dict({name: own + share[down[name]] * (other[name] - own) for name, own in origin.items()})
    return model


@torch.no_grad()
def naive(base: str, tuned: str, groups: Mapping[tuple[int, str], list[int]]) -> dict[tuple[int, str], Tensor]:
    """‖error‖, ‖quadratic term‖ and ‖bend‖ over ‖Δf/2‖, the mean over tokens, (3, texts) of each group.

    f is linear in down and in φ, so that Σ δ_j D_j is f(both) − f(φ alone) − f(down alone) + f(neither).
    """
    neither, both, half, phi, down = (
        mixed(base, tuned, {True: of_down, False: of_others})
        for of_down, of_others in ((0, 0), (1, 1), (0.5, 0.5), (0, 1), (1, 0))
    )
    found: dict[tuple[int, str], list[Tensor]] = {}
    for text in EVERY_TEXT:
        for key, f in functions(neither, base, text, groups):
            change = f(both) - f(neither)
            error = f(half) - f(neither) - change / 2
            quadratic = -(f(both) - f(phi) - f(down) + f(neither)) / 4
            sizes = [each.norm(dim=-1) / (change / 2).norm(dim=-1) for each in (error, quadratic, error - quadratic)]
            found.setdefault(key, []).append(torch.stack(sizes).mean(-1))
    return {key: torch.stack(each, dim=-1) for key, each in found.items()}


def test_equals_whole_models_and_plain_loops(family, corpus, tmp_path) -> None:
    base, (tuned, _) = family
    classify(base, corpus, tmp_path / "neurons", top_k=3)
    frame = by_chance(base, [tuned], corpus, str(tmp_path / "neurons"), draws=DRAWS).set_index(["layer", "group"])
    rows = open_classification(tmp_path / "neurons").neurons()
    for layer, own in rows.groupby("layer"):
        groups = {name: each["neuron"].to_numpy() for name, each in own.groupby("category")}
        groupings = [groups, *_shuffled(groups, layer, DRAWS, 0)]
        asked = {
            (layer, f"{draw} {name}"): list(each) for draw, own in enumerate(groupings) for name, each in own.items()
        }
        expected = naive(base, tuned, asked | {(layer, "every"): list(range(len(own)))})
        whole = expected[layer, "every"][0].mean()
        for name in groups:
            found, (error, quadratic, bend) = frame.loc[(layer, name)], expected[layer, f"0 {name}"].mean(-1)
            close = {"value": error, "quadratic": quadratic, "bend": bend, "whole": whole}
            random = [expected[layer, f"{1 + draw} {name}"][0].mean() for draw in range(DRAWS)]
            close |= {"random": sum(random) / DRAWS, "random_low": min(random), "random_high": max(random)}
            for column, value in close.items():
                assert found[column] == pytest.approx(float(value), rel=2e-3), column
            assert (found["neurons"], found["texts"], found["draws"]) == (len(groups[name]), len(EVERY_TEXT), DRAWS)


def test_of_relu_that_keeps_its_signs_the_quadratic_term_is_all(corpus, tmp_path, made_family) -> None:
    """Theorem 1: g(α) = C_1 α + C_2 α² where no neuron changes its sign, as here by a bias of 9 for all."""
    model = AutoModelForCausalLM.from_pretrained(made_family(family_of("OPT")).base, dtype=torch.float32)
    for layer in model.get_decoder().layers:
        torch.nn.init.constant_(layer.fc1.bias, 9.0)
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(made_family(family_of("OPT")).base).save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned", seed=1, only="fc[12].weight", scale=0.05)
    classify(base, corpus, tmp_path / "neurons", top_k=3)
    frame = by_chance(base, [tuned], corpus, str(tmp_path / "neurons"), draws=2, samples=1)
    assert frame["value"].min() > 1e-3 and frame["bend"].max() < 1e-3 * frame["value"].min()


def test_groupings_by_chance_have_the_same_sizes_and_all_neurons() -> None:
    groups = {"code": np.array([3, 5]), "math": np.array([0, 1, 2, 4])}
    dealt = _shuffled(groups, 1, 20, seed=0)
    assert {tuple(len(own) for own in grouping.values()) for grouping in dealt} == {(2, 4)}
    assert all(sorted(np.concatenate([*grouping.values()])) == [0, 1, 2, 3, 4, 5] for grouping in dealt)
    assert len({tuple(sorted(grouping["code"])) for grouping in dealt}) > 5
    again = _shuffled(groups, 1, 3, seed=0)
    assert all((one["math"] == other["math"]).all() for one, other in zip(dealt, again, strict=False))


def test_of_a_long_text_evenly_spaced_tokens_are_read() -> None:
    real = torch.arange(2 * TOKENS)[None] < torch.tensor([[2 * TOKENS], [3]])
    states = torch.arange(int(real.sum()), dtype=torch.float32)[:, None]  # (2 · TOKENS + 3, 1), the token's number
    texts, few = _thinned(Inputs(states, {}, states, states, real))
    assert texts.tolist() == [0] * TOKENS + [1] * 3
    assert few.normed[:, 0].tolist() == [*range(0, 2 * TOKENS, 2), *range(2 * TOKENS, 2 * TOKENS + 3)]


def test_the_table_by_hand() -> None:
    """Two groups, of 3 neurons and of 1, two draws, two texts; only the error is told of here.

    By function 0.4 and 0.8 on both texts: together (3 · 0.4 + 0.8) / 4 = 0.5. By chance 0.6, 0.8 of the first group,
    0.6, 0.8 of the second: 0.6 and 0.8 together, 0.7 in all. Draws have s² = 0.02, and one own draw counts as one more:
    SE² = 0.02 (1 + 1/2) = 0.03, nothing by texts.
    """
    each = np.zeros((3, 3, 3, 2))  # errors, groupings, groups and all neurons, texts
    each[0, 0, :, :] = [[0.4, 0.4], [0.8, 0.8], [0.3, 0.5]]
    each[0, 1, :2, :], each[0, 2, :2, :] = 0.6, 0.8
    frame = table({"math": {5: Values({"code": 3, "math": 1}, each)}}).set_index("group")
    here = frame[frame["layer"] == 5].loc[""]
    assert (here["neurons"], here["value"], here["random"], here["random_low"], here["random_high"]) == pytest.approx(
        (4, 0.5, 0.7, 0.6, 0.8)
    )
    assert here["difference"] == pytest.approx(-0.2)
    half = (here["difference_high"] - here["difference_low"]) / 2
    assert half == pytest.approx(12.706 * math.sqrt(0.03), rel=1e-3)  # t of one degree of freedom
    assert (here["low"], here["high"]) == pytest.approx((0.5, 0.5))
    # all neurons: 0.3 and 0.5, so that 0.5 is more by 0.2 and 0: 0.1 on average, SE √(0.02 / 2) = 0.1
    assert (here["whole"], here["against_whole"]) == pytest.approx((0.4, 0.1))
    assert here["against_whole_high"] - 0.1 == pytest.approx(12.706 * 0.1, rel=1e-3)
    every = frame[frame["layer"].isna()]  # of one layer its mean is that layer's
    assert every["value"].tolist() == frame[frame["layer"] == 5]["value"].tolist()


def test_where_nothing_changes_the_table_has_its_columns() -> None:
    none = table({"math": {0: Values({"code": 2}, np.full((3, 3, 2, 5), np.nan))}})
    some = table({"math": {0: Values({"code": 2}, np.ones((3, 3, 2, 5)))}})
    assert list(none) == list(some) and none["value"].isna().all() and none["adjusted"].eq(1).all()


def test_what_a_fine_tune_does_not_change_has_no_value(qwen2, corpus, tmp_path) -> None:
    tuned = fine_tune(qwen2, tmp_path / "tuned", seed=1, only=r"layers\.0\.mlp", scale=0.5)
    classify(qwen2, corpus, tmp_path / "neurons", top_k=3)
    told = []
    frame = by_chance(
        qwen2, [tuned], corpus, str(tmp_path / "neurons"), draws=2, progress=lambda *own: told.append(own)
    )
    known = frame.set_index("layer")["value"]
    assert known.loc[1].isna().all() and not known.loc[0].isna().any()
    first, every = frame[frame["layer"] == 0].set_index("group"), frame[frame["layer"].isna()].set_index("group")
    both = first.index.intersection(every.index)
    assert every.loc[both, "value"].tolist() == pytest.approx(first.loc[both, "value"].tolist())
    assert told[-1][1:3] == (told[-1][2], told[-1][2])

    def cancel(stage, done, total, unit=""):
        raise Cancelled

    with pytest.raises(Cancelled):
        by_chance(qwen2, [tuned], corpus, str(tmp_path / "neurons"), progress=cancel)


@pytest.mark.parametrize(("title", "dense"), [("Qwen3-MoE", {0}), ("Mixtral", set()), ("LFM2", set())])
def test_neurons_that_cannot_be_run_apart_are_left_out(
    title: str, dense: set[int], corpus, tmp_path, made_family
) -> None:
    models = made_family(family_of(title))
    classify(models.base, corpus, tmp_path / "neurons", top_k=3)
    frame = by_chance(models.base, [models.math], corpus, str(tmp_path / "neurons"), draws=2, samples=1)
    assert set(frame["layer"].dropna()) == dense if dense else frame.empty
