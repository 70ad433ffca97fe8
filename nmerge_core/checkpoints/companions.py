"""What stands beside a model's weights and goes by its tokens: tokenizer, chat template, how it generates."""

from pathlib import Path

_PATTERNS = (
    "*tokenizer*",
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


def companions(folder: Path) -> set[Path]:
    """Return the files and folders of a model that travel with its tokenizer."""
    return {found for pattern in _PATTERNS for found in folder.glob(pattern)}
