"""The demo family on disk: Hugging Face folders, classification corpus and held-out tasks, shipped or trained anew."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nmerge_core.demo.text import CATEGORIES, Example, distinct
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import Damaged, check_sealed, read_object, sealed
from nmerge_core.machine import choose_device
from nmerge_core.progress import Progress, silent

PACKAGE = Path(__file__).parent
WEIGHTS = PACKAGE / "weights"  # one folder per model, and the config and tokenizer that all four share
MODELS = ("base", "math", "code", "translation")
CORPUS_SIZE = 300  # exemplars of each category (NeuronMerge §2.1)
TASK_SIZES = {"math": 300, "code": 300, "translation": 300, "general": 100}
TASK_SEED = 0
_MARKER = "family.json"  # written last: a folder that has it is complete


def write_family(out: Path, progress: Progress = silent) -> Path:
    """Write the shipped family to `out` and return it; an undamaged family of this version is left as it is.

    `out` gets base/ math/ code/ translation/ (bfloat16 checkpoints with tokenizer), corpus/<category>.jsonl
    ({"text"} a line) and tasks/ (<task>.jsonl beside the task definitions). It appears only when complete.

    Raises:
        InputError: `out` exists and holds something else than a demo family.
    """
    if _whole(out):
        return out
    with _replacing(out) as folder:
        _assemble(folder, WEIGHTS, progress)
    return out


def retrain(out: Path, device: str, progress: Progress = silent) -> Path:
    """Train tokenizer, base and fine-tunes anew and write the same layout as `write_family`, to the same rules."""
    from nmerge_core.demo.training import train_family  # torch and transformers take seconds that writing needs not

    with _replacing(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent, prefix=".demo-weights-") as weights:
        train_family(Path(weights), choose_device(device), progress)
        _assemble(folder, Path(weights), progress)
    return out


def task_record(task: str, example: Example) -> dict[str, str]:
    """One line of tasks/<task>.jsonl."""
    if task == "math":
        return {"prompt": example.prompt, "answer": example.answer}
    if task == "code":
        return {
            "prompt": example.prompt,
            "tests": example.tests,
            "entry_point": example.entry_point,
            "solution": example.answer,
        }
    if task == "translation":
        return {"prompt": example.prompt, "target": example.answer, "direction": example.direction}
    return {"text": example.text}


def _assemble(folder: Path, weights: Path, progress: Progress) -> None:
    steps = len(MODELS) + 2 * len(CATEGORIES)
    done = 0
    for model in MODELS:
        progress("writing the demo family", done, steps)
        shutil.copytree(weights / model, folder / model)
        for shared in weights.glob("*.json"):
            shutil.copy(shared, folder / model)
        done += 1
    (folder / "corpus").mkdir()
    (folder / "tasks").mkdir()
    for category in CATEGORIES:
        progress("writing the demo family", done, steps)
        corpus = distinct(category, "corpus", TASK_SEED, CORPUS_SIZE)
        _write_lines(folder / "corpus" / f"{category}.jsonl", [{"text": example.text} for example in corpus])
        done += 1
        progress("writing the demo family", done, steps)
        tests = distinct(category, "test", TASK_SEED, TASK_SIZES[category])
        _write_lines(folder / "tasks" / f"{category}.jsonl", [task_record(category, example) for example in tests])
        done += 1
    for definition in (*(PACKAGE / "tasks").glob("*.yaml"), *(PACKAGE / "tasks").glob("*.py")):
        shutil.copy(definition, folder / "tasks")
    (folder / _MARKER).write_text(json.dumps({"version": _version(), "files": sealed(folder)}) + "\n")
    progress("writing the demo family", steps, steps)


def _write_lines(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def _version() -> str:
    """A digest of everything the family is made of: generators, training script, task definitions and weights."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _whole(out: Path) -> bool:
    """Tell whether a folder has this version's family: the models as written, and corpus and tasks, if edited since."""
    try:
        marker = read_object(out / _MARKER, {"version": str, "files": dict})
        models = {name: seal for name, seal in marker["files"].items() if Path(name).parts[0] in MODELS}
        check_sealed(out, models)
    except Damaged:
        return False
    others = [out / name for name in marker["files"] if name not in models]
    return marker["version"] == _version() and all(file.is_file() and file.stat().st_size for file in others)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place at the end, or vanishes if the work fails."""
    if out.exists() and not os.path.lexists(out / _MARKER) and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: expected no folder, an empty one or a demo family, found something else; "
                         "choose another folder")  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if out.exists():
            os.replace(out, Path(temporary) / "old")
        os.replace(folder, out)
