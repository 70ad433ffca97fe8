"""Linearity computed with ordinary whole models and plain loops, one text at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

LAYERS = 2
Groups = Mapping[tuple[int, str], Sequence[int]]
Function = Callable[[Any], Tensor]


def load(reference: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()


def between(base: PreTrainedModel, model: PreTrainedModel, alpha: float, folder: str) -> PreTrainedModel:
    """θ0 + ατ of a whole model."""
    mixed = load(folder)
    states = {name: own + alpha * (model.state_dict()[name] - own) for name, own in base.state_dict().items()}
    mixed.load_state_dict(states)
    return mixed


def layers_of(model: Any) -> Any:
    return model.get_decoder().layers


def attention_of(layer: Any) -> nn.Module:
    return layer.attention if hasattr(layer, "attention") else layer.self_attn


def activations(mlp: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """φ (tokens, d_ffn), and down (d_model, d_ffn)."""
    if hasattr(mlp, "dense_h_to_4h"):
        return mlp.act(mlp.dense_h_to_4h(z)), mlp.dense_4h_to_h.weight
    return mlp.act_fn(mlp.gate_proj(z)) * mlp.up_proj(z), mlp.down_proj.weight


def functions(base: Any, folder: str, text: str, groups: Groups) -> Iterator[tuple[Any, Function]]:
    """Yield ((layer, submodule), f) with f of a model (tokens, d_model) at the base model's inputs for a text."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    seen: dict[tuple[int, str], Any] = {}
    hooks = []
    for index, layer in enumerate(layers_of(base)):

        def attention(module: nn.Module, args: tuple, arguments: dict, index: int = index) -> None:
            seen[index, "arguments"] = {name: value for name, value in arguments.items() if name != "hidden_states"}

        def before(module: nn.Module, args: tuple, output: Tensor, index: int = index) -> None:
            seen[index, "h"] = args[0]

        def middle(module: nn.Module, args: tuple, output: Tensor, index: int = index) -> None:
            seen[index, "h'"], seen[index, "z"] = args[0], output

        hooks.append(attention_of(layer).register_forward_pre_hook(attention, with_kwargs=True))
        hooks.append(layer.input_layernorm.register_forward_hook(before))
        hooks.append(layer.post_attention_layernorm.register_forward_hook(middle))
    with torch.no_grad():
        base(tokens, use_cache=False)
    for hook in hooks:
        hook.remove()
    for index in range(LAYERS):

        def attend(model: Any, index: int = index) -> Tensor:
            layer = layers_of(model)[index]
            return attention_of(layer)(layer.input_layernorm(seen[index, "h"]), **seen[index, "arguments"])[0][0]

        def mlp(model: Any, index: int = index) -> Tensor:
            layer = layers_of(model)[index]
            return layer.mlp(layer.post_attention_layernorm(seen[index, "h'"]))[0]

        yield (index, "attention"), attend
        yield (index, "mlp"), mlp
        for name, neurons in ((name, neurons) for (layer, name), neurons in groups.items() if layer == index):

            def group(model: Any, index: int = index, neurons: Sequence[int] = neurons) -> Tensor:
                phi, down = activations(layers_of(model)[index].mlp, seen[index, "z"][0])
                kept = torch.zeros_like(phi)
                kept[:, neurons] = phi[:, neurons]
                return kept @ down.T

            yield (index, name), group


@torch.no_grad()
def non_linearity(base: str, model: str, texts: Sequence[str], alpha: float, groups: Groups) -> dict[Any, float]:
    """Mean over all tokens of ‖f(θ0+ατ) − f(θ0) − αΔf‖ / ‖αΔf‖."""
    origin, tuned = load(base), load(model)
    mixed = between(origin, tuned, alpha, base)
    ratios: dict[Any, list[float]] = {}
    for text in texts:
        for key, f in functions(origin, base, text, groups):
            delta = f(tuned) - f(origin)
            error = f(mixed) - f(origin) - alpha * delta
            ratios.setdefault(key, []).extend((error.norm(dim=-1) / (alpha * delta).norm(dim=-1)).tolist())
    return {key: sum(values) / len(values) for key, values in ratios.items()}


def objective(
    base: str, models: Sequence[str], texts: Sequence[Sequence[str]], alphas: dict[Any, Tensor], groups: Groups
) -> dict[Any, Tensor]:
    """Σ_t E_{x∈D_t} ‖Σ_i α_i Δf_i(x) − Δf_t(x)‖² in float64 for the α (models,) of each submodule."""
    origin, tuned = load(base), [load(model) for model in models]
    total = {key: torch.zeros((), dtype=torch.float64) for key in alphas}
    for task, own in enumerate(texts):
        errors: dict[Any, list[Tensor]] = {key: [] for key in alphas}
        for text in own:
            with torch.no_grad():
                changes = {
                    key: torch.stack([f(model) - f(origin) for model in tuned]).double()  # (models, tokens, d_model)
                    for key, f in functions(origin, base, text, groups)
                }
            for key, deltas in changes.items():
                merged = (alphas[key][:, None, None] * deltas).sum(0)
                errors[key] += list(((merged - deltas[task]) ** 2).sum(-1))
        for key in alphas:
            total[key] = total[key] + torch.stack(errors[key]).mean()
    return total


def objective_together(
    base: str, models: Sequence[str], texts: Sequence[Sequence[str]], alphas: dict[Any, Tensor], groups: Groups
) -> Tensor:
    """Σ_t E_{x∈D_t} ‖Σ_g (Σ_i α_gi Δf_gi(x) − Δf_gt(x))‖² in float64, the groups being of one layer."""
    origin, tuned = load(base), [load(model) for model in models]
    total = torch.zeros((), dtype=torch.float64)
    for task, own in enumerate(texts):
        errors: list[Tensor] = []
        for text in own:
            with torch.no_grad():
                changes = {
                    key: torch.stack([f(model) - f(origin) for model in tuned]).double()  # (models, tokens, d_model)
                    for key, f in functions(origin, base, text, groups)
                    if key in alphas
                }
            left = [(alphas[key][:, None, None] * deltas).sum(0) - deltas[task] for key, deltas in changes.items()]
            errors += list((torch.stack(left).sum(0) ** 2).sum(-1))
        total = total + torch.stack(errors).mean()
    return total
