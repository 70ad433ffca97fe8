"""What preflight says of families, and what is derived from their headers."""

import json
import shutil
from pathlib import Path

import pytest

from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.errors import InputError
from tests.families import Weights, family_of, rewrite


@pytest.mark.parametrize(
    ("title", "key", "value"),
    [
        ("GPT-2", "n_head", 2),
        ("T5", "feed_forward_proj", "gated-gelu"),
        ("Qwen3-MoE", "num_experts_per_tok", 1),
        ("CLIP", "vision_config", {"num_attention_heads": 2}),
    ],
)
def test_preflight_names_a_setting_that_differs(
    title: str, key: str, value: object, made_family, tmp_path: Path
) -> None:
    models = made_family(family_of(title))
    shutil.copytree(models.math, tmp_path / "math")
    config = json.loads((tmp_path / "math/config.json").read_text())
    config[key] = config[key] | value if isinstance(value, dict) else value
    (tmp_path / "math/config.json").write_text(json.dumps(config))
    (error,) = inspect_family(models.base, [str(tmp_path / "math")]).errors
    named = f"{key}.num_attention_heads" if isinstance(value, dict) else key
    assert f"config.json, key '{named}': expected" in error


@pytest.mark.parametrize(
    ("title", "pattern", "message"),
    [
        (
            "Phi-3",
            "layers.0.mlp.gate_up_proj",
            r"gate_up_proj.weight: expected shape \[48, 16\] beside .*found \[47, 16",
        ),
        ("GPT-2", "h.1.mlp.c_fc.weight", r"c_fc.weight: expected shape \[16, 24\] beside .*found \[15, 24\]"),
        (
            "Qwen3-MoE, experts stacked",
            "layers.1.mlp.experts.gate_up_proj",
            r"expected shape \[4, 24, 16\] .*\[3, 24, 16",
        ),
        (
            "Mixtral",
            "layers.1.block_sparse_moe.experts.2.w3",
            r"w3.weight: expected shape \[24, 16\] .*found \[23, 16\]",
        ),
    ],
)
def test_a_matrix_that_does_not_fit_the_others_is_named(
    title: str, pattern: str, message: str, made_family, tmp_path: Path
) -> None:
    def cut(weights: Weights) -> Weights:
        return {name: value[1:].clone() if pattern in name else value for name, value in weights.items()}

    broken = rewrite(made_family(family_of(title)).base, tmp_path / "broken", cut)
    with pytest.raises(InputError, match=message):
        _ = open_checkpoint(broken).architecture.layers


def test_gradients_run_over_each_tower(made_family) -> None:
    """mergekit's gradient goes from the first layer, 0, to the last, 1, in the encoder and again in the decoder."""
    architecture = open_checkpoint(made_family(family_of("T5")).base).architecture
    names = [
        f"{tower}.block.{layer}.layer.0.SelfAttention.q.weight" for tower in ("encoder", "decoder") for layer in (0, 1)
    ]
    assert [architecture.layer_of(name) for name in names] == [0, 1, 2, 3]
    assert [architecture.position(name) for name in names] == [0, 1, 0, 1]
    assert (architecture.position("shared.weight"), architecture.position("decoder.final_layer_norm.weight")) == (0, 1)
