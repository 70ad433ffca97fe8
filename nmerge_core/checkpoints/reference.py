"""What a user calls a model: a folder or a Hub id, or MODEL+ADAPTER, both of them folders or Hub ids."""

import os
import re
from collections.abc import Sequence
from os.path import exists, expanduser, isdir  # which raise of no name, where pathlib's do
from pathlib import Path

from nmerge_core.checkpoints.found_instead import file_instead
from nmerge_core.checkpoints.weight_files import is_complete
from nmerge_core.errors import InputError, short

COLUMNS = {"layer", "category", "intersection", "id", "text"}  # of tables that have one for each model too
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_ADDRESS = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_OF_OLLAMA = re.compile(r"[\w./-]+:[\w.-]+")
_REVISION = re.compile(r"([\w.-]+/[\w.-]+)@([\w.-]+)")
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.tiktoken", "README.md"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json", "adapter_model.bin"]
# What lies beside a model and is none of it: other forms of its weights, and what training left.
_OTHERS = ["consolidated*", "*.fp16.*", "optimizer*", "training_args*", "rng_state*", "scheduler*", "onnx/*"]
_OTHERS += ["openvino/*", "original/*", "metal/*", "gguf/*", "checkpoint-*/*", "*/checkpoint-*/*", "data/*", "runs/*"]


def halves(reference: str, folder: Path = Path()) -> tuple[str, ...]:
    """Return the model that a reference names and, where it names one after a '+', the adapter.

    A path that exists is one model, whatever its name; of several places to cut, one between two folders is taken.
    Relative paths count from `folder`.
    """
    if "+" not in reference or exists(folder / expanduser(reference)):
        return (reference,)
    cuts = [index for index, character in enumerate(reference) if character == "+"]
    return max(
        ((reference[:cut], reference[cut + 1 :]) for cut in cuts),
        key=lambda pair: [isdir(folder / expanduser(half)) for half in pair],
    )


def absolute(reference: str) -> str:
    """Return the reference with local paths in full; what is not there stays as it is written."""
    paths = [(half, Path(expanduser(half))) for half in halves(reference)]
    return "+".join(str(path.resolve()) if exists(path) else half for half, path in paths)


def from_folder(reference: str, folder: Path) -> str:
    """Return the reference in full: a path counts from `folder`, whether it is there or not, unless it is a Hub id."""
    paths = [(half, folder / expanduser(half)) for half in halves(reference, folder)]
    return "+".join(half if is_hub_id(half) and not exists(path) else str(path.resolve()) for half, path in paths)


def same_model(one: str, other: str) -> bool:
    """Tell whether two references lead to the same folders, however they are spelled; asks nobody."""
    return one == other or _place(one) == _place(other)


def _place(reference: str) -> tuple[str, ...]:
    return tuple(str(_fetched(half) or Path(expanduser(half)).resolve()) for half in halves(reference))


def _fetched(reference: str) -> Path | None:
    """Return where a Hub id was fetched to; None for a folder, and for what was not fetched."""
    if exists(expanduser(reference)) or not is_hub_id(reference):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(reference, local_files_only=True)).resolve()
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def found_from(reference: str, folder: Path) -> str:
    """Return the reference as it is written or, where nothing is there, as a path from `folder` if it is there."""
    here, there = halves(reference), halves(reference, folder)
    if any(exists(expanduser(half)) for half in here) or not any(exists(folder / half) for half in there):
        return reference
    return "+".join(str(folder / half) if exists(folder / half) else half for half in there)


def is_hub_id(reference: str) -> bool:
    """Tell whether a reference, which is no folder, has the form of a Hub id."""
    return bool(_HUB_ID.match(reference)) and not reference.startswith((".", "/"))


def folder_here(reference: str) -> Path | None:
    """Return the folder of a model or an adapter that is here, or was fetched; asks nobody."""
    return _folder(reference) if isdir(expanduser(reference)) else _fetched(reference)


def _folder(reference: str) -> Path:
    """Return a local path; `//a` is `/a` here, which pathlib takes for two places."""
    path = expanduser(reference)
    return Path(f"/{path.lstrip('/')}" if path.startswith("//") else path)


def on_this_machine(reference: str) -> bool:
    """Tell whether a model or an adapter is a folder here or a Hub id whose weights were fetched; asks nobody."""
    here = folder_here(reference)
    return here is not None and (isdir(expanduser(reference)) or is_complete(here))


def resolve(reference: str, config: str = "config.json") -> Path:
    """Return the local folder of a model (or adapter), fetching it when it is a Hub id that was not fetched before.

    Pickled weights are fetched only where there are no safetensors. A model that is here already is used as it is,
    without asking the Hub. Errors name the file `config` as what the folder should hold.

    Raises:
        InputError: there is no such folder, and the Hub has no such model or cannot be reached.
    """
    if not reference:
        raise InputError(f"expected the folder that holds {config}, or a Hub id, found an empty name beside a '+'")
    folder = _folder(reference)
    if isdir(folder):
        _check_open(folder, reference)
        return folder
    if exists(folder):
        raise InputError(f"{short(reference)}: expected a folder with {config} and weights, {file_instead(folder)}")
    if not is_hub_id(reference):
        expected = f"expected a folder with {config} and weights, or a Hub id"
        hint = _hint(reference)
        raise InputError(f"{short(reference)}: no such folder; {expected} (looked in {os.getcwd()}){hint}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    here = _fetched(reference)
    if here is not None and (here / config).exists() and is_complete(here):
        return here
    try:
        fetched = Path(snapshot_download(reference, allow_patterns=_FILES, ignore_patterns=_OTHERS))
        if not is_complete(fetched):
            wanted = [*_FILES, *_PICKLED]
            fetched = Path(snapshot_download(reference, allow_patterns=wanted, ignore_patterns=_OTHERS))
        return fetched
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{short(reference)}: no such folder here, and the Hub did not give a model of that id ({reason}); "
            "check the spelling, the connection, or `hf auth login`"
        ) from error


def _check_open(folder: Path, reference: str) -> None:
    """Raise InputError where this user may not list a folder, or use what is in it."""
    try:
        os.scandir(folder).close()
        os.stat(os.path.join(folder, os.curdir))  # pathlib drops the dot
    except PermissionError:
        raise InputError(f"{short(reference)}: a folder that you may not read; ask its owner, or name a copy") from None


def _hint(reference: str) -> str:
    """Say how a model of the Hub is named whose address, or one revision, was given."""
    if address := _ADDRESS.match(reference):
        return f"; write its id: {address[1]}"
    if revision := _REVISION.fullmatch(reference):
        fetch = f"hf download {revision[1]} --revision {revision[2]} --local-dir DIR"
        return f"; for one revision of a model run `{fetch}`, and name that folder"
    if cached := _CACHED.fullmatch(reference):
        return f"; write its id: {cached[1]}/{cached[2]}"
    if _OF_OLLAMA.fullmatch(reference):
        return "; what Ollama names so is quantised for llama.cpp: name the folder or Hub id of the original model"
    return ""


def check_labels(labels: Sequence[str], where: str) -> None:
    """Raise InputError, naming `where` they stand, if a model is called as a column of the tables it has one in."""
    for taken in sorted({*labels} & COLUMNS):
        raise InputError(f"{where}: a model is called '{taken}', as a column of the tables is; give it another label")


def label(reference: str) -> str:
    """Return the short name of a model in tables and figures: the last part of its path or id, `model+adapter`."""
    return _short(_parts(reference), 1)


def labels(references: Sequence[str]) -> list[str]:
    """Return a distinct label per reference: parent folders are added where the last parts collide."""
    parts = [_parts(reference) for reference in references]
    result = []
    for own in parts:
        depth = 1
        while depth < max(map(len, own)) and sum(_short(other, depth) == _short(own, depth) for other in parts) > 1:
            depth += 1
        result.append(_short(own, depth))
    return result


def _parts(reference: str) -> list[tuple[str, ...]]:
    return [Path(half.rstrip("/")).parts or (half,) for half in halves(reference)]


def _short(parts: Sequence[tuple[str, ...]], depth: int) -> str:
    return "+".join("/".join(half[-depth:]).lstrip("/") for half in parts)
