"""Which tasks run what a model writes, and the switch that allows it."""

import re
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from nmerge_core.cache import cache_root, task_file


def runs_code(task: str) -> bool:
    """Whether a task runs generated code, as its YAML says."""
    file = task_file(task, cache_root())
    return file is not None and re.search(r"^unsafe_code:\s*true\b", file.read_text(), re.MULTILINE) is not None


def task_name(task: str) -> str:
    """What pages call a task: its name, or that of its YAML."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def code_switch(tasks: Sequence[str], key: str, default: bool = False) -> bool:
    """The switch that lets tasks run generated code; drawn only where one of `tasks` does, else off."""
    if not any(runs_code(task) for task in tasks):
        return False
    return st.toggle(
        "Run its code",
        default,
        key=key,
        help="Scores code tasks by running what the model wrote, in a locked-down process without network and files",
    )
