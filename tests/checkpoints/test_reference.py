import json
from pathlib import Path

import pytest

from nmerge_core.checkpoints import absolute, halves, on_this_machine
from nmerge_core.checkpoints.reference import from_folder, resolve
from nmerge_core.errors import InputError


def test_a_hub_model_is_here_once_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    repository = tmp_path / "models--lab--law"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    assert not on_this_machine("lab/law")
    (snapshot / "my_model_args.bin").write_bytes(b"")
    assert not on_this_machine("lab/law")
    for name in ("model.safetensors", "pytorch_model.bin", "adapter_model.bin"):
        (snapshot / name).write_bytes(b"")
        assert on_this_machine("lab/law")
        (snapshot / name).unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    (snapshot / shards[0]).write_bytes(b"")
    assert not on_this_machine("lab/law")  # a part of a download
    (snapshot / shards[1]).write_bytes(b"")
    assert on_this_machine("lab/law")
    assert not on_this_machine("lab/other") and not on_this_machine("lab/--..")


def test_a_reference_counts_from_a_folder(tmp_path: Path) -> None:
    for name in ("m", "lora", "a+b"):
        (tmp_path / name).mkdir()
    assert from_folder("m", tmp_path) == f"{tmp_path}/m"
    assert from_folder("m+lora", tmp_path) == f"{tmp_path}/m+{tmp_path}/lora"
    assert from_folder("a+b", tmp_path) == f"{tmp_path}/a+b"  # one folder
    assert halves("a+b+lora", tmp_path) == ("a+b", "lora")
    assert from_folder(f"{tmp_path}/m+lab/law", tmp_path / "lora") == f"{tmp_path}/m+lab/law"
    assert from_folder("elsewhere/m", tmp_path) == "elsewhere/m"
    assert from_folder("gone", tmp_path) == f"{tmp_path}/gone"  # no Hub id: a folder that is not there
    assert absolute("m") == "m"  # of the working directory


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("https://huggingface.co/lab/m", "write its id: lab/m"),
        ("https://huggingface.co/lab/m/tree/main", "write its id: lab/m"),
        ("lab/m@v1.0", "hf download lab/m --revision v1.0 --local-dir DIR"),
        ("m", "expected a folder with config.json and weights, or a Hub id"),
    ],
)
def test_what_is_nearly_a_hub_id_says_how_it_is_named(reference: str, said: str) -> None:
    with pytest.raises(InputError, match="no such folder") as refused:
        resolve(reference)
    assert said in str(refused.value)
