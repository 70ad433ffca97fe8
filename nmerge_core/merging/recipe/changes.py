"""What two recipes say differently, and what one says that is no default, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmerge_core.checkpoints.reference import label
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.merging.recipe.recipe import ModelEntry, Recipe
from nmerge_core.merging.recipe.slices import Slice
from nmerge_core.merging.recipe.steps import Step
from nmerge_core.parameters.inputs import Input, NeuronLists
from nmerge_core.parameters.values import Solved, Text

_LISTED = 4  # values of a list that are all said
_NOT_PARAMETERS = ("Models", "Written as", "Tokenizer", "Chat template", "Seed")


@dataclass(frozen=True)
class Change:
    """One setting and its value in each of two recipes, as people read it; empty where a recipe does not have it."""

    what: str
    before: str
    after: str

    def __str__(self) -> str:
        """Say it in one breath: λ 0.5 → 0.7."""
        return f"{self.what} {self.before or '–'} → {self.after or '–'}"


def changes(before: Recipe, after: Recipe, names: Mapping[str, str]) -> list[Change]:
    """Return the settings that two recipes say differently, in the order of the later one.

    Of different methods those are left out that each recipe has at its method's default, as far as it has them. `names`
    are the models' by reference.
    """
    old, new = _settings(before, names), _settings(after, names)
    if before.merge_method != after.merge_method:
        old_plain, new_plain = (_settings(_at_defaults(each), names) for each in (before, after))
        told = {"Method", *(name for name in new if new[name] != new_plain.get(name))}
        told |= {name for name in old if old[name] != old_plain.get(name)} | {*_NOT_PARAMETERS}
        old, new = ({name: each[name] for name in each if name in told} for each in (old, new))
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        was, now = old.get(name, ""), new.get(name, "")
        if was == now:
            continue
        if isinstance(was, dict) != isinstance(now, dict):
            several = was if isinstance(was, dict) else now
            # One choice for all categories, where the other recipe has one for each; or it does not have it.
            was, now = (each if isinstance(each, dict) else dict.fromkeys(several, each) for each in (was, now))
        if isinstance(was, dict) and isinstance(now, dict):
            members = [own for own in {**now, **was} if was.get(own, "") != now.get(own, "")]
            pairs = [(was.get(own, ""), now.get(own, "")) for own in members]
            if len(members) > 1 and len(set(pairs)) == 1 and len(members) == len({**was, **now}):
                found.append(Change(name, *pairs[0]))
            else:
                found += [Change(f"{name} of {own}", *pair) for own, pair in zip(members, pairs, strict=True)]
        else:
            found.append(Change(name, in_words(was), in_words(now)))
    return found


def told(recipe: Recipe, names: Mapping[str, str]) -> str:
    """Name a merge by its method and all that is not at its default, but what it reads beside the models."""
    reads = {parameter.title for parameter in recipe.method.parameters if isinstance(parameter, Input | Text)}
    own = [each for each in changes(_at_defaults(recipe), recipe, names) if each.what.partition(" of ")[0] not in reads]
    return ", ".join([recipe.method.title, *(f"{each.what} {each.after}" for each in own)])


def side_by_side(recipes: Sequence[Recipe], names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what each of some recipes says of every setting, those first that they say differently.

    A setting that a recipe does not have is empty; what all of its models have alike is said once.
    """
    said = [{name: _in_a_cell(value) for name, value in _settings(each, names).items()} for each in recipes]
    columns = {name: [own.get(name, "") for own in said] for each in said for name in each}
    return dict(sorted(columns.items(), key=lambda column: len(set(column[1])) == 1))


def _in_a_cell(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if len(set(value.values())) == 1:
        return str(next(iter(value.values())))
    return ", ".join(f"{name} {own}" for name, own in value.items())


def _at_defaults(recipe: Recipe) -> Recipe:
    models = tuple(ModelEntry(entry.model, {}) for entry in recipe.models)
    written: dict[str, Any] = {"dtype": None, "tokenizer": None, "chat_template": None, "seed": 0}
    return replace(recipe, parameters={}, models=models, then=(), **written)


def _settings(recipe: Recipe, names: Mapping[str, str]) -> dict[str, Any]:
    """Return every setting by name: a text, or of what each model has its own of a text for each."""
    called = {reference: names.get(reference, label(reference)) for reference in recipe.references}
    values = recipe.values()
    said: dict[str, Any] = {"Method": recipe.method.title, "Models": ", ".join(called.values())}
    for parameter in recipe.method.parameters:
        if isinstance(parameter, Solved):
            continue
        if parameter.per_model and not recipe.slices:
            each = map(in_words, values.each[parameter.name])
            said[parameter.title] = dict(zip(called.values(), each, strict=True))
            continue
        value = recipe.parameters.get(parameter.name, parameter.default)
        if isinstance(parameter, NeuronLists):
            said[parameter.title] = {name: _neurons(each) for name, each in (value or {}).items()}
        elif isinstance(parameter, MethodPart) and parameter.is_by_category(value):
            said[parameter.title] = {category: in_words(own) for category, own in value.items()}
        else:
            said[parameter.title] = in_words(value)
    if recipe.slices:
        said["Slices"] = "; ".join(map(_told, recipe.slices))
    if recipe.then:
        said["Then"] = ", ".join(map(_step, recipe.then))
    said["Written as"] = recipe.dtype or "as the base"
    said["Tokenizer"] = in_words(recipe.tokenizer.content() if recipe.tokenizer else None)
    said["Chat template"] = recipe.chat_template.source if recipe.chat_template else ""
    return said | {"Seed": str(recipe.seed)}


def _told(part: Slice) -> str:
    """Write a slice: math 0–16 + code 0–16 (t 0.5)."""
    sources = [
        f"{label(each.model)} {each.first}–{each.last}" + (f" ({in_words(each.parameters)})" if each.parameters else "")
        for each in part.sources
    ]
    return " + ".join(sources) + (f" ({in_words(part.parameters)})" if part.parameters else "")


def _step(step: Step) -> str:
    """Write a step, with those of its parameters that are no default and not what it reads: AIM (omega 0.5)."""
    own = {
        p.name: step.parameters[p.name]
        for p in step.method.parameters
        if step.parameters.get(p.name, p.default) != p.default and not isinstance(p, Input | Text)
    }
    return f"{step.method.title} ({in_words(own)})" if own else step.method.title


def _neurons(value: Any) -> str:
    """Write a list of neurons, or the file of one: 3 neurons (layer 0: 17, 204; layer 3: 5)."""
    if isinstance(value, str):
        return value
    layers: dict[int, list[int]] = {}
    for layer, neuron in value:
        layers.setdefault(layer, []).append(neuron)
    told = "; ".join(f"layer {layer}: {in_words(own)}" for layer, own in sorted(layers.items()))
    return f"{len(value):,} neuron{'' if len(value) == 1 else 's'} ({told})"


def in_words(value: Any) -> str:
    """Write a parameter's value as people read it: of a method with parameters of its own, these beside its name."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping) and "value" in value:  # one of a list of filters
        return f"{value.get('filter') or 'the rest'} {in_words(value['value'])}"
    if isinstance(value, Mapping):
        method = str(value.get("method", "")).replace("_", " ")
        own = [f"{key} {in_words(each)}" for key, each in value.items() if key != "method"]
        return f"{method} ({', '.join(own)})" if method and own else method or ", ".join(own)
    if isinstance(value, list | tuple):
        said = [in_words(each) for each in value]
        if value and isinstance(value[0], Mapping):
            return "; ".join(said)
        return ", ".join(said if len(said) <= _LISTED else [*said[:2], "…", said[-1]])
    return str(value).replace("_", " ")
