"""The example that README and the Python reference begin with, run in a folder that has a family in it."""

import re
import shutil
from pathlib import Path

import pytest

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.demo.family import write_family
from tests.tiny_family import make_family

ROOT = Path(__file__).parents[2]
README, REFERENCE = (
    re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    for name in ("README.md", "docs/python.md")
)


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_family(tmp_path)
    shutil.copytree(tmp_path / "code", tmp_path / "translation")
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    write_family(cache_root() / DEMO)  # for its tasks
    monkeypatch.chdir(tmp_path)
    exec(README[0].replace("limit=50", "limit=2"), {})  # a model of random weights never ends an answer
    assert (tmp_path / "neurons.html").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "math · exact match" in printed and "base" in printed and "merged" in printed


def test_both_documents_begin_with_it() -> None:
    assert README[0] == REFERENCE[0] and README[0].count("\n") <= 12
