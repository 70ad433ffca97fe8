"""Mistakes in a task of one's own, told as such."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nmerge_core.cache import cache_root, task_file
from nmerge_core.errors import InputError

# What lm-eval meets in settings of a task that it uses only when it scores: filters, settings of generation.
_OF_A_TASK = (TypeError, ValueError, LookupError, AttributeError, AssertionError, OverflowError, re.error)


@contextmanager
def faults_of(reference: str, label: str) -> Iterator[None]:
    """Tell what lm-eval meets in a task of one's own, in which anybody can make a mistake, as that task's fault.

    Raises:
        InputError: it met something when it scored the model of this label.
    """
    try:
        yield
    except _OF_A_TASK as error:
        if task_file(reference, cache_root()) is None:
            raise
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"task '{reference}': lm-eval cannot score {label} on it – {found}") from error
