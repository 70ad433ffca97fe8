"""A parameter that is itself a merge method: a part of a model merged by any method of the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, ClassVar

from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.registry import Method, methods, named
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Solved


def is_composed(method: Method) -> bool:
    """Whether a method is put together from others."""
    return any(isinstance(parameter, MethodPart) for parameter in method.parameters)


def delta_methods() -> dict[str, Method]:
    """Return the methods that a part can be merged by: of differences from a base, and not put together themselves."""
    return {name: method for name, method in methods().items() if method.takes_base and not is_composed(method)}


def word_of(value: Any) -> str:
    """Return the word or the name of the method that a checked value has, alone or with parameters of its own."""
    return str(value["method"] if isinstance(value, Mapping) else value)


@dataclass(frozen=True, kw_only=True)
class MethodPart(Parameter):
    """How a part is merged: a word, or a method, by its name or as {method: name, and its own parameters}.

    `words` are no methods, each with the parameters that it takes; one of them, `of`, says of which model by its
    category: {method: own, of: math}. `aliases` are other names of methods. One that is `per_category` also takes a
    mapping from category to any of these.
    """

    words: Mapping[str, tuple[Parameter, ...]] = field(default_factory=dict)
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
        long = "".join(
            f", or {{method: {word}, {', '.join(f'{each.name}: …' for each in parameters)}}}"
            for word, parameters in self.words.items()
            if parameters
        )
        return f"one of {', '.join(self.choices)}, or {{method: ties, density: 0.3}}{long}{categories}"

    def described(self) -> dict[str, Any]:
        """Return all there is to say, as JSON has it."""
        words = {word: [each.described() for each in parameters] for word, parameters in self.words.items()}
        return super().described() | ({"words": words} if words else {})

    @property
    def of_model(self) -> tuple[str, ...]:
        """The words that mean a model, the category's own where they do not say which."""
        return tuple(word for word, parameters in self.words.items() if any(each.name == "of" for each in parameters))

    def parameters_of(self, name: str) -> tuple[Parameter, ...]:
        """Return the parameters of a word or a method, by the name that it has here."""
        return self.words[name] if name in self.words else named(self.aliases.get(name, name)).parameters

    def method(self, value: Any) -> Method | None:
        """Return the method that a checked value names; None for a word."""
        name = word_of(value)
        return None if name in self.words else named(self.aliases.get(name, name))

    def own(self, value: Any) -> dict[str, Any]:
        """Return the parameters that stand beside the method in a checked value."""
        return {key: each for key, each in value.items() if key != "method"} if isinstance(value, Mapping) else {}

    def whose(self, value: Any) -> str | None:
        """Return the category of the model that a checked value names; None where it names none."""
        return value.get("of") if isinstance(value, Mapping) and value["method"] in self.words else None

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
        """Return a word or a method, with its own parameters checked; those of a word with their defaults."""
        long = isinstance(value, Mapping) and isinstance(value.get("method"), str)
        name = super().check(value["method"], _inside(where, "method")) if long else super().check(value, where)
        if name is None:
            return None
        known = {parameter.name: parameter for parameter in self.parameters_of(name)}
        own = {key: each.default for key, each in known.items() if name in self.words and each.default is not None}
        for key, each in (self.own(value) if long else {}).items():
            if key not in known:
                near = get_close_matches(str(key), known, 1, 0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known) or 'none'}"
                raise InputError(f"{where}: {self.aliases.get(name, name)} has no parameter '{key}'; {hint}")
            if each is not None:
                own[key] = known[key].check(each, _inside(where, key))
        return {"method": name, **own} if own or (long and name not in self.words) else name

    def parse(self, value: Any) -> Any:
        """Return a word or a method's name."""
        if not isinstance(value, str) or not (value in self.choices or value in delta_methods()):
            raise ValueError
        return value

    def without_solved(self, value: Any) -> Any:
        """Return the value without the solved parameters of its methods."""
        if self.is_by_category(value):
            return {category: self.without_solved(each) for category, each in value.items()}
        if not isinstance(value, Mapping):
            return value
        known = {each.name: each for each in self.parameters_of(word_of(value)) if not isinstance(each, Solved)}
        own = {key: known[key].without_solved(each) for key, each in self.own(value).items() if key in known}
        return {"method": value["method"], **own}

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the value with what its methods read named in full, and the fingerprints, versions among them."""
        if self.is_by_category(value):
            parts = {category: self.content(each, places) for category, each in value.items()}
            found = {key: fingerprint for _, inputs in parts.values() for key, fingerprint in inputs.items()}
            return {category: each for category, (each, _) in parts.items()}, found
        if value is None:
            return value, {}
        method, own = self.method(value), self.own(value)
        found = {f"method {method.name}": f"version {method.version}"} if method else {}
        for parameter in self.parameters_of(word_of(value)) if own else ():
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
