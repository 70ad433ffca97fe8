"""mergekit's own examples, one by one, with what comes of each here."""

import yaml

from nmerge_core.merging.recipe.mergekit_recipe import METHODS
from nmerge_core.merging.recipe.registry import methods
from tests.merging.mergekit.examples import DIFFERENT, DRAWN, EXAMPLES


def document() -> str:
    """Write the made part of docs/mergekit.md."""
    lines = ["| recipe | method | merged by | tensors |", "|---|---|---|---|"]
    for name, text in EXAMPLES.items():
        told = " → ".join(f"`{stage['merge_method']}`" for stage in yaml.safe_load_all(text))
        title = f"`examples/{name}`" if name.endswith(".yml") else name.replace("-", " ")
        reason = DIFFERENT.get(name, "")
        result = reason if name in DRAWN else f"mergekit's, {reason}" if reason else "mergekit's"
        lines.append(f"| {title} | {told} | NMerge | {result} |")
    for method in sorted({*METHODS} - {*methods()}):
        lines.append(f"| any | `{method}` | mergekit, with `engine: mergekit` | mergekit's |")
    return "\n".join([*lines, ""])
