"""Notebooks: valid, the same bytes each time, and code that means the values it was written for."""

import ast

import nbformat
import pytest

from nmerge_core.notebook import Notebook, Step, literal, text_literal

NOTEBOOK = Notebook(
    "Which neurons do what?",
    "Every neuron has a category.",
    "\n$a_j(s)$\n",
    [Step("found = nm.history()"), Step("found", "## Numbers")],
)


def test_a_notebook_reads_like_a_page() -> None:
    written = nbformat.reads(NOTEBOOK.to_json(), as_version=4)
    nbformat.validate(written)
    assert [(cell.cell_type, cell.source) for cell in written.cells] == [
        ("markdown", "# Which neurons do what?\n\nEvery neuron has a category."),
        ("markdown", "## How this is computed\n\n$a_j(s)$"),
        ("code", "import nmerge_core as nm"),
        ("code", "found = nm.history()"),
        ("markdown", "## Numbers"),
        ("code", "found"),
    ]
    assert NOTEBOOK.script == "import nmerge_core as nm\n\nfound = nm.history()\n\nfound"


def test_the_same_notebook_gives_the_same_bytes() -> None:
    assert NOTEBOOK.to_json() == NOTEBOOK.to_json()


@pytest.mark.parametrize(
    "value",
    ['a "quoted" \\ path\nof two lines: ü', ["one", 'tw"o'], {"base": "/models/it's", "x": None}, True, 0.2, []],
)
def test_a_value_is_written_as_python(value: object) -> None:
    assert ast.literal_eval(literal(value)) == value


def test_a_mapping_has_an_entry_a_line() -> None:
    assert literal({"base": "b", "math": "m"}) == '{\n    "base": "b",\n    "math": "m",\n}'


def test_a_text_is_written_as_it_reads() -> None:
    text = 'a: C:\\new\nb: """quoted"""\n'
    assert ast.literal_eval(text_literal(text)) == text
    assert text_literal("a: 1\nb: 2\n") == '"""\\\na: 1\nb: 2\n"""'
