"""A causal language model whose weights stay on disk: its decoder layers run one at a time, at weights handed in."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, PreTrainedModel

from nmerge_core.architecture import LAYER
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.parameters import head_of
from nmerge_core.errors import InputError
from nmerge_core.kinds import check_causal, kind_of
from nmerge_core.machine import choose_device
from nmerge_core.stored import Stored, stored_weights

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
    """The modules of a checkpoint's model without its weights; `layers` are the decoder layers of `model`."""

    def __init__(self, checkpoint: Checkpoint, device: str, dtype: torch.dtype = torch.float32):
        """Build the modules for a device ("auto": a GPU if there is one), in a number format.

        Raises:
            InputError: there is no such device, it is no causal language model that transformers knows, the model that
                transformers builds has other tensors, or layers hand each other more than hidden states.
        """
        self.device = choose_device(device)
        self._checkpoint = checkpoint
        self._shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
        kind = kind_of(checkpoint)
        check_causal(checkpoint.reference, kind)
        try:
            config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
            if getattr(config.get_text_config(), "num_kv_shared_layers", 0):
                raise InputError(
                    f"{checkpoint.reference}: its last layers attend by keys and values of earlier ones; it cannot be "
                    "run layer by layer"
                )
            if head_of(checkpoint.tensors):  # a head of its own, whatever the configuration says (transformers 5)
                config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
            with init_empty_weights(include_buffers=False):
                self.model: PreTrainedModel = kind.auto.from_config(config, dtype=dtype).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"{checkpoint.reference}: transformers has no causal model for it ({reason})") from error
        self.model.tie_weights()
        _keep_in_float32(self.model, dtype)
        if hasattr(self.model, "set_experts_implementation"):
            self.model.set_experts_implementation("eager")
        for module in self.model.modules():
            module._buffers = {name: b if b is None else b.to(self.device) for name, b in module._buffers.items()}
        self._stored = self._find_stored()
        self._layers_name = self._find_layers()
        self._decoder_name, _, own_name = self._layers_name.rpartition(".")
        self._decoder = self.model.get_submodule(self._decoder_name)
        self.layers: nn.ModuleList = getattr(self._decoder, own_name)
        self._stand_ins = [_StandIn() for _ in self.layers]
        self._probed = False

    def _find_stored(self) -> list[Stored]:
        """Find what each parameter is made of; buffers that are stored are read here."""
        parameters, buffers = dict(self.model.named_parameters()), dict(self.model.named_buffers())
        self._dtypes = {name: parameter.dtype for name, parameter in parameters.items()}
        found = []
        made: dict[str, tuple[int, ...]] = {}
        for stored in stored_weights(self.model, self._shapes):
            if stored.loaded[0] in buffers:
                values = stored.load({name: self._checkpoint.read(name) for name in stored.names})
                for name, value in values.items():
                    buffers[name].copy_(value)
            elif any(name in parameters for name in stored.loaded):  # not so a tied weight's other name
                empty = {name: torch.empty(self._shapes[name], device="meta") for name in stored.names}
                made |= {name: tuple(value.shape) for name, value in stored.load(empty).items()}
                found.append(stored)
        for name, parameter in parameters.items():
            if made.get(name) != tuple(parameter.shape):
                there = f"one of {list(made[name])}" if name in made else "none"
                raise InputError(
                    f"{self._checkpoint.reference}: expected tensor {name} of shape {list(parameter.shape)}, as "
                    f"transformers builds this model, found {there}; it cannot be run layer by layer"
                )
        return found

    def _find_layers(self) -> str:
        layer_of = self._checkpoint.architecture.layer_of
        inside = (each.loaded[0] for each in self._stored if layer_of(each.names[0]) is not None)
        found = sorted({match["tower"] for name in inside if (match := LAYER.match(name))})
        if len(found) != 1:
            raise InputError(
                f"{self._checkpoint.reference}: expected layers, one after the other, found "
                f"{' beside '.join(found) or 'none'}; it cannot be run layer by layer"
            )
        return found[0]

    def stored(self, layer: int | None, *, head: bool = True) -> list[Stored]:
        """Return what the weights of a layer are made of, or those outside the layers: embeddings, norm, head.

        Without `head` the latter are those of the decoder alone.
        """
        if layer is not None:
            return [each for each in self._stored if each.loaded[0].startswith(f"{self._layers_name}.{layer}.")]
        within = "" if head else f"{self._decoder_name}."
        outside = [each for each in self._stored if not each.loaded[0].startswith(f"{self._layers_name}.")]
        return [each for each in outside if each.loaded[0].startswith(within)]

    def names(self, layer: int | None) -> list[str]:
        """Return the checkpoint's names of the weights of a layer, or of those outside the layers."""
        return [name for each in self.stored(layer) for name in each.names]

    def plain_names(self, layer: int) -> dict[str, str]:
        """Return the checkpoint's name of each weight of a layer that is loaded as it is, by its name in the layer."""
        prefix = f"{self._layers_name}.{layer}."
        return {each.loaded[0].removeprefix(prefix): each.names[0] for each in self.stored(layer) if each.plain}

    def made_of(self, layer: int, tensors: Collection[str]) -> set[str]:
        """Return the weights of a layer, by their names inside it, that are made of these tensors of the checkpoint."""
        prefix = f"{self._layers_name}.{layer}."
        made = (each.loaded for each in self.stored(layer) if not {*tensors}.isdisjoint(each.names))
        return {name.removeprefix(prefix) for loaded in made for name in loaded}

    @property
    def head(self) -> str | None:
        """The checkpoint's name of the weight of an untied head."""
        head = self.model.get_output_embeddings()
        outside = {each.loaded[0]: each.names[0] for each in self.stored(None) if each.plain}
        weights = (name for name, module in self.model.named_modules() if module is head)
        return next((outside[f"{name}.weight"] for name in weights if f"{name}.weight" in outside), None)

    def weights(self, layer: int | None, read: Callable[[str], Tensor] | None = None, *, head: bool = True) -> Weights:
        """Return the weights of a layer, by their names inside it, or those outside the layers, by theirs in the model.

        Args:
            layer: the layer, None for what lies outside.
            read: what gives a tensor of the checkpoint's names; by default the checkpoint's own.
            head: as in `stored`.
        """
        read, prefix = read or self._read, "" if layer is None else f"{self._layers_name}.{layer}."
        made: Weights = {}
        for each in self.stored(layer, head=head):
            made |= each.load({name: read(name) for name in each.names})
        return {name.removeprefix(prefix): value.to(self._dtypes[name]) for name, value in made.items()}

    def as_stored(self, layer: int | None, values: Weights) -> Weights:
        """Return values of the weights of `weights`, in the shapes and by the names of the checkpoint's tensors."""
        prefix = "" if layer is None else f"{self._layers_name}.{layer}."
        full = {prefix + name: value for name, value in values.items()}
        found: Weights = {}
        for each in self.stored(layer):
            found |= each.unload(full, self._shapes)
        return found

    def outside(
        self,
        weights: Weights,
        tokens: Tensor,
        states: Tensor | None = None,
        *,
        real: Tensor | None = None,
        head: bool = False,
    ) -> Outside:
        """Run all but the layers on tokens (B, T), with stand-ins for these.

        Args:
            weights: those outside the layers.
            tokens: the tokens.
            states: what the last layer gave, (B, T, d_model); the entering states where there is none yet.
            real: (B, T), which tokens are no padding on the right. Without it this is not masked, which changes no
                more than bits: attention is causal, so real tokens never see it.
            head: whether to go on from what the head reads to the logits.
        """
        if not self._probed:
            self._probe(weights, tokens)
        self._stand_ins[-1].given = states
        return self._outside(weights, tokens, real, head)

    def _probe(self, weights: Weights, tokens: Tensor) -> None:
        """Find out whether layers return their states alone or, as Falcon's and Bamba's, with other values."""
        first = self._stand_ins[0]
        first.stops = True
        with suppress(_Stopped), torch.no_grad():
            self._outside(weights, tokens, None, head=False)
        with torch.no_grad():
            output = functional_call(
                self.layers[0], self.weights(0), (first.states, *first.call.args), dict(first.call.keywords)
            )
        first.stops, self._probed = False, True
        for stand_in in self._stand_ins:
            stand_in.forget()
            stand_in.beside = (None,) * (len(output) - 1) if isinstance(output, tuple | list) else None

    def _outside(self, weights: Weights, tokens: Tensor, real: Tensor | None, head: bool) -> Outside:
        module, names = self.model, {name: name for name in weights}
        if not head:
            prefix = f"{self._decoder_name}."
            module, names = self._decoder, {n: n.removeprefix(prefix) for n in weights if n.startswith(prefix)}
        own = {inner: weights[name] for name, inner in names.items()}
        tokens = tokens.to(self.device)
        mask = torch.ones_like(tokens) if real is None else real.to(tokens)
        keywords = {"input_ids": tokens, "attention_mask": mask, "use_cache": False}
        with self._standing_in():
            output = functional_call(module, own, (), keywords)
        entering = self._stand_ins[0].states
        calls = [stand_in.call for stand_in in self._stand_ins]
        for stand_in in self._stand_ins:
            stand_in.forget()
        return Outside(entering, calls, output.logits if head else output.last_hidden_state)

    @contextmanager
    def _standing_in(self) -> Iterator[None]:
        """Have the stand-ins in the layers' place while the block runs."""
        own_name = self._layers_name.rpartition(".")[2]
        setattr(self._decoder, own_name, nn.ModuleList(self._stand_ins))
        try:
            yield
        finally:
            setattr(self._decoder, own_name, self.layers)

    def run(self, layer: int, weights: Weights, states: Tensor, call: Call) -> Tensor:
        """Run one layer on hidden states (B, T, d_model)."""
        output = functional_call(self.layers[layer], weights, (states, *call.args), dict(call.keywords))
        return output[0] if isinstance(output, tuple | list) else output

    def _read(self, name: str) -> Tensor:
        return self._checkpoint.read(name).to(self.device, torch.float32)


def _keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give those parameters float32 that transformers loads so whatever format the model has."""
    plan = "|".join(re.escape(name).replace(r"\*", ".*") for name in model._get_dtype_plan(dtype))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()) if plan else ():
        if re.search(plan, name):
            tensor.data = tensor.data.float()


class _Stopped(Exception):
    """Ends a forward pass at the first layer."""


class _StandIn(nn.Module):
    """A decoder layer that writes down its call, and gives what it is `given`, else what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.stops = False
        self.beside: tuple[None, ...] | None = None  # what the layer returns beside its states, in a tuple with them
        self.forget()

    def forget(self) -> None:
        self.states: Any = None
        self.call: Any = None
        self.given: Tensor | None = None

    def forward(self, states: Tensor, *args: Any, **keywords: Any) -> Tensor | tuple[Tensor | None, ...]:
        self.states, self.call = states, Call(args, keywords)
        if self.stops:
            raise _Stopped
        output = states if self.given is None else self.given
        return output if self.beside is None else (output, *self.beside)
