"""Which stored tensors make which parameters of a model, and the way there and back, as transformers converts them."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from nmerge_core.checkpoints.conversion import Conversion


@dataclass(frozen=True)
class Stored:
    """Stored tensors, in order, and the parameters of a model that are made of them: mostly one of one."""

    names: tuple[str, ...]
    loaded: tuple[str, ...]
    _model: PreTrainedModel
    _converter: Any
    _patterns: tuple[str | None, ...]
    _first: str

    @property
    def plain(self) -> bool:
        """Whether it is one tensor that is loaded as it is."""
        return self._converter is None

    def load(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters, by their names in the model, that these stored tensors make."""
        if self.plain:
            return {self._first: tensors[self.names[0]]}
        converter = deepcopy(self._converter)
        for name, pattern in zip(self.names, self._patterns, strict=True):
            converter.add_tensor(self._first, name, pattern, tensors[name])
        made = converter.convert(self._first, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def unload(self, parameters: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Return the stored tensors that these parameters were made of.

        Conversion moves entries and changes none, so where their numbers go tells where they come from.
        """
        if self.plain:
            return {self.names[0]: parameters[self._first]}
        sizes = [prod(shapes[name]) for name in self.names]
        numbers = torch.arange(sum(sizes)).split(sizes)
        places = self.load({n: own.view(tuple(shapes[n])) for n, own in zip(self.names, numbers, strict=True)})
        stored = parameters[self.loaded[0]].new_empty(sum(sizes))
        for name in self.loaded:
            stored[places[name].flatten().to(stored.device)] = parameters[name].flatten()
        return {n: own.view(tuple(shapes[n])) for n, own in zip(self.names, stored.split(sizes), strict=True)}


def stored_weights(model: PreTrainedModel, shapes: Mapping[str, Sequence[int]]) -> list[Stored]:
    """Return what each parameter or buffer of a model is made of, among stored tensors of these shapes.

    What the model has no place for is left out.
    """
    conversion = Conversion(model)
    state = model.state_dict()
    parts: dict[str, list[tuple[str, str | None]]] = {}
    for name in in_order(shapes):
        loaded, pattern = conversion.loaded(name)
        if loaded in state:
            parts.setdefault(loaded, []).append((name, pattern))
    found = []
    for first, own in parts.items():
        names, patterns = zip(*own, strict=True)
        converter = conversion.converter(patterns[0]) if patterns[0] is not None else None
        made = Stored(names, (first,), model, converter, patterns, first)
        if converter is not None:
            targets = made.load({name: torch.empty(tuple(shapes[name]), device="meta") for name in names})
            made = Stored(names, tuple(targets), model, converter, patterns, first)
        found.append(made)
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Return names in the order in which transformers converts them: experts by their numbers."""
    from transformers.core_model_loading import dot_natural_key

    return sorted(names, key=dot_natural_key)
