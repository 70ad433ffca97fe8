"""In which number format a model runs: its checkpoint's where the machine computes in it natively, else float32."""

from collections import Counter
from dataclasses import dataclass

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError, shown
from nmerge_core.machine import CPU, choose_device, cpu_flags, kind_of, total_memory

AUTO, FLOAT32 = "auto", "float32"
RUN_DTYPES = (AUTO, FLOAT32, "bfloat16", "float16")
ITEM_BYTES = {FLOAT32: 4, "bfloat16": 2, "float16": 2}
_NAMES = {"F64": FLOAT32, "F32": FLOAT32, "BF16": "bfloat16", "F16": "float16"}
# What Linux calls the instructions that multiply matrices in a format, of x86 and of ARM.
_NATIVE = {FLOAT32: (), "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"), "float16": ("avx512_fp16", "amx_fp16", "fphp")}
_MEMORY_SHARE = 0.5  # of the machine's memory that a model may take in float32


@dataclass(frozen=True)
class NumberFormat:
    """The name of the format, and what to say where it is not the one that would be fastest (else empty)."""

    name: str
    remark: str = ""


def stored_format(checkpoint: Checkpoint) -> str:
    """Return the format that most of a checkpoint's weights are stored in; float32 for those that are no floats."""
    weights = Counter[str]()
    for tensor in checkpoint.tensors.values():
        weights[_NAMES.get(tensor.dtype, FLOAT32)] += tensor.elements
    return weights.most_common(1)[0][0] if weights else FLOAT32


def choose_format(
    checkpoint: Checkpoint, run_dtype: str = AUTO, device: str = AUTO, *, written: str | None = None
) -> NumberFormat:
    """Return the format that a model runs in on a device.

    auto is the checkpoint's own (or the format in which a merge of its shape is `written`) on an accelerator and on a
    CPU that multiplies in it; on any other CPU, where emulating it takes several times as long, float32, unless that
    would fill more than half of the machine's memory, and its own format not all of it: then it can run no way but
    layer by layer, for which the memory is no bound.

    Raises:
        InputError: there is no such format or device.
    """
    if run_dtype not in RUN_DTYPES:
        raise InputError(f"run_dtype: expected one of {', '.join(RUN_DTYPES)}, found {shown(run_dtype)}")
    if run_dtype != AUTO:
        return NumberFormat(run_dtype)
    stored = written or stored_format(checkpoint)
    if kind_of(choose_device(device)) != CPU or stored == FLOAT32 or cpu_flags() & {*_NATIVE[stored]}:
        return NumberFormat(stored)
    needed, own = (checkpoint.parameters * ITEM_BYTES[name] for name in (FLOAT32, stored))
    if needed <= _MEMORY_SHARE * total_memory() or own > total_memory():
        return NumberFormat(FLOAT32)
    return NumberFormat(
        stored,
        f"{checkpoint.reference} runs in {stored}, which this processor emulates slowly: in float32 it would take "
        f"{needed / 1e9:.1f} of {total_memory() / 1e9:.1f} GB of memory",
    )
