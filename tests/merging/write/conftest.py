"""Merges of this folder's tests run in forked processes too, which cannot use a GPU that their parent has used."""

import pytest

from nmerge_core import machine


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_GPU_DRIVERS", ())
