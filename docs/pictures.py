"""Draw what each merge method makes of a few weights: `python -m docs.pictures`, when a method is new or changed.

The pictures are of real merges of a tiny model and two fine-tunes of it, whose every weight was moved by chance.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from nmerge_core.figures.style import COLOURS, MERGE
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from tests.resident.test_live import needed
from tests.tiny_family import make_family

FOLDER = Path(__file__).parent.parent / "pages" / "shared" / "pictures"
TENSOR, ROW, WEIGHTS = "model.layers.0.mlp.down_proj.weight", 6, 16  # a row in which the methods differ
SHOWN = {"nearswap": {"t": 0.01}}  # where a method's default is too small to be seen
CHANGE = 0.02  # standard deviation of what a fine-tune changed
BAR, GAP, HEIGHT, SPACE = 9, 3, 30, 8  # pixels


def make_models(root: Path) -> SimpleNamespace:
    """Make the family, each fine-tune's changes independent of the other's."""
    made = make_family(root)
    base = load_file(Path(made.base) / "model.safetensors")
    for seed, folder in enumerate((made.math, made.code)):
        chance = torch.Generator().manual_seed(seed)
        tuned = {n: w + CHANGE * torch.randn(w.shape, generator=chance) for n, w in base.items()}
        save_file(tuned, Path(folder) / "model.safetensors", {"format": "pt"})
    return made


def row_of(folder: Path) -> torch.Tensor:
    """Return a few weights of a model, (WEIGHTS,)."""
    return load_file(folder / "model.safetensors")[TENSOR][ROW, :WEIGHTS]


def svg(rows: dict[str, torch.Tensor], scale: float) -> str:
    """Draw rows of changes as bars, by their colours."""
    width, height = WEIGHTS * (BAR + GAP), len(rows) * (HEIGHT + SPACE)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">']
    for number, (colour, values) in enumerate(rows.items()):
        middle = number * (HEIGHT + SPACE) + HEIGHT / 2 + SPACE / 2
        parts.append(f'<path d="M0 {middle:g}H{width}" stroke="#8884"/>')
        for index, value in enumerate(values.tolist()):
            tall = min(1.0, abs(value) / scale) * HEIGHT / 2
            top = middle - tall if value > 0 else middle
            if tall >= 0.05:
                x = index * (BAR + GAP)
                parts.append(f'<rect x="{x}" y="{top:.1f}" width="{BAR}" height="{tall:.1f}" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Write a picture of every method."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made = make_models(root)
        base = row_of(Path(made.base))
        parents = {COLOURS["math"]: row_of(Path(made.math)) - base, COLOURS["code"]: row_of(Path(made.code)) - base}
        for method in methods().values():
            recipe: dict[str, Any] = {"merge_method": method.name, "base_model": made.base}
            recipe |= {"models": [{"model": made.math}, {"model": made.code}][: method.most]}
            recipe |= {"parameters": SHOWN.get(method.name, needed(made, method.name))}
            merge(load_recipe(recipe), root / method.name)
            rows = {**parents, MERGE: row_of(root / method.name) - base}
            (FOLDER / f"{method.name}.svg").write_text(svg(rows, 2.2 * CHANGE))
            print(method.name, file=sys.stderr)


if __name__ == "__main__":
    main()
