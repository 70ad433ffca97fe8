"""Text of foreign origin on a page: shown letter by letter, and never taken for Markdown."""

import re

_JOINER = "\N{WORD JOINER}"  # seen by nobody; what Streamlit replaces after Markdown was read has no escape
_REPLACED = re.compile(r":(?=\S)|(?i:www)(?=\.)|@|(?<!\S)(?:<?->|<-|--|[<>~]=)(?!\S)")  # emoji, icons, links, arrows
_MARKUP = re.compile(r"[\\`*\[\]<>$~&|#]|(?<![^\W_])_|_(?![^\W_])|^[-+=]")
_NUMBERED = re.compile(r"^(\d+)([.)])")


def shortened(text: str, length: int = 40) -> str:
    """Return a name with its middle left out where it is longer: what tells names apart is mostly at their ends."""
    return text if len(text) <= length else f"{text[: length - 13]}…{text[-12:]}"


def verbatim(text: object) -> str:
    r"""Return Markdown that shows a text as it is, in one line.

    For everything that is not written by us wherever Streamlit takes Markdown: names of models, categories and tasks,
    titles of runs, messages of errors. It would else draw `![](https://…)`, `<b>`, `$x$`, `:red[x]` and `:tada:`.
    """
    line = _REPLACED.sub(rf"\g<0>{_JOINER}", " ".join(str(text).split()))
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\g<0>", line))
