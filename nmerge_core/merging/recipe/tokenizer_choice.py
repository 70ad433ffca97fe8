"""The recipe's key `tokenizer`: whose tokens the merge has, and where the rows of single tokens come from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import exists, expanduser
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import labels
from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.yaml_file import check_keys

BASE, UNION = "base", "union"
_KEY = "recipe, key 'tokenizer'"


@dataclass(frozen=True)
class TokenSource:
    """The row of one token in models without it, with `force` in all: zeros (no model), or that of a model's token.

    `token` is another token of that model, or the number of one of its rows; None is the same token.
    """

    model: str | None
    token: str | int | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerChoice:
    """Whose vocabulary a merge has: `source` is base, union or one of the recipe's models, as the recipe names it."""

    source: str
    tokens: Mapping[str, TokenSource] = field(default_factory=dict)

    def renamed(self, name: Callable[[str], str]) -> "TokenizerChoice":
        """Return the choice with other names of the models."""
        tokens = {
            token: replace(source, model=source.model and name(source.model)) for token, source in self.tokens.items()
        }
        return TokenizerChoice(self.source if self.source in (BASE, UNION) else name(self.source), tokens)

    def content(self) -> Any:
        """Return what stands in the recipe."""
        tokens = {token: _entry(source) for token, source in self.tokens.items()}
        return {"source": self.source, "tokens": tokens} if tokens else self.source


def read_choice(recipe: Mapping[str, Any], references: Sequence[str]) -> TokenizerChoice | None:
    """Read mergekit's `tokenizer_source` or `tokenizer`, in its short and its long form; None where there is neither.

    Raises:
        InputError: both are there, a key is unknown, or a model is none of `references`.
    """
    given = {key: recipe[key] for key in ("tokenizer", "tokenizer_source") if recipe.get(key) is not None}
    if len(given) > 1:
        raise InputError(f"{_KEY}: expected either it or 'tokenizer_source', found both; leave one out")
    if not given:
        return None
    content = next(iter(given.values()))
    if isinstance(content, str):
        return TokenizerChoice(_source(content, references))
    if not isinstance(content, Mapping):
        expected = "expected base, union, one of the recipe's models, or {source: …, tokens: …}"
        raise InputError(f"{_KEY}: {expected}; found {shown(content)}")
    if "pad_to_multiple_of" in content:
        raise InputError(
            f"{_KEY}: 'pad_to_multiple_of' is mergekit's; leave it out: a merge has the rows of its tokens"
        )
    check_keys(content, ("source", "tokens"), _KEY)
    tokens = content.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise InputError(f"{_KEY}.tokens: expected {{token: {{source: …}}}}, found {shown(tokens)}")
    source = _source(content.get("source", UNION), references)
    return TokenizerChoice(source, {str(token): _token(str(token), own, references) for token, own in tokens.items()})


def _source(given: Any, references: Sequence[str]) -> str:
    return given if given in (BASE, UNION) else find_model(given, references, f"{_KEY}: expected base, union or one of")


def find_model(given: Any, references: Sequence[str], expected: str) -> str:
    """Find a model among the recipe's: by what the recipe calls it, mergekit's model:path, its path or its label.

    Raises:
        InputError: it is none of them; the message begins with what was `expected`.
    """
    name = given.removeprefix("model:") if isinstance(given, str) else ""
    place = Path(expanduser(name)).resolve() if name and exists(expanduser(name)) else None
    for reference, label in zip(references, labels(references), strict=True):
        if name in (reference, label) or (place and place == Path(expanduser(reference)).resolve()):
            return reference
    raise InputError(f"{expected} the recipe's models ({', '.join(map(short, references))}); found {shown(given)}")


def _token(token: str, given: Any, references: Sequence[str]) -> TokenSource:
    where = f"{_KEY}.tokens.{short(token)}"
    if not isinstance(given, Mapping) or not {"source"} <= given.keys() <= {"source", "force"}:
        raise InputError(f"{where}: expected {{source: …, force: true or false}}, found {shown(given)}")
    source, force = given["source"], given.get("force", False)
    if not isinstance(force, bool):
        raise InputError(f"{where}.force: expected true or false, found {shown(force)}")
    expected = f"{where}.source: expected {{kind: zero}}, {{kind: model_token, model: …, token: …}}, or one of"
    if not isinstance(source, Mapping):
        return TokenSource(find_model(source, references, expected), None, force)
    if source == {"kind": "zero"}:
        return TokenSource(None, None, force)
    row = source.get("token", source.get("token_id"))
    if (
        source.get("kind") != "model_token"
        or len(source) != 3
        or not isinstance(row, int if "token_id" in source else str)
        or isinstance(row, bool)
    ):
        raise InputError(f"{expected} the recipe's models; found {shown(source)}")
    return TokenSource(find_model(source.get("model"), references, expected), row, force)


def _entry(source: TokenSource) -> dict[str, Any]:
    origin: Any = source.model
    if source.model is None:
        origin = {"kind": "zero"}
    elif source.token is not None:
        key = "token" if isinstance(source.token, str) else "token_id"
        origin = {"kind": "model_token", "model": source.model, key: source.token}
    return {"source": origin, **({"force": True} if source.force else {})}
