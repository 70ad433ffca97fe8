"""Which tasks run what a model writes or code of their own, and the switches that allow it."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from nmerge_core.cache import cache_root, task_data, task_file
from nmerge_core.task_yaml.code import own_code, runs_code

_SHOWN = 5  # places in task files

CODE_SWITCH = "Run generated code"  # as the message of a task that needs it calls it


def has_own_code(task: str) -> bool:
    """Whether a task's YAML, or what it includes, brings code of its own."""
    file = task_file(task, cache_root())
    return file is not None and bool(own_code(file))


def task_name(task: str) -> str:
    """What pages call a task: its name, or that of its YAML."""
    name, _ = task_data(task)
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def code_switch(tasks: Sequence[str], key: str, default: bool = False, *, linked: bool = True) -> bool:
    """The switch that lets tasks run generated code; drawn only where one of `tasks` does, else off.

    It is in the page's address unless `linked` is False: where scoring begins by itself no link may switch it on.
    """
    if not any(runs_code(task) for task in tasks):
        return False
    return st.toggle(
        CODE_SWITCH,
        default,
        key=key,
        bind="query-params" if linked else None,
        help="Scores code tasks by running what the model wrote, in a locked-down process without network and files",
    )


def own_code_switch(tasks: Sequence[str], key: str, default: bool = False) -> bool:
    """The switch that lets tasks run code of their own, with what that is; drawn only where one has some, else off."""
    files = [file for task in tasks if (file := task_file(task, cache_root())) is not None]
    found = [str(each) for file in files for each in own_code(file)]
    if not found:
        return False
    allowed = st.toggle(
        "Run the task's own code",
        default,
        key=key,
        help="It runs outside of any sandbox, with all your rights: switch it on for code that you have read",
    )
    st.text("\n".join(found[:_SHOWN]) + (f"\nand {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""))
    return allowed
