"""Merges of fine-tunes with other tokens than their base."""

from pathlib import Path

from safetensors.torch import load_file

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from tests.merging.vocabularies import TRAINED, Weights, with_tokens

EMBEDDING = "model.embed_tokens.weight"


def recipe_of(grown, method: str = "task_arithmetic", models: list[str] | None = None, **more: object) -> Recipe:
    entries = [{"model": model} for model in (models or grown.models)]
    return load_recipe({"merge_method": method, "base_model": grown.base, "models": entries, **more})


def merged(recipe: Recipe, out: Path) -> Weights:
    merge(recipe, out)
    return load_file(out / "model.safetensors")


def moved(tmp_path: Path, tokens: list[str | None]) -> tuple[str, str]:
    base, _ = with_tokens(tmp_path / "base", 0, [*TRAINED, None])
    return base, with_tokens(tmp_path / "tune", 1, tokens)[0]
