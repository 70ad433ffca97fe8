"""Weights as stored bits: those that the checkpoint's own reads give as tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.header import read_header
from nmerge_core.checkpoints.raw_bits import as_stored, bits_of, empty_bits, read_bits
from nmerge_core.checkpoints.rows import read_runs

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MIXED = [
    ["BF16"],
    ["F16"],
    ["F32"],
    ["BF16"] * 3,
    ["F16"] * 2,
    ["BF16", "F16"],
    ["BF16", "F32"],
    ["F32", "F16", "BF16"],
]
MATRICES = {
    "matrix": ((6, 5), Matrix(6, 5)),
    "Conv1D": ((5, 6), Matrix(6, 5, transposed=True)),
    "experts": ((2, 3, 5), Matrix(6, 5)),
    "1×1": ((1, 1), Matrix(1, 1)),
    "1×1 transposed": ((1, 1), Matrix(1, 1, transposed=True)),
    "1×n": ((1, 7), Matrix(1, 7)),
    "n×1": ((7, 1), Matrix(7, 1)),
    "1×n transposed": ((7, 1), Matrix(1, 7, transposed=True)),
    "norm": ((8,), Matrix(8, 1, neuronal=False)),
    "scalar": ((), Matrix(1, 1, neuronal=False)),
}


def checkpoint(file: Path, values: torch.Tensor) -> Checkpoint:
    save_file({"w": values}, file)
    return Checkpoint(file.name, file.parent, {}, read_header(file))


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("dtypes", MIXED, ids="-".join)
def test_words_are_the_bits_of_what_a_checkpoint_reads(tmp_path: Path, kind: str, dtypes: list[str]) -> None:
    """Of every part of the rows: bfloat16's where all sources are, else float32's, which holds each of them exactly."""
    shape, matrix = MATRICES[kind]
    generator = torch.Generator().manual_seed(0)
    sources = [
        checkpoint(tmp_path / f"{number}.safetensors", torch.randn(shape, generator=generator).to(DTYPES[dtype]))
        for number, dtype in enumerate(dtypes)
    ]
    infos = [source.info("w") for source in sources]
    common = torch.bfloat16 if {*dtypes} == {"BF16"} else torch.float32
    for start in range(matrix.rows):
        for stop in range(start + 1, matrix.rows + 1):
            found = read_bits(infos, matrix, start, stop)
            assert found.shape == (len(dtypes), (stop - start) * matrix.columns)
            for own, source, info in zip(found, sources, infos, strict=True):
                read = source.read_matrix("w", matrix, start, stop)
                assert np.array_equal(own, bits_of(read.to(common).flatten()).view(own.dtype))
                if not matrix.transposed:
                    run = (start * matrix.columns, (stop - start) * matrix.columns)
                    assert torch.equal(read.flatten(), read_runs(info, [run]))


def test_words_by_hand(tmp_path: Path) -> None:
    """Bits of −1.5 = −1.1₂ × 2⁰ (sign, exponent + bias, fraction).

    bfloat16: 1 01111111 1000000 = BFC0; float16: 1 01111 1000000000 = BE00; float32: 1 01111111 1000… = BFC00000.
    """
    sources = {name: checkpoint(tmp_path / name, torch.tensor([[-1.5]], dtype=each)) for name, each in DTYPES.items()}
    infos = {name: source.info("w") for name, source in sources.items()}
    assert {name: info.file.read_bytes()[info.offset :] for name, info in infos.items()} == {
        "BF16": bytes.fromhex("c0bf"),
        "F16": bytes.fromhex("00be"),
        "F32": bytes.fromhex("0000c0bf"),
    }
    alone = read_bits([infos["BF16"]], Matrix(1, 1), 0, 1)
    assert (alone.dtype, alone.tolist()) == (np.uint16, [[0xBFC0]])
    for dtypes in (["F16"], ["F32"], ["BF16", "F16", "F32"]):
        words = read_bits([infos[name] for name in dtypes], Matrix(1, 1), 0, 1)
        assert (words.dtype, words.tolist()) == (np.uint32, [[0xBFC00000]] * len(dtypes))


def test_special_values_keep_their_bits(tmp_path: Path) -> None:
    """Signed zeros, infinities, the smallest and the largest; in float16 2⁻²⁴ is 0001, in float32 2⁻²⁴ is 33800000."""
    half = np.array([0x0000, 0x8000, 0x7C00, 0xFC00, 0x0001, 0x7BFF], np.uint16)
    full = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x33800000, 0x477FE000]
    stored = checkpoint(tmp_path / "half", torch.from_numpy(half.view(np.float16)))
    assert read_bits([stored.info("w")], Matrix(6, 1, neuronal=False), 0, 6).tolist() == [full]
    brain = np.array([0x0000, 0x8000, 0x7F80, 0xFF80, 0x0001, 0x7FC1], np.uint16)  # the last not a number
    both = [checkpoint(tmp_path / "brain", torch.from_numpy(brain).view(torch.bfloat16)), stored]
    read = read_bits([source.info("w") for source in both], Matrix(6, 1, neuronal=False), 0, 6)
    assert read.tolist() == [[bits << 16 for bits in brain.tolist()], full]


def test_what_is_written_is_stored_in_its_dtype() -> None:
    """65520 is the first float32 beyond float16: half way to 65536, which is even (IEEE 754)."""
    for dtype, bits in (("BF16", np.uint16), ("F32", np.uint32), ("F16", np.uint32)):
        assert empty_bits(3, dtype).dtype == bits
    out = empty_bits(3, "F16")
    out[:] = np.array([-1.5, 65519.0, 65520.0], np.float32).view(np.uint32)
    assert as_stored(out, "F16").view(np.uint16).tolist() == [0xBE00, 0x7BFF, 0x7C00]
    same = np.array([0xBFC0], np.uint16)
    assert as_stored(same, "BF16") is same
