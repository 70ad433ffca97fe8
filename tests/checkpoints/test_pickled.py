"""Pickled checkpoints are read as safetensors are."""

import itertools
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.checkpoints.pickled import read_pickled
from nmerge_core.checkpoints.rows import read_rows
from nmerge_core.loading import load_model
from nmerge_core.lora.extract import extract
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.checkpoints.pickles import EMBEDDINGS, HEAD, Malicious, refused, rewrite
from tests.merging import checkpoints
from tests.merging.checkpoints import pickled as write
from tests.tiny import tiny_model

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    return checkpoints.random_weights(0)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_every_row_is_that_of_safetensors(tmp_path: Path, weights: Weights, shards: int, dtype: torch.dtype) -> None:
    cast = {name: value.to(dtype) for name, value in weights.items()}
    plain = open_checkpoint(checkpoints.write(tmp_path / "plain", cast))
    pickled = open_checkpoint(write(tmp_path / "pickled", cast, shards))
    assert pickled.pickled and not plain.pickled and len(pickled.files) == shards
    assert pickled.tensors.keys() == plain.tensors.keys() and pickled.bytes == plain.bytes
    for name, tensor in plain.tensors.items():
        own = pickled.tensors[name]
        assert (own.dtype, own.shape, own.file.suffix) == (tensor.dtype, tensor.shape, ".bin")
        whole = cast[name].view(torch.uint8).view(tensor.rows, -1)
        for start, stop in [(0, tensor.rows), *((row, row + 1) for row in range(tensor.rows))]:
            for read in (pickled.read, plain.read):
                assert torch.equal(read(name, start, stop).view(torch.uint8).view(stop - start, -1), whole[start:stop])


def test_what_torch_can_save_is_read_as_torch_loads_it(tmp_path: Path) -> None:
    """Parameters, scalars, empty tensors, integers, parts of one storage, more than ten of them, with metadata."""
    linear = torch.nn.Linear(3, 2)
    together = torch.arange(24.0).view(6, 4)
    state = OrderedDict(linear.state_dict(), parameter=linear.weight, scalar=torch.tensor(3.0), ints=torch.arange(5))
    state |= {"empty": torch.zeros(0, 4), "top": together[:2], "rest": together[2:], "flag": torch.tensor([True])}
    state |= {f"many.{number}": torch.full((number,), float(number)) for number in range(12)}
    vars(state)["_metadata"] = OrderedDict(version=1)
    file = tmp_path / "any.bin"
    torch.save(state, file)
    found = read_pickled(file)
    assert list(found) == list(state)
    assert found["parameter"].offset == found["weight"].offset
    for name, value in torch.load(file, weights_only=True).items():
        info = found[name]
        content = file.read_bytes()[info.offset : info.offset + info.bytes]
        assert content == value.detach().contiguous().numpy().tobytes() and info.shape == tuple(value.shape)


def write_large(file: Path) -> None:
    """Write a file of 4.8 GB that takes a few KB of the disk; its second tensor lies beyond 4 GiB."""
    with torch.serialization.skip_data():
        torch.save({"w": torch.empty(1_200_000_000), "v": torch.empty(3)}, file)


def test_no_weight_is_read_to_open_a_file(tmp_path: Path, forked: tuple[str, ...]) -> None:
    file = tmp_path / "large.bin"
    write_large(file)
    script = f"""
import resource, torch
from pathlib import Path
from nmerge_core.checkpoints.pickled import read_pickled
from nmerge_core.checkpoints.rows import read_rows
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
found = read_pickled(Path({str(file)!r}))
assert found["w"].bytes == 4_800_000_000 and found["v"].offset > found["w"].offset + found["w"].bytes
"""
    done = subprocess.run([*forked, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with file.open("r+b") as stream:
        stream.seek(read_pickled(file)["v"].offset)
        stream.write(torch.arange(3.0).numpy().tobytes())
    assert torch.load(file, weights_only=True, mmap=True)["v"].tolist() == [0, 1, 2]
    assert read_rows(read_pickled(file)["v"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("order", [(EMBEDDINGS, HEAD), (HEAD, EMBEDDINGS)])
@pytest.mark.parametrize(("tied", "names"), [(True, 1), (None, 1), (False, 2)])
def test_tied_tensors_are_one(
    tmp_path: Path, weights: Weights, order: tuple[str, str], tied: bool | None, names: int
) -> None:
    """They have one place in the file, and one name, unless the configuration says that they are two."""
    others = {name: value for name, value in weights.items() if name != EMBEDDINGS}
    state = {order[0]: weights[EMBEDDINGS], **others, order[1]: weights[EMBEDDINGS]}
    folder = tmp_path / "m"
    write(folder, state, tie_word_embeddings=tied)
    if tied is None:  # an old configuration, which has the key where it is false
        config = json.loads((folder / "config.json").read_text())
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
    opened = open_checkpoint(str(folder))
    assert [name for name in (EMBEDDINGS, HEAD) if name in opened.tensors] == [EMBEDDINGS, HEAD][:names]
    assert torch.equal(opened.read(EMBEDDINGS), weights[EMBEDDINGS])
    assert len(opened.tensors) == len(weights) + names - 1


def test_a_file_of_an_earlier_torch_is_read(tmp_path: Path, weights: Weights) -> None:
    """Up to 2.6 storages lay in order of their names, 10 before 2, and the archive did not say how it is laid out."""
    folder = Path(write(tmp_path / "m", weights))
    marks = (".format_version", ".storage_alignment", "byteorder", "serialization_id")
    rewrite(folder / "pytorch_model.bin", lambda names: sorted(name for name in names if not name.endswith(marks)))
    opened = open_checkpoint(str(folder))
    assert all(torch.equal(opened.read(name), value) for name, value in weights.items())


def test_storages_are_found_by_their_keys_in_any_order(tmp_path: Path) -> None:
    """Where an archive tells its format torch takes them to lie as the pickle names them, on the meta device."""
    file = tmp_path / "any.bin"
    state = {name: torch.arange(4.0) + 100 * number for number, name in enumerate("abc")}
    state |= {"again": state["b"], "none": torch.zeros(0)}
    torch.save(state, file)
    with zipfile.ZipFile(file) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    first = [".format_version", ".storage_alignment", "byteorder", "data.pkl"]
    for order in itertools.permutations(["data/0", "data/1", "data/2", "data/3"]):
        writer = torch._C.PyTorchFileWriter(str(file))  # what torch.save writes with
        for name in [*first, *order]:
            writer.write_record(name, records[name], len(records[name]))
        writer.write_end_of_file()
        found = read_pickled(file)
        for name, value in torch.load(file, weights_only=True).items():
            assert torch.equal(value, state[name]) and torch.equal(read_rows(found[name]), value)
        assert found["again"].offset == found["b"].offset


def test_only_the_model_s_own_weights_are_taken(tmp_path: Path, weights: Weights) -> None:
    folder = Path(write(tmp_path / "m", weights))
    torch.save({"evil": Malicious(os.system, "false")}, folder / "training_args.bin")
    (folder / "optimizer.bin").write_bytes(b"whatever")
    assert open_checkpoint(str(folder)).files == [folder / "pytorch_model.bin"]
    (folder / "pytorch_model.bin").unlink()
    refused(folder, r"expected model.safetensors .*found optimizer.bin, training_args.bin, which transformers does not")
    checkpoints.write(folder, weights)
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    assert not open_checkpoint(str(folder)).pickled


def test_a_large_file_s_fingerprint_samples_its_tensors(tmp_path: Path) -> None:
    blob = tmp_path / "blob"  # the Hub's cache links to files without a suffix
    write_large(blob)
    model = write(tmp_path / "m", {}, model_type="mine")
    (tmp_path / "m/pytorch_model.bin").unlink()
    (tmp_path / "m/pytorch_model.bin").symlink_to(blob)
    before = fingerprint(open_checkpoint(model))
    with blob.open("r+b") as stream:
        stream.seek(open_checkpoint(model).info("v").offset)
        stream.write(b"x")
    assert fingerprint(open_checkpoint(model)) != before


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_merge_of_pickled_models_has_the_same_bytes(tmp_path: Path, weights: Weights, method: str) -> None:
    tunes = [checkpoints.fine_tuned(weights, seed) for seed in (1, 2)]
    plain = [checkpoints.write(tmp_path / f"plain{k}", state) for k, state in enumerate([weights, *tunes])]
    tied = {**weights, HEAD: weights[EMBEDDINGS]}  # as torch.save(model.state_dict()) has it
    mixed = [write(tmp_path / "base", tied), plain[1], write(tmp_path / "tune", tunes[1], shards=2)]
    for name, (base, *models) in (("plain", plain), ("mixed", mixed)):
        recipe: dict[str, Any] = {
            "merge_method": method,
            "base_model": base,
            "models": [{"model": model} for model in models],
        }
        recipe["parameters"] = {"density": 0.5} if method == "ties" else {}
        merge(load_recipe(recipe), tmp_path / name)
    merged = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "mixed")]
    assert merged[0] == merged[1]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_pickled_model_is_run_as_its_safetensors(tmp_path: Path, shards: int) -> None:
    plain = tiny_model(tmp_path / "plain")
    pickled = tmp_path / "pickled"
    tiny_model(pickled)
    state = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    config = json.loads((pickled / "config.json").read_text())
    write(pickled, state, shards, **config)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        logits = [load_model(str(folder), "cpu").model(tokens).logits for folder in (plain, pickled)]
    assert torch.equal(*logits)


def test_an_adapter_is_extracted_from_and_opened_on_pickled_weights(tmp_path: Path, weights: Weights) -> None:
    tune = checkpoints.fine_tuned(weights, 1)
    plain = [checkpoints.write(tmp_path / name, state) for name, state in (("base", weights), ("tune", tune))]
    pickled = [write(tmp_path / f"{name}-pickled", state) for name, state in (("base", weights), ("tune", tune))]
    for (base, model), out in ((plain, "lora"), (pickled, "lora-pickled")):
        extract(base, model, tmp_path / out, rank=2)
    files = [tmp_path / out / "adapter_model.safetensors" for out in ("lora", "lora-pickled")]
    assert files[0].read_bytes() == files[1].read_bytes()
    expected = open_checkpoint(f"{plain[0]}+{tmp_path / 'lora'}")
    torch.save(load_file(files[1]), files[1].with_suffix(".bin"))
    files[1].unlink()
    found = open_checkpoint(f"{pickled[0]}+{tmp_path / 'lora-pickled'}")
    assert found.files[-1] == files[1].with_suffix(".bin") and len(fingerprint(found)) == 16
    for name in expected.tensors:
        assert torch.equal(found.read(name), expected.read(name))


def test_a_pickled_model_of_the_hub_s_cache_is_used(tmp_path: Path, weights: Weights) -> None:
    """Its snapshot is opened by id, without asking the Hub."""
    repository = tmp_path / "hub/models--some--model"
    folder = repository / "snapshots/1"
    write(folder, weights)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("1")
    code = "from nmerge_core.checkpoints import open_checkpoint; print(open_checkpoint('some/model').parameters)"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == sum(value.numel() for value in weights.values())


def test_torch_is_imported_only_where_a_pickle_is_met(tmp_path: Path, weights: Weights) -> None:
    models = [checkpoints.write(tmp_path / "plain", weights), write(tmp_path / "pickled", weights)]
    code = (
        "import sys\nfrom nmerge_core.checkpoints import open_checkpoint, fingerprint\n"
        f"for model in {models!r}:\n    fingerprint(open_checkpoint(model))\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
