import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.gpt_neox import GPTNeoXConfig

from tests.tiny import TEXTS, tiny_model, write_corpus

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "qwen2": Qwen2Config,
    "llama with biases": partial(LlamaConfig, attention_bias=True, mlp_bias=True),
    "mistral with a window": partial(MistralConfig, sliding_window=4),
    "gpt-neox, its MLP beside the attention": GPTNeoXConfig,
}


def fine_tune(base: str, folder: Path, *, seed: int, only: str = "", scale: float = 0.1) -> str:
    """Save the base model with noise on the tensors whose name matches `only`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(only, name):
                weight.add_(scale * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session", params=CONFIGS)
def family(request, tmp_path_factory) -> tuple[str, list[str]]:
    """A base of each model family and two fine-tunes in which every tensor moved, norms and biases included."""
    folder = tmp_path_factory.mktemp("family")
    plain = tiny_model(folder / "plain", config=CONFIGS[request.param])
    base = fine_tune(plain, folder / "base", seed=7)  # else norms are 1 and biases 0
    return base, [fine_tune(base, folder / name, seed=seed) for seed, name in enumerate(("math", "code"))]


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory) -> str:
    return tiny_model(tmp_path_factory.mktemp("qwen2") / "base")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> str:
    return write_corpus(tmp_path_factory.mktemp("texts") / "corpus", TEXTS)
