"""How one talks to a model: its chat templates, the tokens that begin and end an answer, how it generates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import TEXT
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.reference import labels
from nmerge_core.checkpoints.vocabulary import CONFIG, Vocabulary, known_vocabulary
from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.small_file import read_small

TEMPLATE, TEMPLATES, GENERATION = "chat_template.jinja", "additional_chat_templates", "generation_config.json"
SPECIAL_MAP, PROCESSOR_TEMPLATE = "special_tokens_map.json", "chat_template.json"
DEFAULT = "default"  # the template that is used unless another is asked for
SPECIAL = ("bos", "eos", "pad")  # NAME_token in the tokenizer's files, NAME_token_id in the others
_IDS = re.compile(r".*_token_ids?|(?:begin_)?suppress_tokens|bad_words_ids")  # settings that hold ids of tokens
_OF_THE_PROGRAM = re.compile(r"transformers_version|_from_model_config|use_cache|return_dict.*|output_.*")
# What these are where nothing is said; some versions of transformers write that out.
_NEUTRAL = dict.fromkeys(("temperature", "top_p", "typical_p", "repetition_penalty", "length_penalty", "num_beams"), 1)
_NEUTRAL |= {"num_beam_groups": 1, "num_return_sequences": 1, "encoder_repetition_penalty": 1, "top_k": 50}
_LARGEST = 10_000_000  # bytes of a template
_SHOWN = 60  # characters of a setting in a message
_LISTED = 8  # end tokens, or settings, in a message


@dataclass(frozen=True)
class Conversation:
    """What stands beside a model's weights for talking to it.

    `special` is bos_token, eos_token and pad_token as its tokenizer's files have them, `config` its config.json,
    `generation` its generation_config.json, None where it has none; `vocabulary` is None where it is not known.
    """

    templates: Mapping[str, str]
    special: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    vocabulary: Vocabulary | None

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids that an answer ends at: where `generate` stops, and what the tokenizer calls its end."""
        said = config_id(self.config, "eos") if self.generation is None else self.generation.get("eos_token_id")
        ends = list(said) if isinstance(said, list) else [] if said is None else [said]
        of_tokenizer = self.vocabulary and self.vocabulary.ids.get(token_text(self.special.get("eos_token")))
        return tuple(dict.fromkeys([*ends, *([] if of_tokenizer is None else [of_tokenizer])]))

    @property
    def settings(self) -> dict[str, Any]:
        """How it generates, but for ids of tokens; a setting that says nothing is left out."""
        given = (self.generation or {}).items()
        return {
            key: value
            for key, value in given
            if not _OF_THE_PROGRAM.fullmatch(key) and not _IDS.fullmatch(key) and value and _NEUTRAL.get(key) != value
        }

    def token(self, id: Any) -> str:
        """Return the text of a token, or its number where no tokenizer tells it."""
        by_id = self.vocabulary.by_id if self.vocabulary else {}
        return by_id.get(id, f"#{id}")

    @property
    def end_tokens(self) -> tuple[str, ...]:
        """The texts of `ends`."""
        return tuple(map(self.token, self.ends))


def is_ids(setting: str) -> bool:
    """Whether a setting of generation_config.json holds ids of tokens."""
    return bool(_IDS.fullmatch(setting))


def token_text(token: Any) -> str:
    """Return the text of a token as tokenizer files have it, a string or an object; empty where there is none."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else ""


def config_id(config: Mapping[str, Any], name: str) -> Any:
    """Return the id of a special token in config.json, where need be in the text tower's part; None if it has none."""
    nested = config.get(TEXT)
    own = config.get(f"{name}_token_id")
    return nested.get(f"{name}_token_id") if own is None and isinstance(nested, Mapping) else own


def read_conversations(checkpoints: Sequence[Checkpoint]) -> list[Conversation]:
    """Read what stands beside the weights of models that belong together.

    A model without tokenizer has the tokens of the first one that has a tokenizer, as where its rows are merged. An
    adapter's own templates and tokens come before its model's.

    Raises:
        InputError: a file is not what it should be.
    """
    known = next((found for each in checkpoints if (found := known_vocabulary(each))), None)
    return [_read(checkpoint, known) for checkpoint in checkpoints]


def _read(checkpoint: Checkpoint, known: Vocabulary | None) -> Conversation:
    folder = beside = checkpoint.folder
    if checkpoint.adapter and (own := checkpoint.adapter.file.parent) and (own / CONFIG).exists():
        beside = own
    generation = folder / GENERATION
    return Conversation(
        templates=read_templates(beside),
        special=read_special(beside),
        config=checkpoint.config,
        generation=read_json(generation, "it says how to generate") if generation.exists() else None,
        vocabulary=known_vocabulary(checkpoint, known),
    )


def read_templates(folder: Path) -> dict[str, str]:
    """Read a folder's chat templates by name, as transformers does: files first, then the tokenizer's configuration.

    Raises:
        InputError: a file cannot be read, or the configuration has something else under `chat_template`.
    """
    found = {DEFAULT: folder / TEMPLATE} if (folder / TEMPLATE).exists() else {}
    found |= {file.stem: file for file in sorted((folder / TEMPLATES).glob("*.jinja"))}
    if found:
        return {name: read_text(file) for name, file in found.items()}
    for name in (CONFIG, PROCESSOR_TEMPLATE):
        if not (folder / name).exists():
            continue
        given = read_json(folder / name, "").get("chat_template")
        if given is None or given == "":
            continue
        pairs = _named(given)
        if not all(map(_is_template, pairs)):
            raise InputError(
                f"{folder / name}, key 'chat_template': expected a template or a list of {{name, template}}, each name "
                f"one that a file can have, found {shown(given)}"
            )
        return dict(pairs)
    return {}


def _named(given: Any) -> list[tuple[Any, Any]]:
    """Return what stands under `chat_template` as names and templates."""
    if isinstance(given, Mapping):
        return list(given.items())
    entries = given if isinstance(given, list) else [{"name": DEFAULT, "template": given}]
    return [(each.get("name"), each.get("template")) if isinstance(each, Mapping) else (None, each) for each in entries]


def _is_template(template: tuple[Any, Any]) -> bool:
    """Whether this is a name that a file in the folder of templates can have, and a text."""
    name, text = template
    plain = isinstance(name, str) and name not in ("", "..") and Path(name).name == name and "\0" not in name
    return plain and isinstance(text, str)


def read_special(folder: Path) -> dict[str, Any]:
    """Read the tokens of `SPECIAL` from a tokenizer's files, as they stand there."""
    config = read_json(folder / CONFIG, "") if (folder / CONFIG).exists() else {}
    if "added_tokens_decoder" not in config and (folder / SPECIAL_MAP).exists():  # as transformers reads older ones
        config = config | read_json(folder / SPECIAL_MAP, "")
    keys = [f"{name}_token" for name in SPECIAL]
    return {key: config[key] for key in keys if token_text(config.get(key))}


def read_text(file: Path) -> str:
    """Read a template; raises InputError where it cannot be read, is no text, or larger than any."""
    try:
        return StringIO(read_small(file, _LARGEST).decode(), newline=None).read()  # line ends as open() gives them
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected a chat template, not readable as text ({error})") from error


def told_differences(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, str]]:
    """Say of the models how one talks to them otherwise than to the first: names, and in what; alike ones together.

    Raises:
        InputError: as `read_conversations`.
    """
    first, *others = read_conversations(checkpoints)
    _, *names = labels([checkpoint.reference for checkpoint in checkpoints])
    told: dict[str, list[str]] = {}
    for name, other in zip(names, others, strict=True):
        if parts := _differences(first, other):
            told.setdefault("; ".join(parts), []).append(name)
    return [(", ".join(models), what) for what, models in told.items()]


def _differences(base: Conversation, model: Conversation) -> list[str]:
    ours, theirs = ({name: text.strip() for name, text in each.templates.items()} for each in (base, model))
    parts = []
    if ours != theirs:
        parts.append(
            "no chat template where the base has one"
            if not theirs
            else f"{'another' if ours else 'a'} chat template {'than the base' if ours else 'where the base has none'}"
        )
    if set(base.end_tokens) != set(model.end_tokens):
        parts.append(f"ends at {_tokens(model.end_tokens)} where the base ends at {_tokens(base.end_tokens)}")
    for name, called in (("pad", "padding"), ("bos", "first")):
        texts = [_special(each, name) for each in (base, model)]
        if texts[0] != texts[1]:
            parts.append(f"{called} token {_tokens(texts[1:])} where the base has {_tokens(texts[:1])}")
    ours, theirs = base.settings, model.settings
    if changed := [key for key in dict.fromkeys((*theirs, *ours)) if ours.get(key) != theirs.get(key)]:
        parts.append(
            "generates with " + ", ".join(f"{short(key)} {_pair(theirs.get(key), ours.get(key))}" for key in changed)
        )
    return parts


def _special(conversation: Conversation, name: str) -> str:
    """Return the text of a special token: the tokenizer's, else that of the id with which it generates."""
    text = token_text(conversation.special.get(f"{name}_token"))
    id = (conversation.generation or {}).get(f"{name}_token_id", config_id(conversation.config, name))
    return text or ("" if id is None else conversation.token(id))


def _tokens(texts: Sequence[str]) -> str:
    return " or ".join(shown(text) for text in list(texts)[:_LISTED] if text) or "none"


def _pair(model: Any, base: Any) -> str:
    told = ["unset" if value is None else str(value)[:_SHOWN] for value in (model, base)]
    return f"{told[0]} (base: {told[1]})"
