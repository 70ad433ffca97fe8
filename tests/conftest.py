"""What every test has: no network, one thread, and a cache of its own."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Before any test module imports torch, transformers or the project.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Compiled loops are kept from run to run; every test's own cache would compile them anew.
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
os.environ["NMERGE_CACHE"] = tempfile.mkdtemp(prefix="nmerge-tests-")

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: to look through it at every collection takes time


@pytest.hookimpl(tryfirst=True)  # before the test's fixtures are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("mergekit") and find_spec("mergekit") is None:
        pytest.skip("mergekit is not installed here; `make test` runs this in an environment of its own")


@pytest.fixture(scope="session")
def made_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], SimpleNamespace]:
    """Make the tiny models of a family of `tests.families` when they are first asked for."""
    from tests.families import make

    root = tmp_path_factory.mktemp("families")
    made: dict[str, SimpleNamespace] = {}

    def get(family: Any) -> SimpleNamespace:
        if family.title not in made:
            made[family.title] = make(family, root / str(len(made)))
        return made[family.title]

    return get


@pytest.fixture(scope="session")
def mergekit_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a process that has imported mergekit, and forks."""
    from nmerge_core.merging.mergekit.process import ENVIRONMENT
    from nmerge_core.places import child_environment

    path = str(tmp_path_factory.mktemp("mergekit") / "socket")
    command = [sys.executable, "-c", f"from tests.forked_mergekit import serve; serve({path!r})"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env=child_environment() | ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        yield path
        server.communicate()  # ends with its stdin


@pytest.fixture
def forked_mergekit(mergekit_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit runs in a process that needs no imports any more."""
    from nmerge_core.merging.mergekit import process
    from tests import forked_mergekit

    monkeypatch.setattr(process, "CHILD", (sys.executable, "-S", forked_mergekit.__file__, mergekit_server))
