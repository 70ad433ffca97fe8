"""A family whose runs the tests of the public functions share: what one of them has computed is there for all."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import nmerge_core as nm
from nmerge_core.face.classifications import Classifications
from nmerge_core.face.results import Merged
from nmerge_core.runs.folder import list_runs
from tests.tiny_family import make_family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache").resolve()


@pytest.fixture(scope="module")
def cache(root: Path) -> Iterator[Path]:
    before, os.environ["NMERGE_CACHE"] = os.environ["NMERGE_CACHE"], str(root)
    yield root
    os.environ["NMERGE_CACHE"] = before


@pytest.fixture(scope="module")
def found(family: SimpleNamespace, cache: Path) -> Classifications:
    return nm.classify([family.base, Path(family.math)], corpus=Path(family.corpus), top_k=3, progress=False)


@pytest.fixture(scope="module")
def merged(family: SimpleNamespace, cache: Path) -> Merged:
    return nm.merge(family.recipe, progress=False)


def states(cache: Path) -> dict[str, float | None]:
    """When each run of a cache was started."""
    return {run.id: run.status().started for run in list_runs(cache)}
