"""What adapter_config.json says a LoRA computes: ranks and scales; whatever else would change it is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.errors import InputError, short, shown

ADAPTER_CONFIG = "adapter_config.json"
# PEFT's keys that are read here, and those that say how an adapter was trained or stored, not what it computes.
_KNOWN = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config "
    "exclude_modules fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config "
    "lora_alpha lora_bias lora_dropout lora_ga_config megatron_config megatron_core modules_to_save peft_type "
    "peft_version qalora_group_size r rank_pattern revision runtime_config target_modules task_type use_rslora "
    "velora_config".split()
)
_REASONS = {
    "use_dora": "DoRA rescales the weights besides adding to them",
    "use_qalora": "QA-LoRA pools the inputs of quantised layers",
    "use_bdlora": "BD-LoRA stores block-diagonal factors",
    "kasa_config": "KaSA truncates the base model's weights",
    "monteclora_config": "MonteCLoRA samples its factors",
    "arrow_config": "Arrow chooses among adapters token by token",
    "alora_invocation_tokens": "an activated LoRA acts on some tokens only, so it cannot be added to weights",
    "layer_replication": "it repeats layers, which makes another model",
    "target_parameters": "factors of parameters that are no module's weight, such as stacked experts, are not read",
    "trainable_token_indices": "rows of embeddings that were trained one by one are not read",
}
_LARGEST = 2**31  # of ranks and scales
# These starts take the first factors out of the base model's weights: what is stored fits the residual only.
_RESIDUAL = re.compile("pissa|olora|corda|loftq|lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """The ranks r and scales s of the changes s·BA, and how the model that was trained stored and tied its weights."""

    file: Path
    r: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, float]
    alpha_pattern: Mapping[str, float]
    fan_in_fan_out: bool
    weight_tying: bool
    modules_to_save: tuple[str, ...]
    trained_on: str  # the name of the model, as it was called then

    def rank(self, module: str) -> int:
        """Return the rank r of a module, by its path in transformers' model."""
        return int(self._first_match(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """Return the scale s of a module: α/r, or α/√r where it is rank-stabilised (rsLoRA, Kalajdzievski 2023)."""
        rank = self.rank(module)
        return self._first_match(self.alpha_pattern, module, self.alpha) / (sqrt(rank) if self.rslora else rank)

    def _first_match(self, patterns: Mapping[str, float], module: str, otherwise: float) -> float:
        """Return the value of the first pattern that is the module's path or an end of it, as PEFT does."""
        for pattern, value in patterns.items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", module):
                    return value
            except (re.error, RecursionError, OverflowError) as error:
                raise InputError(
                    f"{self.file}: expected a regular expression, found {shown(pattern)} ({error})"
                ) from error
        return otherwise


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read what an adapter computes.

    Raises:
        InputError: the folder is no adapter's, the adapter is no LoRA, or an unknown key may change what it computes.
    """
    file = folder / ADAPTER_CONFIG
    content = read_json(file, "the folder of a PEFT adapter has one")
    if (kind := content.get("peft_type")) != "LORA":
        raise InputError(
            f"{file}, key 'peft_type': expected LORA, found {short(str(kind))}; only a LoRA is read here. "
            "Merge the adapter into its model with PEFT's merge_and_unload, save that, and name its folder"
        )
    for key, value in content.items():
        if key not in _KNOWN and value:
            reason = _REASONS.get(key, "it is not known here and may change what the adapter computes")
            raise InputError(f"{file}, key '{short(key)}': expected it unset, found {shown(value)}: {reason}")
    start = str(content.get("init_lora_weights"))
    if _RESIDUAL.match(start):
        raise InputError(
            f"{file}, key 'init_lora_weights': '{start}' changed the weights of the model that was trained, so the "
            "adapter does not fit the original; save it again with PEFT's path_initial_model_for_weight_conversion"
        )
    saved = content.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(each, str) for each in saved):
        raise InputError(f"{file}, key 'modules_to_save': expected a list of texts, found {shown(saved)}")
    rank = _number(file, content, "r")
    if rank != int(rank):
        raise InputError(f"{file}, key 'r': expected a whole number, found {rank}")
    return AdapterConfig(
        file=file,
        r=int(rank),
        alpha=_number(file, content, "lora_alpha"),
        rslora=bool(content.get("use_rslora")),
        rank_pattern=_numbers(file, content, "rank_pattern"),
        alpha_pattern=_numbers(file, content, "alpha_pattern"),
        fan_in_fan_out=bool(content.get("fan_in_fan_out")),
        weight_tying=bool(content.get("ensure_weight_tying")),
        modules_to_save=tuple(saved),
        trained_on=str(content.get("base_model_name_or_path") or ""),
    )


def _numbers(file: Path, content: Mapping[str, Any], key: str) -> dict[str, float]:
    patterns = content.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise InputError(f"{file}, key '{key}': expected a mapping from modules to numbers, found {shown(patterns)}")
    return {pattern: _number(file, patterns, pattern) for pattern in patterns}


def _number(file: Path, content: Mapping[str, Any], key: str) -> float:
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
        raise InputError(f"{file}, key '{short(key)}': expected a number above 0, found {shown(value)}")
    return value
