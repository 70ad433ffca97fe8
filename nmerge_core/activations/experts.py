"""Routed experts run one by one, so that φ of each can be seen: fused, as transformers runs them, it is nowhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

ExpertEdit = Callable[[int, Tensor, Tensor], Tensor]
"""Takes an expert, φ (routed tokens, d_ffn) and these tokens' indices, and returns the φ to go on with."""

_ONE_BY_ONE = "nmerge_one_by_one"
_EDITS: WeakKeyDictionary[nn.Module, list[ExpertEdit]] = WeakKeyDictionary()


@contextmanager
def editing(model: PreTrainedModel, experts: nn.Module, edit: ExpertEdit) -> Iterator[None]:
    """Give φ of each expert to `edit` in every forward pass, after the edits that were there before."""
    before = model.get_experts_implementation()
    edits = _EDITS.setdefault(experts, [])
    edits.append(edit)
    model.set_experts_implementation(_ONE_BY_ONE)
    try:
        yield
    finally:
        model.set_experts_implementation(before)
        edits.remove(edit)


def _one_by_one(experts: nn.Module, states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Return Σ_e weight_e · down_e(φ_e), φ_e = act(gate_e·z) · (up_e·z), over the experts chosen for each token.

    Args:
        experts: the module that holds gate_up_proj (experts, 2·d_ffn, d_model) and down_proj (experts, d_model, d_ffn).
        states: (tokens, d_model), z.
        chosen: (tokens, k) experts.
        weights: (tokens, k).
    """
    total = torch.zeros_like(states)
    gate_up: Tensor = experts.get_parameter("gate_up_proj")
    down: Tensor = experts.get_parameter("down_proj")
    apply_gate: Callable[[Tensor], Tensor] = experts._apply_gate  # type: ignore[assignment]
    for expert in chosen.unique().tolist():
        tokens, place = (chosen == expert).nonzero(as_tuple=True)
        phi = apply_gate(linear(states[tokens], gate_up[expert]))  # (routed, d_ffn)
        for edit in _EDITS.get(experts, ()):
            phi = edit(expert, phi, tokens)
        output = linear(phi, down[expert]) * weights[tokens, place, None]  # (routed, d_model)
        total.index_add_(0, tokens, output.to(total.dtype))
    return total


ALL_EXPERTS_FUNCTIONS.register(_ONE_BY_ONE, _one_by_one)
