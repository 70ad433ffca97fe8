"""The merge methods in words: for the terminal, as JSON, and as the documentation of all of them."""

from collections.abc import Sequence
from typing import Any

from nmerge_core.errors import InputError, unknown
from nmerge_core.merging.compute.block import Place
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.merging.recipe.registry import LISTING, Method, Preset, methods, steps
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Number, Solved

_BASES = {
    "needed": "needed",
    "optional": "taken where the recipe names one, else the weights themselves are merged",
    "unused": "not needed",
}

_A_MATRIX = Place("model.layers.0.mlp.up_proj.weight", True, 0, "mlp", 0.0, True)
# What others found, where a family of one's own is yet to be measured.
_KNOWN = (
    "What others found of when methods help. On four language models with twelve public fine-tunes each, task",
    "arithmetic alone gained reliably (arXiv 2511.21437). Where tasks are separate, as several data sets of images for",
    "one CLIP (mean accuracy; the methods' papers), others gain on it: task arithmetic 68.0, TIES 72.2, Iso-C 82.8,",
    "TSV-M 83.1, RegMean++ 84.4, 0.6 to 2.0 points above RegMean, SWUDI 85.6, each task's own fine-tune 90.3. SWUDI",
    "without parameters (`adaptive`) has 44.1 on MergeBench with Llama-3.2-3B, OptMerge 43.4. An outside replication",
    "found NeuroMerging behind TIES where its λ2 came out near 1. So measure on models of your own: *Sweep* or",
    "`nmerge sweep`, by the loss on held-out texts or by tasks.",
)
_STEP = "A step: it changes what a method merged of differences from a base, under `then` of the recipe."


def chosen(name: str | None) -> list[Method]:
    """Return one method or step, or all of both.

    Raises:
        InputError: there is none of this name; those close to it are named.
    """
    known = {**methods(), **steps()}
    if name is None:
        return list(known.values())
    if name not in known:
        raise InputError(f"method: {unknown(name, known, LISTING)}")
    return [known[name]]


def described(method: Method) -> dict[str, Any]:
    """Return all there is to say of a method, as JSON has it."""
    return {
        "name": method.name,
        "step": method.step,
        "title": method.title,
        "paper": method.paper,
        "summary": method.summary,
        "when": method.when,
        "computes": method.computes,
        "version": method.version,
        "base": method.base,
        "models": {"fewest": method.fewest, "most": method.most},
        "cost": cost(method),
        "data": data(method),
        "parameters": [parameter.described() for parameter in method.parameters],
        "results": [vars(result) for result in method.results],
    }


def cost(method: Method) -> str:
    """Say what a merge by its defaults takes, of two models."""
    shared = {p.name: p.default for p in method.parameters if not p.per_model}
    each = {p.name: (p.default, p.default) for p in method.parameters if p.per_model}
    values = Values(method.name, shared | {"seed": 0}, each)
    passes = method.passes(values)
    told = [] if method.step else [f"reads every model {'once' if passes == 1 else f'{passes} times'}"]
    if method.solves(values):
        told.append("runs the models on texts, a layer of each in memory")
    if method.searches(values):
        told.append("holds one whole model in memory and runs it")
    if method.whole(_A_MATRIX, values):
        told.append("holds a whole matrix of each in memory")
    elif not method.solves(values) and not method.searches(values):
        told.append("holds a few rows of each in memory")
    told.append("compiled loops on a CPU" if method.rule or method.rows else "torch")
    return "; ".join(told)


def data(method: Method) -> str:
    """Name what it reads beside the models."""
    return ", ".join(parameter.name for parameter in method.inputs) or "nothing"


def listed(chosen: Sequence[Method]) -> str:
    """Write a line per method."""
    width = max(len(method.name) for method in chosen)
    return "\n".join(f"{method.name:<{width}}  {method.summary} ({method.paper})" for method in chosen)


def in_full(method: Method) -> str:
    """Write all there is to say of a method, for a terminal."""
    lines = [
        f"{method.name}: {method.title} ({method.paper})",
        method.summary,
        *([f"One to begin with. {method.when}"] if method.when else []),
        "",
        method.computes,
        "",
        *([_STEP] if method.step else [f"base   {_BASES[method.base]}", f"models {method.models_told}"]),
        f"cost   {cost(method)}",
        f"data   {data(method)}",
        "",
        "Parameters" if method.parameters else "No parameters",
    ]
    for name, parameter in _named(method):
        where = ", beside a model or for all" if parameter.per_model else ""
        varies = ", or a gradient or filters" if parameter.varies else ""
        lines += [
            f"  {name}: {parameter.expected}{_unit(parameter)}{varies}{where}; default {_default(parameter)}",
            f"      {parameter.help}",
        ]
    lines += [f"{preset.title}: {preset.sentence}\n  {_set_by(preset)}" for preset in method.presets]
    return "\n".join(lines)


def document() -> str:
    """Write docs/methods.md."""
    sections = [
        "# Merge methods",
        "",
        "Made from the methods' own descriptions, which `nmerge methods` prints too (`nmerge methods NAME --json` for",
        "programs). Every difference τ = θ − θ0 is taken and merged in float32 and rounded once, on writing. A recipe",
        "names one of them under `merge_method`; its parameters stand under `parameters`, those marked † also beside a",
        "model, and those marked ∿ also as mergekit's gradient over the layers or list of filters.",
        "",
        "| method | does | source |",
        "|---|---|---|",
        *(f"| [`{m.name}`](#{m.name}) | {m.summary} | {m.paper} |" for m in methods().values()),
        "",
        "Those to begin with, by what was measured ([results](results.md#every-method-with-its-defaults)):",
        "",
        *(f"- [`{m.name}`](#{m.name}): {m.when}" for m in methods().values() if m.when),
        "",
        *_KNOWN,
        "",
    ]
    for method in methods().values():
        sections += _section(method, f" Base: {_BASES[method.base]}. Merges {method.models_told}.")
    sections += [
        "# Steps after a method",
        "",
        "What a method merged of differences from a base can go through steps before it is added to the base, each",
        "going on from the one before: `then: [svc, {method: aim, omega: 0.4, corpus: C}]` at the top of the recipe.",
        "They go tensor by tensor with the merge, whatever its method, NeuronMerge with all its parts among them.",
        "",
        "| step | does | source |",
        "|---|---|---|",
        *(f"| [`{each.name}`](#{each.name}) | {each.summary} | {each.paper} |" for each in steps().values()),
        "",
    ]
    for step in steps().values():
        sections += _section(step, "")
    return "\n".join(sections)


def _section(method: Method, takes: str) -> list[str]:
    """Write the section of a method or a step."""
    return [
        f"## {method.name}",
        "",
        f"**{method.title}** ({method.paper}). {method.summary}",
        "",
        method.computes,
        "",
        f"Cost: {cost(method)}. Data: {data(method)}.{takes}",
        "",
        "| parameter | accepts | default | |",
        "|---|---|---|---|",
        *(_row(name, parameter) for name, parameter in _named(method)),
        "",
        *(f"- **{preset.title}** (`{_set_by(preset)}`): {preset.sentence}" for preset in method.presets),
        *([""] if method.presets else []),
    ]


def _set_by(preset: Preset) -> str:
    return ", ".join(f"{name}: {value}" for name, value in preset.parameters.items())


def _named(method: Method) -> list[tuple[str, Parameter]]:
    """Return a method's parameters by name, and after a part those of its words, as amplify's own."""
    found: list[tuple[str, Parameter]] = []
    for parameter in method.parameters:
        found.append((parameter.name, parameter))
        if isinstance(parameter, MethodPart):
            found += [
                (f"{word}'s {own.name}", own) for word, parameters in parameter.words.items() for own in parameters
            ]
    return found


def _row(name: str, parameter: Parameter) -> str:
    marks = ("†" if parameter.per_model else "") + ("∿" if parameter.varies else "")
    accepts = f"{parameter.expected}{_unit(parameter)}"
    cells = (f"`{name}`{marks}", accepts, _default(parameter), parameter.help)
    return " | ".join(["", *(cell.replace("|", "\\|") for cell in cells), ""]).strip()


def _unit(parameter: Parameter) -> str:
    return f" {parameter.unit}" if isinstance(parameter, Number) and parameter.unit else ""


def _default(parameter: Parameter) -> str:
    default = parameter.default
    if default is None:
        return "found" if isinstance(parameter, Solved) else "unset"
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)
