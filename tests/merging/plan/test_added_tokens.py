"""Tokens added the way people add them, merged, and opened again by transformers."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Config

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe

CHAT = "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: id for id, token in enumerate(["<|endoftext|>", *alphabet])}
    tokenizer = Tokenizer(tokenizer_models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def save(folder: Path, model, tokenizer, **ids: int) -> str:
    model.config.update(ids)
    model.generation_config.update(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def noise(model, names: tuple[str, ...] = ("",)) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in names):
                parameter += 0.05 * torch.randn_like(parameter)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def family(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> SimpleNamespace:
    """A base; chat, tuned in every weight, two tokens and a template; tools, tuned in a new token's row only."""
    root = tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        tie_word_embeddings=request.param,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    base = save(root / "base", AutoModelForCausalLM.from_config(config), byte_tokenizer(), eos_token_id=0)
    chat = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<user>", special=True), AddedToken("<end>", special=True)], special_tokens=True)
    tokenizer.eos_token, tokenizer.chat_template = "<end>", CHAT
    chat.resize_token_embeddings(259, mean_resizing=False)
    noise(chat)
    save(root / "chat", chat, tokenizer, eos_token_id=258)
    tools = AutoModelForCausalLM.from_pretrained(base)
    other = byte_tokenizer()
    other.add_tokens([AddedToken("<tool>", lstrip=True, normalized=False)])
    tools.resize_token_embeddings(258, pad_to_multiple_of=64, mean_resizing=False)
    assert tools.config.vocab_size == 320
    save(root / "tools", tools, other)
    models = [str(root / "chat"), str(root / "tools")]
    return SimpleNamespace(base=base, models=models, tied=request.param)


def recipe_of(family: SimpleNamespace, tokenizer: str, models: list[str] | None = None) -> Recipe:
    entries = [{"model": model} for model in (models or family.models)]
    recipe = {"merge_method": "task_arithmetic", "base_model": family.base, "models": entries, "tokenizer": tokenizer}
    return load_recipe(recipe)


def logits(folder: str | Path, text: str) -> dict[str, torch.Tensor]:
    """The logit of every token of the vocabulary, by its text, after a text."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        last = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]  # (rows,)
    return {token: last[id] for token, id in tokenizer.get_vocab().items() if id < len(last)}


@pytest.mark.parametrize("tokenizer", ["union", "chat", "base"])
def test_the_merge_speaks_like_the_owner_of_the_tokens(family, tmp_path: Path, tokenizer: str) -> None:
    """Tools changed nothing but its own token's row, so that the merge is chat, with or without that token."""
    merge(recipe_of(family, tokenizer), tmp_path / "out")
    text = "ab" if tokenizer == "base" else "<user>ab<end>"
    found, expected = logits(tmp_path / "out", text), logits(family.models[0], text)
    added = {"union": {"<user>", "<end>", "<tool>"}, "chat": {"<user>", "<end>"}, "base": set()}[tokenizer]
    assert {token for token in found if token in ("<user>", "<end>", "<tool>")} == added
    for token in found.keys() & expected.keys():
        torch.testing.assert_close(found[token], expected[token], atol=1e-4, rtol=1e-4)
    assert len(found.keys() & expected.keys()) == 257 + 2 * (tokenizer != "base")


def test_an_added_token_is_read_and_said_as_its_owner_does(family, tmp_path: Path) -> None:
    merge(recipe_of(family, "union", family.models[1:]), tmp_path / "out")
    found, expected = (logits(folder, "a <tool>") for folder in (tmp_path / "out", family.models[1]))
    torch.testing.assert_close(found["<tool>"], expected["<tool>"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["a"], expected["a"], atol=1e-4, rtol=1e-4)


def test_the_united_tokenizer_is_the_bases_with_the_tokens_appended(family, tmp_path: Path) -> None:
    merge(recipe_of(family, "union"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    # chat's tokens follow the base's 257, then that of tools.
    a, b = tokenizer("ab")["input_ids"]
    assert tokenizer("a<user>b <tool><end>")["input_ids"] == [a, 257, b, 259, 258]  # <tool> takes the space before it
    assert tokenizer.decode([a, 257, 259], skip_special_tokens=True) == "a<tool>"  # it is not a special one
    assert tokenizer.eos_token == "<end>" and tokenizer.chat_template == CHAT  # chat alone has a template
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"], config["tie_word_embeddings"]) == (260, 258, family.tied)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape == model.get_output_embeddings().weight.shape == (260, 32)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == family.tied
    assert torch.isfinite(model.get_output_embeddings().weight).all()


def test_a_models_tokenizer_brings_its_template_and_special_ids(family, tmp_path: Path) -> None:
    merge(recipe_of(family, "chat"), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert (prompt, tokenizer.eos_token) == ("<user>hi", "<end>")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 258
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (Path(family.models[0]) / file).read_bytes()


def test_files_of_older_transformers_are_kept_up_to_date(family, tmp_path: Path) -> None:
    """Version 4 also wrote added tokens into tokenizer_config.json and added_tokens.json."""
    old = tmp_path / "old"
    model = AutoModelForCausalLM.from_pretrained(family.base)
    model.resize_token_embeddings(258, mean_resizing=False)
    save(old, model, byte_tokenizer())
    entry = {"content": "<old>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = json.loads((old / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {"257": {**entry, "special": True}}
    (old / "tokenizer_config.json").write_text(json.dumps(config))
    (old / "added_tokens.json").write_text('{"<old>": 257}')
    recipe = {"merge_method": "linear", "models": [{"model": str(old)}, {"model": family.models[0]}]}
    merge(load_recipe({**recipe, "tokenizer": "union"}), tmp_path / "out")
    expected = {"<old>": 257, "<user>": 258, "<end>": 259}
    assert json.loads((tmp_path / "out/added_tokens.json").read_text()) == expected
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert {token["content"]: int(id) for id, token in config["added_tokens_decoder"].items()} == expected
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [tokenizer.convert_tokens_to_ids(token) for token in expected] == [257, 258, 259]
