"""How each decoder layer of a configuration is built, which many configurations say by a rule of the layer's number."""

import json
from collections.abc import Mapping
from typing import Any

from nmerge_core.architecture.config_keys import LAYERS, TEXT
from nmerge_core.checkpoints.config_difference import quiet
from nmerge_core.errors import InputError, short

Kind = frozenset[tuple[str, str]]  # each module's name in the layer, and its class and settings
_OF_PLACE = ("layer_idx", "layer_id", "layer_number")  # settings that tell layers apart, not what they do
_OF_TRAINING = ("dropout", "training", "gradient_checkpointing")


def listed_by_layer(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers lists by layer where a configuration says it by a rule: `layer_types`, for one.

    Imports transformers, which takes seconds.
    """
    found = _opened(config)
    values = {} if found is None else found.to_dict()
    return {key: value for key, value in values.items() if isinstance(value, list) and "layer" in key}


def layer_kinds(config: Mapping[str, Any], reference: str) -> list[Kind] | None:
    """Return how transformers builds each decoder layer, without weights; None of types that it does not know.

    Imports transformers, which takes seconds.

    Raises:
        InputError: transformers makes no model of the configuration.
    """
    found = _opened(config)
    if found is None:
        return None
    import torch
    from transformers import AutoModel

    try:
        with quiet(), torch.device("meta"):
            model = AutoModel.from_config(found)
    except Exception as error:  # whatever a model's own class raises at what it does not expect
        raise InputError(
            f"{reference}: transformers makes no model of its configuration: {short(str(error))}"
        ) from error
    text = config[TEXT] if isinstance(config.get(TEXT), Mapping) else config
    depth = next((text[key] for key in LAYERS if key in text), None)
    stacks = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == depth]
    layers: Any = max(stacks, key=lambda stack: sum(weight.numel() for weight in stack.parameters()), default=[])
    return [frozenset(map(_described, *zip(*layer.named_modules(), strict=True))) for layer in layers]


def _described(name: str, module: Any) -> tuple[str, str]:
    settings = {
        key: value
        for key, value in sorted(vars(module).items())
        if key not in _OF_PLACE
        and not key.startswith("_")
        and not any(word in key for word in _OF_TRAINING)
        and isinstance(value, bool | int | float | str | None)
    }
    settings.pop("p", None)  # of dropout
    return name, f"{type(module).__name__} {settings}"


def _opened(config: Mapping[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return None
    try:
        with quiet():
            return CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(config)))
    except Exception as error:  # a class of transformers checks as it likes
        raise InputError(f"config.json: transformers does not take it: {short(str(error))}") from error
