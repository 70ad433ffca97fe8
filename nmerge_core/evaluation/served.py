"""A written checkpoint that vLLM serves, by lm-evaluation-harness's own backend for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.machine import CPU, choose_device
from nmerge_core.number_format import choose_format
from nmerge_core.parameters.settings import ALIKE


@dataclass(frozen=True)
class Served:
    """A checkpoint, and what lm-eval's backend is told of it; vLLM starts when `lm` is first used."""

    label: str
    run_dtype: str
    device: torch.device
    arguments: Mapping[str, Any]

    @cached_property
    def lm(self) -> Any:
        """lm-eval's view of it."""
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(**self.arguments)

    @property
    def backend(self) -> str:
        """What runs it, with its version."""
        return f"vllm {version('vllm')}"


def check_served(models: list[str], decoding: str, device: str) -> None:
    """Raise an InputError where vLLM is not there, or cannot serve a model as it is asked to."""
    if find_spec("vllm") is None:
        raise InputError(
            "backend: expected vLLM to be installed, found none; install it beside NMerge, or take transformers"
        )
    if decoding != ALIKE:
        raise InputError(f"backend: vLLM decodes all models alike; expected decoding {ALIKE}, found {decoding}")
    if ":" in device and not device.endswith(":0"):
        raise InputError(
            "backend: vLLM takes the first accelerator that it sees, and none by its number; expected device auto or "
            f"cuda, found {device}; name it in CUDA_VISIBLE_DEVICES"
        )
    if choose_device(device) == CPU:
        raise InputError("backend: vLLM is asked for on accelerators alone, found the CPU; take transformers")
    for reference in models:
        if open_checkpoint(reference).adapter:
            raise InputError(
                f"backend: vLLM serves written checkpoints; merge {reference} into a folder (merge_method: linear, "
                "this one model) and name that"
            )


def served(reference: str, label: str, *, device: str, run_dtype: str, batch_size: int | str, seed: int) -> Served:
    """Return a checkpoint for vLLM to serve; see `check_served`."""
    checkpoint = open_checkpoint(reference)
    chosen = choose_format(checkpoint, run_dtype, device).name
    arguments = {"pretrained": str(checkpoint.folder), "dtype": chosen, "batch_size": batch_size, "seed": seed}
    return Served(label, chosen, torch.device(choose_device(device)), arguments)
