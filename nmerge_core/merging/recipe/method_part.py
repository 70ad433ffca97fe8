"""A parameter that is itself a merge method: a part of a model merged by any method of the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

from nmerge_core.errors import InputError, shown
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.registry import Method, methods, named
from nmerge_core.parameters import Parameter, Solved


def is_composed(method: Method) -> bool:
    """Whether a method is put together from others."""
    return any(isinstance(parameter, MethodPart) for parameter in method.parameters)


def delta_methods() -> dict[str, Method]:
    """Return the methods that a part can be merged by: of differences from a base, and not put together themselves."""
    return {name: method for name, method in methods().items() if method.needs_base and not is_composed(method)}


@dataclass(frozen=True, kw_only=True)
class MethodPart(Parameter):
    """How a part is merged: a word, or a method by its name or as {method: name, and its own parameters}.

    `words` are no methods, `aliases` other names of methods; one that is `per_category` also takes a mapping from
    category to any of these. Words `of_model` may say of which model, by its category: {method: own, of: math}.
    """

    words: tuple[str, ...] = ()
    of_model: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    per_category: bool = False

    kind: ClassVar[str] = "method"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words, and the methods as this parameter calls them."""
        known = {target: alias for alias, target in self.aliases.items()}
        return (*self.words, *(known.get(name, name) for name in delta_methods()))

    @property
    def expected(self) -> str:
        """The words, the methods, and the long form."""
        categories = ", or {category: any of these}" if self.per_category else ""
        whose = "".join(f", or {{method: {word}, of: a model's category}}" for word in self.of_model)
        return f"one of {', '.join(self.choices)}, or {{method: ties, density: 0.3}}{whose}{categories}"

    def method(self, value: Any) -> Method | None:
        """Return the method that a checked value names; None for a word."""
        name = value["method"] if isinstance(value, Mapping) else value
        return None if name in self.words else named(self.aliases.get(name, name))

    def own(self, value: Any) -> dict[str, Any]:
        """Return the parameters that stand beside the method in a checked value."""
        return {key: each for key, each in value.items() if key != "method"} if isinstance(value, Mapping) else {}

    def whose(self, value: Any) -> str | None:
        """Return the category of the model that a checked value names; None where it names none."""
        return str(value["of"]) if isinstance(value, Mapping) and value["method"] in self.of_model else None

    def check(self, value: Any, where: str) -> Any:
        """Return the value with its own parameters checked.

        Raises:
            InputError: there is no such method, or it has no such parameter.
        """
        if self.is_by_category(value):
            named = {str(category): each for category, each in value.items()}
            for category, each in named.items():
                if each is None:
                    raise InputError(f"{_inside(where, category)}: expected {self.expected}, found nothing")
            return {category: self._choice(each, _inside(where, category)) for category, each in named.items()}
        return self._choice(value, where)

    def _choice(self, value: Any, where: str) -> Any:
        """Return a word, a method, or a method with its own parameters checked."""
        if not isinstance(value, Mapping) or not isinstance(value.get("method"), str):
            return super().check(value, where)
        if (word := value["method"]) in self.of_model:
            if value.keys() != {"method", "of"} or value["of"] is None:
                raise InputError(f"{where}: expected {{method: {word}, of: a model's category}}, found {shown(value)}")
            return {"method": word, "of": str(value["of"])}
        found = self.method(super().check(value["method"], _inside(where, "method")))
        if found is None:
            raise InputError(
                f"{where}: expected a method with its parameters, found {shown(value['method'])}, which has none"
            )
        known = {parameter.name: parameter for parameter in found.parameters}
        own: dict[str, Any] = {"method": value["method"]}
        for name, each in self.own(value).items():
            if name not in known:
                near = get_close_matches(str(name), known, 1, 0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
                raise InputError(f"{where}: {found.name} has no parameter '{name}'; {hint}")
            if each is not None:
                own[name] = known[name].check(each, _inside(where, name))
        return own

    def parse(self, value: Any) -> Any:
        """Return a word or a method's name."""
        if not isinstance(value, str) or not (value in self.choices or value in delta_methods()):
            raise ValueError
        return value

    def without_solved(self, value: Any) -> Any:
        """Return the value without the solved parameters of its methods."""
        if self.is_by_category(value):
            return {category: self.without_solved(each) for category, each in value.items()}
        found = self.method(value) if isinstance(value, Mapping) else None
        solved = {parameter.name for parameter in found.parameters if isinstance(parameter, Solved)} if found else set()
        return {key: each for key, each in value.items() if key not in solved} if found else value

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the value with what its methods read named in full, and the fingerprints, versions among them."""
        if self.is_by_category(value):
            parts = {category: self.content(each, places) for category, each in value.items()}
            found = {key: fingerprint for _, inputs in parts.values() for key, fingerprint in inputs.items()}
            return {category: each for category, (each, _) in parts.items()}, found
        method = None if value is None else self.method(value)
        if method is None:
            return value, {}
        found, own = {f"method {method.name}": f"version {method.version}"}, self.own(value)
        for parameter in method.parameters:
            if parameter.name in own:
                own[parameter.name], inputs = parameter.content(own[parameter.name], places)
                found |= inputs
        return ({"method": value["method"], **own} if isinstance(value, Mapping) else value), found

    def of_category(self, value: Any, category: str) -> Any:
        """Return the choice for one category, of a choice for all or for each; those left out have the default."""
        return value.get(category, self.default) if self.is_by_category(value) else value

    def is_by_category(self, value: Any) -> bool:
        """Whether a value is a mapping from category to a word or a method."""
        return self.per_category and isinstance(value, Mapping) and "method" not in value


def _inside(where: str, name: str) -> str:
    """Return the place of a key inside the place that `where` names."""
    return f"{where[:-1]}.{name}'" if where.endswith("'") else f"{where}.{name}"
