"""A base model run one decoder layer at a time, with the same layer of its fine-tunes beside it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.errors import InputError
from nmerge_core.layerwise import LayerwiseModel
from nmerge_core.nonlinearity.groups import neuron_groups
from nmerge_core.nonlinearity.submodules import Form, Inputs, Submodule, form, submodules
from nmerge_core.text_samples import Batch


class Decoder:
    """The base model's decoder without weights: it holds the hidden states of all batches, and one layer at a time."""

    def __init__(self, base: Checkpoint, models: Sequence[Checkpoint], batches: Sequence[Batch], device: str):
        """Embed the batches on a device ("auto": a GPU if there is one).

        Raises:
            InputError: there is no such device, the base is no causal language model, or the models' layers differ or
                are of a form that is not known.
        """
        self._checkpoints = tuple(as_family(base, models))
        self._model = LayerwiseModel(base, device)
        self._device = self._model.device
        self.layers = self._model.layers
        self._forms = self._check()
        self._real = [batch.real.to(self._device) for batch in batches]
        outer = self._model.weights(None)
        outsides = [self._model.outside(outer, batch.tokens) for batch in batches]
        self._states = [outside.entering for outside in outsides]
        self._calls = [outside.calls for outside in outsides]

    def _check(self) -> list[Form]:
        base, *models = self._checkpoints
        forms = []
        for layer in self.layers:
            if (built := form(layer)) is None:
                raise _unknown(base, ", ".join(name for name, _ in layer.named_children()))
            forms.append(built)
        for model in models:
            for mlp in base.architecture.layers:
                for tensor in self._model.names(mlp.layer):
                    expected, found = base.info(tensor).shape, model.info(tensor).shape
                    if expected != found:
                        raise InputError(
                            f"{model.reference}, tensor {tensor}: expected shape {list(expected)} as in "
                            f"{base.reference}, found {list(found)}; take fine-tunes of this base"
                        )
        return forms

    def submodules(self, mlp: MlpLayer, groups: Mapping[str, np.ndarray]) -> list[Submodule]:
        """Read one layer of every model, as float32, and return its attention, its MLP and its neuron groups."""
        layer, built = self.layers[mlp.layer], self._forms[mlp.layer]

        def read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
            return checkpoint.read(name).to(self._device, torch.float32)

        weights = [self._model.weights(mlp.layer, partial(read, checkpoint)) for checkpoint in self._checkpoints]
        found = submodules(mlp.layer, layer, built, weights)
        return found + neuron_groups(self._model, self._checkpoints[0].architecture, mlp, built, weights, groups)

    def steps(self, submodules: Sequence[Submodule]) -> Iterator[Inputs]:
        """Run the base model's layer over every batch; yields what the submodules read, moves the states on."""
        attention, mlp = submodules[0], submodules[1]
        layer, built = self.layers[attention.layer], self._forms[attention.layer]
        for index, real in enumerate(self._real):
            captured: dict[str, Any] = {}
            read = {
                "arguments": (built.attention.module, _keep_arguments),
                "middle": (built.mlp.reads, _keep_input),
                "normed": (built.mlp.module, _keep_input),
            }
            hooks = [
                layer.get_submodule(module).register_forward_pre_hook(partial(keep, captured, name), with_kwargs=True)
                for name, (module, keep) in read.items()
            ]
            states, call = self._states[index], self._calls[index][attention.layer]
            try:
                after = self._model.run(attention.layer, attention.base | mlp.base, states, call)
            finally:
                for hook in hooks:
                    hook.remove()
            # (n, d_model); OPT's MLP reads (B · T, d_model)
            middle, normed = (captured[name].flatten(0, -2)[real.flatten()] for name in ("middle", "normed"))
            yield Inputs(states, captured["arguments"], middle, normed, real)
            self._states[index] = after


def _unknown(base: Checkpoint, found: str) -> InputError:
    return InputError(
        f"{base.reference}: expected decoder layers of an attention, an MLP and their norms as in Llama, Gemma 2, "
        f"OLMo 2, GLM-4, GPT-2, GPT-NeoX, Falcon, BLOOM, GPT-J or OPT, found {found}; this family's layers cannot be "
        "measured yet"
    )


def _keep_arguments(
    captured: dict[str, Any], name: str, module: nn.Module, args: tuple, arguments: dict[str, Any]
) -> None:
    captured[name] = {name: value for name, value in arguments.items() if name != "hidden_states"}


def _keep_input(captured: dict[str, Any], name: str, module: nn.Module, args: tuple, arguments: dict[str, Any]) -> None:
    captured[name] = args[0]
