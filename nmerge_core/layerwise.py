"""A causal language model whose weights stay on disk: its decoder layers run one at a time, at weights handed in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError
from nmerge_core.machine import choose_device

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Call:
    """What the decoder hands one of its layers beside the hidden states: masks, positions, rotary embeddings."""

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]


@dataclass(frozen=True)
class Outside:
    """What happens to tokens (B, T) outside the decoder layers.

    `entering` (B, T, d_model) are the states before layer 0, `calls` has one entry per layer, and `output` is what the
    head reads (B, T, d_model), or the logits (B, T, vocabulary).
    """

    entering: Tensor
    calls: list[Call]
    output: Tensor


class LayerwiseModel:
    """The modules of a checkpoint's model without its weights; `layers` are its decoder layers."""

    def __init__(self, checkpoint: Checkpoint, device: str):
        """Build the modules for a device ("auto": a GPU if there is one).

        Raises:
            InputError: there is no such device, it is no causal language model that transformers knows, or the model
                that transformers builds has other tensors.
        """
        self.device = choose_device(device)
        self._checkpoint = checkpoint
        try:
            config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
            with init_empty_weights(include_buffers=False):
                self._model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{checkpoint.reference}: transformers has no causal model for it ({reason})") from error
        self._model.tie_weights()
        for module in self._model.modules():
            module._buffers = {name: b if b is None else b.to(self.device) for name, b in module._buffers.items()}
        self._check()
        decoder = self._model.get_decoder()
        lists = {id(module): name for name, module in self._model.named_modules() if isinstance(module, nn.ModuleList)}
        own_name = next(name for name, child in decoder.named_children() if id(child) in lists)
        self.layers: nn.ModuleList = getattr(decoder, own_name)
        self._layers_name = lists[id(self.layers)]
        self._stand_ins = [_StandIn() for _ in self.layers]
        setattr(decoder, own_name, nn.ModuleList(self._stand_ins))

    def _check(self) -> None:
        for name, parameter in self._model.named_parameters():
            found = self._checkpoint.tensors.get(self._stored(name))
            if found is None or found.shape != tuple(parameter.shape):
                there = f"one of {list(found.shape)}" if found else "none"
                raise InputError(
                    f"{self._checkpoint.reference}: expected tensor {name} of shape {list(parameter.shape)}, as "
                    f"transformers builds this model, found {there}; it cannot be run layer by layer"
                )

    def _stored(self, name: str) -> str:
        """Return the checkpoint's name of a parameter: models saved without their head lack the body's prefix."""
        bare = name.removeprefix(f"{self._model.base_model_prefix}.")
        return name if name in self._checkpoint.tensors else bare

    @property
    def outer_names(self) -> dict[str, str]:
        """The checkpoint's name of each weight outside the layers: embeddings, final norm and an untied head."""
        return {name: self._stored(name) for name, _ in self._model.named_parameters()}

    def layer_names(self, layer: int) -> dict[str, str]:
        """Return the checkpoint's name of each weight of one layer, by its name inside the layer."""
        prefix = f"{self._layers_name}.{layer}."
        return {name: self._stored(prefix + name) for name, _ in self.layers[layer].named_parameters()}

    def outer_weights(self) -> Weights:
        """Read the weights outside the layers, float32, by their names in the model."""
        return {name: self._read(tensor) for name, tensor in self.outer_names.items()}

    def layer_weights(self, layer: int) -> Weights:
        """Read the weights of one layer, float32, by their names inside it."""
        return {name: self._read(tensor) for name, tensor in self.layer_names(layer).items()}

    def outside(self, weights: Weights, tokens: Tensor, states: Tensor | None = None, *, head: bool = False) -> Outside:
        """Run all but the layers on tokens (B, T), with stand-ins for these.

        Right padding is not masked: attention is causal, so real tokens never see it.

        Args:
            weights: those outside the layers.
            tokens: the tokens.
            states: what the last layer gave, (B, T, d_model); the entering states where there is none yet.
            head: whether to go on from what the head reads to the logits.
        """
        self._stand_ins[-1].given = states
        decoder = self._model.get_decoder()
        module, names = self._model, {name: name for name in weights}
        if not head:
            prefix = next(name for name, each in self._model.named_modules() if each is decoder) + "."
            module, names = decoder, {n: n.removeprefix(prefix) for n in weights if n.startswith(prefix)}
        own = {inner: weights[name] for name, inner in names.items()}
        tokens = tokens.to(self.device)
        keywords = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "use_cache": False}
        output = functional_call(module, own, (), keywords)
        entering = self._stand_ins[0].states
        calls = [stand_in.call for stand_in in self._stand_ins]
        for stand_in in self._stand_ins:
            stand_in.forget()
        return Outside(entering, calls, output.logits if head else output.last_hidden_state)

    def run(self, layer: int, weights: Weights, states: Tensor, call: Call) -> Tensor:
        """Run one layer on hidden states (B, T, d_model)."""
        return functional_call(self.layers[layer], weights, (states, *call.args), dict(call.keywords))

    def _read(self, name: str) -> Tensor:
        return self._checkpoint.read(name).to(self.device, torch.float32)


class _StandIn(nn.Module):
    """A decoder layer that writes down its call, and gives what it is `given`, else what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.states: Any = None
        self.call: Any = None
        self.given: Tensor | None = None

    def forward(self, states: Tensor, *args: Any, **keywords: Any) -> Tensor:
        self.states, self.call = states, Call(args, keywords)
        return states if self.given is None else self.given
