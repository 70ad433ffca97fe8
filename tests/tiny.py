"""Random models of two layers with a byte-level tokenizer, and corpora, made on the fly."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast, Qwen2Config

LAYERS, D_MODEL, D_FFN = 2, 32, 48


def tiny_model(
    folder: Path,
    *,
    seed: int = 0,
    config: Callable[..., PreTrainedConfig] = Qwen2Config,
    dtype: torch.dtype = torch.float32,
    tied: bool = True,
    layers: int = LAYERS,
) -> str:
    """Save a model and its tokenizer, one token a byte; return the folder as a reference."""
    torch.manual_seed(seed)
    tiny_tokenizer(folder)
    model = AutoModelForCausalLM.from_config(
        config(
            vocab_size=257,
            hidden_size=D_MODEL,
            intermediate_size=D_FFN,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.5,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    model.to(dtype).save_pretrained(folder)
    return str(folder)


def tiny_tokenizer(folder: Path, *, pad: bool = False) -> None:
    """Save a tokenizer of 257 tokens: the end of a text, which may pad as well, and one a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<eos>": 0} | {token: id for id, token in enumerate(alphabet, start=1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    padding = {"pad_token": "<eos>"} if pad else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", **padding).save_pretrained(folder)


def write_corpus(folder: Path, texts: dict[str, list[str]]) -> str:
    """Write one JSONL file per category; return the folder as a reference."""
    folder.mkdir(parents=True, exist_ok=True)
    for category, lines in texts.items():
        content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in lines)
        (folder / f"{category}.jsonl").write_text(content, encoding="utf-8")
    return str(folder)


TEXTS = {
    "general": ["the cat sat on the mat", "rain", "a long walk by the river in the evening light", "bread and salt"],
    "math": ["2 + 2 = 4", "x^2 - 1 = (x - 1)(x + 1)", "7", "Question: 3 * 9? Answer: 27, by multiplication"],
    "code": ["def f(x):\n    return x", "for i in range(9): print(i)", "x=1", "import os; os.getcwd()"],
}
