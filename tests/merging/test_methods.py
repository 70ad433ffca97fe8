"""Each method against a naive reference over whole tensors."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints
from tests.merging.merged import ALPHA, Weights, assert_same, deltas, run, thresholds


def test_linear(family, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "linear")
    for name, value in merged.items():
        mean = torch.stack([tune[name] for tune in family.tunes.values()]).mean(0)
        torch.testing.assert_close(value, mean)


def test_task_arithmetic(family, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"weight": 0.4, "lambda": 0.5}
    merged = run(family, tmp_path / "out", "task_arithmetic", **parameters)
    assert_same(merged, family, lambda name, tau: 0.2 * tau.sum(0))


def test_weights_vary_over_layers_and_names(family, tmp_path: Path) -> None:
    filtered = [{"filter": "mlp", "value": [0.2, 0.6]}, {"filter": "embed", "value": 0.0}, {"value": 0.5}]
    merged = run(family, tmp_path / "out", "task_arithmetic", weight=filtered)

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        # A gradient of two points over two layers: 0.2 in layer 0, 0.6 in layer 1.
        weight = {"0": 0.2, "1": 0.6}[name.split(".")[2]] if "mlp" in name else 0.0 if "embed" in name else 0.5
        return weight * tau.sum(0)

    assert_same(merged, family, delta)


def test_a_filter_that_matches_nothing_is_an_error(family, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="filter 'mpl': expected a part of a tensor's name"):
        run(family, tmp_path / "out", "task_arithmetic", weight=[{"filter": "mpl", "value": 1.0}])


def naive_ties(tau: torch.Tensor, least: list[float]) -> torch.Tensor:
    kept = torch.where(tau.abs() >= torch.tensor(least).view(-1, *[1] * (tau.dim() - 1)), tau, 0.0)
    sign = kept.sum(0).sign()
    agree = torch.where((kept.sign() == sign) & (kept != 0), kept, 0.0)
    return agree.sum(0) / (agree != 0).sum(0).clamp(min=1)


def test_ties_trims_over_the_whole_model(family, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "ties", density=0.2)
    assert_same(merged, family, lambda name, tau: naive_ties(tau, thresholds(family, 0.2)))


def test_ties_trims_each_tensor_where_asked(family, tmp_path: Path) -> None:
    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        kept = -int(-tau[0].numel() * 0.3 // 1)
        return naive_ties(tau, tau.flatten(1).abs().sort(1, descending=True).values[:, kept - 1].tolist())

    assert_same(run(family, tmp_path / "out", "ties", density=0.3, trim="tensor"), family, delta)


def test_dare_keeps_and_rescales_exactly(family, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "dare_linear", models=family.models[:1], density=0.25)
    kept = 0
    for name, value in merged.items():
        tau = family.tunes["math"][name] - family.weights[name]
        delta = value - family.weights[name]
        dropped = delta == 0
        torch.testing.assert_close(delta[~dropped], 4 * tau[~dropped], atol=2e-6, rtol=2e-5)  # 1 / 0.25
        kept += int((~dropped).sum())
    total = sum(value.numel() for value in merged.values())
    assert kept / total == pytest.approx(0.25, abs=0.05)  # 3 standard deviations of 1,232 draws are 0.037


def test_dare_ties_elects_among_what_was_kept(family, tmp_path: Path) -> None:
    whole = run(family, tmp_path / "out", "dare_ties", density=1.0, normalize=True)
    assert_same(whole, family, lambda name, tau: naive_ties(tau, [0.0] * 3))


def naive_psi(values: torch.Tensor, function: str) -> float:
    nonzero = [value for value in values.tolist() if value]
    if function.startswith("elect"):
        sign = 1 if sum(nonzero) > 0 else -1
        nonzero = [value for value in nonzero if value * sign > 0]
    return (sum(nonzero) if function.endswith("sum") else sum(nonzero) / len(nonzero)) if nonzero else 0.0


@pytest.mark.parametrize("function", ["elect_mean", "elect_sum", "mean", "sum"])
def test_neuromerging_equals_the_papers_svd(family, tmp_path: Path, function: str) -> None:
    merged = run(
        family, tmp_path / "out", "neuromerging", mask_ratio=0.5, lambda_1=0.7, lambda_2=1.3, merge_function=function
    )
    least = torch.tensor(thresholds(family, 0.5, extra=1))

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        masked = torch.where(tau.abs() >= least.view(-1, *[1] * (tau.dim() - 1)), tau, 0.0).double()
        if tau.dim() == 2:
            return 1.3 * torch.tensor([naive_psi(masked[:, i], function) for i in range(tau.shape[1])]).float()
        rows = []
        for row in range(tau.shape[1]):
            w = family.weights[name][row].double()
            unit = w / w.norm()
            parallel = masked[:, row] @ unit  # (T,)
            orthogonal = masked[:, row] - parallel[:, None] * unit  # (T, D)
            rank = int((orthogonal.norm(dim=1) > 0).sum())
            _, _, v = torch.linalg.svd(orthogonal, full_matrices=False)
            coordinates = orthogonal @ v[:rank].T  # (T, rank)
            coordinates = torch.where(coordinates.abs() > 1e-9, coordinates, 0.0)
            across = sum(naive_psi(coordinates[:, i], function) * v[i] for i in range(rank))
            rows.append(0.7 * naive_psi(parallel, function) * unit + 1.3 * across)
        return torch.stack(rows).float()

    assert_same(merged, family, delta)


def test_neuromerging_finds_lambda_2_from_what_it_masked(family, tmp_path: Path) -> None:
    run(family, tmp_path / "out", "neuromerging")
    all_ = torch.cat([tau.flatten(1) for tau in deltas(family).values()], dim=1).abs().double()
    least = torch.tensor(thresholds(family, 0.15, extra=1)).double()
    sigma = ((all_ * (all_ < least[:, None])).sum(1) / all_.sum(1)).max().item()
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert report["facts"]["lambda_2"] == pytest.approx(1 / (1 - sigma), rel=1e-6)


def test_a_zero_base_row_is_orthogonal_to_everything(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    base = checkpoints.random_weights(0)
    base[name][3] = 0
    tune = checkpoints.fine_tuned(base, 1)
    merged = merge_two(tmp_path, base, tune, mask_ratio=1.0, lambda_1=0.0, lambda_2=1.0)
    torch.testing.assert_close(merged[name][3], tune[name][3])


def merge_two(root: Path, base: Weights, tune: Weights, **parameters: object) -> Weights:
    recipe = {
        "merge_method": "neuromerging",
        "base_model": checkpoints.write(root / "base", base),
        "models": [{"model": checkpoints.write(root / "tune", tune)}],
        "parameters": parameters,
    }
    merge(load_recipe(recipe), root / "out")
    return load_file(root / "out/model.safetensors")


def sublin_weights(name: str, part: str | None = None) -> list[float]:
    if ".layers." not in name:
        return [0.5, 0.5, -0.25]  # the mean of 0.25 and 0.75 over the two layers' attentions
    layer = name.split(".")[2]
    kind = "mlp" if ".mlp." in name or "post_attention" in name else "attention"
    return ALPHA[layer][part or kind]


def naive_sublin(name: str, tau: torch.Tensor, part: str | None = None) -> torch.Tensor:
    return sum(w * t for w, t in zip(sublin_weights(name, part), tau, strict=True))


def test_sublin_with_given_coefficients(family, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "sublin", coefficients=ALPHA)
    assert_same(merged, family, naive_sublin)


@pytest.mark.parametrize("others", ["sublin", "task_arithmetic", "ties"])
def test_neuronmerge_merges_each_group_by_its_choice(family, tmp_path: Path, others: str) -> None:
    specific = {"math": "own", "code": "merge", "translation": "drop"}
    merged = run(
        family,
        tmp_path / "out",
        "neuronmerge",
        neurons=family.neurons,
        coefficients=ALPHA,
        specific=specific,
        others=others,
        density=0.3,
    )

    def neuron(name: str, tau: torch.Tensor, j: int) -> torch.Tensor:
        # Neurons 0, 4, 8 are General, 1, 5, 9 math, 2, 6, 10 code, 3, 7, 11 translation.
        own = tau[:, j] if "down" not in name else tau[:, :, j]
        group = ("general", "math", "code", "translation")[j % 4]
        if group == "translation":
            return torch.zeros_like(own[0])
        return own[0] if group == "math" else naive_sublin(name, own, group)

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        if ".mlp." in name:
            neurons = [neuron(name, tau, j) for j in range(checkpoints.D_FFN)]
            return torch.stack(neurons, dim=1 if "down" in name else 0)
        if others == "ties":
            return naive_ties(tau, thresholds(family, 0.3))
        return tau.sum(0) if others == "task_arithmetic" else naive_sublin(name, tau)

    assert_same(merged, family, delta)


def test_categories_of_absent_tasks_fold_into_general(family, tmp_path: Path) -> None:
    alpha = {layer: {part: values[:2] for part, values in parts.items()} for layer, parts in ALPHA.items()}
    merged = run(
        family, tmp_path / "out", "neuronmerge", models=family.models[:2], neurons=family.neurons, coefficients=alpha
    )
    name = "model.layers.1.mlp.up_proj.weight"
    tau = deltas(family)[name][:2, 3]  # neuron 3 is a translation neuron, and translation is not merged
    torch.testing.assert_close(merged[name][3], family.weights[name][3] + 0.75 * tau[0] + 0.5 * tau[1])


def test_random_grouping_keeps_the_sizes_of_the_groups(family, tmp_path: Path) -> None:
    frames = []
    for seed, grouping in ((0, "functional"), (0, "random"), (1, "random")):
        out = tmp_path / f"{grouping}-{seed}"
        recipe = {"merge_method": "neuronmerge", "base_model": family.base, "seed": seed}
        recipe |= {"models": [{"model": model} for model in family.models]}
        given = {"neurons": family.neurons, "coefficients": ALPHA, "grouping": grouping}
        merge(load_recipe({**recipe, "parameters": given}), out)
        frames.append(pd.read_parquet(out / "nmerge_neurons/neurons.parquet"))
    sizes = [frame.groupby(["layer", "category"]).size() for frame in frames]
    assert sizes[0].equals(sizes[1]) and sizes[0].equals(sizes[2])
    assert len({tuple(frame["category"]) for frame in frames}) == 3


def test_subspace_parts_are_orthogonal_and_add_up(family, tmp_path: Path) -> None:
    across = run(family, tmp_path / "across", "subspace", models=family.models[:1], keep="orthogonal")
    along = run(family, tmp_path / "along", "subspace", models=family.models[:1], keep="parallel")
    for name, base in family.weights.items():
        tau = family.tunes["math"][name] - base
        if base.dim() == 1:
            torch.testing.assert_close(across[name], base + tau)
            continue
        torch.testing.assert_close(across[name] - base + along[name] - base, tau, atol=2e-6, rtol=1e-5)
        dots = ((across[name] - base) * base).sum(1)
        torch.testing.assert_close(dots, torch.zeros_like(dots), atol=2e-6, rtol=0)


def test_pcb_equals_its_formula_over_the_whole_model(family, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"mask_ratio": 0.3, "tail_clip": 0.02, "lambda": 0.8}
    merged = run(family, tmp_path / "out", "pcb", **parameters)
    tau = torch.cat([each.flatten(1) for each in deltas(family).values()], dim=1)  # (T, d)
    count, d = tau.shape
    ranked = tau.abs().sort(1).values
    size = tau.abs().clamp(ranked[:, int(d * 0.02), None], ranked[:, int(d * 0.98 - 1), None])

    def scaled(x: torch.Tensor) -> torch.Tensor:
        low, high = x.min(1, keepdim=True).values, x.max(1, keepdim=True).values
        return (x - low) / (high - low)

    score = torch.exp(count * scaled(size) ** 2) * torch.tanh(tau * tau.sum(0))
    floor = score.sort(1).values[:, int(d * 0.7), None]
    scale = scaled(torch.maximum(score, floor))
    expected = 0.8 * (tau.sign() * size * scale).sum(0) / scale.sum(0).clamp(min=1e-12)
    start = 0
    for name, base in family.weights.items():
        part = expected[start : start + base.numel()].view(base.shape)
        start += base.numel()
        torch.testing.assert_close(merged[name], base + part, atol=3e-6, rtol=1e-5)


def test_adamerging_by_layer(family, tmp_path: Path) -> None:
    coefficients = {"embedding": [1, 0, 0], "0": [0.5, 0, 0], "1": [0, 0.25, 0], "norm": [0, 0, 1]}
    merged = run(family, tmp_path / "out", "adamerging", coefficients=coefficients)

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        if ".layers." in name:
            return 0.5 * tau[0] if ".layers.0." in name else 0.25 * tau[1]
        return tau[0] if "embed" in name else tau[2]

    assert_same(merged, family, delta)


def test_lorahub_adds_by_coefficients(family, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "lorahub", coefficients={"model": [0.5, -0.25, 1.25]})
    assert_same(merged, family, lambda name, tau: 0.5 * tau[0] - 0.25 * tau[1] + 1.25 * tau[2])
