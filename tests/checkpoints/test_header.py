"""Headers that lie, JSON that is none: refused by name, where the library safetensors refuses them too."""

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nmerge_core.checkpoints.header import read_header
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.errors import InputError

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def write(file: Path, header: object, size: int = 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(size))
    return file


def refused(file: Path, expected: str) -> None:
    with pytest.raises(InputError) as error:
        read_header(file)
    assert expected in str(error.value) and str(file) in str(error.value) and len(str(error.value)) < 900
    with pytest.raises(SafetensorError):
        safe_open(file, "np")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (3, "tensor a: expected {dtype, shape: [whole numbers]"),
        ({"shape": "2"}, "found {'data_offsets': [0, 8], 'dtype': 'F32', 'shape': '2'}"),
        ({"shape": [2.0]}, "expected {dtype, shape"),
        ({"shape": [[2]]}, "expected {dtype, shape"),
        ({"shape": [-2, -1]}, "expected {dtype, shape"),
        ({"shape": [True, 2]}, "expected {dtype, shape"),
        ({"shape": [2**62, 2**62]}, "needs 85,070,591,730,234,615,865,843,651,857,942,052,864 bytes, has 8"),
        ({"data_offsets": ["0", "8"]}, "expected {dtype, shape"),
        ({"data_offsets": [0, 8, 8]}, "expected {dtype, shape"),
        ({"data_offsets": [8, 0]}, "needs 8 bytes, has -8"),
        ({"data_offsets": [0, 10**400]}, "expected {dtype, shape"),
        ({"dtype": ["F32"]}, "expected {dtype, shape"),
        ({"dtype": "X" * 5_000}, "is not supported"),
    ],
)
def test_an_entry_that_says_nothing_is_named(change, expected, tmp_path) -> None:
    entry = {**GOOD["a"], **change} if isinstance(change, dict) else change
    refused(write(tmp_path / "model.safetensors", {"a": entry}), expected)


def test_bytes_belong_to_one_tensor_each_and_all_of_them_do(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    refused(write(file, {**GOOD, "b": GOOD["a"]}), "tensor b: expected its bytes to begin at")
    refused(
        write(file, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "tensor a: expected its bytes to"
    )
    refused(write(file, GOOD, size=12), "bytes by its header, found")
    refused(write(file, GOOD, size=4), "truncated: expected")
    save_file({"empty": np.zeros((0, 3)), "scalar": np.array(1, np.float32), "b": np.ones(3)}, file)
    assert {tensor.name: tensor.shape for tensor in read_header(file).values()} == {
        "empty": (0, 3),
        "scalar": (),
        "b": (3,),
    }


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"[" * 200_000, "thousands of lists inside one another"),
        (b"[]", "expected a JSON object, found list"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
    ],
)
def test_a_header_that_is_no_object_is_named(header: bytes, expected: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "model.safetensors", header), expected)


def test_a_length_that_cannot_be_and_a_key_twice_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    for length in (2**31, 2**63 - 1, 2**64 - 1):
        refused(write(file, GOOD, length=length), "its header does not fit")
    text = json.dumps(GOOD)[:-1] + "," + json.dumps(GOOD)[1:]
    write(file, text.encode())
    with pytest.raises(InputError, match="the key 'a' is there twice"):
        read_header(file)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"vocab_size": "many"}, "key 'vocab_size': expected a whole number from 0"),
        ({"num_hidden_layers": 1e9}, "key 'num_hidden_layers': expected a whole number"),
        ({"dim": "x"}, "key 'dim': expected a whole number"),  # DistilBERT's name for the width
        ({"text_config": 3}, "key 'text_config': expected an object, found 3"),
        ({"text_config": {"num_attention_heads": []}}, "key 'text_config.num_attention_heads': expected a whole"),
        ({"model_type": ["a"]}, "key 'model_type': expected a text"),
        ({"architectures": "A"}, "key 'architectures': expected a list of texts"),
    ],
)
def test_a_configuration_s_value_is_named(content, expected, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"config.json, {expected}"):
        read_json(tmp_path / "config.json", "")


def test_json_may_begin_with_a_mark_and_must_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'\xef\xbb\xbf{"model_type": "x", "vocab_size": null}\r\n')
    assert read_json(file, "") == {"model_type": "x", "vocab_size": None}
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="expected a file, found a device or a pipe"):
        read_json(file, "")
    index = tmp_path / "model.safetensors.index.json"
    for name in ("/etc/passwd", "../other.safetensors", "x" * 300, 3, ""):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InputError, match="key 'weight_map.a': expected the name of a file beside it"):
            read_json(index, "")
