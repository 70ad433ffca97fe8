"""What every test has: no network, one thread, and a cache of its own."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Before any test module imports torch, transformers or the project.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NMERGE_WORKERS"] = "1"  # however many accelerators there are here
# Compiled loops are kept from run to run; every test's own cache would compile them anew.
os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
os.environ["NMERGE_CACHE"] = tempfile.mkdtemp(prefix="nmerge-tests-")

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from tests.hub import Seen, serve_hub

# Killed workers and commands leave temporary files behind, which go when the tests end; pytest's own stay for a look.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="nmerge-tests-")
_FOLDERS = os.environ["NMERGE_CACHE"], os.environ["TMPDIR"]
gc.set_threshold(50_000, 20, 100)  # imports make a million objects that stay, and tests few circles
# What commands, notebooks, workers and launchers import sooner or later.
IMPORTS = (
    "nmerge_core.cli.commands",
    "nmerge_core.merging.pipeline",
    "nmerge_core.classification",
    "nmerge_core.activations.collect",
    "nmerge_core.evaluation.harness",
    "nmerge_core.figures",
    "nmerge_core.notebook",
    "transformers.models.qwen2.modeling_qwen2",
    "ipykernel.kernelapp",
    "torch.distributed.run",
)


def pytest_unconfigure() -> None:
    for folder in _FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)


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
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """A command that stands for `python` before `-m` or `-c`, whose programs need no imports any more."""
    with forking(tmp_path_factory.mktemp("forked") / "socket", *IMPORTS) as command:
        yield command


@pytest.fixture(scope="session")
def forking_mergekit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """The same for programs that import mergekit."""
    from nmerge_core.merging.mergekit.process import ENVIRONMENT

    imports = "mergekit.merge", "nmerge_core.checkpoints.pickled"
    with forking(tmp_path_factory.mktemp("mergekit") / "socket", *imports, **ENVIRONMENT) as command:
        yield command


@pytest.fixture
def forked_mergekit(forking_mergekit: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit runs in a process that needs no imports any more."""
    from nmerge_core.merging.mergekit import process

    monkeypatch.setattr(process, "CHILD", (*forking_mergekit, "-m", "nmerge_core.merging.mergekit.child"))


@contextmanager
def forking(path: Path, *modules: str, **environment: str) -> Iterator[tuple[str, ...]]:
    """Serve programs forked from a process with these imports; yield the command that stands for `python`."""
    from tests import forked

    command = [sys.executable, "-c", f"from tests.forked import serve; serve({str(path)!r}, *{modules!r})"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout and server.stdout.readline() == "ready\n"
        yield sys.executable, "-S", forked.__file__, str(path)
        server.communicate()  # ends with its stdin


@pytest.fixture
def hub() -> Iterator[tuple[str, Seen]]:
    """A server that takes what the Hub does, its address, and what it was asked."""
    with serve_hub() as serving:
        yield serving
