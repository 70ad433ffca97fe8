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
from nmerge_core.linearity.submodules import Form, Inputs, Submodule, form, submodules
from nmerge_core.loading import check_causal
from nmerge_core.machine import choose_device

Call = tuple[tuple[Any, ...], dict[str, Any]]
_FINAL_NORMS = ("norm", "ln_f")


class Decoder:
    """The base model's decoder without weights: it holds the hidden states of all batches, and one layer at a time."""

    def __init__(self, base: Checkpoint, models: Sequence[Checkpoint], batches: Sequence[Batch], device: str):
        """Embed the batches on a device ("auto": a GPU if there is one).

        Raises:
            InputError: there is no such device, the base is no causal language model, or the models' layers differ or
                are of a form that is not known.
        """
        check_causal(base)
        self._device = choose_device(device)
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        decoder: Any = model.get_decoder()
        if hasattr(decoder, "rotary_emb"):
            decoder.rotary_emb = type(decoder.rotary_emb)(config).to(self._device)
        self._list = next(name for name, child in decoder.named_children() if isinstance(child, nn.ModuleList))
        self.layers: nn.ModuleList = decoder.get_submodule(self._list)
        self._checkpoints = (base, *(model.named_like(base) for model in models))
        self._form = self._check()
        self._real = [batch.real.to(self._device) for batch in batches]
        self._states, self._arguments = self._embed(decoder, batches)

    def _check(self) -> Form:
        base, *models = self._checkpoints
        built = form(self.layers[0])
        if built is None or any(mlp.routed for mlp in base.architecture.layers):
            parts = [*dict(self.layers[0].named_children())] if built is None else ["routed experts"]
            raise InputError(
                f"{base.reference}: expected decoder layers of an attention, an MLP and their norms as in Llama, "
                f"Gemma 2, OLMo 2 or GPT-2, found {', '.join(parts)}; this family's layers cannot be measured yet"
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
        return built

    def _embed(self, decoder: Any, batches: Sequence[Batch]) -> tuple[list[Tensor], list[list[Call]]]:
        """Return each batch's states before layer 0, and the arguments of each layer for each batch.

        The decoder itself makes the rotary embeddings and masks; stand-ins for its layers write down what they get.
        """
        base = self._checkpoints[0]
        # What stands before the list of layers on disk: `model.`, `transformer.` or nothing.
        prefix = base.architecture.layers[0].decoder_layer.removesuffix(f"{self._list}.0")
        tokens = decoder.get_input_embeddings()
        recorders = [_Recorder() for _ in self.layers]
        decoder.set_submodule(self._list, nn.ModuleList(recorders))
        for name, child in list(decoder.named_children()):
            if child is tokens:
                table = base.read(f"{prefix}{name}.weight")  # (vocabulary, d_model), checkpoint dtype
            elif isinstance(child, nn.Embedding):  # of positions
                positions = base.read(f"{prefix}{name}.weight").to(self._device, torch.float32)
                decoder.set_submodule(name, nn.Embedding.from_pretrained(positions))
            elif name in _FINAL_NORMS:
                decoder.set_submodule(name, nn.Identity())
        scale = getattr(tokens, "scalar_embed_scale", 1.0)  # of Gemma's embeddings
        states = []
        for batch in batches:
            embedded = table[batch.tokens].to(self._device, torch.float32) * scale  # (B, T, d_model)
            # Right padding needs no mask: attention is causal, so real tokens never see it.
            states.append(decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state)
        return states, [recorder.calls for recorder in recorders]

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
        matrix = self._checkpoints[0].architecture.matrix
        return submodules(mlp, layer, self._form, weights, matrix, groups)

    def steps(self, submodules: Sequence[Submodule]) -> Iterator[Inputs]:
        """Run the base model's layer over every batch; yields what the submodules read, moves the states on."""
        attention, mlp = submodules[0], submodules[1]
        layer = self.layers[attention.layer]
        for index, real in enumerate(self._real):
            captured: dict[str, Any] = {}
            read = {
                "arguments": (self._form.attention.module, _keep_arguments),
                "middle": (self._form.mlp.reads, _keep_input),
                "normed": (self._form.mlp.module, _keep_input),
            }
            hooks = [
                layer.get_submodule(module).register_forward_pre_hook(partial(keep, captured, name), with_kwargs=True)
                for name, (module, keep) in read.items()
            ]
            states, (more, arguments) = self._states[index], self._arguments[attention.layer][index]
            try:
                after = functional_call(layer, attention.base | mlp.base, (states, *more), arguments)
            finally:
                for hook in hooks:
                    hook.remove()
            yield Inputs(states, captured["arguments"], captured["middle"][real], captured["normed"][real], real)
            self._states[index] = after


class _Recorder(nn.Module):
    """A decoder layer that does nothing but write down the arguments of each call besides its hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def forward(self, states: Tensor, *more: Any, **arguments: Any) -> Tensor:
        self.calls.append((more, arguments))
        return states


def _keep_arguments(
    captured: dict[str, Any], name: str, module: nn.Module, args: tuple, arguments: dict[str, Any]
) -> None:
    captured[name] = {name: value for name, value in arguments.items() if name != "hidden_states"}


def _keep_input(captured: dict[str, Any], name: str, module: nn.Module, args: tuple, arguments: dict[str, Any]) -> None:
    captured[name] = args[0]
