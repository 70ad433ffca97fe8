"""What stands beside a model's weights and goes by its tokens: tokenizer, chat template, how it generates."""

import fnmatch
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nmerge_core.errors import InputError
from nmerge_core.files.data_folder import files_in
from nmerge_core.files.small_file import read_small

# Kinds of names, so that a tokenizer's files are known whatever its class calls them; a test holds these against the
# names that transformers' classes give. What is none of them stays behind: states of training, logs and data are
# nobody's to pass on.
_PATTERNS = (
    "*tokenizer*",
    "*vocab*",
    "*merges*",
    "*tokens*.json",
    "*bpe*",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*chat_template*",
    "*processor_config.json",
    "generation_config.json",
    "tekken.json",
    "normalizer.json",
    "word_*.json",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "modules.json",
    "*sentence_*.json",
)
_BELOW = ("*tokenizer*/*", "additional_chat_templates/*.jinja")
_NAMED = re.compile("|".join(map(fnmatch.translate, _PATTERNS)))  # as a glob for each reads the folder for each
_MODULES = "modules.json"  # of sentence-transformers: it names the folders of what stands behind the model
_LARGEST = 1_000_000  # bytes of that file
_NEVER = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".py", ".pyc")


def companions(folder: Path) -> set[Path]:
    """Return the files of a model that travel with its tokenizer: none of its weights, and no code."""
    found = {each for each in folder.glob("*") if _NAMED.match(each.name)}
    found |= {each for pattern in _BELOW for each in folder.glob(pattern)}
    return {each for each in found if each.is_file() and each.suffix not in _NEVER} | set(_of_modules(folder))


def copy_companions(source: Path, target: Path) -> None:
    """Copy the companions of a model's folder to their places in another."""
    for file in companions(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _of_modules(folder: Path) -> Iterator[Path]:
    """Yield the files of the modules behind a model: a pooling, a projection, which has a few weights of its own."""
    listed = None
    with suppress(OSError, ValueError, RecursionError, InputError):
        listed = json.loads(read_small(folder / _MODULES, _LARGEST))
    paths = [each.get("path") for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    for path in paths:
        inside = PurePosixPath(path) if isinstance(path, str) else PurePosixPath()
        if inside.parts and not inside.is_absolute() and ".." not in inside.parts:
            yield from (each for each in files_in(folder / inside) if each.suffix not in (".py", ".pyc"))
