from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.tiny import TEXTS, tiny_model, write_corpus

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "qwen2, tied": Qwen2Config,
    "qwen2, said to be tied, with a head of its own": Qwen2Config,
    "llama, untied, with biases": partial(LlamaConfig, attention_bias=True, mlp_bias=True),
    "mistral with a window": partial(MistralConfig, sliding_window=4),
    "qwen3": partial(Qwen3Config, head_dim=8),
    "gemma 2": partial(Gemma2Config, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
    "gemma 3": partial(Gemma3TextConfig, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
    "olmo 2, untied": Olmo2Config,
}


@pytest.fixture(scope="session", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("model") / "math"
    made = tiny_model(folder, config=CONFIGS[request.param], tied="untied" not in request.param)
    if "head of its own" in request.param:
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return made


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("qwen2") / "math")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("texts") / "corpus", TEXTS)
