"""Text of foreign origin on a page: shown letter by letter, and never taken for Markdown."""

import html
import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from nmerge_core import notebook

MARKED = """<style>
.answer { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .92rem; line-height: 1.45; }
.code .answer { font-family: "Source Code Pro", ui-monospace, monospace; font-size: .85rem; }
.answer mark { background: light-dark(#FFE7A3, #5C4A12); color: inherit; border-radius: 2px; padding: 0 1px; }
</style>"""  # of what `marked` gives

_JOINER = "\N{WORD JOINER}"  # seen by nobody; what Streamlit replaces after Markdown was read has no escape
_REPLACED = re.compile(r":(?=\S)|(?i:www)(?=\.)|@|(?<!\S)(?:<?->|<-|--|[<>~]=)(?!\S)")  # emoji, icons, links, arrows
_WORD = re.compile(r"\s+|[\u3040-\u9fff]|[^\W\u3040-\u9fff]+|[^\w\s]")  # of Chinese each character


def shortened(text: str, length: int = 40) -> str:
    """Return a name with its middle left out where it is longer: what tells names apart is mostly at their ends."""
    return text if len(text) <= length else f"{text[: length - 13]}…{text[-12:]}"


def in_full(names: Iterable[str]) -> str:
    """Return Markdown that tells, in a hint, the names that `shortened` cuts; nothing where it cuts none."""
    return "".join(f"\n- {verbatim(name)}" for name in names if shortened(name) != name)


def verbatim(text: object) -> str:
    r"""Return Markdown that shows a text as it is, in one line.

    For everything that is not written by us wherever Streamlit takes Markdown: names of models, categories and tasks,
    titles of runs, messages of errors. It would else draw `![](https://…)`, `<b>`, `$x$`, `:red[x]` and `:tada:`.
    """
    return notebook.verbatim(_REPLACED.sub(rf"\g<0>{_JOINER}", " ".join(str(text).split())))


def marked(text: str, other: str) -> str:
    """A text as HTML, the words marked that another text does not have in their place."""
    words, beside = (_WORD.findall(each.lstrip(" ")) for each in (text, other))
    parts = []
    # Spaces match only beside words that do: as matches of their own they took minutes for texts that repeat a word.
    for kind, start, stop, _, _ in SequenceMatcher(str.isspace, words, beside, autojunk=False).get_opcodes():
        said = html.escape("".join(words[start:stop]))
        parts.append(said if kind == "equal" or not said.strip() else f"<mark>{said}</mark>")
    return f'<div class="answer">{"".join(parts)}</div>'
