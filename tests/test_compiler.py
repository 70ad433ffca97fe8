"""Loops are compiled once, and who waits for it is told."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from nmerge_core.compiler import told_of_compiling
from nmerge_core.demo.family import write_family
from nmerge_core.merging import ahead
from nmerge_core.merging.engine import load, merge
from nmerge_core.merging.recipe.registry import methods, named
from nmerge_core.progress import silent

SOURCE = """
from nmerge_core.compiler import compiled


@compiled
def twice(number):
    return 2 * number
"""


def loop_of(file: Path) -> Any:
    spec = spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def test_a_loop_that_is_not_on_the_disk_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "loops.py"
    file.write_text(SOURCE)
    told: list[str] = []
    with told_of_compiling(lambda: told.append("compiled")):
        assert loop_of(file)(3) == 6 and told == ["compiled"]
        assert loop_of(file)(4) == 8 and told == ["compiled"]  # as a new process finds it: on the disk
        assert loop_of(file)(1.5) == 3 and told == ["compiled"] * 2  # of other types it is another
    assert loop_of(file)(2 + 1j) == 4 + 2j and told == ["compiled"] * 2


def test_what_was_compiled_ahead_is_not_compiled_by_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = write_family(tmp_path / "demo")
    monkeypatch.setattr(ahead, "methods", lambda: {name: named(name) for name in ("ties", "fisher")})
    assert ahead.compile_loops(family, silent) == 4  # fisher has no loops; ties of either format, written in either
    told: list[str] = []
    with told_of_compiling(lambda: told.append("compiled")):
        models = [{"model": str(family / name)} for name in ("math", "code")]
        recipe = {"merge_method": "ties", "base_model": str(family / "base"), "models": models}
        merge(load({**recipe, "parameters": {"density": 0.5}}), tmp_path / "merged")
    assert not told


def test_all_that_can_be_compiled_ahead_is() -> None:
    recipes = list(ahead._recipes(Path("demo"), Path("wide")))
    merged = {name for name, method in methods().items() if method.rule or method.rows}
    assert {recipe["merge_method"] for recipe in recipes} == merged and len(recipes) == 4 * len(merged)
