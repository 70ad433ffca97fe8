"""Opening a PEFT LoRA adapter from its headers alone, and finding the tensors of the model that it changes."""

import re
from collections.abc import Collection, Mapping

from nmerge_core.checkpoints.adapter import Adapter, LowRank, Shift
from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG, AdapterConfig, read_adapter_config
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.conversion import conversion_of
from nmerge_core.checkpoints.found_instead import found_instead
from nmerge_core.checkpoints.header import FLOATS, TensorInfo
from nmerge_core.checkpoints.pickled import PICKLED, reader
from nmerge_core.checkpoints.reference import resolve
from nmerge_core.checkpoints.tying import TIED, said_tied
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.errors import InputError

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, of every tensor
_FACTOR = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B)")
_WRAPPER = re.compile(r"\.(base_layer|modules_to_save)\.")  # of a module, while PEFT trains it
_QUANTISED = re.compile(r"4-?bit|8-?bit|bnb|gptq|awq|int[48]|fp8", re.IGNORECASE)
_CONV1D = ("gpt2", "openai-gpt")  # model types whose layers store weights (in, out)
_HEAD, _EMBEDDINGS = "lm_head", {"embed_tokens", "wte"}


def open_adapter(reference: str, model: Checkpoint) -> Adapter:
    """Open an adapter of a model: W becomes W + s·BA, and tensors that PEFT stored whole replace the model's.

    A tied head and its embedding are one tensor here, so a change of one is a change of both, as PEFT's
    `merge_and_unload` leaves it; where the adapter was trained so (`ensure_weight_tying`) its change is stored twice
    and counts once, while that function (PEFT 0.21) adds it twice.

    Raises:
        InputError: there is no such adapter, it is of a kind that is no sum of weights, or it does not fit the model.
    """
    folder = resolve(reference, ADAPTER_CONFIG)
    if not (folder / ADAPTER_CONFIG).exists():
        model_there = "found a model; list it as one of its own" if (folder / "config.json").exists() else None
        raise InputError(f"{folder}: expected an adapter ({ADAPTER_CONFIG}), {model_there or found_instead(folder)}")
    config = read_adapter_config(folder)
    file = folder / WEIGHTS
    if not file.exists():
        file = file.with_suffix(PICKLED)
    if not file.exists():
        raise InputError(f"{folder / WEIGHTS}: missing; expected the adapter's weights")
    header = reader(file)(file)
    if odd := next((tensor for tensor in header.values() if tensor.dtype not in FLOATS), None):
        raise InputError(f"{file}, tensor {odd.name}: expected one of {', '.join(FLOATS)}, found {odd.dtype}")
    paths, warnings = _tied({name.removeprefix(PREFIX): tensor for name, tensor in header.items()}, config, model)
    try:
        replaced, added = _changes(paths, config, model)
    except InputError as error:
        named = f" (its {ADAPTER_CONFIG} names {config.trained_on})" if config.trained_on else ""
        raise InputError(f"{error}{named}") from None
    if not (replaced or added):
        raise InputError(f"{file}: expected the tensors of a LoRA, found none")
    if _QUANTISED.search(config.trained_on):
        warnings += (
            f"the adapter was trained on quantised weights ({config.trained_on}); on others it acts a little otherwise",
        )
    return Adapter(file, replaced, added, warnings)


def _changes(
    paths: Mapping[str, TensorInfo], config: AdapterConfig, model: Checkpoint
) -> tuple[dict[str, TensorInfo], dict[str, LowRank | Shift]]:
    """Return what the adapter puts in the place of tensors, and what it adds to them, by the model's names."""
    replaced: dict[str, TensorInfo] = {}
    factors: dict[str, dict[str, TensorInfo]] = {}
    for path, tensor in paths.items():
        if match := _FACTOR.fullmatch(path):
            factors.setdefault(match[1], {})[match[2]] = tensor
        elif ".original_module." not in path:  # the untrained twin of a module to save
            replaced[_fitting(_WRAPPER.sub(".", path), tensor, model).name] = tensor
    added: dict[str, LowRank | Shift] = {}
    for module, parts in factors.items():
        weight, change = _low_rank(module, parts, config, model)
        added[weight] = change
        if bias := parts.get("lora_B.bias"):
            added[_fitting(f"{module}.bias", bias, model).name] = Shift(bias, change.scale)
    return replaced, added


def find_tensor(path: str, names: Collection[str]) -> str | None:
    """Find a tensor by its path in transformers' model; files may leave out, or add, the name of the inner model."""
    candidates = (path, path.partition(".")[2], f"model.{path}", f"transformer.{path}")
    return next((name for name in candidates if name in names), None)


def _target(path: str, tensor: TensorInfo, model: Checkpoint) -> TensorInfo:
    """Find the tensor of the model that `tensor` of the adapter changes."""
    name = find_tensor(path, model.tensors) or _of_another_version(path, model)
    if name is None:
        raise InputError(
            f"{tensor.file}, tensor {tensor.name}: expected a change of a tensor of {model.reference}, found no "
            f"{path} there; name the model that the adapter was trained on"
        )
    target = model.tensors[name]
    if target.dtype not in FLOATS:
        raise InputError(f"{model.reference}, tensor {name}: expected floating-point weights, found {target.dtype}")
    return target


def _of_another_version(path: str, model: Checkpoint) -> str | None:
    """Find a tensor that the transformers of the training called otherwise."""
    conversion = conversion_of(model.folder)
    if conversion is None:
        return None
    wanted = conversion.loaded(path)
    return next((name for name in model.tensors if conversion.loaded(name) == wanted), None)


def _fitting(path: str, tensor: TensorInfo, model: Checkpoint) -> TensorInfo:
    target = _target(path, tensor, model)
    if counts_tokens(target.name) and target.shape[1:] == tensor.shape[1:] and target.rows != tensor.rows:
        raise InputError(
            f"{tensor.file}, tensor {tensor.name}: expected {target.rows:,} rows, a token each, as {model.reference} "
            f"has, found {tensor.rows:,}: tokens were added before this adapter was trained; resize the model's "
            "embeddings as then (resize_token_embeddings), save it with that tokenizer, and name that folder"
        )
    if target.shape != tensor.shape:
        raise _misfit(tensor, target, str(list(target.shape)), model)
    return target


def _misfit(tensor: TensorInfo, target: TensorInfo, expected: str, model: Checkpoint) -> InputError:
    return InputError(
        f"{tensor.file}, tensor {tensor.name}: expected shape {expected} for {target.name} {list(target.shape)} of "
        f"{model.reference}, found {list(tensor.shape)}; name the model that the adapter was trained on"
    )


def _low_rank(
    module: str, parts: Mapping[str, TensorInfo], config: AdapterConfig, model: Checkpoint
) -> tuple[str, LowRank]:
    """Return the name of the weight that a module's factors change, and the change."""
    embedding = any(part.startswith("lora_embedding") for part in parts)
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    if missing := [name for name in names if name not in parts]:
        raise InputError(f"{next(iter(parts.values())).file}: expected {PREFIX}{module}.{missing[0]}, found none")
    a, b = (parts[name] for name in names)
    weight = _target(f"{module}.weight", a, model)
    rank = config.rank(module)
    for factor, axis in ((a, 0), (b, 1)):
        if len(factor.shape) != 2 or factor.shape[axis] != rank:
            raise _misfit(factor, weight, f"({rank}, in)" if factor is a else f"(out, {rank})", model)
    shape = (b.shape[0], a.shape[1])  # (out, in)
    as_linear, as_conv1d = shape == weight.shape and not embedding, shape[::-1] == weight.shape
    if not (as_linear or as_conv1d):
        raise _misfit(b, weight, f"(out, {rank}) with A {list(a.shape)} to multiply to the shape", model)
    transposed = as_conv1d
    if as_linear and as_conv1d:  # a square weight does not tell
        transposed = config.fan_in_fan_out or model.config.get("model_type") in _CONV1D
    return weight.name, LowRank(a, b, config.scale(module), transposed)


def _tied(
    paths: Mapping[str, TensorInfo], config: AdapterConfig, model: Checkpoint
) -> tuple[Mapping[str, TensorInfo], tuple[str, ...]]:
    """Take what is stored of a tied head as of the embedding, whose tensor it is; return it with a warning if due."""
    if f"{_HEAD}.weight" in model.tensors or said_tied(model.config) is False:
        return paths, ()
    head = [path for path in paths if path.startswith(f"{_HEAD}.")]
    embedding = [path for path in paths if not _EMBEDDINGS.isdisjoint(path.split("."))]
    trained = [any(".lora_" in path for path in own) for own in (head, embedding)]
    saved = any(module.rpartition(".")[2] in {_HEAD, *_EMBEDDINGS} for module in config.modules_to_save)
    if not config.weight_tying and (saved or all(trained)):
        raise InputError(
            f"{config.file}: the adapter was trained with a head apart from the embedding, which {model.reference} "
            f"ties into one tensor; expected 'ensure_weight_tying', or a model saved with '{TIED}': false"
        )
    warning = (
        "the adapter changes the embedding or the head alone, which this model ties into one tensor; "
        "added to the weights it changes both, unlike in training"
    )
    warnings = (warning,) if any(trained) and not config.weight_tying else ()
    if embedding:
        return {path: tensor for path, tensor in paths.items() if path not in head}, warnings
    shared = next((name for name in model.tensors if not _EMBEDDINGS.isdisjoint(name.split("."))), f"{_HEAD}.weight")
    module = shared.removesuffix(".weight")
    return {path.replace(_HEAD, module, 1) if path in head else path: paths[path] for path in paths}, warnings
