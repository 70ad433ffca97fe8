"""What a neuron says: the tokens that its column of down makes likelier, and less likely (logit lens)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nmerge_core.architecture import LAYER
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.conversion import Conversion
from nmerge_core.checkpoints.neuron_weights import mlp_of, weights_of
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel

Pairs = list[tuple[str, float]]  # tokens as text, each with by how much its logit is raised


@dataclass(frozen=True)
class Lens:
    """The tokens whose logits a neuron raises most, and those it lowers most, the strongest first."""

    promoted: Pairs
    suppressed: Pairs


def lens(language_model: LanguageModel, model: str, layer: int, neuron: int, count: int = 10) -> Lens:
    """Read a neuron's column w of down through all that follows it but the layers above (nostalgebraist 2020).

    z = U(N(P(w))) − U(N(0)): P is the norm that some families have behind the MLP, at a residual stream of 0, N the
    final norm, U the unembedding with whatever it does to logits. The second term takes out what does not come from
    the neuron: biases of norm and head. An activation φ > 0 does this; φ < 0, which a gated neuron has too, the
    opposite. The model's own modules compute it, in the format that it runs in.

    Args:
        language_model: the running model.
        model: its name, from whose files w is read.
        layer: the neuron's layer.
        neuron: the neuron.
        count: tokens of either kind.

    Raises:
        InputError: the model has no unembedding, or no such neuron.
    """
    logits = logits_of(language_model, model, layer, neuron)
    most, least = logits.topk(min(count, len(logits))), (-logits).topk(min(count, len(logits)))
    decode = language_model.tokenizer.decode

    def pairs(tokens: Tensor) -> Pairs:
        return [(str(decode([token])), logits[token].item()) for token in tokens.tolist()]

    return Lens(pairs(most.indices), pairs(least.indices))


@torch.inference_mode()
def logits_of(language_model: LanguageModel, model: str, layer: int, neuron: int) -> Tensor:
    """Return z of `lens`, (vocabulary,) float32."""
    running: Any = language_model.model
    if running.get_output_embeddings() is None:
        raise InputError(f"{language_model.label}: has no unembedding, so that its neurons promote no tokens")
    language_model.check_causal()
    checkpoint = open_checkpoint(model)
    mlp = mlp_of(checkpoint, layer, neuron)
    down = [part for part in mlp.maps if part.matrix == "down"]
    column = torch.cat([weights_of(checkpoint, checkpoint.architecture, part, neuron) for part in down])  # (d_model,)
    written = torch.stack([column, torch.zeros_like(column)])[:, None]  # (2, 1, d_model)
    with _with_residual(language_model, layer, written):
        tokens = torch.zeros(2, 1, dtype=torch.long, device=language_model.device)
        logits = (
            running(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[:, -1].float()
        )  # (2, vocabulary)
    return (logits[0] - logits[1]).cpu()


@contextmanager
def _with_residual(language_model: LanguageModel, layer: int, written: Tensor) -> Iterator[None]:
    """Let an MLP put out `written` (2, 1, d_model) at a residual stream of 0, and the layers above let it pass.

    What the layer makes of the first, less what it makes of the second, is what the last layer puts out.
    """
    model, layers = language_model.model, language_model.architecture.layers
    places = Conversion(model)
    added: list[Tensor] = []

    def silence(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (torch.zeros_like(given[0]), *given[1:]), named
        return given, {**named, "hidden_states": torch.zeros_like(named["hidden_states"])}

    def write(module: nn.Module, given: Any, output: Any) -> Any:
        return _changed(output, lambda own: written.to(own).view_as(own))

    def read(module: nn.Module, given: Any, output: Any) -> None:
        whole = output[0] if isinstance(output, tuple) else output  # (2, 1, d_model)
        added.append(torch.stack([whole[0] - whole[1], torch.zeros_like(whole[0])]))

    def end(module: nn.Module, given: Any, output: Any) -> Any:
        return _changed(output, lambda own: added[0].to(own))

    mlp, own = _mlp_module(places.loaded(layers[layer].mlps[0].down)[0])
    last, _ = _layer_module(places.loaded(layers[-1].mlps[0].down)[0])
    with ExitStack() as stack:
        decoder_layer = model.get_submodule(own)
        stack.callback(decoder_layer.register_forward_pre_hook(silence, with_kwargs=True).remove)
        stack.callback(model.get_submodule(mlp).register_forward_hook(write).remove)
        stack.callback(decoder_layer.register_forward_hook(read).remove)
        stack.callback(model.get_submodule(last).register_forward_hook(end).remove)
        yield


def _changed(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return what a module puts out with its hidden states changed."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _layer_module(down: str) -> tuple[str, str]:
    """Return the module of the layer that a weight lies in, and the weight's name inside it."""
    found = LAYER.match(down)
    assert found, down
    return f"{found['tower']}.{found['number']}", found["rest"].removesuffix(".weight")


def _mlp_module(down: str) -> tuple[str, str]:
    """Return the module whose output is all that the MLP of a layer writes, and the module of the layer."""
    layer, rest = _layer_module(down)
    return f"{layer}.{rest.split('.')[0]}", layer
