"""The README.md of a merged checkpoint."""

from collections.abc import Mapping, Sequence

import yaml

from nmerge_core.checkpoints import halves
from nmerge_core.checkpoints.licence import licence
from nmerge_core.checkpoints.uses import loader_of, use_of
from nmerge_core.merging.recipe.recipe import Recipe


def model_card(
    recipe: Recipe, names: Sequence[str], version: str, architectures: Sequence[str], conversation: str
) -> str:
    """Write a Hugging Face model card: method, sources, how to load it, and the recipe that makes it again.

    `architectures` are the classes that config.json names; `conversation` says whose chat template and settings it has.
    """
    method, steps = recipe.method, [step.method for step in recipe.then]
    told = [f"{method.summary} Source of the method: {method.paper}."]
    told += [f"Then {step.title}: {step.summary} Source: {step.paper}." for step in steps]
    return compose(
        f"merged by {', then '.join(each.title for each in (method, *steps))}",
        f"{' '.join(told)} Made with NMerge {version}.",
        recipe.base_model,
        list(zip(names, recipe.references, strict=True)),
        recipe.brief.yaml,
        architectures,
        conversation,
    )


def compose(
    how: str,
    method: str,
    base: str | None,
    models: Sequence[tuple[str, str]],
    recipe: str,
    architectures: Sequence[str],
    conversation: str = "",
) -> str:
    """Write a model card from its parts; `models` holds each model's name and reference."""
    references = [base, *(each for _, each in models)] if base else [each for _, each in models]
    named = dict.fromkeys(half for reference in references for half in halves(reference))
    hub = [half for half in named if not half.startswith("/")]
    licences = {half: licence(half) for half in named}
    shared = next(iter(set(licences.values()))) if len(set(licences.values())) == 1 else None
    front = {"library_name": "transformers", "tags": ["merge", "nmerge"], **({"base_model": hub} if hub else {})}
    front |= {"license": shared} if shared else {}
    use = use_of(architectures)
    front |= {"pipeline_tag": use.tag} if use else {}
    sources = [f"- base: `{base}`"] if base else []
    sources += [f"- {name}: `{reference}`" for name, reference in models]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).rstrip(),
            "---",
            "",
            f"# {' + '.join(name for name, _ in models)}, {how}",
            "",
            method,
            "",
            "## Models",
            "",
            *sources,
            "",
            *_terms(licences),
            "## Use",
            "",
            "```python",
            *_loading(architectures),
            "```",
            "",
            *([f"Conversation: {conversation}.", ""] if conversation else []),
            "## Recipe",
            "",
            "As resolved, defaults and solved coefficients included, in `nmerge_recipe.yaml`; sources, coefficients",
            "and timings in `nmerge_report.json`.",
            "",
            "```yaml",
            recipe.rstrip(),
            "```",
            "",
        ]
    )


def _terms(licences: Mapping[str, str | None]) -> list[str]:
    """Say under which licences the sources are, if any of them says so."""
    if not any(licences.values()):
        return []
    lines = [f"- `{reference}`: {found or 'not told'}" for reference, found in licences.items()]
    return ["## Licences of the models", "", *lines, ""]


def _loading(architectures: Sequence[str]) -> list[str]:
    use = use_of(architectures)
    name = loader_of(architectures)
    imported = f"{name}, {use.reader}" if use else name
    lines = [f"from transformers import {imported}", "", f'model = {name}.from_pretrained("this-folder")']
    return lines + ([f'{use.called} = {use.reader}.from_pretrained("this-folder")'] if use else [])
