"""From what a user calls a task to a task of lm-evaluation-harness, ready to run and able to do so offline."""

import difflib
import functools
import logging
import tempfile
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from os.path import expanduser
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry
from lm_eval.tasks._yaml_loader import load_yaml

import nmerge_core.evaluation.code  # noqa: F401 — registers the filter run_code
import nmerge_core.evaluation.translation  # noqa: F401 — registers the aggregation bleu_zh
from nmerge_core.cache import DEMO, cache_root, own_tasks, task_data, task_file
from nmerge_core.errors import InputError, shown
from nmerge_core.evaluation.image_file import read_image_file
from nmerge_core.evaluation.image_task import ImageTask
from nmerge_core.evaluation.templates import UnsafeTemplate
from nmerge_core.task_yaml.code import own_code, place_of
from nmerge_core.task_yaml.files import is_image_task, task_files, yamls_below

# lm-eval writes bars and remarks on the terminal that belongs to our progress, and datasets counts its uses online.
logging.getLogger("lm_eval").setLevel(logging.ERROR)
lm_eval.api.task.tqdm = lambda items, **_: items
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
datasets.disable_progress_bars()


_scripts_allowed: ContextVar[bool] = ContextVar("_scripts_allowed", default=False)
_get_metric = lm_eval.api.task.get_metric


def _metric(name: str, hf_evaluate_metric: bool = False) -> Callable[..., Any] | None:
    if (hf_evaluate_metric or name not in metric_registry) and not _scripts_allowed.get():
        raise InputError(
            _refused(f"its metric '{name}' is not one of lm-eval's but a script of Hugging Face's evaluate")
        )
    return _get_metric(name, hf_evaluate_metric)


lm_eval.api.task.get_metric = _metric  # however settings of files, groups and members come together, it ends here


def load_task(reference: str, *, run_code: bool, allow_task_code: bool = False) -> dict[str, Any]:
    """Load a task, or a group of tasks, with its documents.

    Args:
        reference: the path of a task YAML, of lm-eval or of images; the name of a task of the demo family; NAME=FILE,
            one of our tasks on the problems of a file (JSON Lines, CSV or Parquet); or one of lm-eval's own. Data in a
            YAML count from the YAML's folder.
        run_code: whether tasks that run generated code may be loaded.
        allow_task_code: whether the task may bring code of its own, which runs here with the rights of this process.

    Returns:
        What `lm_eval.evaluator.evaluate` takes: tasks and groups by name.

    Raises:
        InputError: there is no such task, it cannot be loaded, it runs generated code (outside our sandbox, or without
            `run_code`), or it brings code of its own without `allow_task_code`.
    """
    file = task_file(reference, cache_root())
    if file and is_image_task(file):
        task = ImageTask(read_image_file(file))
        return {"tasks": {task.task_name: task}}
    wanted = own_code(file) if file else []
    if wanted and not allow_task_code:
        more = f" (and {len(wanted) - 1} more)" if len(wanted) > 1 else ""
        raise InputError(_refused(f"task '{reference}': it brings code of its own: {wanted[0]}{more}"))
    _, data = task_data(reference)
    if data and not Path(expanduser(data)).is_file():
        raise InputError(f"task '{reference}': no file {data}")
    manager, name = _find(reference, file)
    token = _scripts_allowed.set(allow_task_code or file is None)
    try:
        with tempfile.TemporaryDirectory(prefix="nmerge-tasks-") as cache:
            manager._factory = _Factory(cache, run_code, data)
            loaded = manager.load([name])
    except UnsafeTemplate as error:
        raise InputError(f"task '{reference}': {place_of(file, error.template) if file else name}: {error}") from error
    except InputError:
        raise
    except Exception as error:  # a YAML can name any data set and any function, so anything can go wrong
        raise InputError(f"task '{reference}': lm-eval cannot load it – {type(error).__name__}: {error}") from error
    finally:
        _scripts_allowed.reset(token)
    for task in loaded["tasks"].values():
        _set_fewshot(task)
    return loaded


def demo_tasks() -> Path:
    """Return the folder of the demo family's tasks."""
    return cache_root() / DEMO / "tasks"


def _refused(what: str) -> str:
    return (
        f"{what}; that is off by default, as it would run outside of any sandbox, with your rights: read it, then "
        "switch it on with --allow-task-code (allow_task_code=True in Python, the switch 'Run the task's own code' in "
        "the app; a recipe cannot)"
    )


def _find(reference: str, file: Path | None) -> tuple[TaskManager, str]:
    if file:
        return _local(file)
    if reference.endswith((".yaml", ".yml")):
        raise InputError(f"task '{reference}': no such file")
    manager = _builtin()
    if reference not in manager.all_tasks:
        demo = sorted(found.stem for found in demo_tasks().glob("*.yaml"))
        close = difflib.get_close_matches(reference, [*demo, *manager.all_tasks], n=3)
        raise InputError(
            f"task '{reference}': expected the path of a task YAML, the name of a task of lm-eval, or one that comes "
            f"with NMerge ({', '.join(demo) or 'none here; `nmerge demo` writes them'}), or NAME=FILE with one of "
            f"{', '.join(own_tasks())}; found no such task" + (f" – did you mean {', '.join(close)}?" if close else "")
        )
    return manager, reference


def _local(path: Path) -> tuple[TaskManager, str]:
    task_files([path])  # which bounds what is read, as lm-eval does not
    try:
        config = load_yaml(path, resolve_func=False)
    except Exception as error:
        raise InputError(f"task '{path}': not a task YAML – {error}") from error
    # Only a group needs an index of the folder, which may be a large one: to find its members.
    if "group" in config:
        yamls_below(path.resolve().parent)  # which bounds it
        return TaskManager(include_path=[path.resolve().parent], include_defaults=False), config["group"]
    return TaskManager(include_defaults=False), str(path)


@functools.cache
def _builtin() -> TaskManager:
    return TaskManager()


def _set_fewshot(task: Task) -> None:
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)


_DATA = {"dataset_path", "custom_dataset", "class"}  # keys by which a member of a group is a task of its own


class _Factory(TaskFactory):
    """lm-eval's factory, with local data read afresh from beside the YAML, and generated code kept in the sandbox."""

    def __init__(self, cache: str, run_code: bool, data: str) -> None:
        super().__init__()
        self._cache = cache
        self._data = data  # the file of problems, where the task is asked of one
        self._run_code = run_code

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        if entry.yaml_path:
            self._check_code(entry.name, load_yaml(entry.yaml_path, resolve_func=False))
        config = super()._load_full_config(entry, overrides)
        if self._data:
            config |= self._asked_of_file(config)
        files = (config.get("dataset_kwargs") or {}).get("data_files")
        if files and entry.yaml_path:
            local = {"data_files": _beside(entry.yaml_path, files), "cache_dir": self._cache, "keep_in_memory": True}
            config["dataset_kwargs"] = {**config["dataset_kwargs"], **local}
        return config

    def _build_group_members(
        self, member_list: list[Any], group_name: str, overrides: dict[str, Any] | None, registry: dict[str, Entry]
    ) -> list[Any]:
        """Build the members of a group; one that is neither a known task nor brings data of its own is refused."""
        for member in member_list:
            own = member if isinstance(member, Mapping) else {"task": member}
            name = own.get("task")
            if isinstance(name, str) and name not in registry and not _DATA & {*own, *(overrides or {})}:
                raise InputError(
                    f"group '{group_name}', key 'task': expected tasks of YAML files in its folder, found "
                    f"{shown(name)}, which is none of them; correct it, or name a task of lm-eval beside the group"
                )
        return super()._build_group_members(member_list, group_name, overrides, registry)

    def _asked_of_file(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings by which one of our tasks reads a file; raises InputError where that lacks a field."""
        file, split = str(Path(expanduser(self._data)).absolute()), config["test_split"]
        format_ = {".csv": "csv", ".parquet": "parquet"}.get(Path(file).suffix, "json")
        problems = datasets.load_dataset(format_, data_files={split: file}, split=split, cache_dir=self._cache)
        fields, known = config["metadata"]["fields"], problems.column_names
        if lacking := [name for name in fields if name not in known]:
            raise InputError(
                f"{file}: expected problems with the fields {', '.join(fields)}; found {', '.join(known)}, without "
                f"{', '.join(lacking)}"
            )
        return {"dataset_path": format_, "dataset_name": None, "dataset_kwargs": {"data_files": {split: file}}}

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
