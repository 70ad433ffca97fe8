"""What the name of a model, a corpus, a task or a file leads to, and the fingerprint of what is there."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from os.path import exists, expanduser, isdir, isfile  # which raise of no name, where pathlib's do
from pathlib import Path

from nmerge_core.cache import task_data, task_file
from nmerge_core.checkpoints import (
    Checkpoint,
    absolute,
    fingerprint,
    fingerprint_files,
    fingerprint_weights,
    open_checkpoint,
)
from nmerge_core.checkpoints.companions import companions
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.corpus.corpus import corpus_files, whole_and_slice
from nmerge_core.errors import InputError, short
from nmerge_core.files.data_folder import files_in
from nmerge_core.task_yaml.files import task_files, text_model_of, yamls_below

# Of a classification's meta.json; its top.safetensors tells the rest. `d_ffn` is there up to version 0.2.
_VOTING = ("layers", "d_ffn", "categories", "exemplar_categories", "top_k", "margin")
Found = tuple[str, str]  # the full name of what was named, and the fingerprint of what it holds


def find_path(reference: str, folder: Path | None) -> Path:
    """Find a file as it is written, else beside the file that names it, which lies in `folder`."""
    path = Path(expanduser(reference))
    return folder / reference if folder and not exists(path) and exists(folder / reference) else path


def no_run(reference: str) -> Path | None:
    """Find no run: where names are paths alone."""
    return None


@dataclass(frozen=True)
class Places:
    """Where names lead: `root` is the cache that holds the demo's tasks, `folder` where paths of data may start too.

    `results` gives the results of a run by its id, or None. Every method returns the full name and the fingerprint of
    what is there, remembered, and raises InputError where there is no such thing.
    """

    root: Path
    folder: Path | None = None
    results: Callable[[str], Path | None] = no_run
    _models: dict[str, Found] = field(default_factory=dict, repr=False, compare=False)

    def with_models(self, found: Mapping[str, Found]) -> "Places":
        """Return places where some models are known beforehand, as those that are yet to be made."""
        return replace(self, _models={**self._models, **found})

    def model(self, reference: str) -> Found:
        """Find a model: its weights and configuration count, its tokenizer and how it generates."""
        if reference not in self._models:
            self._models[reference] = absolute(reference), model_fingerprint(open_checkpoint(reference))
        return self._models[reference]

    def corpus(self, reference: str) -> Found:
        """Find a corpus: all its files count, and which of its lines are meant."""
        whole, meant = whole_and_slice(reference)
        path = self._path(whole)
        named = corpus_files(path)
        if not named:
            found = "a folder without such files" if path.is_dir() else "no such corpus"
            raise InputError(
                f"{short(reference)}: {found}; expected a folder of <category>.jsonl files, or a YAML file"
            )
        return f"{path}{meant}", digest(file for each in named for file in files_in(each))

    def classification(self, reference: str) -> Found:
        """Find a folder that `classify` wrote, or such a run: its neurons' categories count, and what votes again."""
        folder = self.results(reference) or self._path(reference)
        neurons = folder / "neurons.parquet"
        if not isfile(neurons):
            raise InputError(
                f"{short(reference)}: expected a classification (a folder that `classify` wrote), found no {neurons}"
            )
        return str(folder), f"{digest([neurons])}-{_votes(folder)}"

    def statistics(self, reference: str) -> Found:
        """Find a folder that `statistics` wrote: all its tensors count."""
        meta = self._path(reference) / "meta.json"
        if not isfile(meta):
            raise InputError(f"{short(reference)}: expected a folder that `statistics` wrote, found no {meta}")
        tensors = fingerprint_weights(sorted(meta.parent.glob("*.safetensors")))
        return str(meta.parent), f"{digest([meta])}-{tensors[:16]}"

    def task(self, reference: str) -> Found:
        """Find a task: a YAML file, NAME=FILE, or the name of a task of the demo family, of ours or of lm-eval.

        The version of lm-eval, which scores it, is a part of its fingerprint: the whole of that of lm-eval's own tasks.
        """
        name, data = task_data(reference)
        if data:
            problems, content = self.file(data)
            _, template = self.task(str(task_file(reference, self.root)))
            return f"{name}={problems}", f"{content} {template}"
        beside = find_path(reference, self.folder) if reference.endswith((".yaml", ".yml")) else None
        named = absolute(str(beside)) if beside else reference
        file, engine = task_file(named, self.root), f"lm-eval {version('lm_eval')}"
        if file is None:
            return named, engine
        if text_model := text_model_of(file):
            engine += f" {self.model(text_model)[1]}"
        grouped = re.search(r"^group\s*:", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        return named, f"{digest(task_files([file, *yamls_below(file.parent)] if grouped else [file]))} {engine}"

    def file(self, reference: str) -> Found:
        """Find a file: all of it counts."""
        path = self._path(reference)
        if not isfile(path):
            raise InputError(f"{short(reference)}: expected a file, found {'a folder' if isdir(path) else 'none'}")
        return str(path), digest([path])

    def _path(self, reference: str) -> Path:
        return Path(absolute(str(find_path(reference, self.folder))))


def _votes(folder: Path) -> str:
    """Return the fingerprint of what a vote with other settings reads; empty for what a merge has left, which has none.

    Of meta.json that is a part: the rest, such as the seconds it took, differs between equal classifications.
    """
    meta, top = folder / "meta.json", folder / "top.safetensors"
    if not (meta.is_file() and top.is_file()):
        return ""
    said = read_json(meta, "`classify` writes it")
    voting = json.dumps([said.get(key) for key in _VOTING])
    return hashlib.sha256(f"{voting} {fingerprint_weights([top])}".encode()).hexdigest()[:16]


def model_fingerprint(checkpoint: Checkpoint) -> str:
    """Return the fingerprint of all that decides what a model answers: weights, configuration, tokenizer, settings."""
    beside = (file for each in companions(checkpoint.folder) for file in files_in(each))
    return f"{fingerprint(checkpoint)}-{digest(beside)}"


def digest(files: Iterable[Path]) -> str:
    """Return the digest of files, reading them again only when one has changed: pages ask at every click."""
    try:
        return _digest(tuple((file, (found := file.stat()).st_size, found.st_mtime_ns) for file in sorted(files)))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


@lru_cache(maxsize=256)
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    return fingerprint_files(file for file, _, _ in stamps)
