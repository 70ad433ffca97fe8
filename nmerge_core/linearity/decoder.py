"""A base model run one decoder layer at a time, with the same layer of its fine-tunes beside it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError
from nmerge_core.linearity.samples import Batch
from nmerge_core.linearity.submodules import ATTENTION, MLP, Inputs, Submodule, submodules
from nmerge_core.machine import choose_device


class Decoder:
    """The base model's decoder without weights: it holds the hidden states of all batches, and one layer at a time."""

    def __init__(self, base: Checkpoint, models: Sequence[Checkpoint], batches: Sequence[Batch], device: str):
        """Embed the batches on a device ("auto": a GPU if there is one).

        Raises:
            InputError: there is no such device, or the models' layers differ or are of a form that is not known.
        """
        self._device = choose_device(device)
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        decoder = model.get_decoder()
        decoder.rotary_emb = type(decoder.rotary_emb)(config).to(self._device)
        decoder.norm = nn.Identity()
        self.layers: nn.ModuleList = decoder.layers
        self._checkpoints = (base, *models)
        self._check()
        self._real = [batch.real.to(self._device) for batch in batches]
        self._states, self._arguments = self._embed(decoder, batches)

    def _check(self) -> None:
        base, *models = self._checkpoints
        parts = {name.split(".")[0] for name, _ in self.layers[0].named_parameters()}
        if parts != {*ATTENTION, *MLP}:
            raise InputError(
                f"{base.reference}: expected decoder layers of {', '.join((*ATTENTION, *MLP))}, "
                f"found {', '.join(sorted(parts))}; this family's layers cannot be measured yet"
            )
        for model in models:
            for mlp in base.architecture.layers:
                for name, _ in self.layers[mlp.layer].named_parameters():
                    tensor = f"{mlp.decoder_layer}.{name}"
                    expected, found = base.info(tensor).shape, model.info(tensor).shape
                    if expected != found:
                        raise InputError(
                            f"{model.reference}, tensor {tensor}: expected shape {list(expected)} as in "
                            f"{base.reference}, found {list(found)}; take fine-tunes of this base"
                        )

    def _embed(self, decoder: nn.Module, batches: Sequence[Batch]) -> tuple[list[Tensor], list[list[dict[str, Any]]]]:
        """Return each batch's states before layer 0, and the keyword arguments of each layer for each batch.

        The decoder itself makes the rotary embeddings and masks; stand-ins for its layers write down what they get.
        """
        base = self._checkpoints[0]
        embedding = next(name for name in base.tensors if base.architecture.submodule(name) == "embedding")
        table = base.read(embedding)  # (vocabulary, d_model), checkpoint dtype
        recorders = [_Recorder() for _ in self.layers]
        decoder.layers = nn.ModuleList(recorders)
        states = []
        for batch in batches:
            embedded = table[batch.tokens].to(self._device, torch.float32)  # (B, T, d_model)
            # Right padding needs no mask: attention is causal, so real tokens never see it.
            states.append(decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state)
        return states, [recorder.arguments for recorder in recorders]

    def submodules(self, mlp: MlpLayer, groups: Mapping[str, np.ndarray]) -> list[Submodule]:
        """Read one layer of every model, as float32, and return its attention, its MLP and its neuron groups."""
        layer = self.layers[mlp.layer]
        weights = [
            {
                name: checkpoint.read(f"{mlp.decoder_layer}.{name}").to(self._device, torch.float32)
                for name, _ in layer.named_parameters()
            }
            for checkpoint in self._checkpoints
        ]
        return submodules(mlp.layer, layer, weights, groups)

    def steps(self, submodules: Sequence[Submodule]) -> Iterator[Inputs]:
        """Run the base model's layer over every batch; yields what the submodules read, moves the states on."""
        attention, mlp = submodules[0], submodules[1]
        layer = self.layers[attention.layer]
        self_attention, norm = layer.get_submodule("self_attn"), layer.get_submodule("post_attention_layernorm")
        for index, real in enumerate(self._real):
            captured: dict[str, Any] = {}
            hooks = [
                self_attention.register_forward_pre_hook(partial(_keep_arguments, captured), with_kwargs=True),
                norm.register_forward_hook(partial(_keep_norm, captured)),
            ]
            states = self._states[index]
            try:
                weights = attention.base | mlp.base
                after = functional_call(layer, weights, (states,), self._arguments[attention.layer][index])
            finally:
                for hook in hooks:
                    hook.remove()
            yield Inputs(states, captured["arguments"], captured["middle"][real], captured["normed"][real], real)
            self._states[index] = after


class _Recorder(nn.Module):
    """A decoder layer that does nothing but write down the keyword arguments of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: list[dict[str, Any]] = []

    def forward(self, states: Tensor, **arguments: Any) -> Tensor:
        self.arguments.append(arguments)
        return states


def _keep_arguments(captured: dict[str, Any], module: nn.Module, args: tuple, arguments: dict[str, Any]) -> None:
    captured["arguments"] = {name: value for name, value in arguments.items() if name != "hidden_states"}


def _keep_norm(captured: dict[str, Any], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    captured["middle"], captured["normed"] = args[0], output
