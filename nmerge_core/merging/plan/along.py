"""Gram matrices of models' linear layers, of inputs that come from the layers before as the merge has them.

Layer after layer: every model's own layer reads what the merged layers before it give on the model's texts, its linear
layers are merged by what they read, and the texts go on through the merged layer. What was killed goes on at the layer
that it was at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmerge_core.cache import cache_root
from nmerge_core.calibration.collect import meta_of
from nmerge_core.calibration.inputs import SUMS, Read, Walk, write_sums
from nmerge_core.calibration.store import VERSION, Statistics, of_weights, open_statistics
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.corpus.text_samples import pack, sequences
from nmerge_core.errors import InputError
from nmerge_core.files.folders import resumed_folder, write_meta
from nmerge_core.files.in_use import note_use
from nmerge_core.files.kept_files import digest, remove
from nmerge_core.inputs import Places
from nmerge_core.layerwise import LayerwiseModel
from nmerge_core.machine import kind_of
from nmerge_core.merging.compute.regression import Recent, System, regress, system
from nmerge_core.merging.compute.stream import whole_tensors
from nmerge_core.merging.plan.candidate import put_rows
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.merging.plan.passed import Passed
from nmerge_core.merging.recipe.values import Values

KIND, MAX_LENGTH = "gram", 512  # tokens that a text is cut to, as in `calibration.collect`


def grams_along(context: Context, values: Values) -> list[Statistics]:
    """Return each model's Gram matrices along the merge, from the cache or collected here.

    Raises:
        InputError: a model cannot be run, or an input is not finite.
    """
    folder = _cache_folder(context)
    models = context.stream.models
    if folder.exists():
        note_use(folder)
        try:
            return [open_statistics(folder / str(index), KIND, model) for index, model in enumerate(models)]
        except InputError:  # as its name tells of what it is, it is damaged
            remove(folder)
    # Where nothing may be measured, this says that the merge has to be run; its run leaves them in the cache.
    context.kept([Measurement("merge", {"recipe": context.recipe.content})])
    try:
        with resumed_folder(folder) as made, torch.inference_mode():
            _collect(context, values, made, folder.name)
    except (InputError, OSError):
        if not folder.exists():  # where it does, another process has collected the same meanwhile
            raise
    return [open_statistics(folder / str(index), KIND, model) for index, model in enumerate(models)]


def _cache_folder(context: Context) -> Path:
    """Return where the cache has them: the name tells all that decides the merged layers, the texts among it."""
    merged = replace(context.recipe, dtype=None, tokenizer=None, chat_template=None)
    recipe, read = merged.in_full(Places(cache_root()))
    key = digest([recipe.yaml, read, kind_of(context.stream.device), VERSION])
    return cache_root() / "statistics" / f"{KIND}-{recipe.merge_method}-{key}"


def _collect(context: Context, values: Values, folder: Path, along: str) -> None:
    """Write a statistics folder for each model, named by its place in the recipe; `along` names the merge."""
    stream, corpus = context.stream, context.recipe.corpus(values.shared["corpus"])
    taken: dict[str, Any] = {
        "samples": values.shared["samples"],
        "max_length": MAX_LENGTH,
        "seed": context.recipe.seed,
    }
    outer = _Merged(context, values)
    walks, metas = list[Walk](), list[dict[str, Any]]()
    for checkpoint, category in zip(stream.models, context.task_categories(values), strict=True):
        loaded = load_corpus(corpus, [category])
        texts = sequences(loaded, [category], checkpoint, **taken)[category]
        model = LayerwiseModel(checkpoint, stream.device)
        walks.append(Walk(model, pack(category, texts), model.weights(None, outer), SUMS[KIND]))
        alone = open_checkpoint(checkpoint.reference)  # without a head that its family gave it
        meta = meta_of(KIND, alone, loaded, stream.device, corpus=corpus, categories=[category], **taken)
        counted = {"texts": len(texts), "tokens": sum(map(len, texts))}
        metas.append(meta | counted | {"files": [], of_weights(KIND): {}, "along": along})
        (folder / str(len(metas) - 1)).mkdir(exist_ok=True)
    layers, batches = len(walks[0].model.layers), sum(len(walk.states) for walk in walks)
    passed = Passed(folder, walks)
    first, metas = passed.take_up(metas)
    done, total = first * batches, layers * batches

    def tick() -> None:
        nonlocal done
        done += 1
        context.progress("Inputs along the merge", done, total, "batches")

    for layer in range(first, layers):
        found = [walk.read(layer, walk.model.weights(layer), tick) for walk in walks]
        for index, each in enumerate(found):
            _keep(folder / str(index), f"layer-{layer:05}.safetensors", each.sums, each.of_weights, metas[index])
        if layer + 1 < layers or any(walk.model.head for walk in walks):
            merged = _Merged(context, values, found, [meta["tokens"] for meta in metas])
            for walk in walks:
                walk.go(layer, walk.model.weights(layer, merged))
            passed.note(layer + 1, metas)
    for index, walk in enumerate(walks):
        if walk.model.head:
            sums_of_head = walk.read_head(walk.model.weights(None))
            _keep(
                folder / str(index), "head.safetensors", sums_of_head, {walk.model.head: walk.model.head}, metas[index]
            )
        write_meta(folder / str(index), metas[index])
    passed.forget()


def _keep(folder: Path, file: str, sums: Mapping[str, Tensor], names: Mapping[str, str], meta: dict[str, Any]) -> None:
    write_sums(sums, folder / file, meta["model"])
    meta["files"].append(file)
    meta[of_weights(KIND)] |= names


class _Merged:
    """The tensors of a merge by their names, merged when first asked for: by what models read, or averaged."""

    def __init__(
        self, context: Context, values: Values, found: Sequence[Read] = (), tokens: Sequence[int] = ()
    ) -> None:
        """Merge by what each model's layer has read of so many tokens."""
        self._context, self._values, self._found, self._tokens = context, values, found, tokens
        self._grams = found[0].of_weights if found else {}
        self._systems = Recent(self._system)
        self._made: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        """Return a tensor as the model stores it, in float32."""
        if name not in self._made:
            stream = self._context.stream
            weights = self._context.values_of(name, self._values).each["weight"]
            self._made[name] = torch.empty(stream.donor.info(name).shape, device=stream.device)
            matrix = stream.donor.architecture.matrix(name)
            for rows in whole_tensors(stream, [name]):
                merged = regress(stream.load(rows), weights, self._systems, self._grams)
                put_rows(self._made[name], matrix, rows.start, merged.reshape(-1, matrix.columns))
        return self._made[name]

    def _system(self, gram: str, weights: tuple[float, ...]) -> System:
        pairs = zip(self._found, self._tokens, strict=True)
        read = torch.stack([each.sums[gram].double() / tokens for each, tokens in pairs])
        return system(read, weights, self._values.shared["scale"])
