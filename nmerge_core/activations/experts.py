"""Routed experts run one by one, so that φ of each can be seen: fused, as transformers runs them, it is nowhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from nmerge_core.errors import InputError

ExpertEdit = Callable[[int, Tensor, Tensor], Tensor]
"""Takes an expert, φ (routed tokens, d_ffn) and these tokens' indices, and returns the φ to go on with."""

_ONE_BY_ONE = "nmerge_one_by_one"
_EDITS: WeakKeyDictionary[nn.Module, list[ExpertEdit]] = WeakKeyDictionary()


@contextmanager
def editing(model: PreTrainedModel, experts: nn.Module, edit: ExpertEdit) -> Iterator[None]:
    """Give φ of each expert to `edit` in every forward pass, after the edits that were there before.

    Raises:
        InputError: it is not known how these experts run.
    """
    edits = _EDITS.setdefault(experts, [])
    edits.append(edit)
    try:
        with _swapped(model, experts):
            yield
    finally:
        edits.remove(edit)


@contextmanager
def _swapped(model: PreTrainedModel, experts: nn.Module) -> Iterator[None]:
    """Run experts one by one while the block runs."""
    if hasattr(experts, "is_transposed"):  # of those that transformers lets run by a function of one's own
        before = model.get_experts_implementation()
        model.set_experts_implementation(_ONE_BY_ONE)
        try:
            yield
        finally:
            model.set_experts_implementation(before)
        return
    if type(experts).__name__ != "Llama4TextExperts":
        raise InputError(f"{type(experts).__name__}: it is not known how experts of this kind run")
    own = experts.__dict__.get("forward")  # where the model is spread over devices it is wrapped
    experts.forward = MethodType(_every_token, experts)
    try:
        yield
    finally:
        del experts.forward
        if own:
            experts.forward = own


def _one_by_one(experts: nn.Module, states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_e weight_e · down_e(φ_e), φ_e = act(gate_e·z) · (up_e·z), over the experts chosen for each token.

    Args:
        experts: the module that holds gate_up_proj (experts, 2·d_ffn, d_model) or, without gate, up_proj, and down_proj
            (experts, d_model, d_ffn), or their transposes, and their biases.
        states: (tokens, d_model), z.
        chosen: (tokens, k) experts.
        weights: (tokens, k).
    """
    total = torch.zeros_like(states)
    apply_gate: Callable[[Tensor], Tensor] = experts._apply_gate if experts.has_gate else experts.act_fn  # type: ignore[assignment]
    for expert in chosen.unique().tolist():
        tokens, place = (chosen == expert).nonzero(as_tuple=True)
        phi = apply_gate(_project(experts, "gate_up_proj" if experts.has_gate else "up_proj", expert, states[tokens]))
        for edit in _EDITS.get(experts, ()):
            phi = edit(expert, phi, tokens)  # (routed, d_ffn)
        output = _project(experts, "down_proj", expert, phi)  # (routed, d_model)
        if experts.has_post_expert_norm:
            output = experts.get_submodule("post_expert_norm")(output)
        output = output * weights[tokens, place, None]
        total.index_add_(0, tokens, output.to(total.dtype))
    return total


def _project(experts: nn.Module, name: str, expert: int, inputs: Tensor) -> Tensor:
    weight: Tensor = getattr(experts, name)[expert]  # no parameter where weights are handed in (torch.func)
    bias: Tensor | None = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return linear(inputs, weight.T if experts.is_transposed else weight, bias)


def _every_token(experts: nn.Module, states: Tensor) -> Tensor:
    """Return down_e(φ_e) of every expert for all tokens, (experts · tokens, d_model), as Llama 4 runs its experts.

    `states` are those of all tokens once an expert, scaled by the router: 0 where it sends them elsewhere.
    """
    gate_up: Tensor = experts.gate_up_proj  # type: ignore[assignment]
    down: Tensor = experts.down_proj  # type: ignore[assignment]
    act: Callable[[Tensor], Tensor] = experts.act_fn  # type: ignore[assignment]
    outputs = []
    for expert, own in enumerate(states.view(len(down), -1, states.shape[-1])):
        gate, up = (own @ gate_up[expert]).chunk(2, dim=-1)
        phi = up * act(gate)  # (tokens, d_ffn)
        for edit in _EDITS.get(experts, ()):
            phi = edit(expert, phi, torch.arange(len(own), device=own.device))
        outputs.append(phi @ down[expert])
    return torch.cat(outputs)


ALL_EXPERTS_FUNCTIONS.register(_ONE_BY_ONE, _one_by_one)
