"""Mutated files of a model's folder: JSON beside weights, safetensors headers, pickles, adapters."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace

from tests.fuzz.mutate import mutated, mutated_bytes
from tests.fuzz.outcome import Outcome, command

SNIPPETS: tuple[bytes, ...] = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"[" * 3_000,
    b'{"a":' * 2_000,
    b"9" * 5_000,
    b"1e999",
    b"NaN",
    b"-Infinity",
)
SNIPPETS += (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"0.5",
    b'"x"',
    b"{}",
    b"[]",
    b"\\ud800",
)
_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
_INDEX = "model.safetensors.index.json"


def changed_json(text: bytes, random: Random) -> bytes:
    """Return the text of changed JSON, or changed text."""
    if random.random() < 0.3:
        return mutated_bytes(text, random, SNIPPETS)
    changed = mutated(json.loads(text), random)
    encoding = "utf-16" if random.random() < 0.02 else "utf-8"
    return json.dumps(changed, skipkeys=True).encode(encoding)


def changed_header(content: bytes, random: Random) -> bytes:
    """Return a safetensors file with another header, or another length of it."""
    (length,) = struct.unpack("<Q", content[:8])
    header, weights = content[8 : 8 + length], content[8 + length :]
    if random.random() < 0.1:
        absurd = random.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1, length + 1, length - 1))
        return struct.pack("<Q", absurd) + header + weights
    if random.random() < 0.1:
        twice = header.rstrip()[:-1] + b"," + header.strip()[1:]
        return struct.pack("<Q", len(twice)) + twice + weights
    header = changed_json(header, random)
    return struct.pack("<Q", len(header)) + header + weights[: random.choice((None, None, None, 0, 100))]


def changed_pickle(content: bytes, random: Random) -> bytes:
    """Return a file of torch.save with other bytes, or another pickle in it."""
    if random.random() < 0.4:
        return mutated_bytes(content, random, (b"\0" * 20, b"PK\x03\x04", b"\xff" * 8, b"\x80\x02."))
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(made, "w") as changed:
        for record in archive.infolist():
            held = archive.read(record)
            if record.filename.endswith("data.pkl"):
                other = pickle.dumps(random.choice((None, {}, [1], {"a": 1}, {1: 2}, "x", {"a": {"b": [10**400]}})))
                held = (
                    other if random.random() < 0.2 else mutated_bytes(held, random, (b"c", b"R", b"Q", b"}", b"K\xff"))
                )
            changed.writestr(record.filename, held)
    return made.getvalue()


def _json_file(folder: Path, random: Random) -> Path:
    file = folder / random.choice(_JSON)
    file.write_bytes(changed_json(file.read_bytes(), random))
    return file


def _index(folder: Path, random: Random) -> Path:
    """Write an index, and damage it."""
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    names = {name: "model-00001-of-00001.safetensors" for name in header if name != "__metadata__"}
    file = folder / _INDEX
    file.write_bytes(changed_json(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}).encode(), random))
    return file


def _header(folder: Path, random: Random) -> Path:
    file = folder / "model.safetensors"
    file.write_bytes(changed_header(file.read_bytes(), random))
    return file


def _pickle(folder: Path, random: Random) -> Path:
    """Write the weights as torch does, and damage that."""
    import torch
    from safetensors.torch import load_file

    file = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), file)
    (folder / "model.safetensors").unlink()
    file.write_bytes(changed_pickle(file.read_bytes(), random))
    return file


KINDS: tuple[Callable[[Path, Random], Path], ...] = (_json_file, _json_file, _index, _header, _header, _pickle)


def _adapter(base: str, folder: Path, random: Random) -> Path:
    """Write an adapter of one layer, and damage its configuration or its weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    path = "base_model.model.model.layers.0.mlp.gate_proj"
    factors = {f"{path}.lora_A.weight": torch.ones(2, 32), f"{path}.lora_B.weight": torch.ones(48, 2)}
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["gate_proj"], "rank_pattern": {"x": 3}}
    config |= {"alpha_pattern": {}, "base_model_name_or_path": base, "modules_to_save": None, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if random.random() < 0.6:
        file = folder / "adapter_config.json"
        file.write_bytes(changed_json(file.read_bytes(), random))
    else:
        file = folder / "adapter_model.safetensors"
        file.write_bytes(changed_header(file.read_bytes(), random))
    return file


def one(family: SimpleNamespace, folder: Path, random: Random) -> tuple[bytes, Outcome]:
    """Look at, or merge, models one of which has one damaged file; return that file, and how it ended."""
    damaged, out, recipe = folder / "damaged", folder / "out", folder / "recipe.yaml"
    for left in (damaged, out):
        shutil.rmtree(left, ignore_errors=True)
    base, model = family.base, str(damaged)
    if random.random() < 0.2:
        file, model = _adapter(family.base, damaged, random), f"{family.base}+{damaged}"
    else:
        shutil.copytree(family.math, damaged)
        file = random.choice(KINDS)(damaged, random)
        if random.random() < 0.3:
            base, model = model, family.code
    tokenizer = random.choice(("", "", "tokenizer: union\n"))
    method = random.choice(("task_arithmetic", "ties", "linear"))
    recipe.write_text(f"merge_method: {method}\nbase_model: {base}\nmodels: [{{model: {model}}}]\n{tokenizer}")
    kind = random.randrange(4)
    if kind == 0:
        found = command("inspect", base, model, "--json")
    elif kind == 1:
        found = command("cosine", base, model)
    else:
        found = command("merge", str(recipe), str(out), *(["--dry-run"] if kind == 2 else []))
    return file.read_bytes(), found
