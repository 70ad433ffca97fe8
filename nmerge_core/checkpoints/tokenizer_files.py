"""A tokenizer with tokens appended, for a merge that has more tokens than the model whose tokenizer it takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.json_file import read_json, write_json
from nmerge_core.checkpoints.vocabulary import ADDED, CONFIG, TOKENIZER, Flags, Vocabulary
from nmerge_core.errors import InputError, short, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Extension:
    """A tokenizer that holds the tokens `ids`, with their flags, besides its own."""

    tokenizer: "Tokenizer"
    ids: Mapping[str, int]
    flags: Mapping[str, Flags]

    def write(self, folder: Path) -> None:
        """Bring the copy of the tokenizer's files in `folder` up to date."""
        self.tokenizer.save(str(folder / TOKENIZER))
        if (folder / CONFIG).exists():
            config = read_json(folder / CONFIG, "it was there")
            if "added_tokens_decoder" in config:
                entries = {str(id): {"content": token, **self.flags[token]} for token, id in self.ids.items()}
                config["added_tokens_decoder"] |= entries
                write_json(folder / CONFIG, config)
        if (folder / ADDED).exists():
            write_json(folder / ADDED, read_json(folder / ADDED, "it was there") | dict(self.ids))


def extend(folder: Path, own: Vocabulary, appended: Mapping[str, Flags]) -> Extension:
    """Append tokens to the tokenizer of a model's folder, each with its flags; nothing is written.

    This is the `add_tokens` that transformers calls, on tokenizer.json itself: loading the folder by transformers can
    already add tokens, those that the model's tokenizer class misses, and change which class it names.

    Raises:
        InputError: the tokens do not get the ids that follow the tokenizer's own.
    """
    from tokenizers import AddedToken, Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{folder / TOKENIZER}: the library `tokenizers` cannot read it ({short(str(error))})"
        ) from error
    # Tokens that only the files beside it name come first: transformers adds them when it loads the tokenizer.
    known = tokenizer.get_vocab(with_added_tokens=True)
    beside = {token: own.added[token] for token in sorted(own.added, key=own.ids.__getitem__) if token not in known}
    for token, flags in {**beside, **appended}.items():
        add = tokenizer.add_special_tokens if flags.get("special") else tokenizer.add_tokens
        add([AddedToken(token, **flags)])
    ids = {token: own.next_id + place for place, token in enumerate(appended)}
    for token, id in ids.items():
        if tokenizer.token_to_id(token) != id:
            raise InputError(
                f"{folder / TOKENIZER}: expected an appended token {shown(token)} to get the id {id:,}, found "
                f"{tokenizer.token_to_id(token):,}: its ids have gaps; choose `base` or a model as the 'tokenizer'"
            )
    return Extension(tokenizer, ids, appended)
