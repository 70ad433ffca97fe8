"""NeuronMerge that amplifies: in a category's neurons its own fine-tune's change counts more, by any method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.method_part import delta_methods
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.request import resolve
from tests.merging.merged import deltas, needed, run, thresholds
from tests.merging.test_parts import CATEGORIES, alone, composed, merged, neurons_of, own_parameters
from tests.merging.test_pipeline import StopAt
from tests.merging.test_spectral import naive_iso_c

TASK_ARITHMETIC = {"general": "task_arithmetic", "others": "task_arithmetic", "weight": 0.5}


def amplified(by: Any = "task_arithmetic", **factors: Any) -> dict[str, Any]:
    return {"method": "amplify", "by": by, **factors}


def by_neuron(family: Any, weights: dict[str, torch.Tensor]) -> dict[tuple[str, int, str], torch.Tensor]:
    """Rows of gate and up and columns of down by category, number of the neuron, and tensor."""
    groups = neurons_of(family)
    found: dict[tuple[str, int, str], torch.Tensor] = {}
    for name, value in weights.items():
        if "mlp" in name:
            rows = value.T if "down_proj" in name else value
            found |= {(groups[int(name.split(".")[2])][j], j, name): row for j, row in enumerate(rows)}
    return found


# Of methods that merge as many models as there are: others cannot merge three categories' fine-tunes.
@pytest.mark.parametrize("method", [n for n, each in delta_methods().items() if n != "sublin" and each.most is None])
def test_factors_of_one_are_the_method_and_of_nought_the_base(family, tmp_path: Path, method: str) -> None:
    """own = foreign = 1 is the method bit for bit; own = foreign = 0 is drop: of nothing comes nothing."""
    known = {parameter.name for parameter in delta_methods()[method].parameters}
    own = {name: value for name, value in own_parameters(family, method).items() if name in known}
    part = {"method": method, **own}
    one, nought = ({"own": factor, "foreign": factor} for factor in (1, 0))
    specific = {"math": amplified(part, **one), "code": amplified(part, **nought), "translation": part}
    ours = merged(composed(family, general=part, specific=specific, others=part), tmp_path / "ours")
    theirs = merged(alone(family, method, **own), tmp_path / "theirs")
    base = by_neuron(family, family.weights)
    expected = by_neuron(family, theirs)
    for (category, neuron, name), found in by_neuron(family, ours).items():
        whole = base if category == "code" else expected
        assert torch.equal(found, whole[category, neuron, name]), (category, name)


def test_own_is_one_and_nought(family, tmp_path: Path) -> None:
    for name, specific in (("own", "own"), ("amplify", amplified(own=1, foreign=0))):
        composed_ = composed(family, general="dare", others="dare", specific=specific)
        merge(composed_, tmp_path / name)
    own, amplify = (load_file(tmp_path / name / "model.safetensors") for name in ("own", "amplify"))
    assert all(torch.equal(amplify[name], value) for name, value in own.items())


def test_changes_are_multiplied_before_they_are_merged(family, tmp_path: Path) -> None:
    """Of TIES by hand: thresholds of the changes as they are, then 3 τ of the own model and 0.5 τ of the others'."""
    specific = {"code": amplified({"method": "ties", "density": 0.4}, own=3, foreign=0.5)}
    ours = merged(composed(family, **TASK_ARITHMETIC, specific=specific), tmp_path / "ours")
    least = thresholds(family, 0.4)
    task_arithmetic = by_neuron(family, run(family, tmp_path / "ta", "task_arithmetic", weight=0.5))
    base = by_neuron(family, family.weights)
    taus = [by_neuron(family, {name: tau[model] for name, tau in deltas(family).items()}) for model in range(3)]
    for key, found in by_neuron(family, ours).items():
        if key[0] != "code":
            theirs = task_arithmetic[key] if key[0] == "general" else base[key]
            torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-6)
            continue
        scaled = torch.stack([factor * tau[key] for factor, tau in zip((0.5, 3, 0.5), taus, strict=True)])
        kept = torch.where(scaled.abs() >= torch.tensor(least)[:, None], scaled, 0) * 0.5  # times the weight
        agreeing = torch.where(kept.sign() == kept.sum(0).sign(), kept, 0)
        mean = agreeing.sum(0) / (0.5 * (agreeing != 0).sum(0)).clamp(min=0.5)
        torch.testing.assert_close(found, base[key] + mean, atol=2e-6, rtol=2e-6)


def test_a_rule_by_singular_values_sees_the_whole_matrix_multiplied(family, tmp_path: Path) -> None:
    """Of Iso-C: of 3 τ of the own model and 0.5 τ of the others', whole; the category's neurons are taken of that."""
    specific = {"code": amplified("iso_c", own=3, foreign=0.5)}
    ours = merged(composed(family, **TASK_ARITHMETIC, specific=specific), tmp_path / "ours")
    factors = torch.tensor([0.5, 3, 0.5]).view(3, 1, 1)
    expected = {
        name: family.weights[name] + 1.5 * torch.from_numpy(naive_iso_c((0.5 * factors * tau).double().numpy(), {}))
        for name, tau in deltas(family).items()
        if "mlp" in name
    }
    wanted = by_neuron(family, expected)
    for key, found in by_neuron(family, ours).items():
        if key[0] == "code":
            torch.testing.assert_close(found.double(), wanted[key], atol=2e-6, rtol=2e-6)


def test_factors_may_differ_over_the_layers_and_be_of_a_named_model(family, tmp_path: Path) -> None:
    """Of task arithmetic by 0.5: in layer 0 math's change counts 1 times, in layer 1 3 times, the others' once."""
    listed = amplified(own=[1, 3], of="math")
    recipe = composed(family, **TASK_ARITHMETIC, lists={"loud": [[0, 1], [1, 5]]}, specific={"loud": listed})
    ours = merged(recipe, tmp_path / "ours")
    tau = deltas(family)
    for layer, neuron, factor in ((0, 1, 1.0), (1, 5, 3.0)):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        change = 0.5 * (factor * tau[name][0] + tau[name][1] + tau[name][2])[neuron]
        torch.testing.assert_close(ours[name][neuron], family.weights[name][neuron] + change, atol=2e-6, rtol=2e-6)


def test_the_resolved_recipe_holds_what_the_inner_method_solved(family, tmp_path: Path) -> None:
    by = {"method": "neuromerging", "mask_ratio": 0.4}
    chosen = {"math": amplified(by, own=2), "code": "amplify"}
    recipe = composed(family, **TASK_ARITHMETIC, specific=chosen, **needed(family, "sublin"))
    ours = merged(recipe, tmp_path / "ours")
    again = load_recipe(tmp_path / "ours/nmerge_recipe.yaml")
    specific = again.parameters["specific"]
    assert specific["math"]["by"]["lambda_2"] > 1 and specific["math"]["own"] == 2
    assert {key: specific["code"][key] for key in ("method", "own", "foreign", "by")} == {
        "method": "amplify", "own": 1.5, "foreign": 1.0, "by": "sublin",
    }  # fmt: skip
    second = merged(again, tmp_path / "again")
    assert all(torch.equal(second[name], value) for name, value in ours.items())


@pytest.mark.parametrize("own", [2, 3])
def test_a_stopped_merge_goes_on_by_the_same_factors_alone(family, tmp_path: Path, own: float) -> None:
    def recipe(own: float) -> Any:
        return composed(family, **TASK_ARITHMETIC, specific=amplified("neuromerging", own=own))

    with pytest.raises(Cancelled):
        merge(recipe(2), tmp_path / "out", progress=StopAt(20))
    written: list[float] = []
    note = lambda stage, done, total, unit="": written.append(done) if stage == "Merging" else None  # noqa: E731
    merge(recipe(own), tmp_path / "out", progress=note)
    assert (written[0] > 0) == (own == 2)
    whole = merged(recipe(own), tmp_path / "whole")
    found = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_the_word_alone_is_its_defaults_and_the_same_run(family, tmp_path: Path) -> None:
    given = {"general": "dare", "others": "dare", **needed(family, "sublin")}
    recipes = [
        composed(family, **given, specific=each) for each in ("amplify", amplified("sublin", own=1.5, foreign=1))
    ]
    requests = {resolve(tmp_path, "merge", {"recipe": recipe.content}).id for recipe in recipes}
    assert len(requests) == 1
    other = composed(family, **given, specific=amplified("sublin", own=2.5))
    assert resolve(tmp_path, "merge", {"recipe": other.content}).id not in requests


@pytest.mark.parametrize(
    ("specific", "message"),
    [
        (amplified(own=-1), r"specific.own': expected a number in \[0, ∞\), found -1"),
        (amplified("drop"), "specific.by': expected one of adamerging"),
        (amplified(amplified(own=2)), "specific.by.method': expected one of"),
        (amplified({"method": "ties", "densty": 1}), "specific.by': ties has no parameter 'densty'; did you mean"),
        (
            {"math": {"method": "amplify", "others": 2}},
            "specific.math': amplify has no parameter 'others'; known keys:",
        ),
        (amplified(of="law"), f"amplify of one of {', '.join(CATEGORIES)}; found law"),
        (amplified({"method": "ties", "trim": "model", "density": [0.1, 0.5]}), "specific.by.density'"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(family, specific: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(composed(family, **TASK_ARITHMETIC, specific=specific), Path("out"))
