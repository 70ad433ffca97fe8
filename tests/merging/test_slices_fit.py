"""What models must have in common to be stacked, as transformers loads the output."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from nmerge_core.checkpoints.layer_kinds import layer_kinds
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe

TOKENS = 32
SIZES: dict[str, Any] = {
    "vocab_size": TOKENS, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip


def made(folder: Path, config: Any, seed: int = 0, word: str = "w", without: str = "") -> str:
    """A model of random weights with a tokenizer of its own words, `without` a key in its configuration."""
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if without:
        file = folder / "config.json"
        file.write_text("\n".join(_lines(file.read_text(), without)))
    words = {f"{word}{number}": number for number in range(TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=f"{word}0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=f"{word}0").save_pretrained(folder)
    return str(folder)


def _lines(text: str, without: str) -> list[str]:
    """The lines of a JSON text but for a list's, by its key."""
    kept, inside = list[str](), False
    for line in text.splitlines():
        inside = inside or f'"{without}"' in line
        if not inside:
            kept.append(line)
        elif "]" in line:
            inside = False
    return kept


def passthrough(*ranges: tuple[str, int, int]) -> Any:
    slices = [{"sources": [{"model": model, "layer_range": [first, last]}]} for model, first, last in ranges]
    return load_recipe({"merge_method": "passthrough", "slices": slices, "dtype": "float32"})


def test_the_head_of_a_tied_model_behind_one_that_is_not(tmp_path: Path) -> None:
    untied = made(tmp_path / "untied", LlamaConfig(**SIZES, tie_word_embeddings=False))
    tied = made(tmp_path / "tied", LlamaConfig(**SIZES, tie_word_embeddings=True), seed=1)
    merge(passthrough((untied, 0, 2), (tied, 1, 3)), tmp_path / "out")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    found, told = loaded
    assert not told["missing_keys"] and not told["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(tied).get_output_embeddings().weight
    assert torch.equal(found.get_output_embeddings().weight, expected)


def test_other_tokens_are_refused_and_other_settings_are_told(tmp_path: Path) -> None:
    first = made(tmp_path / "first", LlamaConfig(**SIZES))
    other = made(tmp_path / "other", LlamaConfig(**SIZES), word="v")
    with pytest.raises(InputError, match="would read the tokens of .*first and write those of .*other"):
        open_recipe(passthrough((first, 0, 2), (other, 1, 3)))
    rope = made(tmp_path / "rope", LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
    warnings = open_recipe(passthrough((first, 0, 2), (rope, 1, 3))).warnings
    assert [told for told in warnings if "rope_theta: 500000.0" in told or "rope_theta': 500000.0" in told]


def test_what_a_rule_of_the_number_makes_of_a_layer_follows_or_is_refused(tmp_path: Path) -> None:
    """Gemma 2 slides in every other layer, also where no list says so; DeepSeek's first layers are dense."""
    gemma = made(tmp_path / "gemma", Gemma2Config(**SIZES, head_dim=4, sliding_window=2), without="layer_types")
    opened = open_recipe(passthrough((gemma, 1, 3)))
    assert opened.stream.donor.config["layer_types"] == ["full_attention", "sliding_attention"]
    sizes = SIZES | {"moe_intermediate_size": 8, "n_routed_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1}
    sizes |= {"kv_lora_rank": 4, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    config = CONFIG_MAPPING["deepseek_v2"].from_dict(sizes | {"first_k_dense_replace": 1})
    kinds = layer_kinds(config.to_dict(), "deepseek")
    assert kinds is not None and kinds[0] != kinds[1] == kinds[2]
    deepseek = made(tmp_path / "deepseek", config)
    open_recipe(passthrough((deepseek, 0, 2), (deepseek, 1, 3)))  # the dense one stays in its place
    with pytest.raises(InputError, match=r"layer 1 of .*deepseek would be layer 0, .* builds otherwise than as mlp"):
        open_recipe(passthrough((deepseek, 1, 3)))
