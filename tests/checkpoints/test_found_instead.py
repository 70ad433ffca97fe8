"""What is named in the place of a model is told as what it is, in one line that says what to do."""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from tests.tiny import TEXTS, tiny_model, write_corpus

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ORIGINAL = "name the folder or Hub id of the original model"


def laid_out(folder: Path, files: list[str]) -> Path:
    for name in files:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}" if file.suffix == ".json" else "x")
    return folder


def said(reference: object) -> str:
    with pytest.raises(InputError) as refused:
        open_checkpoint(str(reference))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("files", "what", "then"),
    [
        (["flax_model.msgpack"], "found flax_model.msgpack: Flax's weights", "from_flax=True"),
        (["flax_model-00001-of-00002.msgpack"], "Flax's weights", "from_flax=True"),
        (["tf_model.h5"], "found tf_model.h5: TensorFlow's weights", "from_tf=True"),
        (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], "TensorFlow's weights", "save_pretrained"),
        (["model.onnx", "model.onnx_data"], "found model.onnx: a form for answering alone", ORIGINAL),
        (["onnx/model_quantized.onnx"], "a form for answering alone", ORIGINAL),
        (["openvino_model.bin", "openvino_model.xml"], "a form for answering alone", ORIGINAL),
        (["weights.00.npz"], "found weights.00.npz: arrays of NumPy", "save them with safetensors"),
        (["global_step9/mp_rank_00_model_states.pt", "latest"], "DeepSpeed ZeRO", "python zero_to_fp32.py DIR OUT"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed ZeRO", "zero_to_fp32.py"),
        (["__0_0.distcp", ".metadata"], "torch.distributed.checkpoint", "accelerate merge-weights DIR OUT"),
        (["pytorch_model_fsdp_0/__0_0.distcp"], "torch.distributed.checkpoint", "accelerate merge-weights"),
        (["iter_0001/mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt"], "Megatron-LM", "export it"),
        (["mp_rank_00/model_optim_rng.pt"], "Megatron-LM", "export it"),
        (["consolidated.00.pth", "params.json"], "under their maker's own names", "convert_…_weights_to_hf.py"),
        (["m-q4_k_m.gguf"], "GGUF is quantised for llama.cpp", "gguf_file="),
        (["blobs/sha256-0", "manifests/registry.ollama.ai/library/m/latest"], "the store of Ollama", ORIGINAL),
        (["model.safetensors.part"], "found model.safetensors.part: a download that did not end", "fetch the model"),
        ([".cache/huggingface/download/0=.1.incomplete"], "a download that did not end", "fetch the model again"),
        (["adapter_model.safetensors"], "an adapter's weights without adapter_config.json", "MODEL+ADAPTER"),
        (["step-9.ckpt"], "found step-9.ckpt, which transformers does not load", "save_pretrained"),
        (["tokenizer.json", "vocab.txt"], "found no weights, only", "name the folder that is meant"),
    ],
)
def test_another_form_is_told_with_and_without_a_configuration(
    files: list[str], what: str, then: str, tmp_path: Path
) -> None:
    folder = laid_out(tmp_path / "m", files)
    for expected in ("a model (config.json and model.safetensors)", "model.safetensors (or its index"):
        found = said(folder)
        assert found.startswith(f"{folder}: expected {expected}") and what in found and then in found
        laid_out(folder, ["config.json"])


def test_a_folder_of_folders_says_which_to_name(tmp_path: Path) -> None:
    """Of a trainer's steps the last comes first: by number, as step 1000 is after step 500."""
    assert "found an empty folder" in said(laid_out(tmp_path, []))
    laid_out(tmp_path / "trainer", ["checkpoint-500/config.json", "checkpoint-1000/adapter_config.json", "runs/x"])
    expected = f"(checkpoint-1000, checkpoint-500); name one: {tmp_path}/trainer/checkpoint-1000"
    assert expected in said(tmp_path / "trainer")


def test_a_folder_of_the_hub_s_cache_says_what_to_name(tmp_path: Path) -> None:
    repository = tmp_path / "models--lab--m"
    (repository / "blobs").mkdir(parents=True)
    assert said(repository).endswith("without a snapshot; run `hf download lab/m`")
    laid_out(repository, ["snapshots/one/config.json", "snapshots/two/config.json"])
    both = " or ".join(f"{repository}/snapshots/{name}" for name in ("one", "two"))
    assert said(repository).endswith(f"name its snapshot {both}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("two\n")
    for place in (repository, repository / "snapshots", repository / "refs"):
        assert said(place).endswith(f"name its snapshot {repository}/snapshots/two")
    assert said(tmp_path).endswith("write the id of a model in it, such as lab/m")
    laid_out(repository, ["blobs/0.incomplete"])
    assert "found 0.incomplete: a download that did not end" in said(repository / "snapshots/two")


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    named = {"m.gguf": "GGUF is quantised", "m.nemo": "NeMo", "m.zip": "an archive; unpack it", "m.npz": "NumPy"}
    named |= {"model.safetensors": "found a file; name the folder that holds config.json and the weights"}
    for name, expected in named.items():
        assert expected in said(laid_out(tmp_path, [name]) / name)
    (tmp_path / "sha256-0").write_bytes(b"GGUF\3\0\0\0")  # one of Ollama's
    assert "GGUF is quantised" in said(tmp_path / "sha256-0")
    assert "write its id: lab/m" in said("models--lab--m")
    assert "what Ollama names so" in said("llama3:8b")


def test_what_is_half_there_is_refused(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "m", ["model.safetensors"])
    assert "found model.safetensors without config.json" in said(folder)
    (folder / "config.json").write_text(POINTER)
    assert "config.json: a Git LFS pointer, not the file itself; run `git lfs pull`" in said(folder)
    (folder / "tokenizer.json").write_text(POINTER)
    laid_out(folder, ["config.json"])
    assert "tokenizer.json: a Git LFS pointer" in said(folder)
    laid_out(folder, ["tokenizer.json", "model.safetensors.aria2"])
    assert "its download by aria2 did not end" in said(folder)
    (folder / "model.safetensors.aria2").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    assert "not a complete safetensors file (0 bytes, its header does not fit); fetch it again" in said(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    assert "found model.safetensors, a link to a file that is not there" in said(folder)


def test_what_one_may_not_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an ordinary user, whom root becomes here."""
    with TemporaryDirectory(dir="/tmp") as name, ExitStack() as stack:  # where others may look, unlike tmp_path
        place = Path(name)
        place.chmod(0o755)
        monkeypatch.chdir(write_corpus(place / "corpus", TEXTS))
        closed, unlisted = (laid_out(place / name, ["config.json", "x.gguf"]) for name in ("closed", "unlisted"))
        for each, mode in ((closed, 0), (unlisted, 0o311), (Path("math.jsonl"), 0)):
            each.chmod(mode)
        for each in (closed, unlisted):
            stack.callback(each.chmod, 0o755)
        if os.geteuid() == 0:
            os.seteuid(65534)
            stack.callback(os.seteuid, 0)
        for each in (closed, unlisted):
            assert said(each) == f"{each}: a folder that you may not read; ask its owner, or name a copy"
        with pytest.raises(InputError, match="math.jsonl: cannot be read .Permission denied."):
            load_corpus(".")


def test_what_stands_for_an_adapter_is_told(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m")
    assert said(f"{model}+{model}").endswith(
        "expected an adapter (adapter_config.json), found a model; list it as one of its own"
    )
    trainer = laid_out(tmp_path / "trainer", ["checkpoint-9/adapter_config.json"])
    assert said(f"{model}+{trainer}").endswith(f"name one: {trainer}/checkpoint-9")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "lab/base"}')
    assert said(adapter).endswith(f"write MODEL+{adapter} with the model it was trained on (lab/base)")
