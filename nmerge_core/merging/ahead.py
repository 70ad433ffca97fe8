"""Merges whose only purpose is that the loops of merging are compiled before anybody waits for them."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nmerge_core.demo.family import MODELS
from nmerge_core.merging.engine import load, merge
from nmerge_core.merging.recipe.registry import Method, methods
from nmerge_core.progress import Progress

DTYPES = ("bfloat16", "float32")  # of what is read and of what is written: a loop is compiled for each two


def compile_loops(family: Path, progress: Progress) -> int:
    """Merge the demo family by every method that has compiled loops, in each format; return the number of merges.

    The loops stay in the cache, for this processor.

    Raises:
        InputError: the family cannot be read, or the disk is full.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        wide = folder / "base"  # one model in float32: all are then read as such
        merge(load({"merge_method": "linear", "models": [{"model": str(family / "base")}], "dtype": "float32"}), wide)
        recipes = list(_recipes(family, wide))
        for done, recipe in enumerate(recipes):
            progress("Compiling the loops of merging", done, len(recipes), "merges")
            merge(load(recipe), folder / str(done))
        progress("Compiling the loops of merging", len(recipes), len(recipes), "merges")
    return len(recipes)


def _recipes(family: Path, wide: Path) -> Iterator[dict[str, Any]]:
    for method in methods().values():
        if (method.rule or method.rows) and not method.inputs:
            for base in (family / "base", wide):
                for dtype in DTYPES:
                    yield _recipe(method, base, family, dtype)


def _recipe(method: Method, base: Path, family: Path, dtype: str) -> dict[str, Any]:
    models = [str(family / name) for name in MODELS[1:]]
    if not method.takes_base:
        models = [str(base), *models]
    content = {"merge_method": method.name, "models": [{"model": each} for each in models[: method.most]]}
    return content | ({"base_model": str(base)} if method.takes_base else {}) | {"dtype": dtype}
