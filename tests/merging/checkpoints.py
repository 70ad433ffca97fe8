"""Small checkpoints written straight to disk: two layers of a Qwen2, without transformers."""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.merging.recipe.registry import methods

TOKENS, SILENT = 50, 0  # of the random statistics; the inputs that are always 0
STATISTICS = {"fisher": "fisher", "regmean": "gram", "regmean_pp": "gram"}  # the kind that a method reads
D_MODEL, D_FFN, VOCABULARY, LAYERS = 8, 12, 20, 2
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": D_MODEL,
    "intermediate_size": D_FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
SHAPES = {
    "self_attn.q_proj.weight": (D_MODEL, D_MODEL),
    "self_attn.q_proj.bias": (D_MODEL,),
    "self_attn.k_proj.weight": (D_MODEL // 2, D_MODEL),
    "self_attn.k_proj.bias": (D_MODEL // 2,),
    "self_attn.v_proj.weight": (D_MODEL // 2, D_MODEL),
    "self_attn.v_proj.bias": (D_MODEL // 2,),
    "self_attn.o_proj.weight": (D_MODEL, D_MODEL),
    "mlp.gate_proj.weight": (D_FFN, D_MODEL),
    "mlp.up_proj.weight": (D_FFN, D_MODEL),
    "mlp.down_proj.weight": (D_MODEL, D_FFN),
    "input_layernorm.weight": (D_MODEL,),
    "post_attention_layernorm.weight": (D_MODEL,),
}


def random_weights(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"model.layers.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    shapes |= {"model.embed_tokens.weight": (VOCABULARY, D_MODEL), "model.norm.weight": (D_MODEL,)}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def fine_tuned(base: dict[str, torch.Tensor], seed: int, scale: float = 0.1) -> dict[str, torch.Tensor]:
    return {name: base[name] + delta for name, delta in random_weights(seed, scale).items()}


def write(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1, **config: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": dtype, **config}))
    names = list(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return str(folder)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[number::shards]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return str(folder)


def pickled(folder: Path, state: Any, shards: int = 1, **config: object) -> str:
    """Write a folder as `write` does, but with what `torch.save` makes of the state."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "dtype": "float32", **config}))
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return str(folder)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        part = {name: state[name] for name in list(state)[number::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(folder)


def statistics(model: str, kind: str) -> str:
    """Write a statistics folder of a model, random by the model's name, unless it is there."""
    folder = Path(model).with_name(f"{Path(model).name}-{kind}")
    if folder.exists():
        return str(folder)
    folder.mkdir()
    checkpoint = open_checkpoint(model)
    shapes = {name: checkpoint.tensors[name].shape for name in sorted(checkpoint.tensors)}  # whatever the shards
    grams = {name: gram_name(name) for name in shapes if "_proj.weight" in name}
    generator = torch.Generator().manual_seed(zlib.crc32(Path(model).name.encode()))
    if kind == "fisher":
        values = {name: torch.rand(shape, generator=generator) ** 4 for name, shape in shapes.items()}
    else:
        columns = {gram: checkpoint.architecture.matrix(gram).columns for gram in sorted({*grams.values()})}
        inputs = {gram: torch.randn(TOKENS, count, generator=generator) for gram, count in columns.items()}
        for x in inputs.values():
            x[:, :SILENT] = 0
        values = {gram: x.T @ x for gram, x in inputs.items()}
    save_file(values, folder / "model.safetensors")
    meta: dict[str, Any] = {
        "kind": kind,
        "model": model,
        "label": Path(model).name,
        "model_fingerprint": fingerprint(checkpoint),
    }
    meta |= {"corpus": "none", "categories": [], "files": ["model.safetensors"], "texts": 1, "tokens": TOKENS}
    (folder / "meta.json").write_text(json.dumps(meta | {"grams": grams}))
    return str(folder)


def entries(method: str, models: list[str]) -> list[dict[str, object]]:
    """The models of a recipe, as many as the method merges, each with its statistics where it needs them."""
    models = models[: methods()[method].most]
    if method not in STATISTICS:
        return [{"model": model} for model in models]
    folders = [statistics(model, STATISTICS[method]) for model in models]
    return [{"model": m, "parameters": {"statistics": s}} for m, s in zip(models, folders, strict=True)]


def gram_name(weight: str) -> str:
    """The first of the weights that read the same input as this one."""
    return re.sub("[kv]_proj", "q_proj", weight).replace("up_proj", "gate_proj")


def categories(folder: Path, names: list[str]) -> str:
    """Write the classification folder's file that merging reads: neuron j of every layer has names[j % len]."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    rows = [(layer, j, names[j % len(names)]) for layer in range(LAYERS) for j in range(D_FFN)]
    pd.DataFrame(rows, columns=["layer", "neuron", "category"]).to_parquet(folder / "neurons.parquet")
    return str(folder)
