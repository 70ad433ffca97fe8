"""A page as a notebook: its question, what one must know, how it is computed, and the code that gives its figures."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IMPORT = "import nmerge_core as nm"
_MARKUP = re.compile(r"[\\`*\[\]<>$~&|#]|(?<![^\W_])_|_(?![^\W_])|^[-+=]")
_NUMBERED = re.compile(r"^(\d+)([.)])")


@dataclass(frozen=True)
class Step:
    """Code that gives a figure or a table, after the import of `nm`, and the Markdown above it."""

    code: str
    text: str = ""


@dataclass(frozen=True)
class Notebook:
    """What a page says, in Markdown, and the code of its figures, step by step."""

    title: str
    context: str
    formula: str
    steps: Sequence[Step]

    @property
    def script(self) -> str:
        """The code alone, as one program."""
        return "\n\n".join([IMPORT, *(step.code for step in self.steps)])

    def to_json(self) -> str:
        """Write the .ipynb; the same notebook gives the same bytes."""
        import nbformat  # imported here: pages know steps before anybody wants a file
        from nbformat import v4

        cells = [
            v4.new_markdown_cell(f"# {self.title}\n\n{self.context}"),
            v4.new_markdown_cell(f"## How this is computed\n\n{self.formula.strip()}"),
            v4.new_code_cell(IMPORT),
        ]
        for step in self.steps:
            cells += [v4.new_markdown_cell(step.text)] if step.text else []
            cells.append(v4.new_code_cell(step.code))
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"  # nbformat's own are random
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return nbformat.writes(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}))


def verbatim(text: object) -> str:
    """Return Markdown that shows a text of foreign origin as it is, in one line."""
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", " ".join(str(text).split())))


def literal(value: Any) -> str:
    """Write a value as Python: a mapping an entry a line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "\n".join(["{", *(f"    {literal(name)}: {literal(each)}," for name, each in value.items()), "}"])
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def text_literal(text: str) -> str:
    """Write a text of several lines as Python, as it reads."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}"""'
