"""What a run takes of memory, so that what is held beside it need not go for every run."""

from collections.abc import Mapping
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.errors import InputError
from nmerge_core.labelling.parameter import BY, LabellerParameter, endpoint_of
from nmerge_core.machine import CPU, available_memory, choose_device, kind_of, total_memory
from nmerge_core.number_format import FLOAT32, ITEM_BYTES, choose_format
from nmerge_core.parameters.inputs import Model
from nmerge_core.parameters.settings import DEVICE, LAYERWISE, RUN_DTYPE
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.workers import count

# At most, of kinds of run that read models block by block, or run them layer by layer.
_BLOCKS, _LAYERS = 1 << 30, 4 << 30
_AT_MOST = {
    **dict.fromkeys(("combine", "cosine", "extract", "inherited"), _BLOCKS),
    **dict.fromkeys(("coefficients", "interference", "linearity"), _LAYERS),
    "statistics": 8 << 30,  # a model that Fisher information holds whole, and the states of a text
}
_UNKNOWN = 1 << 60  # of a search, and of mergekit's merges
_RUNNING = 1.5  # times its weights, that a model takes
_MEASURED = 3.0  # with the sums of its squared gradients, and these
_TOKENS, _TOKENS_ON_CPU = 16384, 2048  # of texts that it runs on at once, each with a number per token that it knows


def free_memory() -> int:
    """Return the bytes that a worker may still take of the memory that models run in, of the machine's its share."""
    if choose_device() == CPU:
        return available_memory() // count()
    import torch

    torch.cuda.empty_cache()  # what was released before counts as free
    return int(torch.cuda.mem_get_info()[0])


def whole_memory() -> int:
    """Return the bytes of the memory that models run in, of the machine's a worker's share."""
    if choose_device() == CPU:
        return total_memory() // count()
    import torch

    return int(torch.cuda.mem_get_info()[1])


def memory_needed(kind: str, parameters: Mapping[str, Any]) -> int:
    """Estimate the bytes that a run takes of the memory that models run in.

    It is 0 where the run is told to use another device, and more than there is where nobody knows what it takes.
    """
    try:
        elsewhere = kind_of(choose_device(parameters.get(DEVICE.name) or DEVICE.default)) != kind_of(choose_device())
        return 0 if elsewhere else _needed(kind, parameters)
    except InputError:  # the run will say what is wrong
        return 0


def _needed(kind: str, parameters: Mapping[str, Any]) -> int:
    if kind == "merge":
        return _merging(parameters)
    running = [each.name for each in KINDS[kind].parameters if isinstance(each, Model | LabellerParameter)]
    named = [parameters[name] for name in running if name != BY.name or not endpoint_of(parameters[name])]
    models = [model for each in named for model in ([each] if isinstance(each, str) else each)]
    most = _LAYERS if parameters.get(LAYERWISE.name) else _AT_MOST.get(kind, _UNKNOWN)
    times = _MEASURED if kind == "statistics" else _RUNNING
    return min(max((_running(model, parameters, times) for model in models), default=_UNKNOWN), most)


def _running(model: str, parameters: Mapping[str, Any], times: float) -> int:
    """Return what one model takes while it runs on texts, `times` its weights and the logits."""
    checkpoint = open_checkpoint(model)
    run_dtype, device = (parameters.get(each.name) or each.default for each in (RUN_DTYPE, DEVICE))
    weights = checkpoint.parameters * ITEM_BYTES[choose_format(checkpoint, run_dtype, device).name]
    vocabulary = max((tensor.rows for name, tensor in checkpoint.tensors.items() if counts_tokens(name)), default=0)
    tokens = _TOKENS_ON_CPU if choose_device(device) == CPU else _TOKENS
    return int(times * weights) + tokens * vocabulary * ITEM_BYTES[FLOAT32]


def _merging(parameters: Mapping[str, Any]) -> int:
    from nmerge_core.merging.engine import expected, load
    from nmerge_core.merging.recipe.mergekit_recipe import MergekitRecipe

    recipe = load(parameters["recipe"])
    return _UNKNOWN if isinstance(recipe, MergekitRecipe) else expected(recipe, cache_root()).peak_memory
