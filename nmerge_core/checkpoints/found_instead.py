"""What people name where a model is expected: told by its files, with what to do to get a model of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nmerge_core.errors import short

_LISTED = 3  # names in a message before "and N more"
_MOST = 1_000  # entries of a folder that are looked at: anybody's folder can be named
_MARKS = ("config.json", "adapter_config.json")  # a folder with one of them is a model or an adapter
_CACHED = re.compile(r"(models|datasets|spaces)--.+")  # a repository in the Hub's cache
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+(\.safetensors|\.bin)")
_WEIGHTS = re.compile(r".+\.(?:safetensors|bin|h5|pt|pth|ckpt)")
_LOADED = ("model.safetensors", "pytorch_model.bin")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Form:
    """What holds no weights as transformers loads them: globs that find it, what it is, and what to do."""

    globs: tuple[str, ...]
    what: str
    then: str


_SAVE = "save_pretrained, and name that folder"
_ORIGINAL = "name the folder or Hub id of the original model"
_COMPANIONS = "and lay config.json and the tokenizer beside them"
_GGUF = Form(
    ("*.gguf", "Modelfile"),
    "GGUF is quantised for llama.cpp",
    f"{_ORIGINAL}, or dequantise it with transformers (from_pretrained(…, gguf_file=…), then save_pretrained)",
)
# The first that is found is told.
_FORMS = (
    Form(
        ("*.incomplete", "*.part", "*.crdownload", "*.aria2", ".cache/huggingface/download/*.incomplete")
        + ("../../blobs/*.incomplete",),  # of a snapshot in the Hub's cache
        "a download that did not end",
        "fetch the model again",
    ),
    _GGUF,
    Form(
        ("manifests/registry.ollama.ai", "models/manifests/registry.ollama.ai"),
        "the store of Ollama, whose models are quantised for llama.cpp",
        _ORIGINAL,
    ),
    Form(
        ("flax_model*.msgpack",),
        "Flax's weights, which transformers reads up to version 4",
        f"load them there (from_pretrained(…, from_flax=True)), {_SAVE}",
    ),
    Form(
        ("tf_model*.h5", "*.ckpt.index", "saved_model.pb"),
        "TensorFlow's weights, which transformers reads up to version 4",
        f"load them there (from_pretrained(…, from_tf=True)), {_SAVE}",
    ),
    Form(
        ("*.onnx", "onnx/*.onnx", "openvino_model*", "*.tflite", "*.mlpackage", "*.mlmodel", "*.engine")
        + ("shared_vocabulary.*", "rust_model.ot"),
        "a form for answering alone (ONNX, OpenVINO, Core ML, TensorRT, CTranslate2 …)",
        _ORIGINAL,
    ),
    Form(
        ("*.npz",),
        "arrays of NumPy or of an older MLX",
        f"save them with safetensors as model.safetensors under the names that transformers gives, {_COMPANIONS}",
    ),
    Form(
        ("zero_to_fp32.py", "*zero_pp_rank_*", "global_step*", "mp_rank_*_model_states.pt"),
        "a state of training with DeepSpeed ZeRO",
        f"put the weights together (`python zero_to_fp32.py DIR OUT --safe_serialization`) {_COMPANIONS}",
    ),
    Form(
        ("latest_checkpointed_iteration.txt", "mp_rank_*", "*.nemo", "model_weights.ckpt"),
        "a checkpoint of Megatron-LM or NeMo",
        "export it to Hugging Face's form with Megatron Bridge or NeMo, and name that folder",
    ),
    Form(
        ("*.distcp", "*/*.distcp"),
        "shards of torch.distributed.checkpoint, as FSDP saves them",
        f"put the weights together (`accelerate merge-weights DIR OUT`) {_COMPANIONS}",
    ),
    Form(
        ("consolidated*.pth", "consolidated*.safetensors"),
        "weights under their maker's own names, which transformers does not load",
        "name the model's form for transformers, or convert it with transformers' convert_…_weights_to_hf.py",
    ),
    Form(
        ("adapter_model.*",),
        "an adapter's weights without adapter_config.json",
        "fetch the adapter again, and write MODEL+ADAPTER",
    ),
    Form(
        ("*.zip", "*.tar", "*.tar.gz", "*.tgz", "*.7z"),
        "an archive",
        "unpack it and name the folder that holds config.json",
    ),
)


def found_instead(folder: Path) -> str:
    """Say what is in a folder in the place of a model, and what to do: "found …; …"."""
    names = sorted(each.name for each in _entries(folder))
    if not names:
        return "found an empty folder; name the one that is meant"
    return (
        _in_the_cache(folder)
        or _in_another_form(folder)
        or _below(folder)
        or _under_other_names(folder, names)
        or f"found no weights, only {_some(names)}; name the folder that is meant, or fetch the files that are missing"
    )


def file_instead(file: Path) -> str:
    """Say what a file is that is named in the place of a model's folder, and what to do: "found …; …"."""
    form = next((each for each in _FORMS if any(map(file.match, each.globs))), _GGUF if _is_gguf(file) else None)
    if form:
        return f"found a file: {form.what}; {form.then}"
    return "found a file; name the folder that holds config.json and the weights"


def _is_gguf(file: Path) -> bool:
    """Whether a file is one by its first bytes, as Ollama's have no suffix; a pipe, which would wait, is not asked."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def _in_the_cache(folder: Path) -> str:
    """Say which snapshot to name of a repository in the Hub's cache, or which id of all that it holds."""
    if of_all := next(folder.glob("models--*/snapshots"), None):
        return f"found a cache of the Hub; write the id of a model in it, such as {_id(of_all.parent)}"
    repository = next((each for each in (folder, folder.parent) if _CACHED.fullmatch(each.name)), None)
    if repository is None:
        return ""
    if not repository.name.startswith("models--"):
        return "found a repository of the Hub that is no model's; name a model"
    snapshots = [each for each in _entries(repository / "snapshots") if each.is_dir()]
    if not snapshots:
        return f"found a repository of the Hub's cache without a snapshot; run `hf download {_id(repository)}`"
    main = _text(repository / "refs" / "main")
    named = [each for each in snapshots if each.name == main] or snapshots
    return f"found a repository of the Hub's cache; name its snapshot {' or '.join(map(str, named[:_LISTED]))}"


def _id(repository: Path) -> str:
    return repository.name.removeprefix("models--").replace("--", "/", 1)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip() if file.is_file() else ""
    except OSError:
        return ""


def _in_another_form(folder: Path) -> str:
    for form in _FORMS:
        for glob in form.globs:
            if found := next(folder.glob(glob), None):
                return f"found {short(found.name)}: {form.what}; {form.then}"
    return ""


def _below(folder: Path) -> str:
    """Say which folders in it are models; of a trainer's the last step comes first."""
    found = [each for each in _entries(folder) if any((each / mark).exists() for mark in _MARKS)]
    found.sort(key=lambda each: ([-number for number in _numbers(each.name)], each.name))
    if not found:
        return ""
    return f"found models in folders of it ({_some([each.name for each in found])}); name one: {found[0]}"


def _numbers(name: str) -> list[int]:
    return [int(each[-18:]) for each in _NUMBER.findall(name)]


def _under_other_names(folder: Path, names: Sequence[str]) -> str:
    """Say which files of weights are there, of which transformers loads none."""
    weights = [name for name in names if _WEIGHTS.fullmatch(name)]
    if gone := next((name for name in weights if not (folder / name).exists()), None):
        return f"found {short(gone)}, a link to a file that is not there; fetch the model again"
    shard = next((found for name in weights if (found := _SHARD.fullmatch(name))), None)
    index = f"{shard[1]}{shard[2]}.index.json" if shard else ""
    if shard and index not in names:
        return f"found {shard[0]} without {index}, which lists the shards; fetch the model again"
    if loaded := shard[0] if shard else next((name for name in weights if name in _LOADED), ""):
        return f"found {loaded} without config.json, which says what model it is; fetch that too"
    if not weights:
        return ""
    return (
        f"found {_some(weights)}, which transformers does not load; fetch the files that are missing, or load the "
        "model your way and save it with save_pretrained"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return short(", ".join(map(short, names[:_LISTED]))) + more


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(islice(folder.iterdir(), _MOST))
    except OSError:
        return []
