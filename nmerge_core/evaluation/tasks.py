"""From what a user calls a task to a task of lm-evaluation-harness, ready to run and able to do so offline."""

import difflib
import functools
import logging
import tempfile
from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry
from lm_eval.tasks._yaml_loader import load_yaml

import nmerge_core.evaluation.code  # noqa: F401 — registers the filter run_code
from nmerge_core.cache import DEMO, cache_root, task_file
from nmerge_core.errors import InputError

# lm-eval writes bars and remarks on the terminal that belongs to our progress, and datasets counts its uses online.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
lm_eval.api.task.tqdm = lambda items, **_: items
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
datasets.disable_progress_bars()


def load_task(reference: str, *, run_code: bool) -> dict[str, Any]:
    """Load a task, or a group of tasks, with its documents.

    Args:
        reference: the path of a task YAML; the name of a task of the demo family; or of one of lm-eval's own.
            `data_files` in a YAML count from the YAML's folder.
        run_code: whether tasks that run generated code may be loaded.

    Returns:
        What `lm_eval.evaluator.evaluate` takes: tasks and groups by name.

    Raises:
        InputError: there is no such task, it cannot be loaded, or it runs generated code (outside our sandbox, or
            without `run_code`).
    """
    manager, name = _find(reference)
    try:
        with tempfile.TemporaryDirectory(prefix="nmerge-tasks-") as cache:
            manager._factory = _Factory(cache, run_code)
            loaded = manager.load([name])
    except InputError:
        raise
    except Exception as error:  # a YAML can name any data set and any function, so anything can go wrong
        raise InputError(f"task '{reference}': lm-eval cannot load it – {type(error).__name__}: {error}") from error
    for task in loaded["tasks"].values():
        _set_fewshot(task)
    return loaded


def demo_tasks() -> Path:
    """Return the folder of the demo family's tasks."""
    return cache_root() / DEMO / "tasks"


def _find(reference: str) -> tuple[TaskManager, str]:
    if file := task_file(reference, cache_root()):
        return _local(file)
    if reference.endswith((".yaml", ".yml")):
        raise InputError(f"task '{reference}': no such file")
    manager = _builtin()
    if reference not in manager.all_tasks:
        demo = sorted(found.stem for found in demo_tasks().glob("*.yaml"))
        close = difflib.get_close_matches(reference, [*demo, *manager.all_tasks], n=3)
        raise InputError(
            f"task '{reference}': expected the path of a task YAML, the name of a task of lm-eval, or one that comes "
            f"with NMerge ({', '.join(demo) or 'none here; `nmerge demo` writes them'}); found no such task"
            + (f" – did you mean {', '.join(close)}?" if close else "")
        )
    return manager, reference


def _local(path: Path) -> tuple[TaskManager, str]:
    try:
        config = load_yaml(path, resolve_func=False)
    except Exception as error:
        raise InputError(f"task '{path}': not a task YAML – {error}") from error
    # Only a group needs an index of the folder, which may be a large one: to find its members.
    if "group" in config:
        return TaskManager(include_path=[path.parent], include_defaults=False), config["group"]
    return TaskManager(include_defaults=False), str(path)


@functools.cache
def _builtin() -> TaskManager:
    return TaskManager()


def _set_fewshot(task: Task) -> None:
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


class _Factory(TaskFactory):
    """lm-eval's factory, with local data read afresh from beside the YAML, and generated code kept in the sandbox."""

    def __init__(self, cache: str, run_code: bool) -> None:
        super().__init__()
        self._cache = cache
        self._run_code = run_code

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        if entry.yaml_path:
            self._check_code(entry.name, load_yaml(entry.yaml_path, resolve_func=False))
        config = super()._load_full_config(entry, overrides)
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        if files and entry.yaml_path:
            local = {"data_files": _beside(entry.yaml_path, files), "cache_dir": self._cache, "keep_in_memory": True}
            config["dataset_kwargs"] = {**config["dataset_kwargs"], **local}
        return config

    def _check_code(self, name: str, config: Mapping[str, Any]) -> None:
        if not config.get("unsafe_code"):
            return
        filters = {step["function"] for chain in config.get("filter_list") or () for step in chain["filter"]}
        if "run_code" not in filters:
            raise InputError(
                f"task '{name}': it runs generated code by its own means, and NMerge runs such code only in its "
                "sandbox; write a task YAML with the filter run_code (nmerge_core/evaluation/code.py says how)"
            )
        if not self._run_code:
            raise InputError(
                f"task '{name}': it runs code that the model writes, which is off by default; switch it on with "
                "--run-code (run_code=True in Python, the switch 'Run generated code' in the app): each program then "
                "runs in a sandbox without network, files or privileges"
            )


def _beside(yaml: Path, files: Any) -> Any:
    """Return `data_files` (a path, or a list or mapping of them) with relative paths counted from the YAML's folder."""
    if isinstance(files, Mapping):
        return {split: _beside(yaml, part) for split, part in files.items()}
    if not isinstance(files, str):
        return [_beside(yaml, part) for part in files]
    if "://" in files:
        return files
    path = yaml.parent / expanduser(files)
    if "*" not in files and not path.is_file():
        raise InputError(f"{yaml}, key 'data_files': no file {path}")
    return str(path.absolute())
