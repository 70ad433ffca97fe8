"""Quantised checkpoints: read as transformers dequantises them, or refused as what they are."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from nmerge_core.activations.hooks import record_activations
from nmerge_core.architecture.matrices import Matrix, matrices
from nmerge_core.checkpoints import fingerprint, inspect_family, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.similarity.measure import cosine
from tests.tiny import tiny_model

BLOCK = (16, 16)  # of matrices of 16, 32 and 48 rows and columns
Weights = dict[str, torch.Tensor]


def to_fp8(folder: Path, block: tuple[int, int] = BLOCK) -> None:
    """Quantise every matrix of the layers; 448 is the largest code."""
    height, width = block
    weights: Weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        if value.dim() == 2 and "layers" in name:
            tiles = [[t.float().abs().max() / 448 for t in rows.split(width, 1)] for rows in value.split(height)]
            scale = torch.tensor(tiles)
            wide = scale.repeat_interleave(height, 0).repeat_interleave(width, 1)[: len(value), : value.shape[1]]
            weights[name] = (value.float() / wide).to(torch.float8_e4m3fn)
            weights[name + "_scale_inv"] = scale
        else:
            weights[name] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said = {"quant_method": "fp8", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    configure(folder, quantization_config=said)


def configure(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base in FP8, and a fine-tune in bfloat16."""
    root = tmp_path_factory.mktemp("quantised")
    base, tune = (
        Path(tiny_model(root / name, seed=seed, dtype=torch.bfloat16)) for seed, name in enumerate(("b", "t"))
    )
    to_fp8(base)
    return base, tune


def test_fp8_is_read_as_transformers_dequantises_it(models: tuple[Path, Path]) -> None:
    checkpoint = open_checkpoint(str(models[0]))
    expected = dict(AutoModelForCausalLM.from_pretrained(models[0], dtype=torch.float32).named_parameters())
    assert checkpoint.tensors.keys() == expected.keys() and checkpoint.quantised == "fp8"
    for name, values in expected.items():
        assert torch.equal(checkpoint.read(name).float(), values.detach().float())
        matrix = checkpoint.architecture.matrix(name)
        assert torch.equal(checkpoint.read_matrix(name, matrix, 1, 5).float().flatten(), values[1:5].flatten().float())
    assert len(fingerprint(checkpoint)) == 16


def test_a_merge_with_an_fp8_base(models: tuple[Path, Path], tmp_path: Path) -> None:
    """λ = 1/2: halfway between what the codes mean and the tune; the output says nothing of quantisation."""
    base, tune = map(str, models)
    recipe = {"merge_method": "task_arithmetic", "base_model": base, "dtype": "float32", "models": [{"model": tune}]}
    merge(load_recipe({**recipe, "parameters": {"lambda": 0.5}}), tmp_path / "out")
    merge(load_recipe({"merge_method": "linear", "models": [{"model": base}], "dtype": "bfloat16"}), tmp_path / "one")
    found, one = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "one"))
    read = open_checkpoint(base).read
    for name, theirs in load_file(models[1] / "model.safetensors").items():
        torch.testing.assert_close(found[name], (read(name).float() + theirs.float()) / 2, rtol=1e-6, atol=1e-6)
        assert torch.equal(one[name], read(name).bfloat16())
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert inspect_family(base, [tune]).mergeable
    assert cosine(base, [base]).summary["min"].min() > 0.999999


def test_fp8_without_scales_is_merged_neither_as_a_base_nor_as_a_model(tmp_path: Path) -> None:
    """What `inspect` says of a base is what a merge says."""
    base, tune = (Path(tiny_model(tmp_path / name)) for name in ("b", "t"))
    weights = load_file(base / "model.safetensors")
    codes = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items() if "up_proj" in name}
    save_file(weights | codes, base / "model.safetensors", {"format": "pt"})
    told = r"b: expected floating-point weights .*: model.layers.0.mlp.up_proj.weight is F8_E4M3; .*dequantise it first"
    for models in ([base, tune], [tune, base]):
        names = [str(each) for each in models]
        assert any(re.fullmatch(told, error) for error in inspect_family(names[0], names[1:]).errors)
        recipe = {"merge_method": "ties", "base_model": names[0], "models": [{"model": names[1]}]}
        with pytest.raises(InputError, match=told):
            open_recipe(load_recipe(recipe))


def test_an_fp8_model_runs(models: tuple[Path, Path]) -> None:
    loaded = load_model(str(models[0]), "cpu", "float32")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    seen: list[torch.Tensor] = []
    with record_activations(loaded.model, loaded.architecture, [0], lambda layer, phi: seen.append(phi)):
        loaded.model(torch.tensor([[5, 9]]))
    assert seen[0].shape == (1, 2, 48)


@pytest.mark.parametrize("block", [(20, 20), (64, 64), (1, 64)])
def test_blocks_that_are_not_whole_one_scale_and_a_scale_per_row(block: tuple[int, int], tmp_path: Path) -> None:
    folder = Path(tiny_model(tmp_path / "m"))
    plain = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]  # 32 × 48
    to_fp8(folder, block)
    if block != (20, 20):
        configure(folder, quantization_config={"quant_method": "fp8"})
    read = open_checkpoint(str(folder)).read("model.layers.0.mlp.down_proj.weight")
    assert (read - plain).abs().max() <= plain.abs().max() / 16  # E4M3 has three bits after the point


def test_scales_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = Path(tiny_model(tmp_path / "m"))
    to_fp8(folder)
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"  # of 48 rows and 32 columns
    save_file(
        load_file(folder / "model.safetensors") | {name: torch.ones(5, 3)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    expected = (
        r"up_proj.weight_scale_inv: expected a scale per block of .* \[48, 32\], found \[5, 3\]; .*says \[16, 16\]"
    )
    with pytest.raises(InputError, match=expected):
        open_checkpoint(str(folder))


def test_mxfp4_is_read_as_transformers_dequantises_it(tmp_path: Path) -> None:
    """Two experts of 6 outputs and 64 inputs, two groups of 32; stored bytes hold two codes, the low one first."""
    folder = Path(tiny_model(tmp_path / "m"))
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 6, 2, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(120, 134, (2, 6, 2), dtype=torch.uint8, generator=generator)
    own = {
        "model.layers.0.mlp.experts.gate_up_proj_blocks": blocks,
        "model.layers.0.mlp.experts.gate_up_proj_scales": scales,
    }
    save_file(load_file(folder / "model.safetensors") | own, folder / "model.safetensors", {"format": "pt"})
    checkpoint = open_checkpoint(str(folder))
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)  # (experts, in, out)
    assert torch.equal(checkpoint.read("model.layers.0.mlp.experts.gate_up_proj"), expected)
    assert torch.equal(checkpoint.read("model.layers.0.mlp.experts.gate_up_proj", 1, 2), expected[1:])
    matrix = matrices({"experts": (2, 64, 6)})["experts"]
    rows = checkpoint.read_matrix("model.layers.0.mlp.experts.gate_up_proj", matrix, 60, 70)
    assert torch.equal(rows, expected.flatten(0, 1)[60:70])  # across experts
    outputs_first = Matrix(2 * 6, 64, transposed=True, stack=2)  # as gpt-oss has them: a row per expert and output
    rows = checkpoint.read_matrix("model.layers.0.mlp.experts.gate_up_proj", outputs_first, 4, 9)
    assert torch.equal(rows, expected.transpose(1, 2).flatten(0, 1)[4:9])
    change = {name: value.flip(0) for name, value in own.items()}  # the experts in another order, in the same file
    save_file(load_file(folder / "model.safetensors") | change, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(checkpoint.read("model.layers.0.mlp.experts.gate_up_proj"), expected.flip(0))
    # By hand: code 0x1 is 0.5, 0x9 is −0.5; a scale byte of 128 is 2^1.
    one = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    one[..., 0] = 0x91
    assert convert_moe_packed_tensors(one, torch.full((1, 1, 1), 128, dtype=torch.uint8), dtype=torch.float32)[
        0, :2, 0
    ].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("method", "called", "tensors"),
    [
        (
            "gptq",
            "GPTQ",
            {"qweight": torch.zeros(4, 48, dtype=torch.int32), "qzeros": torch.zeros(1, 6, dtype=torch.int32)},
        ),
        ("awq", "AWQ", {"qweight": torch.zeros(32, 6, dtype=torch.int32)}),
        ("bitsandbytes", "bitsandbytes", {"weight": torch.zeros(768, 1, dtype=torch.uint8)}),
        ("compressed-tensors", "compressed-tensors", {"weight_packed": torch.zeros(48, 4, dtype=torch.int32)}),
        ("compressed-tensors", "compressed-tensors", {"weight": torch.zeros(48, 32, dtype=torch.float8_e4m3fn)}),
        (None, "", {"weight": torch.zeros(48, 32, dtype=torch.int8)}),
        (
            None,
            "MLX",
            {
                "weight": torch.zeros(48, 4, dtype=torch.uint32),
                "scales": torch.ones(48, 1),
                "biases": torch.ones(48, 1),
            },
        ),
    ],
)
def test_other_formats_are_refused_by_their_names(
    method: str | None, called: str, tensors: Weights, tmp_path: Path
) -> None:
    folder = Path(tiny_model(tmp_path / "m"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    more = {f"model.layers.0.mlp.up_proj.{name}": value for name, value in tensors.items()}
    save_file(weights | more, folder / "model.safetensors", {"format": "pt"})
    if method:
        configure(folder, quantization_config={"quant_method": method})
    how = f" by {called}" if called else ""
    then = "run `mlx_lm.convert --dequantize`" if called == "MLX" else "load it with transformers"
    with pytest.raises(InputError, match=f"its weights are quantised{how} .*dequantise it: {then}"):
        open_checkpoint(str(folder))
