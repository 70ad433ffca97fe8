"""Random families in the shapes of real models, written once and kept: what the benchmarks merge."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.writer import plan_layout, write_index

SCALE, CHANGE = (
    np.float32(0.02),
    np.float32(0.002),
)  # standard deviations of weights and of what fine-tuning adds to them
_AT_ONCE = 1 << 20  # entries drawn at a time


@dataclass(frozen=True)
class Shape:
    """A Qwen2's sizes; heads have 64 entries."""

    layers: int
    d_model: int
    d_ffn: int
    vocabulary: int
    heads: int
    kv_heads: int
    tied: bool = True

    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes in file order."""
        d, kv = self.d_model, self.kv_heads * 64
        found: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (self.vocabulary, d))]
        for layer in range(self.layers):
            parts = {
                "self_attn.q_proj.weight": (d, d),
                "self_attn.q_proj.bias": (d,),
                "self_attn.k_proj.weight": (kv, d),
                "self_attn.k_proj.bias": (kv,),
                "self_attn.v_proj.weight": (kv, d),
                "self_attn.v_proj.bias": (kv,),
                "self_attn.o_proj.weight": (d, d),
                "mlp.gate_proj.weight": (self.d_ffn, d),
                "mlp.up_proj.weight": (self.d_ffn, d),
                "mlp.down_proj.weight": (d, self.d_ffn),
                "input_layernorm.weight": (d,),
                "post_attention_layernorm.weight": (d,),
            }
            found += [(f"model.layers.{layer}.{name}", shape) for name, shape in parts.items()]
        found.append(("model.norm.weight", (d,)))
        return found if self.tied else [*found, ("lm_head.weight", (self.vocabulary, d))]

    def config(self) -> dict[str, object]:
        """The model's config.json."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32768,
            "dtype": "bfloat16",
        }


QWEN_05B = Shape(layers=24, d_model=896, d_ffn=4864, vocabulary=151936, heads=14, kv_heads=2)
QWEN_7B = Shape(layers=28, d_model=3584, d_ffn=18944, vocabulary=152064, heads=56, kv_heads=8, tied=False)


def write_headers(folder: Path, shape: Shape, models: int = 3) -> list[Path]:
    """Write a family whose weights are all 0 and take no room on the disk: sparse files behind true headers."""
    for name in _names(models):
        _begin(folder, name, shape)
        _end(folder, name, shape)
    return [folder / name for name in _names(models)]


def write_family(folder: Path, shape: Shape, models: int = 3) -> list[Path]:
    """Write a base and its fine-tunes in bfloat16, unless they are there; return the folders.

    A few rows at a time: a process counts the memory of the one that started it as its own, so this one stays small.
    """
    for index, name in enumerate(_names(models)):
        if (folder / name / "config.json").exists():
            continue
        for number, tensor in enumerate(_begin(folder, name, shape).values()):
            weights = np.random.default_rng(number)
            changes = np.random.default_rng([number, index])
            with tensor.file.open("r+b") as stream:
                stream.seek(tensor.offset)
                for first in range(0, tensor.elements, _AT_ONCE):
                    count = min(_AT_ONCE, tensor.elements - first)
                    values = SCALE * weights.standard_normal(count, dtype=np.float32)
                    if index:
                        values += CHANGE * changes.standard_normal(count, dtype=np.float32)
                    stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())  # towards zero
        _end(folder, name, shape)
    return [folder / name for name in _names(models)]


def _names(models: int) -> list[str]:
    return ["base", *(f"tuned-{index}" for index in range(models))]


def _begin(folder: Path, name: str, shape: Shape) -> Mapping[str, TensorInfo]:
    """Make room for the weights of a model; return where each tensor lies."""
    model = folder / name
    model.mkdir(parents=True, exist_ok=True)
    layout = plan_layout(model, [TensorInfo(name, "BF16", size, model, 0) for name, size in shape.tensors()], None)
    for file, header in layout.headers.items():
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(layout.sizes[file])
    write_index(model, layout)
    return layout.tensors


def _end(folder: Path, name: str, shape: Shape) -> None:
    """Write the configuration, by which a model is known to be whole."""
    (folder / name / "config.json").write_text(json.dumps(shape.config(), indent=1), encoding="utf-8")
