"""A base model run one decoder layer at a time, with the same layer of its fine-tunes beside it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError
from nmerge_core.linearity.samples import Batch
from nmerge_core.linearity.submodules import ATTENTION, MLP, Inputs, Submodule, submodules
from nmerge_core.skeleton import Skeleton


class Decoder:
    """The base model's decoder without weights: it holds the hidden states of all batches, and one layer at a time."""

    def __init__(self, base: Checkpoint, models: Sequence[Checkpoint], batches: Sequence[Batch], device: str):
        """Embed the batches on a device ("auto": a GPU if there is one).

        Raises:
            InputError: there is no such device, or the models' layers differ or are of a form that is not known.
        """
        self._skeleton = Skeleton(base, device)
        self._device = self._skeleton.device
        self.layers = self._skeleton.layers
        self._checkpoints = (base, *models)
        self._check()
        self._real = [batch.real.to(self._device) for batch in batches]
        outer = self._skeleton.outer_weights()
        outsides = [self._skeleton.outside(outer, batch.tokens) for batch in batches]
        self._states = [outside.entering for outside in outsides]
        self._calls = [outside.calls for outside in outsides]

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
                after = self._skeleton.run(attention.layer, weights, states, self._calls[index][attention.layer])
            finally:
                for hook in hooks:
                    hook.remove()
            yield Inputs(states, captured["arguments"], captured["middle"][real], captured["normed"][real], real)
            self._states[index] = after


def _keep_arguments(captured: dict[str, Any], module: nn.Module, args: tuple, arguments: dict[str, Any]) -> None:
    captured["arguments"] = {name: value for name, value in arguments.items() if name != "hidden_states"}


def _keep_norm(captured: dict[str, Any], module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
    captured["middle"], captured["normed"] = args[0], output
