"""Adapters made by the peft library itself on tiny models, and what peft makes of model and adapter."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedConfig, PreTrainedModel, Qwen2Config

QWEN2 = Qwen2Config(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
GPT2 = GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16)


def save_model(folder: Path, config: PreTrainedConfig = QWEN2, dtype: torch.dtype = torch.float32) -> str:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(dtype).save_pretrained(folder)
    return str(folder)


def random_adapter(model: str, folder: Path, *, seed: int = 1, **options: Any) -> PeftModel:
    """Save a LoRA with random values in everything that it trains; return it on its model, not merged."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties and Conv1D, which are what the tests are about
        base = AutoModelForCausalLM.from_pretrained(model)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        adapted.save_pretrained(str(folder))
    return adapted.eval()


def merged(adapted: PeftModel) -> PreTrainedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapted.merge_and_unload()


def edit_config(folder: Path, **keys: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
