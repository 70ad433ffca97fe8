"""What lies beside a merge's weights: configuration, tokenizer, chat templates, end tokens, generation settings."""

from pathlib import Path

from nmerge_core.checkpoints.conversation_files import with_ids, write_conversation
from nmerge_core.checkpoints.writer import Layout, write_companions
from nmerge_core.merging.plan.opened import Opened


def write_beside(opened: Opened, folder: Path, layout: Layout) -> None:
    """Write into `folder` all that an opened recipe's merge is loaded with, but its weights."""
    vocabulary, conversation = opened.vocabulary, opened.conversation.conversation
    write_companions(
        folder, with_ids(vocabulary.config(opened.stream.donor), conversation), vocabulary.tokenizer, layout
    )
    if extension := vocabulary.extension():
        extension.write(folder)
    write_conversation(folder, conversation)
