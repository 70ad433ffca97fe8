"""How one talks to a model, written beside its weights: every file that tells it tells the same."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import TEXT
from nmerge_core.checkpoints.conversation import (
    DEFAULT,
    GENERATION,
    SPECIAL,
    SPECIAL_MAP,
    TEMPLATE,
    TEMPLATES,
    Conversation,
    config_id,
    read_special,
    read_templates,
)
from nmerge_core.checkpoints.json_file import read_json, write_json
from nmerge_core.checkpoints.vocabulary import CONFIG


def write_conversation(folder: Path, conversation: Conversation) -> None:
    """Bring the files beside a checkpoint's weights in line with a conversation; those that are stay as they are."""
    if read_templates(folder) != conversation.templates:
        _write_templates(folder, conversation.templates)
    if read_special(folder) != conversation.special:
        _write_special(folder, conversation.special)
    file = folder / GENERATION
    if conversation.generation is None:
        file.unlink(missing_ok=True)
    elif not file.exists() or read_json(file, "") != conversation.generation:
        write_json(file, conversation.generation)


def with_ids(config: Mapping[str, Any], conversation: Conversation) -> dict[str, Any]:
    """Return a configuration with the ids of a conversation's first, end and padding tokens, wherever it has them."""
    ids = {f"{name}_token_id": config_id(conversation.config, name) for name in SPECIAL}
    known = {key: id for key, id in ids.items() if id is not None}
    kept = {key: value for key, value in config.items() if key not in ids} | known
    if isinstance(text := config.get(TEXT), Mapping):
        kept[TEXT] = {**text, **{key: ids[key] for key in ids if key in text}}
    return kept


def _write_templates(folder: Path, templates: Mapping[str, str]) -> None:
    """Write chat templates as transformers 5 does, in files of their own, and leave none elsewhere."""
    shutil.rmtree(folder / TEMPLATES, ignore_errors=True)
    for file in folder.glob("chat_template*"):
        file.unlink()
    for file in (folder / CONFIG, folder / "processor_config.json"):
        if file.exists() and "chat_template" in (content := read_json(file, "")):
            write_json(file, {key: value for key, value in content.items() if key != "chat_template"})
    for name, text in templates.items():
        file = folder / TEMPLATE if name == DEFAULT else folder / TEMPLATES / f"{name}.jinja"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")


def _write_special(folder: Path, special: Mapping[str, Any]) -> None:
    """Write the first, end and padding tokens into the tokenizer's files; those that are not named are left out."""
    for file in (folder / CONFIG, folder / SPECIAL_MAP):
        if file.exists() or (file.name == CONFIG and special):
            content = read_json(file, "") if file.exists() else {}
            other = {key: value for key, value in content.items() if key not in {f"{name}_token" for name in SPECIAL}}
            write_json(file, other | dict(special))
