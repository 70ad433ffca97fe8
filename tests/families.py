"""A tiny random model of each family, and where its weights say its neurons are, written down independently."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import transformers
from safetensors.torch import load_file, save_file

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.merging import checkpoints
from tests.tiny import tiny_tokenizer

D, F, LAYERS, EXPERTS, MOE_F, SHARED_F, DENSE_F = 16, 24, 2, 4, 12, 20, 28
_TEXT = {"vocab_size": 257, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
_DECODER = _TEXT | {
    "hidden_size": D,
    "intermediate_size": F,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_ENCODER = {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_IMAGES = {"image_size": 16, "patch_size": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_expand": 2, "mamba_n_groups": 1}
_MOE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": MOE_F}

Weights = dict[str, torch.Tensor]
MIXED = ["general", "math", "code"]


@dataclass(frozen=True)
class Owner:
    """Tensors whose entries along `axis` are neurons: `first` + position, modulo `modulo` where that is set."""

    pattern: str
    axis: int
    first: Callable[[re.Match], int] = lambda match: 0
    modulo: int | None = None
    down: bool = False


def rows(*names: str, **more: Any) -> list[Owner]:
    return [Owner(name, 0, **more) for name in names]


def columns(name: str, **more: Any) -> Owner:
    return Owner(name, 1, down=True, **more)


def experts(up: str, down: str, d_ffn: int) -> list[Owner]:
    """Per expert, its number the first group of the patterns."""
    return [
        Owner(up, 0, first=lambda match: int(match[1]) * d_ffn),
        Owner(down, 1, first=lambda match: int(match[1]) * d_ffn, down=True),
    ]


@dataclass(frozen=True)
class Family:
    """One family: how to make a model of it, and what is where in its checkpoint."""

    title: str
    config: str
    settings: Mapping[str, Any]
    owners: list[Owner]
    mlp: str  # names that the MLP of a layer reads or holds; the layer's others are its attention's
    neurons: tuple[int, ...] = (F,) * LAYERS  # by layer
    auto: str = "AutoModelForCausalLM"
    conv1d: str | None = None
    second: str | None = None  # the prefix of the second tower, whose layers are counted after the first's
    beside: str | None = None  # the prefix of a tower that is no part of the language model
    save: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


_GATED = [*rows(r"mlp\.(gate|up)_proj\.(weight|bias)$"), columns(r"mlp\.down_proj\.weight$")]
_PRE_NORM = r"\.(mlp|post_attention_layernorm)\."
_FEEDFORWARD_NORMS = r"\.(mlp|(pre|post)_feedforward_layernorm)\."
_QWEN_EXPERTS = experts(r"experts\.(\d+)\.(?:gate|up)_proj\.weight$", r"experts\.(\d+)\.down_proj\.weight$", MOE_F)
_SHARED = [
    *rows(r"shared_expert\.(gate|up)_proj\.weight$", first=lambda match: EXPERTS * MOE_F),
    columns(r"shared_expert\.down_proj\.weight$", first=lambda match: EXPERTS * MOE_F),
]
_SHARED_EXPERTS = [
    *rows(r"shared_experts\.(gate|up)_proj\.weight$", first=lambda match: EXPERTS * MOE_F),
    columns(r"shared_experts\.down_proj\.weight$", first=lambda match: EXPERTS * MOE_F),
]
_H_TO_4H = [*rows(r"dense_h_to_4h\.(weight|bias)$"), columns(r"dense_4h_to_h\.weight$")]
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROUTED = "the router is merged as it is; a neuron is an expert's"

FAMILIES = (
    Family("Qwen2", "Qwen2Config", _DECODER | {"tie_word_embeddings": True}, _GATED, _PRE_NORM),
    Family("Qwen3", "Qwen3Config", _DECODER | {"head_dim": 4}, _GATED, _PRE_NORM),
    Family(
        "Llama",
        "LlamaConfig",
        _DECODER | {"mlp_bias": True, "attention_bias": True},
        _GATED,
        _PRE_NORM,
        note="biases of MLP and attention too",
    ),
    Family("Mistral", "MistralConfig", _DECODER, _GATED, _PRE_NORM),
    Family(
        "Phi-3",
        "Phi3Config",
        _DECODER,
        [*rows(r"gate_up_proj\.weight$", modulo=F), columns(r"mlp\.down_proj\.weight$")],
        _PRE_NORM,
        note="a neuron is two rows of `gate_up_proj`; `qkv_proj` is merged by rows",
    ),
    Family("Gemma 2", "Gemma2Config", _DECODER | {"head_dim": 4}, _GATED, _FEEDFORWARD_NORMS),
    Family("Gemma 3 (text)", "Gemma3TextConfig", _DECODER | {"head_dim": 4}, _GATED, _FEEDFORWARD_NORMS),
    Family("OLMo", "OlmoConfig", _DECODER, _GATED, _PRE_NORM),
    Family("OLMo 2", "Olmo2Config", _DECODER, _GATED, _FEEDFORWARD_NORMS),
    Family(
        "GPT-2",
        "GPT2Config",
        _TEXT | {"n_embd": D, "n_inner": F, "n_layer": LAYERS, "n_head": 4, "n_positions": 64},
        [Owner(r"mlp\.c_fc\.weight$", 1), *rows(r"mlp\.c_fc\.bias$"), Owner(r"mlp\.c_proj\.weight$", 0, down=True)],
        r"\.(mlp|ln_2)\.",
        conv1d=r"\.(c_attn|c_fc|c_proj)\.weight$",
        note="weights stored (in, out): a weight neuron is a column; names with or without `transformer.`",
    ),
    Family(
        "Mixtral",
        "MixtralConfig",
        _DECODER | {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
        experts(r"experts\.(\d+)\.w[13]\.weight$", r"experts\.(\d+)\.w2\.weight$", F),
        r"\.(block_sparse_moe|post_attention_layernorm)\.",
        neurons=(EXPERTS * F,) * LAYERS,
        note=_ROUTED,
    ),
    Family(
        "Qwen2-MoE",
        "Qwen2MoeConfig",
        _DECODER | _MOE | {"shared_expert_intermediate_size": SHARED_F},
        [*_QWEN_EXPERTS, *_SHARED],
        _PRE_NORM,
        neurons=(EXPERTS * MOE_F + SHARED_F,) * LAYERS,
        note=f"{_ROUTED} or, last, the shared expert's",
    ),
    Family(
        "Qwen3-MoE",
        "Qwen3MoeConfig",
        _DECODER | _MOE | {"head_dim": 4, "mlp_only_layers": [0]},
        [*_GATED, *_QWEN_EXPERTS],
        _PRE_NORM,
        neurons=(F, EXPERTS * MOE_F),
        note=f"{_ROUTED}; some layers may have an MLP without experts",
    ),
    Family(
        "Qwen3-MoE, experts stacked",
        "Qwen3MoeConfig",
        _DECODER | _MOE | {"head_dim": 4, "mlp_only_layers": [0]},
        _GATED,  # those of experts: see `neuron_ids`
        _PRE_NORM,
        neurons=(F, EXPERTS * MOE_F),
        save={"save_original_format": False},
        note="as `save_pretrained(…, save_original_format=False)` writes them: (experts, out, in)",
    ),
    Family(
        "GPT-NeoX",
        "GPTNeoXConfig",
        _DECODER,
        _H_TO_4H,
        r"\.(mlp|post_attention_layernorm)\.",
        note="Pythia too",
    ),
    Family(
        "Falcon",
        "FalconConfig",
        _TEXT | {"hidden_size": D, "ffn_hidden_size": F, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
        _H_TO_4H,
        r"\.(mlp|post_attention_layernorm)\.",
    ),
    Family(
        "BLOOM",
        "BloomConfig",
        _TEXT | {"hidden_size": D, "n_layer": LAYERS, "n_head": 4},
        _H_TO_4H,
        r"\.(mlp|post_attention_layernorm)\.",
        neurons=(4 * D,) * LAYERS,
    ),
    Family(
        "OPT",
        "OPTConfig",
        _DECODER | {"ffn_dim": F, "word_embed_proj_dim": D},
        [*rows(r"\.fc1\.(weight|bias)$"), columns(r"\.fc2\.weight$")],
        r"\.(fc[12]|final_layer_norm)\.",
    ),
    Family(
        "GPT-J",
        "GPTJConfig",
        _TEXT | {"n_embd": D, "n_inner": F, "n_layer": LAYERS, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
        [*rows(r"\.fc_in\.(weight|bias)$"), columns(r"\.fc_out\.weight$")],
        r"\.mlp\.",
    ),
    Family(
        "Nemotron",
        "NemotronConfig",
        _DECODER | {"head_dim": 4},
        [*rows(r"mlp\.up_proj\.weight$"), columns(r"mlp\.down_proj\.weight$")],
        _PRE_NORM,
        note="an MLP without gate",
    ),
    Family(
        "GLM-4-MoE",
        "Glm4MoeConfig",
        _DECODER
        | _MOE
        | {"head_dim": 4, "n_routed_experts": EXPERTS, "n_shared_experts": 2, "n_group": 1}
        | {"topk_group": 1, "first_k_dense_replace": 1},
        [*_GATED, *_QWEN_EXPERTS, *_SHARED_EXPERTS],
        _PRE_NORM,
        neurons=(F, EXPERTS * MOE_F + 2 * MOE_F),
        note="the first layers have an MLP without experts; the shared experts' neurons come last",
    ),
    Family(
        "DeepSeek-V3",
        "DeepseekV3Config",
        _DECODER
        | _MOE
        | {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
        | {"first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4}
        | {"qk_nope_head_dim": 4, "v_head_dim": 4},
        [*_GATED, *_QWEN_EXPERTS, *_SHARED_EXPERTS],
        _PRE_NORM,
        neurons=(F, EXPERTS * MOE_F + MOE_F),
        note="as GLM-4-MoE",
    ),
    Family(
        "gpt-oss",
        "GptOssConfig",
        _DECODER | {"head_dim": 4, "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "rope_parameters": _ROPE},
        [],  # see `neuron_ids`
        _PRE_NORM,
        neurons=(EXPERTS * F,) * LAYERS,
        note="experts stacked (experts, in, out), gate and up by turns",
    ),
    Family(
        "Llama 4 (text)",
        "Llama4TextConfig",
        _DECODER
        | {"head_dim": 4, "num_local_experts": EXPERTS, "num_experts_per_tok": 1}
        | {"interleave_moe_layer_step": 2, "intermediate_size_mlp": DENSE_F},
        [
            *rows(r"feed_forward\.(gate|up)_proj\.weight$"),
            columns(r"feed_forward\.down_proj\.weight$"),
            *rows(r"shared_expert\.(gate|up)_proj\.weight$", first=lambda match: EXPERTS * F),
            columns(r"shared_expert\.down_proj\.weight$", first=lambda match: EXPERTS * F),
        ],
        r"\.(feed_forward|post_attention_layernorm)\.",
        neurons=(DENSE_F, EXPERTS * F + F),
        note="experts stacked (experts, in, out), in every second layer; φ of one is scaled by the router, before it",
    ),
    Family(
        "Qwen2.5-VL",
        "Qwen2_5_VLConfig",
        {
            "text_config": _DECODER | {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 0]}},
            "vision_config": _ENCODER
            | {"depth": 2, "num_heads": 4, "out_hidden_size": D, "patch_size": 8, "fullatt_block_indexes": [1]},
        },
        [
            *rows(r"^model\.layers.*mlp\.(gate|up)_proj\.weight$"),
            columns(r"^model\.layers.*mlp\.down_proj\.weight$"),
        ],
        r"\.(mlp|post_attention_layernorm)\.",
        auto="AutoModelForImageTextToText",
        beside="visual",
        note="of a language model that sees, the layers and neurons are those of its text",
    ),
    Family(
        "Gemma 4 (text)",
        "Gemma4TextConfig",
        _DECODER
        | {"head_dim": 4, "global_head_dim": 4, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 0}
        | {"vocab_size_per_layer_input": 257},
        _GATED,
        _FEEDFORWARD_NORMS,
        note="what it adds by layer from embeddings of its own is no submodule's",
    ),
    Family(
        "Apertus",
        "ApertusConfig",
        _DECODER | {"rope_parameters": _ROPE},
        [*rows(r"mlp\.up_proj\.weight$"), columns(r"mlp\.down_proj\.weight$")],
        r"\.(mlp|feedforward_layernorm)\.",
        note="an activation with parameters of its own, which are no neuron's",
    ),
    Family(
        "LFM2",
        "Lfm2Config",
        _DECODER | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        [*rows(r"feed_forward\.w[13]\.weight$"), columns(r"feed_forward\.w2\.weight$")],
        r"\.(feed_forward|ffn_norm)\.",
        note="a layer's convolution is its attention here",
    ),
    Family(
        "Bamba",
        "BambaConfig",
        _DECODER | _MAMBA | {"attn_layer_indices": [1]},
        [*rows(r"feed_forward\.(gate|up)_proj\.weight$"), columns(r"feed_forward\.down_proj\.weight$")],
        r"\.(feed_forward|pre_ff_layernorm)\.",
        note="a layer's state-space model is its attention here",
    ),
    Family(
        "Granite hybrid",
        "GraniteMoeHybridConfig",
        _DECODER
        | _MAMBA
        | {"layer_types": ["mamba", "attention"], "num_local_experts": EXPERTS, "num_experts_per_tok": 2}
        | {"shared_intermediate_size": SHARED_F},
        [
            *rows(r"shared_mlp\.input_linear\.weight$", first=lambda match: EXPERTS * F, modulo=SHARED_F),
            columns(r"shared_mlp\.output_linear\.weight$", first=lambda match: EXPERTS * F),
        ],
        r"\.(block_sparse_moe|shared_mlp|post_attention_layernorm)\.",
        neurons=(EXPERTS * F + SHARED_F,) * LAYERS,
        note="experts stacked (experts, out, in), the shared MLP's neurons last",
    ),
    Family(
        "T5",
        "T5Config",
        _TEXT | {"d_model": D, "d_kv": 4, "d_ff": F, "num_layers": LAYERS, "num_heads": 4, "decoder_start_token_id": 0},
        [*rows(r"\.wi\.weight$"), columns(r"\.wo\.weight$")],
        r"DenseReluDense|encoder.*\.layer\.1\.|decoder.*\.layer\.2\.",
        neurons=(F,) * 2 * LAYERS,
        auto="AutoModelForSeq2SeqLM",
        second="decoder",
        note="the decoder's layers are counted after the encoder's",
    ),
    Family(
        "T5 1.1",
        "T5Config",
        _TEXT
        | {"d_model": D, "d_kv": 4, "d_ff": F, "num_layers": LAYERS, "num_heads": 4, "decoder_start_token_id": 0}
        | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        [*rows(r"\.wi_[01]\.weight$"), columns(r"\.wo\.weight$")],
        r"DenseReluDense|encoder.*\.layer\.1\.|decoder.*\.layer\.2\.",
        neurons=(F,) * 2 * LAYERS,
        auto="AutoModelForSeq2SeqLM",
        second="decoder",
        note="gated",
    ),
    Family(
        "CLIP",
        "CLIPConfig",
        {
            "text_config": _ENCODER | _TEXT | {"max_position_embeddings": 16, "projection_dim": 12},
            "vision_config": _ENCODER | _IMAGES | {"projection_dim": 12, "intermediate_size": 20},
            "projection_dim": 12,
        },
        [*rows(r"mlp\.fc1\.(weight|bias)$"), columns(r"mlp\.fc2\.weight$")],
        r"\.(mlp|layer_norm2)\.",
        neurons=(F, F, 20, 20),
        auto="AutoModel",
        second="vision_model",
        note="the image encoder's layers are counted after the text encoder's",
    ),
    Family(
        "ViT",
        "ViTConfig",
        _ENCODER | _IMAGES | {"num_labels": 5},
        [
            *rows(r"\.intermediate\.dense\.(weight|bias)$"),
            columns(r"layer\.\d+\.output\.dense\.weight$"),
        ],
        r"layer\.\d+\.(intermediate|output|layernorm_after)\.",
        auto="AutoModelForImageClassification",
        note="a row of the patch embedding is an output channel",
    ),
)
CAUSAL = [family for family in FAMILIES if family.auto in ("AutoModelForCausalLM", "AutoModelForImageTextToText")]


def make(family: Family, root: Path) -> SimpleNamespace:
    """Save a random base and two fine-tunes of it; return their folders and weights as they lie on disk."""
    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**family.settings)
    auto = getattr(transformers, family.auto)
    made = SimpleNamespace(config=config, auto=auto, parameters=0)
    model = auto.from_config(config)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("base", "math", "code"):
        scale = 0.3 if name == "base" else 0.05
        with torch.no_grad():
            model.load_state_dict(base)
            for parameter in model.parameters():
                parameter += scale * torch.randn_like(parameter)
        if name == "base":
            base = {key: value.clone() for key, value in model.state_dict().items()}
        model.save_pretrained(root / name, **family.save)
        tiny_tokenizer(root / name)
        setattr(made, name, str(root / name))
    untied = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    made.parameters = sum(value.numel() for name, value in model.state_dict().items() if name in untied)
    made.weights, *made.tunes = (load_file(root / name / "model.safetensors") for name in ("base", "math", "code"))
    return made


def layer_number(family: Family, name: str) -> int | None:
    found = re.search(r"(?:^|\.)(?:layers?|h|block)\.(\d+)\.", name)
    if not found or (family.beside and name.startswith(family.beside)):
        return None
    return int(found[1]) + (LAYERS if family.second and name.startswith(family.second) else 0)


def neuron_ids(family: Family, name: str, shape: torch.Size) -> torch.Tensor | None:
    """The neuron of each entry of a stored tensor, or None."""
    if family.title in ("gpt-oss", "Llama 4 (text)") and "experts." in name:
        expert = torch.arange(EXPERTS).view(-1, *[1] * (len(shape) - 1)) * F
        if "gate_up" in name:  # (experts, [in,] gate and up)
            own = torch.arange(2 * F)
            return (expert + (own // 2 if family.title == "gpt-oss" else own % F)).expand(shape)
        return (expert + torch.arange(F)[:, None]).expand(shape) if len(shape) == 3 else None
    if family.title == "Granite hybrid" and len(shape) == 3 and "block_sparse_moe" in name:
        expert = torch.arange(EXPERTS)[:, None] * F
        if "input" in name:  # (experts, gate rows and up rows, in)
            return (expert + torch.arange(2 * F) % F)[..., None].expand(shape)
        return (expert + torch.arange(F))[:, None].expand(shape)  # (experts, out, columns)
    if name.endswith("mlp.experts.gate_up_proj"):  # (experts, gate rows and up rows, in)
        return (torch.arange(EXPERTS)[:, None] * MOE_F + torch.arange(2 * MOE_F) % MOE_F)[..., None].expand(shape)
    if name.endswith("mlp.experts.down_proj"):  # (experts, out, columns)
        return (torch.arange(EXPERTS)[:, None, None] * MOE_F + torch.arange(MOE_F)).expand(shape)
    for owner in family.owners:
        if match := re.search(owner.pattern, name):
            ids = torch.arange(shape[owner.axis])
            ids = owner.first(match) + (ids % owner.modulo if owner.modulo else ids)
            return ids.view([-1 if axis == owner.axis else 1 for axis in range(len(shape))]).expand(shape)
    return None


def is_down(family: Family, name: str) -> bool:
    return name.endswith(("experts.down_proj", "block_sparse_moe.output_linear.weight")) or any(
        o.down and re.search(o.pattern, name) for o in family.owners
    )


def as_matrix(family: Family, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A stored tensor with a weight neuron a row, or as a vector."""
    if family.conv1d and re.search(family.conv1d, name):
        return tensor.T
    if tensor.dim() > 3 or (tensor.dim() == 3 and "conv" in name):
        return tensor.flatten(1)
    if name.endswith("_proj_bias"):
        return tensor.flatten()
    if family.title in ("gpt-oss", "Llama 4 (text)") and tensor.dim() == 3:  # (experts, in, out)
        return tensor.transpose(1, 2).reshape(-1, tensor.shape[1])
    if tensor.dim() == 3:
        if "experts" in name or "moe" in name:
            return tensor.reshape(-1, tensor.shape[-1])
        return tensor[0, 0] if name.endswith("cls_token") else tensor[0]
    return tensor


def as_stored(family: Family, name: str, matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The inverse of `as_matrix`."""
    if family.title in ("gpt-oss", "Llama 4 (text)") and len(shape) == 3:
        return matrix.reshape(shape[0], shape[2], shape[1]).transpose(1, 2)
    return matrix.T if family.conv1d and re.search(family.conv1d, name) else matrix.reshape(shape)


def run(models: SimpleNamespace, out: Path, method: str, **parameters: object) -> Weights:
    entries = [{"model": models.math, "parameters": {"category": "math"}}, {"model": models.code}]
    if method != "neuronmerge":
        entries = checkpoints.entries(method, [models.math, models.code])
    recipe = {"merge_method": method, "base_model": models.base, "models": entries, "parameters": parameters}
    merge(load_recipe(recipe), out)
    return load_file(out / "model.safetensors")


def categories(family: Family, file: Path) -> pd.DataFrame:
    """Give every neuron a random category."""
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(len(MIXED), (count,), generator=generator).tolist() for count in family.neurons]
    neurons = [(layer, neuron, MIXED[index]) for layer, own in enumerate(drawn) for neuron, index in enumerate(own)]
    frame = pd.DataFrame(neurons, columns=["layer", "neuron", "category"])
    file.parent.mkdir()
    frame.to_parquet(file)
    return frame


def family_of(title: str) -> Family:
    return next(family for family in FAMILIES if family.title == title)


def rewrite(folder: str, out: Path, change) -> str:
    """Copy a checkpoint with other tensors."""
    shutil.copytree(folder, out)
    save_file(change(load_file(out / "model.safetensors")), out / "model.safetensors", {"format": "pt"})
    return str(out)
