"""How the merge of a recipe is computed: its formula, and the same for a shell and in Python."""

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.merging.engine import AnyRecipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.notebook import Step, literal, text_literal
from pages.shared.frame.page import command
from pages.shared.kept.report import scoring


def formula(recipe: AnyRecipe) -> str:
    """How the method of a recipe merges, with its source."""
    if isinstance(recipe, StagedRecipe):
        each = [f"Stage {name or 'of the output'}: {formula(stage)}" for name, stage in recipe.each]
        return "\n\n".join(each)
    if not isinstance(recipe, Recipe):
        return (
            "mergekit computes it in a process of its own; NMerge checks recipe and models first and adds the report."
        )
    each = [recipe.method.told, *(f"Then {step.method.told}" for step in recipe.then)]
    rounded = (
        r"Every difference $\tau_t = \theta_t - \theta_0$ is taken and merged in float32 and rounded once, on writing."
    )
    return "\n\n".join([*each, rounded])


def commands(recipe: AnyRecipe, family: Family) -> str:
    """The lines for a shell that merge by a recipe and score the merge beside the family."""
    merge = [f"cat > recipe.yaml <<'YAML'\n{recipe.yaml}YAML", command("merge", "recipe.yaml", "merged-model")]
    models = [member.reference for member in family.members]
    scored = scoring(family)
    scores = ["evaluate", *models, "merged-model", *scored.arguments(), "--out", "scores.csv"]
    return "\n".join([*merge, *([command(*scores)] if scored.allowed.tasks else [])])


def steps(recipe: AnyRecipe, name: str, family: Family) -> list[Step]:
    """The same in Python, with what the merge, called `name`, took and found."""
    models = {member.label: member.reference for member in family.members}
    found = Step(
        "for figure in merged.figures().values():\n"
        "    figure.show()\n"
        "for title, number in merged.numbers.items():\n"
        '    print(f"{title}: {number}")\n'
        "for title, table in merged.tables.items():\n"
        '    print(title, table.to_string(index=False), sep="\\n")',
        "## What the method found",
    )
    scored = scoring(family)
    scores = Step(
        f"models = {literal(models)}\n"
        f"scores = {scored.call(f'{{**models, {literal(name)}: merged}}')}\n"
        "scores.figure().show()\n"
        "scores.table",
        "## How good it is",
    )
    prompt = st.session_state.get("merge_prompt", "").strip()
    asked = Step(
        f"answers = nm.generate({{**{literal(models)}, {literal(name)}: merged}}, {literal(prompt)})\n"
        r'print(*map(": ".join, answers.items()), sep="\n\n")',
        "## Try it",
    )
    return [
        Step(
            f"recipe = {text_literal(recipe.yaml)}\n" + 'print(*nm.estimate(recipe).lines, sep="\\n")',
            "## The recipe, and what it will take",
        ),
        Step(
            "merged = nm.merge(recipe)\nmerged.path",
            "## The merge\n\nA complete checkpoint, for `AutoModelForCausalLM.from_pretrained`:",
        ),
        Step('{name: merged.report[name] for name in ("seconds", "peak_memory", "bytes_written")}', "It took:"),
        *([found] if isinstance(recipe, Recipe) else []),
        *([asked] if prompt else []),
        *([scores] if scored.allowed.tasks else []),
    ]
