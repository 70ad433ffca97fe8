"""The README.md of a merged checkpoint."""

from collections.abc import Sequence

import yaml

from nmerge_core.checkpoints import halves
from nmerge_core.merging.recipe import Recipe, recipe_yaml


def model_card(recipe: Recipe, names: Sequence[str], version: str, architectures: Sequence[str]) -> str:
    """Write a Hugging Face model card: method, sources, how to load it, and the recipe that makes it again.

    `architectures` are the classes that config.json names.
    """
    method = recipe.method
    references = [recipe.base_model, *recipe.references] if recipe.base_model else list(recipe.references)
    named = dict.fromkeys(half for reference in references for half in halves(reference))
    hub = [half for half in named if not half.startswith("/")]
    front = {"library_name": "transformers", "tags": ["merge", "nmerge"], **({"base_model": hub} if hub else {})}
    base = [f"- base: `{recipe.base_model}`"] if recipe.base_model else []
    sources = base + [f"- {name}: `{entry.model}`" for name, entry in zip(names, recipe.models, strict=True)]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {' + '.join(names)}, merged by {method.title}",
            "",
            f"{method.summary} Source of the method: {method.paper}. Made with NMerge {version}.",
            "",
            "## Models",
            "",
            *sources,
            "",
            "## Use",
            "",
            "```python",
            *_loading(architectures),
            "```",
            "",
            "## Recipe",
            "",
            "As resolved, defaults and solved coefficients included, in `nmerge_recipe.yaml`; sources, coefficients",
            "and timings in `nmerge_report.json`.",
            "",
            "```yaml",
            recipe_yaml(recipe.with_parameters(coefficients=None) if _solved(recipe) else recipe).rstrip(),
            "```",
            "",
        ]
    )


def _loading(architectures: Sequence[str]) -> list[str]:
    if architectures and not architectures[0].endswith(("ForCausalLM", "LMHeadModel")):
        name = architectures[0]
        return [f"from transformers import {name}", "", f'model = {name}.from_pretrained("this-folder")']
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("this-folder")',
        'tokenizer = AutoTokenizer.from_pretrained("this-folder")',
    ]


def _solved(recipe: Recipe) -> bool:
    # Hundreds of layers of coefficients belong in the recipe file, not in prose.
    return recipe.parameters.get("coefficients") is not None
