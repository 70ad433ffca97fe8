"""Quantised weights: block-FP8 and MXFP4 are dequantised when they are read, others are refused as what they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmerge_core.architecture import Matrix
from nmerge_core.architecture.config_keys import QUANTISATION
from nmerge_core.checkpoints.header import FLOATS, TensorInfo
from nmerge_core.checkpoints.rows import read_rows, read_runs
from nmerge_core.errors import InputError, shown

if TYPE_CHECKING:
    import torch

_SCALE, _ACTIVATIONS = "_scale_inv", ".activation_scale"
_BLOCKS, _SCALES = "_blocks", "_scales"
_WRITTEN = "BF16"  # the dtype that a dequantised tensor counts as, transformers' too; it is read in float32
_FP4 = (
    0.0,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
)  # E2M1's magnitudes (OCP MX 1.0); the high bit negates
_GROUP = 32  # entries that share a scale in MXFP4
# What people call the formats whose names in config.json say little.
_CALLED = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes", "fp8": "FP8", "mxfp4": "MXFP4", "hqq": "HQQ"}


@dataclass(frozen=True)
class BlockFp8(TensorInfo):
    """Codes of 8 bits, and a scale per block of rows and columns that they are multiplied by (DeepSeek-V3)."""

    codes: TensorInfo
    scale: TensorInfo
    block: tuple[int, int]

    kind: ClassVar[str] = "fp8"

    def read(self, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of the last two axes, all leading ones counted through, in float32."""
        import torch

        rows, columns = self.shape[-2:]
        codes = read_runs(self.codes, [(start * columns, (stop - start) * columns)]).float().view(-1, columns)
        height, width = self.block
        scale = read_rows(self.scale).float()
        if self.scale.dtype == "U8":  # exponents alone, E8M0
            scale = (scale - 127).exp2()
        scale = scale.view(-1, -(-columns // width))  # (rows of blocks, columns of blocks)
        at = torch.arange(start, stop)
        blocks = at // rows * -(-rows // height) + at % rows // height  # the row of blocks that each row is in
        return codes * scale[blocks].repeat_interleave(width, 1)[:, :columns]

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is read from."""
        return self.codes.files | self.scale.files


@dataclass(frozen=True)
class MxFp4(TensorInfo):
    """Stacked experts in codes of 4 bits, (experts, out, groups, 16) bytes, scales 2^(s − 127); read (…, in, out)."""

    codes: TensorInfo
    scale: TensorInfo

    kind: ClassVar[str] = "mxfp4"

    def read(self, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of the last two axes, all leading ones counted through, in float32."""
        import torch

        rows = self.shape[-2]
        experts = range(start // rows, -(-stop // rows))
        written = tuple(map(_written, sorted(self.files)))
        parts = [_expert(self.codes, self.scale, expert, written) for expert in experts]
        first = start - experts[0] * rows if experts else 0
        return torch.cat(parts)[first : first + stop - start] if parts else torch.empty(0, self.shape[-1])

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is read from."""
        return self.codes.files | self.scale.files


Dequantised = BlockFp8 | MxFp4


def _written(file: Path) -> int:
    """Return when a file was last written to; 0 where it is gone, which its reader tells."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=4)  # blocks of rows of one expert follow one another, and each needs all of its codes
def _expert(codes: TensorInfo, scale: TensorInfo, expert: int, written: tuple[int, ...]) -> "torch.Tensor":
    """Dequantise one expert; when its files were `written` makes the cache forget those that were since."""
    import torch

    _, out, groups, half = codes.shape
    stored = read_rows(codes, expert, expert + 1).view(out, groups, half)
    exponents = read_rows(scale, expert, expert + 1).view(out, groups, 1).int() - 127
    table = torch.tensor([*_FP4, *(-value for value in _FP4)])
    entries = torch.stack((table[(stored & 15).int()], table[(stored >> 4).int()]), dim=-1)  # low nibble first
    return torch.ldexp(entries.view(out, groups, 2 * half), exponents).view(out, -1).T.contiguous()  # (in, out)


def dequantised(reference: str, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors with FP8 and MXFP4 weights as what their codes and scales stand for.

    Raises:
        InputError: weights are quantised in another way.
    """
    found = dict(tensors)
    for name, codes in tensors.items():
        if codes.dtype.startswith("F8") and name + _SCALE in tensors and len(codes.shape) > 1:
            scale = found.pop(name + _SCALE)
            block = _block(reference, config, codes, scale)
            found[name] = BlockFp8(name, _WRITTEN, codes.shape, codes.file, codes.offset, codes, scale, block)
            found.pop(name.removesuffix(".weight") + _ACTIVATIONS, None)
        elif name.endswith(_BLOCKS) and len(codes.shape) == 4 and name.removesuffix(_BLOCKS) + _SCALES in tensors:
            own = name.removesuffix(_BLOCKS)
            scale = found.pop(own + _SCALES)
            experts, out, groups, _ = found.pop(name).shape
            shape = (experts, groups * _GROUP, out)
            found[own] = MxFp4(own, _WRITTEN, shape, codes.file, codes.offset, codes, scale)
    scaled = config.get(QUANTISATION) or any("scale" in name for name in found)
    for tensor in found.values():
        # FP8 without scales holds what it means, as any float does.
        if tensor.dtype not in FLOATS and not is_counter(tensor) and (scaled or not tensor.dtype.startswith("F8")):
            raise _refusal(reference, config, tensor, mlx=tensor.name.removesuffix(".weight") + ".biases" in found)
    return found


def is_counter(tensor: TensorInfo) -> bool:
    """Whether a tensor counts or points, as positions do and the batches a norm has seen: such are no weights."""
    return tensor.dtype in ("I64", "BOOL") or (tensor.dtype == "I32" and len(tensor.shape) < 2)


def _block(reference: str, config: Mapping[str, Any], codes: TensorInfo, scale: TensorInfo) -> tuple[int, int]:
    """Return the rows and columns that share a scale: as the configuration says, else as the scales divide the codes.

    transformers always divides, which is another block where the last one is not whole.
    """
    rows, columns = codes.shape[-2:]
    said = config.get(QUANTISATION)
    size = said.get("weight_block_size") if isinstance(said, Mapping) else None
    high, wide = scale.shape[-2:] if len(scale.shape) > 1 else (1, 1)
    if isinstance(size, list) and len(size) == 2 and all(type(each) is int and each > 0 for each in size):
        if (-(-rows // size[0]), -(-columns // size[1])) == (high, wide):
            return size[0], size[1]
    if scale.elements == prod(codes.shape[:-2]) * high * wide and high and wide and not (rows % high or columns % wide):
        return rows // high, columns // wide
    raise InputError(
        f"{reference}, tensor {scale.name}: expected a scale per block of {codes.name} {list(codes.shape)}, found "
        f"{list(scale.shape)}; config.json, key '{QUANTISATION}.weight_block_size', says {shown(size)}"
    )


def _refusal(reference: str, config: Mapping[str, Any], tensor: TensorInfo, *, mlx: bool) -> InputError:
    """Say what quantised the weights, MLX or what the configuration names, and how they are dequantised."""
    said = config.get(QUANTISATION)
    method = str(said.get("quant_method", "")) if isinstance(said, Mapping) else ""
    called = "MLX" if mlx else _CALLED.get(method, method)
    how = f" by {called}" if called else ""
    then = (
        "run `mlx_lm.convert --dequantize` on it"
        if mlx
        else "load it with transformers, call model.dequantize() and save_pretrained"
    )
    return InputError(
        f"{reference}: its weights are quantised{how} ({tensor.name} is {tensor.dtype}), expected "
        f"{', '.join(FLOATS)}; name the model it was made of, or dequantise it: {then}, and name that folder"
    )


def read_dequantised(tensor: Dequantised, matrix: Matrix, start: int, stop: int) -> "torch.Tensor":
    """Read rows [start, stop) of a dequantised tensor seen as `matrix`, (rows, columns) float32."""
    if matrix.transposed:
        import torch

        wide = matrix.columns
        parts = [tensor.read(i * wide, (i + 1) * wide).T[rows] for i, rows in matrix.parts(start, stop)]
        return torch.cat(parts) if parts else torch.empty(0, wide)
    return tensor.read(start, stop).view(stop - start, matrix.columns)
