"""LoRA adapters of one base merged in their core space (NeurIPS 2025), into one adapter, exactly.

With U the left singular vectors of [s_1 B_1 … s_T B_T] of a weight, and V the right ones of [A_1; …; A_T], adapter t
changes it by s_t B_t A_t = U M_t Vᵀ with M_t = Uᵀ s_t B_t A_t V, as small as the ranks together. A method merges the
M_t to M, and the adapter of B = U M, A = Vᵀ changes the weight by U M Vᵀ: no matrix of the weight's size is made.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import Checkpoint, absolute, halves, label, labels, open_checkpoint
from nmerge_core.checkpoints.adapter import Adapter, LowRank
from nmerge_core.checkpoints.adapter_opening import PREFIX, WEIGHTS, open_adapter
from nmerge_core.checkpoints.header import read_header
from nmerge_core.checkpoints.rows import read_rows
from nmerge_core.checkpoints.writer import check_target
from nmerge_core.errors import DISK_ERRORS, InputError
from nmerge_core.files.folders import save_tensors
from nmerge_core.inputs import Places
from nmerge_core.lora.adapter_files import write_config
from nmerge_core.lora.extract import linear_layers
from nmerge_core.machine import choose_device
from nmerge_core.merging.compute.spectral import singular
from nmerge_core.merging.compute.stream import Rows, Stream, whole_tensors
from nmerge_core.merging.loop import tensor_values
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.method_part import is_composed
from nmerge_core.merging.recipe.reading import Source, load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__


def combine(recipe: Source, out: Path, *, device: str = "auto", progress: Progress = silent) -> None:
    """Write a PEFT adapter at `out` of the base that a recipe's models, BASE+ADAPTER each, are adapters of.

    Its rank is, per weight, that of the stacked A's: at most the sum of the adapters' ranks. A method sees M_t in place
    of what a model changed and zeros in place of the base; directions below 1e-6 of the strongest count as none. The
    vectors of one singular value are told apart arbitrarily: of methods that go by entries, as TIES, another choice of
    them makes another merge.

    Raises:
        InputError: a model is no LoRA of the base, the method goes by more than weights or changes nothing, or `out`
            cannot be written.
    """
    merge = load_recipe(recipe)
    check_target(out, 0)
    base, adapters = _opened(merge)
    linears = linear_layers(base)
    names = sorted({name for adapter in adapters for name in adapter.added})
    if strange := [name for name in names if name not in linears]:
        raise InputError(f"{merge.references[0]}: expected LoRAs of linear layers, found one of {strange[0]}")
    part = out.absolute().parent / f".{out.name}.combine.part"
    with TemporaryDirectory(prefix="nmerge-core-") as cores:
        lefts, rights = _write_cores(adapters, names, Path(cores), progress)
        names = [*lefts]
        merged = _merged(merge, Path(cores), names, choose_device(device), progress)
    if not any(each.any() for each in merged.values()):
        raise InputError(
            f"recipe: {merge.title({})} changes nothing in the adapters' core space, where zeros stand for the base's "
            "weights; take another method or other parameters, or merge the models themselves and extract an adapter"
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors[f"{PREFIX}{linears[name].path}.lora_A.weight"] = rights[name].T.float().contiguous()
        tensors[f"{PREFIX}{linears[name].path}.lora_B.weight"] = (lefts[name] @ merged[name].double()).float()
    ranks = {linears[name].path: rights[name].shape[1] for name in names}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_tensors(tensors, part / WEIGHTS)
        write_config(part, base, max(ranks.values()), ranks, any(linears[name].conv1d for name in names))
        _describe(part, merge)
        os.replace(part, out)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(f"{out}: writing failed ({error.strerror}); nothing was left there, make room") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _opened(recipe: Recipe) -> tuple[Checkpoint, list[Adapter]]:
    """Open the base and the adapters, and check that the recipe merges nothing but LoRAs by their weights."""
    method = recipe.method
    reads = [*method.inputs, *(each for step in recipe.then for each in step.method.inputs)]
    if recipe.slices or not recipe.differences or recipe.runs_models or is_composed(method) or reads:
        raise InputError(
            f"recipe, key 'merge_method': expected a method that merges what models changed in a base by their weights "
            f"alone, found {recipe.title({})}; merge the models themselves by it, and extract an adapter of that"
        )
    base = open_checkpoint(str(recipe.base_model))
    adapters = []
    for reference in recipe.references:
        of, *adapter = halves(reference)
        if not adapter or absolute(of) != absolute(base.reference):
            raise InputError(f"{reference}: expected {base.reference}+ADAPTER, a LoRA of the recipe's base")
        opened = open_adapter(adapter[0], base)
        other = [*opened.replaced, *(name for name, each in opened.added.items() if not isinstance(each, LowRank))]
        if other:
            raise InputError(f"{reference}: expected a LoRA of weights alone, found that it also trained {other[0]}")
        adapters.append(opened)
    return base, adapters


def _write_cores(
    adapters: Sequence[Adapter], names: Sequence[str], folder: Path, progress: Progress
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Write each adapter's M_t, and zeros as the base's, as models of these weights; return U and V of each weight."""
    lefts, rights = dict[str, Tensor](), dict[str, Tensor]()
    cores: list[dict[str, Tensor]] = [{} for _ in (None, *adapters)]
    for done, name in enumerate(names):
        progress("Core space", done, len(names), "tensors")
        factors = [_factors(adapter, name) for adapter in adapters]
        there = [each for each in factors if each is not None]
        left = singular(torch.cat([b for b, _ in there], 1)).left  # U, (out, k)
        right = singular(torch.cat([a for _, a in there])).right  # V, (in, l)
        if not (left.shape[1] and right.shape[1]):
            continue  # an adapter that was not trained yet changes nothing
        lefts[name], rights[name] = left, right
        nothing = torch.zeros(left.shape[1], right.shape[1])
        for core, each in zip(cores, (None, *factors), strict=True):
            core[name] = nothing if each is None else ((left.T @ each[0]) @ (each[1] @ right)).float().contiguous()
    if not lefts:
        raise InputError("expected adapters that change weights, found only zeros in all of them")
    for index, core in enumerate(cores):
        save_tensors(core, folder / f"{index}.safetensors")
    return lefts, rights


def _factors(adapter: Adapter, name: str) -> tuple[Tensor, Tensor] | None:
    """Return s·B (out, r) and A (r, in) of a weight in float64; None where the adapter does not change it."""
    change = adapter.added.get(name)
    if not isinstance(change, LowRank):
        return None
    return read_rows(change.b).double() * change.scale, read_rows(change.a).double()


def _merged(recipe: Recipe, folder: Path, names: Sequence[str], device: str, progress: Progress) -> dict[str, Tensor]:
    """Merge the cores by the recipe's method, (k, l) of each weight."""
    references = (recipe.base_model or "", *recipe.references)
    base, *models = (
        Checkpoint(reference, folder, {}, read_header(folder / f"{index}.safetensors"))
        for index, reference in enumerate(references)
    )
    stream = Stream(base, tuple(models), device)
    context = Context(recipe, stream, tuple(names), progress)
    prepared = recipe.method.facts(context, recipe.values())
    values = tensor_values(recipe, stream.donor.architecture, names)
    found: dict[str, Tensor] = {}

    def work(rows: Rows) -> Tensor:
        return recipe.method.merge(stream.load(rows), values[rows.name], prepared)

    blocks = whole_tensors(stream, names)
    for done, (rows, merged) in enumerate(zip(blocks, in_order(work, blocks), strict=True)):
        progress("Merging", done, len(blocks), "tensors")
        found[rows.name] = merged.cpu()
    return found


def _describe(part: Path, recipe: Recipe) -> None:
    """Write the recipe, a report and a model card."""
    full, read = recipe.in_full(Places(cache_root()))
    (part / "nmerge_recipe.yaml").write_text(full.yaml, encoding="utf-8")
    report = {"version": __version__, "recipe": full.content, "read": read}
    (part / "nmerge_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    names = " + ".join(labels(recipe.references))
    card = f"""---
library_name: peft
tags: [lora, merge, nmerge]
---

# {names}, adapters of {label(str(recipe.base_model))} merged by {recipe.method.title} in their core space

{recipe.method.summary} What is merged are the adapters' changes in the space that these span together, so that the
result is an adapter again, and exactly what was merged. Made with NMerge {__version__}.
"""
    (part / "README.md").write_text(card, encoding="utf-8")
