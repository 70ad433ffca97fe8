"""The towers of layers of a checkpoint, by the names of its tensors: one, or an encoder and a decoder, or several."""

import re
from collections.abc import Iterable

# T5 counts the sub-layers of its blocks by `layer`, too: the first number in a name is the layer's.
LAYER = re.compile(r"^(?P<tower>(?:.*?\.)??(?:layers?|h|blocks?))\.(?P<number>\d+)\.(?P<rest>.+)$")
# Towers that see or hear for a language model.
_SENSES = re.compile(r"vision|visual|image|audio|speech")


def towers(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the layers of each tower, `model.layers`, `encoder.block` and `decoder.block` and so on.

    A decoder comes after its encoder, towers otherwise in the order of their names.
    """
    found: dict[str, set[int]] = {}
    for name in names:
        if layer := LAYER.match(name):
            found.setdefault(layer["tower"], set()).add(int(layer["number"]))
    return {tower: tuple(sorted(found[tower])) for tower in sorted(found, key=lambda each: ("decoder" in each, each))}


def plain_name(tower: str) -> str:
    """Return what people call a tower: encoder, decoder, text encoder, image encoder."""
    of = "image " if _SENSES.search(tower) else "text " if "text" in tower else ""
    return f"{of}{'decoder' if 'decoder' in tower else 'encoder'}"


def of_language(names: Iterable[str]) -> tuple[str, ...]:
    """Return the towers whose layers are a model's layers: those of its text where it is a language model that sees.

    Where no tower writes text, as in CLIP, which has an encoder of text and one of images, all count.
    """
    found = tuple(names)
    if named := tuple(tower for tower in found if "language_model" in tower):
        return named
    own = tuple(tower for tower in found if not _SENSES.search(tower))
    return own if any("encoder" not in tower for tower in own) else found
