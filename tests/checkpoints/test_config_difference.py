"""Configurations are compared whole, as transformers reads them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.checkpoints.compatibility import mismatches
from nmerge_core.checkpoints.config_difference import config_differences
from tests.merging import checkpoints

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA: dict[str, Any] = {"model_type": "llama", **SMALL}
# What version 4 of transformers wrote of a model, and what version 5 writes.
VERSION_4 = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "bfloat16"}
VERSION_4 |= {"temperature": 0.7, "use_cache": True, "transformers_version": "4.40.0", "_name_or_path": "x"}
VERSION_5 = LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "dtype": "float16"}
VERSION_5 |= {"head_dim": 16, "mlp_bias": False, "attention_bias": False, "use_cache": False, "unsloth_fixed": True}
VERSION_5 |= {"eos_token_id": 7, "attention_dropout": 0.1, "architectures": ["LlamaForCausalLM"]}


def said(base: dict[str, Any], model: dict[str, Any]) -> list[str]:
    return [str(each) for each in config_differences(base, model)]


def test_what_means_the_same_is_no_difference() -> None:
    assert said(VERSION_4, VERSION_5) == [] == said(VERSION_5, VERSION_4)
    for type in ("qwen2", "mistral", "gemma2", "granite", "cohere"):  # every default written out, and none
        from transformers import CONFIG_MAPPING

        whole = CONFIG_MAPPING[type](**SMALL).to_dict()
        assert said({"model_type": type, **SMALL}, json.loads(json.dumps(whole))) == []
    qwen = {"model_type": "qwen2", **SMALL}  # whose class has no head_dim, and takes one that is written
    assert said(qwen, qwen | {"head_dim": 64 // 4}) == []
    assert said(qwen, qwen | {"head_dim": 32}) == ["key 'head_dim': 32 where the base has 16"]
    unknown = {"model_type": "of-nobody", "depth": 3}
    assert said(unknown, {**unknown, "use_mrope": False, "extra": None}) == []


@pytest.mark.parametrize(
    ("type", "key", "base", "model", "expected"),
    [
        ("llama", "rms_norm_eps", 1e-6, 1e-5, "key 'rms_norm_eps': 1e-05 where the base has 1e-06"),
        ("llama", "rope_theta", 1e4, 1e6, "key 'rope_parameters.rope_theta': 1000000.0 where the base has 10000.0"),
        ("mistral", "sliding_window", 4096, None, "key 'sliding_window': none where the base has 4096"),
        ("granite", "residual_multiplier", 1.0, 0.22, "key 'residual_multiplier': 0.22 where the base has 1.0"),
        ("cohere", "logit_scale", 0.0625, 0.25, "key 'logit_scale': 0.25 where the base has 0.0625"),
        (
            "gemma2",
            "final_logit_softcapping",
            30.0,
            None,
            "key 'final_logit_softcapping': none where the base has 30.0",
        ),
        ("gemma2", "query_pre_attn_scalar", 256, 144, "key 'query_pre_attn_scalar': 144 where the base has 256"),
        ("qwen2", "max_position_embeddings", 512, 1024, "key 'max_position_embeddings': 1024 where the base has 512"),
        ("of-nobody", "twist", [1], [2], "key 'twist': [2] where the base has [1]"),
        (
            "qwen3",
            "layer_types",
            ["full_attention"] * 2,
            ["full_attention", "sliding_attention"],
            "key 'layer_types': 1 of 2 entries differ from the base's, first [1], 'sliding_attention' where the base "
            "has 'full_attention'",
        ),
    ],
)
def test_a_real_difference_is_said_once(type: str, key: str, base: Any, model: Any, expected: str) -> None:
    config = {"model_type": type, **SMALL}
    assert said({**config, key: base}, {**config, key: model}) == [expected]
    assert said(config, config | {"text_config": {}}) == []


def test_what_divides_the_weights_otherwise_is_refused_and_the_rest_warned_of(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    base = checkpoints.write(tmp_path / "base", weights)
    tune = checkpoints.write(tmp_path / "tune", weights, sliding_window=8, use_sliding_window=True, max_window_layers=0)
    report = inspect_family(base, [tune])
    assert report.errors == ()
    told = [warning for warning in report.warnings if "config.json" in warning]
    keys = ("max_window_layers", "sliding_window", "use_sliding_window", "layer_types")
    assert sorted(told) == sorted(
        warning for key in keys for warning in told if f"config.json, key '{key}': " in warning
    )
    assert len(told) == 4 and all(
        warning.startswith("tune: ") and warning.endswith("; the merge takes the base's") for warning in told
    )
    other = checkpoints.write(tmp_path / "heads", weights, num_attention_heads=4, head_dim=2)
    (error, *_) = mismatches(open_checkpoint(base), open_checkpoint(other))
    assert error.startswith(
        "heads: config.json, key 'num_attention_heads': expected 2 as in the base, found 4; it is not"
    )


def test_alike_configurations_need_no_transformers() -> None:
    code = (
        "from nmerge_core.checkpoints.config_difference import config_differences; import sys; a = {'model_type': "
        "'llama', 'torch_dtype': 'float16'}; config_differences(a, {'model_type': 'llama', '_name_or_path': 'x'}); "
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "broken", [{"hidden_size": "x"}, {"rope_scaling": 3}, {"layer_types": {"a": 1}}, {"model_type": []}]
)
def test_what_transformers_cannot_read_is_compared_as_it_is_written(broken: dict[str, Any]) -> None:
    ((key, value),) = broken.items()
    assert any(key in each for each in said(LLAMA, {**LLAMA, **broken}))
