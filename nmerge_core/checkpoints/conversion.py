"""The names that transformers gives stored tensors when it loads them, from its own conversion mapping.

Versions of transformers save one model under different names (`model.layers…` and `model.language_model.layers…` of a
vision-language model) and in different pieces (experts apart, or stacked in one tensor). It loads all of them; here
they are matched through what it would load them as.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.computed import Computed
from nmerge_core.checkpoints.header import Pieced, TensorInfo


@dataclass(frozen=True)
class Stored:
    """The stored tensors that make one loaded tensor, in the order in which its rows come from them."""

    names: tuple[str, ...]


class Conversion:
    """How transformers loads the tensors of one kind of model."""

    def __init__(self, model: Any):
        """Take a model of transformers, on the meta device."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        transforms = get_model_conversion_mapping(model)
        self._renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        self._converters = [each for each in transforms if isinstance(each, WeightConverter)]
        self._by_pattern = {pattern: each for each in self._converters for pattern in each.source_patterns}
        self._prefix = model.base_model_prefix
        self._state = model.state_dict()
        self._optional = [*(model._keys_to_ignore_on_load_missing or ())]
        self.tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})

    def loaded(self, name: str) -> tuple[str, str | None]:
        """Return the name that a stored tensor is loaded under, and the pattern of the converter that takes it."""
        from transformers.core_model_loading import rename_source_key

        found = rename_source_key(name, self._renamings, self._converters, self._prefix, self._state)
        if found[0] not in self._state and name in self._state:
            return name, None
        return found

    def converter(self, pattern: str) -> Any:
        """Return the converter that takes the tensors of a pattern."""
        return self._by_pattern[pattern]

    def sources(self, names: Iterable[str]) -> dict[str, Stored]:
        """Return, by the names that they are loaded under, which of the stored tensors make each loaded one.

        A loaded tensor that is made in a way which moves no rows whole, such as by transposing, is left out.
        """
        from transformers.core_model_loading import dot_natural_key

        found: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in sorted(names, key=dot_natural_key):
            loaded, pattern = self.loaded(name)
            found[loaded][pattern].append(name)
        ordered = {loaded: self._ordered(patterns) for loaded, patterns in found.items()}
        return {loaded: Stored(names) for loaded, names in ordered.items() if names}

    def absent(self, names: Collection[str]) -> list[str]:
        """Return which tensors of the model neither a stored one makes nor tying."""
        loaded = [self.loaded(name) for name in names]
        if any(pattern and len(self._by_pattern[pattern].target_patterns) > 1 for _, pattern in loaded):
            return []  # one stored tensor makes several, of which one name is known here
        found = {name for name, _ in loaded}
        tied = {*self.tied} if found & {*self.tied.values()} else set()
        missing = [name for name in self._state if name not in found and name not in tied]
        return [name for name in missing if not any(re.search(pattern, name) for pattern in self._optional)]

    def unknown(self, names: Collection[str]) -> list[str]:
        """Return which stored tensors make none of the model's."""
        return [name for name in names if self.loaded(name)[0] not in self._state]

    def misshapen(self, tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the model's tensors where a stored one that is loaded as it is has another."""
        loaded = {name: self.loaded(name) for name in tensors}
        plain = {
            name: tuple(self._state[own].shape) for name, (own, by) in loaded.items() if not by and own in self._state
        }
        return {name: shape for name, shape in plain.items() if shape != tensors[name].shape}

    def _ordered(self, patterns: Mapping[str | None, list[str]]) -> tuple[str, ...]:
        pattern = next(iter(patterns))
        if pattern is None:
            return tuple(patterns[None]) if len(patterns) == 1 and len(patterns[None]) == 1 else ()
        converter = self._by_pattern[pattern]
        operations = [(type(each).__name__, getattr(each, "dim", 0)) for each in converter.operations]
        lists = [patterns.get(each, []) for each in converter.source_patterns]
        if len(converter.target_patterns) > 1 or len({len(each) for each in lists}) > 1:
            return ()
        if operations == [("MergeModulelist", 0)] or operations == [("Concatenate", 0)]:
            return tuple(name for each in lists for name in each)
        if operations == [("MergeModulelist", 0), ("Concatenate", 1)]:  # expert by expert: gate, then up
            return tuple(name for each in zip(*lists, strict=True) for name in each)
        return ()


def conversion_of(folder: Path) -> Conversion | None:
    """Return how transformers loads the model of a folder; None where it does not know the model."""
    config = folder / "config.json"
    return _conversion(folder, config.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _conversion(folder: Path, modified: int) -> Conversion | None:
    """Build the model of a folder without weights; `modified` makes the cache forget a rewritten configuration."""
    import transformers
    from accelerate import init_empty_weights

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        named = getattr(transformers, (config.architectures or [""])[0], None)
        with init_empty_weights():
            return Conversion(named(config) if named else transformers.AutoModel.from_config(config))
    except Exception:  # a configuration can ask for anything, so anything can go wrong; names are then what is stored
        return None


def match(
    base: Mapping[str, TensorInfo], own: Mapping[str, TensorInfo], conversion: Conversion, whole: Collection[str] = ()
) -> dict[str, TensorInfo]:
    """Return a model's tensors under the base's names: renamed, put together, or cut, as transformers would load them.

    Tensors of which the base has no counterpart, or one of another size, keep their names; those of `whole`, which an
    adapter changes, are renamed at most.
    """
    ours, theirs = conversion.sources(base), conversion.sources(own)
    matched = dict(own)
    for loaded, stored in theirs.items():
        counterpart = ours.get(loaded)
        if counterpart is None or counterpart == stored:
            continue
        tensors = [own[name] for name in stored.names]
        found = _fitted(tensors, [base[name] for name in counterpart.names], whole)
        if found is not None:
            for name in stored.names:
                del matched[name]
            matched |= found
    return matched


def _fitted(
    tensors: list[TensorInfo], targets: list[TensorInfo], whole: Collection[str]
) -> dict[str, TensorInfo] | None:
    """Give tensors the names and shapes of `targets`, whose entries are the same, one after the other."""
    if len(tensors) == len(targets):
        return {target.name: tensor for target, tensor in zip(targets, tensors, strict=True)}
    plain = all(type(each) in (TensorInfo, Computed) and each.name not in whole for each in tensors)
    plain = plain and len({each.dtype for each in tensors}) == 1
    if not plain or sum(each.elements for each in tensors) != sum(each.elements for each in targets):
        return None
    if len(targets) == 1:
        first, target = tensors[0], targets[0]
        return {target.name: Pieced(target.name, first.dtype, target.shape, first.file, first.offset, tuple(tensors))}
    if len(tensors) > 1:
        return None
    stacked, found = tensors[0], {}
    offset = stacked.offset
    for target in targets:
        found[target.name] = replace(stacked, name=target.name, shape=target.shape, offset=offset)
        offset += found[target.name].bytes
    return found
