"""A family of tiny models in a cache of its own, classified for real, and pages opened on it."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.family import Family, Member, load_family, save_family
from nmerge_core.progress import Progress, silent
from nmerge_core.runs import client, operations, short_questions
from nmerge_core.runs.folder import Run, Status, create, list_runs
from nmerge_core.runs.lock import worker_pid
from nmerge_core.runs.request import resolve
from pages.shared.tuning import answers
from tests.tiny import TEXTS, tiny_model, write_corpus

OpenPage = Callable[..., AppTest]
APP = str(Path(__file__).parents[2] / "app.py")


def at(page: str) -> AppTest:
    """The app at one of its pages, not yet run."""
    return AppTest.from_file(APP, default_timeout=300).switch_page(page)


def finish(root: Path, kind: str, parameters: dict[str, object], title: str) -> Run:
    """Do a run in this process, as the worker would, and leave its folder behind."""
    request = resolve(root, kind, parameters)
    run = create(root, kind, request.key, title, request.parameters, request.inputs, "")
    run.part.mkdir()
    operations.OPERATIONS[kind](request.parameters, run.part, lambda stage, done, total, unit="": None)
    run.part.rename(run.results)
    run.write_status(Status("done", started=time.time() - 2))
    return run


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with the family "tiny": base, math and code, the first two of them classified."""
    root = tmp_path_factory.mktemp("app").resolve()
    names = ("base", "math", "code")
    references = {name: tiny_model(root / "models" / name, seed=seed) for seed, name in enumerate(names)}
    corpus = write_corpus(root / "corpus", TEXTS)
    tuned = tuple(Member(references[name], name, name) for name in names[1:])
    save_family(Family("tiny", references["base"], tuned, corpus), root / "families")
    for name in names[:2]:
        finish(root, "classify", {"model": references[name], "corpus": corpus}, f"Classify {name}")
    yield root
    end_worker(root)


_ANSWERING = threading.Lock()  # a worker answers one question at a time


@pytest.fixture
def asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have questions answered in this process, by what the worker answers them with."""

    def ask(
        question: str, *, timeout: float = 0.0, session: str = "", progress: Progress = silent, **asked: Any
    ) -> Any:
        with _ANSWERING:
            return json.loads(json.dumps(short_questions.QUESTIONS[question](**json.loads(json.dumps(asked)))))

    monkeypatch.setattr(client, "ask", ask)
    monkeypatch.setattr(answers, "AT_ONCE", 600.0)  # nobody looks again here


@pytest.fixture
def no_worker(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """See that what is queued waits: no worker is started, and one that an earlier test has started is ended.

    What waits at the end is cancelled, so that no later test's worker does it.
    """
    end_worker(tiny_cache)
    monkeypatch.setattr(client, "ensure_worker", lambda: None)
    yield
    for run in list_runs(tiny_cache):
        if run.status().state == "queued":
            client.cancel(run)


def end_worker(root: Path) -> None:
    """End the worker of a cache, if there is one."""
    if pid := worker_pid(root):
        os.kill(pid, signal.SIGTERM)
    while worker_pid(root):
        time.sleep(0.01)


def vary_family(root: Path, name: str, **changed: Any) -> Path:
    """Save the tiny family under another name with some of it changed; return its file."""
    tiny = load_family(root / "families" / "tiny.yaml")
    return save_family(replace(tiny, name=name, **changed), root / "families")


@pytest.fixture
def open_page(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """Open a page of the app on the tiny family, with parameters in its address."""
    monkeypatch.setenv("NMERGE_CACHE", str(tiny_cache))

    def opened(page: str, **query: str) -> AppTest:
        app = at(page)
        quiet = (
            {"merge_live": "false"} if page.endswith("7_Merge.py") else {}
        )  # unless a test asks, nothing is answered
        for name, value in {"family": "tiny", **quiet, **query}.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which nothing has happened yet."""
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path))
    assert client.cache_root() == tmp_path.resolve()
    return tmp_path


@pytest.fixture
def leave_run(empty_cache: Path) -> Callable[..., Run]:
    """Leave a run in a given state in the empty cache."""

    def left(title: str, state: str, **facts: Any) -> Run:
        run = create(empty_cache, "cosine", title.replace(" ", "-"), title, {"base": "b"}, {}, "")
        run.write_status(replace(Status(state), **facts))
        return run

    return left
