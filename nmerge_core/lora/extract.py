"""What a fine-tune or a merge changed, as a LoRA of its base."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import pandas as pd
import torch

from nmerge_core.checkpoints import Checkpoint, TensorInfo, open_checkpoint
from nmerge_core.checkpoints.adapter_opening import PREFIX, WEIGHTS, find_tensor
from nmerge_core.checkpoints.compatibility import mismatches
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.writer import check_target, plan_file
from nmerge_core.errors import InputError
from nmerge_core.lora.adapter_files import write_companions
from nmerge_core.lora.low_rank import truncated_svd
from nmerge_core.machine import choose_device
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress, silent

_BLOCK_ELEMENTS = 1 << 22  # of a matrix read at a time, in float64


@dataclass(frozen=True)
class Linear:
    """A linear layer: its path in transformers' model, and its weight; `conv1d` where that is stored (in, out)."""

    path: str
    weight: TensorInfo
    conv1d: bool

    def rank(self, most: int) -> int:
        """Return the rank of its change: `most`, or as much as its weight can have."""
        return min(most, *self.weight.shape)


@dataclass(frozen=True)
class Change:
    """What was found of one tensor: ‖Δ‖² and, of a linear layer, the bytes of A and B and the share they capture."""

    energy: float
    rank: int = 0
    captured: float = 0.0
    factors: tuple[bytes, ...] = ()


def extract(
    base: str, model: str, out: Path, rank: int, *, device: str = "auto", progress: Progress = silent
) -> pd.DataFrame:
    """Write a PEFT adapter at `out` that makes of `base` what it can of `model`: W0 + BA, the best of rank `rank`.

    Every linear layer's change Δ is factored by truncated SVD. Changes of embeddings, norms and biases are not carried;
    what share of the change they are is in the result and in the folder's nmerge_report.json. Tensors are read by
    chunks of rows and written as they come; each thread holds a few square float64 matrices of the shorter side of its
    tensor, and whole those that are wider than tall.

    Returns:
        A row per tensor: tensor, rank (0 where it is not carried), norm (‖Δ‖), share (of the whole change's squared
        norm), captured (the share of this tensor's squared norm that the adapter has).

    Raises:
        InputError: the models do not fit together or are no causal language models, `out` exists or the disk is full,
            or a weight is NaN or infinite.
    """
    opened = open_checkpoint(base)
    origin, tuned = as_family(opened, [open_checkpoint(model)])
    if len(origin.tensors) > len(opened.tensors):
        raise InputError(
            f"{model}: its head is a tensor of its own, where {base} ties it to its embeddings; an adapter of {base} "
            "cannot change one without the other"
        )
    for name, tensor in origin.tensors.items():
        if name in tuned.tensors and tuned.tensors[name].shape != tensor.shape:
            raise InputError(
                f"{model}, tensor {name}: expected shape {list(tensor.shape)} as in {base}, found "
                f"{list(tuned.tensors[name].shape)}; an adapter cannot change shapes, as added tokens do"
            )
    if reasons := mismatches(origin, tuned):
        raise InputError("no adapter can be extracted:\n  " + "\n  ".join(reasons))
    place = choose_device(device)
    linears = linear_layers(origin)
    factors = [factor for name in sorted(linears) for factor in _factors(linears[name], rank)]
    part = out.absolute().parent / f".{out.name}.extract.part"
    layout = plan_file(part / WEIGHTS, factors)
    check_target(out, layout.bytes)

    def work(name: str) -> Change:
        return _change(origin, tuned, name, linears.get(name), rank, place)

    names = sorted(origin.tensors)
    changes: dict[str, Change] = {}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        progress("Extracting", 0, len(names), "tensors")
        with (part / WEIGHTS).open("wb") as stream:
            stream.write(layout.headers[part / WEIGHTS])
            for name, change in zip(names, in_order(work, names), strict=True):
                stream.writelines(change.factors)
                changes[name] = Change(change.energy, change.rank, change.captured)
                progress("Extracting", len(changes), len(names), "tensors")
        table = _table(changes)
        ranks = {linear.path: linear.rank(rank) for linear in linears.values()}
        conv1d = any(linear.conv1d for linear in linears.values())
        write_companions(part, origin, tuned, rank, ranks, conv1d, table)
        os.replace(part, out)
    except OSError as error:
        raise InputError(f"{out}: writing failed ({error.strerror}); nothing was left there") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return table


def linear_layers(checkpoint: Checkpoint) -> dict[str, Linear]:
    """Return the linear layers of a model by the names of their weights; a head tied to the embedding is none.

    Raises:
        InputError: transformers knows the model not as a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{checkpoint.reference}: expected a causal language model of transformers ({reason})"
        ) from error
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            name = find_tensor(f"{path}.weight", checkpoint.tensors)
            if name is not None:
                found[name] = Linear(path, checkpoint.tensors[name], isinstance(module, Conv1D))
    return found


def _factors(linear: Linear, most: int) -> list[TensorInfo]:
    """Describe A (r, in) and B (out, r) of a layer as they will be stored."""
    rank, (out, in_) = linear.rank(most), linear.weight.shape[:: -1 if linear.conv1d else 1]
    shapes = {"A": (rank, in_), "B": (out, rank)}
    return [TensorInfo(f"{PREFIX}{linear.path}.lora_{s}.weight", "F32", shapes[s], Path(WEIGHTS), 0) for s in shapes]


def _change(base: Checkpoint, model: Checkpoint, name: str, linear: Linear | None, most: int, device: str) -> Change:
    """Measure the change of one tensor, and factor it where it is a linear layer's weight."""
    tensor = base.info(name)
    wide = linear is not None and tensor.rows < tensor.row_elements

    def chunks() -> Iterator[torch.Tensor]:
        step = tensor.rows if wide else max(1, _BLOCK_ELEMENTS // max(1, tensor.row_elements))
        for start in range(0, tensor.rows, step):
            stop = min(start + step, tensor.rows)
            delta = _read(model, name, start, stop, device).sub_(_read(base, name, start, stop, device))
            yield delta.T if wide else delta

    if linear is None:
        return Change(sum((chunk * chunk).sum().item() for chunk in chunks()))
    found = truncated_svd(chunks, linear.rank(most))
    left, right = (found.right.T, found.left.T) if wide else (found.left, found.right)  # (rows, r), (r, columns)
    a, b = (left.T, right.T) if linear.conv1d else (right, left)
    stored = tuple(factor.contiguous().numpy().tobytes() for factor in (a, b))
    return Change(found.energy, linear.rank(most), found.captured, stored)


def _read(checkpoint: Checkpoint, name: str, start: int, stop: int, device: str) -> torch.Tensor:
    values = checkpoint.read(name, start, stop).to(device).double()
    if not torch.isfinite(values.sum()):
        raise InputError(
            f"{checkpoint.reference}, tensor {name}: rows {start} to {stop - 1} hold NaN or infinite entries; expected "
            "finite weights. Fetch or train this model again"
        )
    return values


def _table(changes: Mapping[str, Change]) -> pd.DataFrame:
    total = sum(change.energy for change in changes.values())
    rows = [
        (name, change.rank, sqrt(change.energy), change.energy / total if total else 0.0, change.captured)
        for name, change in changes.items()
    ]
    return pd.DataFrame(rows, columns=["tensor", "rank", "norm", "share", "captured"])
