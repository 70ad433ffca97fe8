"""A base model run one decoder layer at a time, with the same layer of its fine-tunes beside it."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.finite import finite
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.corpus.text_samples import Batch
from nmerge_core.errors import InputError
from nmerge_core.layerwise import Call, LayerwiseModel, Weights
from nmerge_core.nonlinearity.groups import neuron_groups
from nmerge_core.nonlinearity.submodules import Form, Inputs, Submodule, adds_residual, form, submodules
from nmerge_core.nonlinearity.wiring import check_wiring

_PROBED = 8  # tokens of a text that tell how a layer is wired


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
        self._probe = self._model.outside(outer, batches[0].tokens[:1, :_PROBED])
        self._checked = set[frozenset[str]]()  # the names of the weights of layers whose wiring is as their form says

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
        """Read one layer of every model, as float32, and return its attention, its MLP and its neuron groups.

        Raises:
            InputError: a weight is NaN or infinite.
        """
        layer, built = self.layers[mlp.layer], self._forms[mlp.layer]

        def read(checkpoint: Checkpoint, name: str) -> torch.Tensor:
            return finite(checkpoint, name, checkpoint.read(name).to(self._device, torch.float32))

        weights = [self._model.weights(mlp.layer, partial(read, checkpoint)) for checkpoint in self._checkpoints]
        found = submodules(mlp.layer, layer, built, weights)
        if (names := frozenset(weights[0])) not in self._checked:
            self._check_wiring(mlp, found, weights[0])
            self._checked.add(names)
        return found + neuron_groups(self._model, self._checkpoints[0].architecture, mlp, built, weights, groups)

    def steps(self, submodules: Sequence[Submodule]) -> Iterator[Inputs]:
        """Run the base model's layer over every batch; yields what the submodules read, moves the states on."""
        number, weights = submodules[0].layer, submodules[0].base | submodules[1].base
        for index, real in enumerate(self._real):
            inputs, after = self._run(number, weights, self._states[index], self._calls[index][number], real)
            yield inputs
            self._states[index] = after

    def _run(
        self, number: int, weights: Weights, states: torch.Tensor, call: Call, real: torch.Tensor
    ) -> tuple[Inputs, torch.Tensor]:
        """Run a layer; return what its submodules read, and its output."""
        layer, built = self.layers[number], self._forms[number]
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
        try:
            after = self._model.run(number, weights, states, call)
        finally:
            for hook in hooks:
                hook.remove()
        # (n, d_model); OPT's MLP reads (B · T, d_model)
        middle, normed = (captured[name].flatten(0, -2)[real.flatten()] for name in ("middle", "normed"))
        return Inputs(states, captured["arguments"], middle, normed, real), after

    def _check_wiring(self, mlp: MlpLayer, submodules: Sequence[Submodule], weights: Weights) -> None:
        """Run a layer on a few tokens at the states that enter the first, and check it."""
        layer, built = self.layers[mlp.layer], self._forms[mlp.layer]
        states, call = self._probe.entering, self._probe.calls[mlp.layer]
        real = torch.ones(states.shape[:2], dtype=torch.bool, device=self._device)
        written: dict[str, torch.Tensor] = {}
        last = {"attention": built.attention.names[-1], "mlp": built.mlp.names[-1]}
        hooks = [
            layer.get_submodule(name).register_forward_hook(partial(_keep_output, written, kind))
            for kind, name in last.items()
            if not adds_residual(layer.get_submodule(name))
        ]
        try:
            inputs, _ = self._run(mlp.layer, weights, states, call, real)
        finally:
            for hook in hooks:
                hook.remove()
        check_wiring(
            self._checkpoints[0].reference,
            mlp.decoder_layer,
            lambda own: self._model.run(mlp.layer, own, states, call),
            weights,
            submodules,
            inputs,
            written,
        )


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


def _keep_output(written: dict[str, torch.Tensor], kind: str, module: nn.Module, args: tuple, output: Any) -> None:
    """Keep a copy of what a module writes, (n, d_model): Falcon adds to it in its place."""
    written[kind] = (output[0] if isinstance(output, tuple | list) else output).flatten(0, -2).clone()


def _keep_input(captured: dict[str, Any], name: str, module: nn.Module, args: tuple, arguments: dict[str, Any]) -> None:
    captured[name] = args[0]
