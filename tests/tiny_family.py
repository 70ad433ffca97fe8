"""A family of tiny Qwen2 models (2 layers, hidden 32, byte tokens) with a corpus, a task and a recipe."""

import json
from pathlib import Path
from types import SimpleNamespace


def make_family(root: Path) -> SimpleNamespace:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {token: number for number, token in enumerate(["<eos>", *alphabet])}
    bytes_ = Tokenizer(models.BPE(tokens, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<eos>", pad_token="<eos>")
    config = Qwen2Config(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(config)
    for name in ("base", "math", "code"):
        base.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    (root / "corpus").mkdir()
    for category in ("general", "math", "code"):
        texts = [f"{category} text {number}: {number * number}" for number in range(8)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (root / "corpus" / f"{category}.jsonl").write_text(lines)
    (root / "plain.jsonl").write_text("".join(json.dumps({"text": f"some words {n}"}) + "\n" for n in range(4)))
    (root / "plain.yaml").write_text(
        "task: plain\ndataset_path: json\ndataset_kwargs: {data_files: {test: plain.jsonl}}\ntest_split: test\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n"
    )
    (root / "recipe.yaml").write_text(
        f"merge_method: task_arithmetic\nbase_model: {root / 'base'}\n"
        f"models: [{{model: {root / 'math'}}}, {{model: {root / 'code'}}}]\nparameters: {{weight: 0.5}}\n"
    )
    return SimpleNamespace(
        root=root,
        base=str(root / "base"),
        math=str(root / "math"),
        code=str(root / "code"),
        corpus=str(root / "corpus"),
        task=str(root / "plain.yaml"),
        recipe=root / "recipe.yaml",
    )
