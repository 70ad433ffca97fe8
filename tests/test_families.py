"""Every family that the documentation names: inspected, merged, and its neurons found, on tiny random models."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from nmerge_core.activations.hooks import knock_out, record_activations
from nmerge_core.calibration.fisher import fisher
from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.classification.classification import classify
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.compute import stream
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.nonlinearity import solve
from nmerge_core.similarity import blocks
from nmerge_core.similarity.measure import cosine
from nmerge_core.stored import stored_weights
from tests.families import (
    CAUSAL,
    FAMILIES,
    MIXED,
    D,
    Family,
    Weights,
    as_matrix,
    as_stored,
    categories,
    family_of,
    is_down,
    layer_number,
    make,
    neuron_ids,
    run,
)
from tests.tiny import TEXTS, write_corpus
from tests.tiny_images import draw_colours, save_processor

DOCUMENT = Path(__file__).parent.parent / "docs/families.md"

SEES, SEES_ONLY = ("CLIP", "ViT"), ("ViT",)  # families whose neurons images tell apart, some of CLIP's texts


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors of these sizes into several blocks, inside experts and fused matrices too."""
    monkeypatch.setattr(stream, "BLOCK_ELEMENTS", 7 * D)
    monkeypatch.setattr(stream, "_RUN", 5)
    monkeypatch.setattr(blocks, "_BLOCK", 7 * D)


def each_family(families=FAMILIES):
    return pytest.mark.parametrize("family", families, ids=lambda family: family.title)


def assert_merged(merged: Weights, family: Family, models: SimpleNamespace, delta) -> None:
    """`delta(name, base, tau)` is the change of a tensor seen as a matrix, tau (T, rows, columns) or (T, n)."""
    assert merged.keys() == models.weights.keys()
    for name, stored in models.weights.items():
        base = as_matrix(family, name, stored)
        tau = torch.stack([as_matrix(family, name, tune[name]) - base for tune in models.tunes])
        expected = stored + as_stored(family, name, delta(name, base, tau), stored.shape)
        torch.testing.assert_close(merged[name], expected, atol=3e-6, rtol=1e-5, msg=f"{name}: {{}}".format)


def thresholds(models: SimpleNamespace, density: float, extra: int = 0) -> torch.Tensor:
    """The (⌈density · d⌉ + extra)-th largest |τ| of each fine-tune over the whole model, (T,)."""
    flat = torch.stack(
        [torch.cat([(tune[name] - base).flatten() for name, base in models.weights.items()]) for tune in models.tunes]
    )
    kept = -int(-flat.shape[1] * density // 1) + extra
    return flat.abs().sort(dim=1, descending=True).values[:, kept - 1]


def trimmed(tau: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return torch.where(tau.abs() >= least.view(-1, *[1] * (tau.dim() - 1)), tau, 0.0)


def psi(values: torch.Tensor) -> torch.Tensor:
    """Elect a sign, take the mean of what agrees, (T, …) → (…)."""
    agree = torch.where((values.sign() == values.sum(0).sign()) & (values != 0), values, 0.0)
    return agree.sum(0) / (agree != 0).sum(0).clamp(min=1)


def neuromerged(base: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """NeuroMerging's orthogonal part by an SVD per row."""
    if base.dim() < 2:
        return psi(masked)
    rows = []
    for w, tau in zip(base.double(), masked.double().transpose(0, 1), strict=True):
        unit = w / w.norm()
        orthogonal = tau - (tau @ unit)[:, None] * unit  # (T, D)
        rank = int((orthogonal.norm(dim=1) > 0).sum())
        v = torch.linalg.svd(orthogonal, full_matrices=False)[2][:rank]
        coordinates = orthogonal @ v.T  # (T, rank)
        rows.append(psi(torch.where(coordinates.abs() > 1e-9, coordinates, 0.0)) @ v)
    return torch.stack(rows).float()


@each_family()
def test_inspect(family: Family, made_family) -> None:
    models = made_family(family)
    report = inspect_family(models.base, [models.math, models.code])
    assert report.mergeable and not report.errors
    facts = report.models[0]
    assert (facts.layers, facts.heads) == (len(family.neurons), 4)
    assert (facts.least_d_ffn, facts.d_ffn) == (min(family.neurons), max(family.neurons))
    assert facts.parameters == models.parameters
    matrices = sum(t.numel() for name, t in models.weights.items() if as_matrix(family, name, t).dim() == 2)
    assert (facts.neuronal, facts.point) == (matrices, models.parameters - matrices)


@each_family()
def test_merges_equal_a_naive_reference(family: Family, made_family, small_blocks, tmp_path: Path) -> None:
    models = made_family(family)
    merged = run(models, tmp_path / "linear", "linear")
    assert_merged(merged, family, models, lambda name, base, tau: tau.mean(0))
    least = thresholds(models, 0.3)
    merged = run(models, tmp_path / "ties", "ties", density=0.3)
    assert_merged(merged, family, models, lambda name, base, tau: psi(trimmed(tau, least)))
    least_r = thresholds(models, 0.5, extra=1)
    merged = run(models, tmp_path / "neuromerging", "neuromerging", mask_ratio=0.5, lambda_2=1.0)
    assert_merged(merged, family, models, lambda name, base, tau: neuromerged(base, trimmed(tau, least_r)))

    model, loading = models.auto.from_pretrained(tmp_path / "ties", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = tmp_path / "again"
    model.save_pretrained(again, **family.save)
    written = load_file(tmp_path / "ties/model.safetensors")
    for name, value in load_file(again / "model.safetensors").items():
        assert torch.equal(value, written[name]), name


@each_family()
def test_neuronmerge_finds_neurons_and_sublin_submodules(
    family: Family, made_family, small_blocks, tmp_path: Path
) -> None:
    models = made_family(family)
    frame = categories(family, tmp_path / "neurons/neurons.parquet")
    alpha = {"attention": [0.5, 0.25], "mlp": [0.75, -0.5], "general": [1.5, 1.25]}
    solved = {str(layer): alpha for layer in range(len(family.neurons))}

    def sublin(name: str, tau: torch.Tensor, part: str | None = None) -> torch.Tensor:
        inside = layer_number(family, name) is not None
        part = part or ("mlp" if inside and re.search(family.mlp, name) else "attention")
        return alpha[part][0] * tau[0] + alpha[part][1] * tau[1]

    given = {"neurons": str(tmp_path / "neurons"), "coefficients": solved, "others": "sublin"}
    merged = run(models, tmp_path / "out", "neuronmerge", specific={"math": "own", "code": "drop"}, **given)

    def delta(name: str, base: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        ids = neuron_ids(family, name, models.weights[name].shape)
        if ids is None:
            return sublin(name, tau)
        own = frame[frame["layer"] == layer_number(family, name)].sort_values("neuron")["category"]
        kind = torch.tensor(own.map(MIXED.index).to_numpy())[as_matrix(family, name, ids)]
        changes = torch.stack([sublin(name, tau, "general"), tau[0], torch.zeros_like(tau[0])])
        return changes.gather(0, kind[None])[0]

    assert_merged(merged, family, models, delta)


@each_family()
def test_cosine(family: Family, made_family, small_blocks) -> None:
    models = made_family(family)
    found = cosine(models.base, [models.code], lowest=10_000).moved.set_index(["layer", "matrix", "neuron"])["cosine"]
    counts = found.groupby(["layer", "matrix"]).size()
    assert set(counts.index.get_level_values("matrix")) in ({"gate", "up", "down"}, {"up", "down"})
    assert all(count == family.neurons[layer] for (layer, _), count in counts.items())
    tune = models.tunes[1]
    expected: dict[tuple[int, int], list[float]] = {}
    for name, weight in models.weights.items():
        ids = neuron_ids(family, name, weight.shape)
        if ids is None or as_matrix(family, name, weight).dim() < 2:
            continue
        ids, pair = (
            as_matrix(family, name, ids),
            [as_matrix(family, name, each[name]) for each in (models.weights, tune)],
        )
        for neuron in (int(ids.min()), int(ids.max())):
            vectors = [value[ids == neuron].double() for value in pair]  # of gate and up where fused
            ours, theirs = (vector.view(-1, D) for vector in vectors)
            cosines = (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1))
            expected.setdefault((layer_number(family, name), neuron), []).extend(cosines.tolist())
    for (layer, neuron), values in expected.items():
        assert sorted(found[layer, :, neuron]) == pytest.approx(sorted(values), abs=1e-9)


_MAMBA = {"vocab_size": 257, "pad_token_id": 0, "hidden_size": D, "num_hidden_layers": 2, "state_size": 4}
TOKENS = torch.tensor([[5, 9, 200, 31, 8], [7, 7, 80, 2, 6]])


@each_family(CAUSAL)
def test_knocking_out_equals_zeroing_the_neurons_weights(family: Family, made_family, tmp_path: Path) -> None:
    models = made_family(family)
    chosen = {layer: torch.arange(layer, count, 3) for layer, count in enumerate(family.neurons)}
    weights = {name: value.clone() for name, value in models.weights.items()}
    for name, value in weights.items():
        ids = neuron_ids(family, name, value.shape)
        if ids is not None and is_down(family, name):
            value[torch.isin(ids, chosen[layer_number(family, name)])] = 0
    for file in Path(models.base).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    intact, zeroed = (load_model(folder, "cpu") for folder in (models.base, str(tmp_path)))
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        before, expected = intact.model(TOKENS).logits, zeroed.model(TOKENS).logits
        with (
            knock_out(intact.model, intact.architecture, {layer: ids.numpy() for layer, ids in chosen.items()}),
            record_activations(intact.model, intact.architecture, [0, 1], lambda layer, phi: seen.update({layer: phi})),
        ):
            found = intact.model(TOKENS).logits
        assert torch.equal(intact.model(TOKENS).logits, before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)
    for layer, phi in seen.items():
        assert phi.shape == (2, 5, family.neurons[layer])
        silent = (phi == 0).all(dim=(0, 1))
        assert silent[chosen[layer]].all() and not silent.all()


def test_a_family_without_known_neurons_is_inspected_merged_and_compared_by_rows(tmp_path: Path) -> None:
    family = Family("Mamba", "MambaConfig", _MAMBA, [], "never")
    models = make(family, tmp_path)
    report = inspect_family(models.base, [models.math])
    assert report.mergeable and (report.models[0].layers, report.models[0].d_ffn) == (2, None)
    merged = run(models, tmp_path / "out", "ties", density=0.3)
    least = thresholds(models, 0.3)
    assert_merged(merged, family, models, lambda name, base, tau: psi(trimmed(tau, least)))
    found = cosine(models.base, [models.math, models.code])
    assert found.neurons.empty and found.between.empty
    summary = found.summary.query("model == 'code'").set_index(["layer", "matrix"])
    name = "backbone.layers.1.mixer.in_proj.weight"
    rows = torch.nn.functional.cosine_similarity(models.weights[name].double(), models.tunes[1][name].double())
    assert summary["neurons"][1, "mixer.in_proj"] == len(rows)
    assert summary["mean"][1, "mixer.in_proj"] == pytest.approx(rows.mean().item(), abs=1e-9)
    with pytest.raises(InputError, match=r"the neurons of this family \(model type 'mamba'\) are not known"):
        classify(models.base, write_corpus(tmp_path / "corpus", TEXTS), tmp_path / "neurons", top_k=3, device="cpu")


@pytest.mark.parametrize("title", ["Mixtral", "Falcon", "Llama 4 (text)"])
def test_fisher_information_equals_the_running_models_squared_gradients(
    title: str, made_family, tmp_path: Path
) -> None:
    models = made_family(next(family for family in FAMILIES if family.title == title))
    checkpoint = open_checkpoint(models.base)
    for file in fisher(checkpoint, list(TOKENS), tmp_path, "cpu", "stage", lambda *_: None):
        found = load_file(tmp_path / file)
    assert found.keys() == checkpoint.tensors.keys()
    model = load_model(models.base, "cpu").model
    expected: dict[str, torch.Tensor] = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for text in TOKENS:
        model.zero_grad()
        logits = model(input_ids=text[None], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], text[1:], reduction="sum").backward()
        for name, value in model.named_parameters():
            expected[name] += value.grad**2 / len(TOKENS)
    for stored in stored_weights(model, {name: tensor.shape for name, tensor in checkpoint.tensors.items()}):
        for name, held in stored.load(found).items():
            torch.testing.assert_close(held, expected[name], rtol=1e-4, atol=1e-6 * expected[name].max().item())


def test_regmean_says_that_routed_experts_are_averaged(made_family, tmp_path: Path) -> None:
    """In each of two layers three matrices of four experts and the router's, beside the attention's four."""
    models = made_family(family_of("Mixtral"))
    tuned = [{"model": models.math}, {"model": models.code}]
    measured = {"corpus": write_corpus(tmp_path / "corpus", TEXTS), "samples": 2}
    recipe = {"merge_method": "regmean", "base_model": models.base, "models": tuned, "parameters": measured}
    merge(load_recipe(recipe), tmp_path / "out")
    facts = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]
    first = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    assert facts["warnings"][-1] == (
        f"26 of 34 matrices in layers are averaged plainly, {first} the first: what routed experts and routers read is "
        "not measured"
    )
    for name, weight in load_file(tmp_path / "out/model.safetensors").items():
        plain = torch.allclose(weight, sum(tune[name] for tune in models.tunes) / 2, atol=1e-6)
        assert plain == ("self_attn" not in name and name != "lm_head.weight"), name


def cells(family: Family, models: SimpleNamespace, folder: Path) -> str:
    """What works for a family, found by trying."""
    coefficients = "yes"
    corpus = write_corpus(folder / "corpus", TEXTS)
    by, counted = [] if family.title in SEES_ONLY else [corpus], list[int]()
    if family.title in SEES:
        save_processor(Path(models.base))
        (draw_colours(folder / "images") / "blue").rename(folder / "images" / "general")
        by.append(str(folder / "images"))
    for number, each in enumerate(by):
        classify(models.base, each, folder / f"neurons-{number}", top_k=3, device="cpu")
        counted += pd.read_parquet(folder / f"neurons-{number}/neurons.parquet").groupby("layer").size().tolist()
    assert tuple(counted) == family.neurons
    try:
        solved = solve(models.base, [models.math, models.code], corpus, ["math", "code"], samples=1, device="cpu")
        assert len(solved.values) == 2 * len(family.neurons)
    except InputError as error:
        assert "cannot be measured yet" in str(error) or "expected a causal language model" in str(error)
        coefficients = "no"
    return f"| {family.title} | yes | yes | yes | {coefficients} | {family.note} |"


@each_family()
def test_the_documentation_says_what_works(family: Family, made_family, tmp_path: Path) -> None:
    """Inspecting and merging are tried by the tests above."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert cells(family, made_family(family), tmp_path) in lines


def test_the_documentation_names_no_other_family() -> None:
    table = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[1:]] == [family.title for family in FAMILIES]
