"""The recipe's key `chat_template`: how one talks to the merge, where an answer ends, how it generates."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nmerge_core.checkpoints.conversation import read_text
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe.tokenizer_choice import BASE, find_model

AUTO = "auto"
KEY = "recipe, key 'chat_template'"
# The best known of those that mergekit has by a name, written as it writes it.
_NAMED = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}\n{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
}
_OF_MERGEKIT = ("alpaca", "exaone", "llama3", "mistral")
_OF_TRANSFORMERS = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a tag that it adds to Jinja's
_SUFFIXES = (".jinja", ".jinja2", ".j2", ".txt")


@dataclass(frozen=True)
class TemplateChoice:
    """Whose chat template a merge has: `auto`, `base`, a model as the recipe names it, a file, or a template's text."""

    source: str
    kind: Literal["word", "model", "file", "text"] = "word"

    def renamed(self, name: Callable[[str], str]) -> "TemplateChoice":
        """Return the choice with another name of its model."""
        return replace(self, source=name(self.source)) if self.kind == "model" else self

    def text(self, find: Callable[[str], Path]) -> str | None:
        """Return the template where it is no model's; `find` says where its file is.

        Raises:
            InputError: there is no such file, it is no text, or Jinja cannot read the template.
        """
        if self.kind == "file":
            file = find(self.source)
            if not file.is_file():
                raise InputError(f"{KEY}: expected a file with a chat template, found none at {file.absolute()}")
            return _checked(read_text(file), f"{KEY}: {file}")
        return _checked(_NAMED.get(self.source, self.source), KEY) if self.kind == "text" else None


def _checked(template: str, where: str) -> str:
    """Return a template; raises InputError where transformers could not render it for what is wrong in its syntax."""
    from jinja2 import Environment, TemplateSyntaxError

    plain = _OF_TRANSFORMERS.sub("", template)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise InputError(f"{where}: expected a chat template, found (line {error.lineno}) {error.message}") from error
    return template


def read_template_choice(recipe: Mapping[str, Any], references: Sequence[str]) -> TemplateChoice | None:
    """Read the key; None where it is not there.

    Raises:
        InputError: it is none of these, or names a model that is none of `references`.
    """
    given = recipe.get("chat_template")
    if given is None:
        return None
    expected = f"{KEY}: expected {AUTO}, {BASE}, {', '.join(_NAMED)}, a file (*.jinja), a template's text, or one of"
    if not isinstance(given, str):
        return TemplateChoice(find_model(given, references, expected))  # which refuses it
    if given in (AUTO, BASE):
        return TemplateChoice(given)
    if given in _NAMED or "{%" in given or "{{" in given:
        return TemplateChoice(given, "text")
    if given in _OF_MERGEKIT:
        raise InputError(
            f"{KEY}: '{given}' is a template of mergekit's own; write its text into a file and name that, or name a "
            "model that has it"
        )
    if given.endswith(_SUFFIXES):
        return TemplateChoice(given, "file")
    return TemplateChoice(find_model(given, references, expected), "model")
