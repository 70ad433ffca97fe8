"""The slices of a recipe, read and checked against the method's parameters."""

from collections.abc import Mapping
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.given import is_base, known, parameters
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.merging.recipe.slices import Layers, Slice


def read_slices(content: Mapping[str, Any], base: str | None, method: Method) -> tuple[Slice, ...]:
    """Read the slices of a recipe, none where it has none.

    Raises:
        InputError: it names models too, a slice is not as it must be or lacks the base, they have different numbers of
            models, or the method goes by what is of whole models.
    """
    given = content.get("slices")
    if given is None:
        return ()
    if content.get("models") is not None:
        raise InputError("recipe: expected 'models' or 'slices', found both; a slice names its models under 'sources'")
    if method.inputs and not method.by_layer:
        raise InputError(
            f"recipe, key 'slices': {method.name} goes by {', '.join(each.name for each in method.inputs)}, of whole "
            "models; merge whole models by it, then take slices of that merge"
        )
    if not isinstance(given, list) or not given:
        raise InputError(f"recipe, key 'slices': expected a list of {{sources: …}}, found {shown(given)}")
    found = tuple(_slice(each, f"slices[{index}]", base, method) for index, each in enumerate(given))
    for index, each in enumerate(found):
        if (len(each.models), bool(each.base)) != (len(found[0].models), bool(found[0].base)):
            raise InputError(
                f"recipe, key 'slices[{index}].sources': expected as many models as in the first slice, "
                f"{len(found[0].sources)}, found {len(each.sources)}"
            )
    return found


def _slice(given: Any, where: str, base: str | None, method: Method) -> Slice:
    if not isinstance(given, Mapping) or not isinstance(given.get("sources"), list) or not given["sources"]:
        expected = "expected {sources: [{model: …, layer_range: [first, end]}]}"
        raise InputError(f"recipe, key '{where}': {expected}, found {shown(given)}")
    known(given, ("sources", "base_model", "parameters"), f"recipe, {where}", method)
    if given.get("base_model") is not None:
        base = mergekit.reference(given["base_model"], f"{where}.base_model")
    sources = [_layers(each, f"{where}.sources[{index}]", method) for index, each in enumerate(given["sources"])]
    if len({source.last - source.first for source in sources}) > 1:
        ranges = ", ".join(f"[{source.first}, {source.last}]" for source in sources)
        raise InputError(f"recipe, key '{where}.sources': expected as many layers of every model, found {ranges}")
    own = next((source for source in sources if is_base(source.model, base, method)), None)
    if own is None and base is not None and method.takes_base:
        raise InputError(
            f"recipe, key '{where}.sources': expected the base {base} among them, with the layers it has here"
        )
    models = tuple(source for source in sources if source is not own)
    if not models:
        raise InputError(f"recipe, key '{where}.sources': expected at least one model besides the base, found none")
    own_parameters = parameters(given.get("parameters"), method, f"{where}.parameters")
    steady = [
        each.name for each in method.parameters if each.name in own_parameters and not (each.varies or each.per_model)
    ]
    if steady:
        raise InputError(f"recipe, {where}: '{steady[0]}' is said once for all slices, in 'parameters'")
    return Slice(models, own, own_parameters)


def _layers(given: Any, where: str, method: Method) -> Layers:
    layers: Any = given.get("layer_range") if isinstance(given, Mapping) else None
    whole = isinstance(layers, list) and len(layers) == 2 and all(type(each) is int for each in layers)
    if not whole or not 0 <= layers[0] < layers[1] or given.get("model") is None:
        expected = "expected {model: path-or-id, layer_range: [first, end]} with 0 ≤ first < end"
        raise InputError(f"recipe, key '{where}': {expected}, found {shown(given)}")
    known(given, ("model", "layer_range", "parameters"), f"recipe, {where}", method)
    model = mergekit.reference(given["model"], f"{where}.model")
    return Layers(model, layers[0], layers[1], parameters(given.get("parameters"), method, where, per_model=True))
