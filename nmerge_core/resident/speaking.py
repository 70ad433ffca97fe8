"""A merge in memory speaks as it would once it is written: by the same files, made in a temporary folder."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoConfig, GenerationConfig

from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.checkpoints.writer import plan_layout
from nmerge_core.loading import ImageModel, LanguageModel
from nmerge_core.merging.plan.opened import Opened
from nmerge_core.merging.write.beside import write_beside


def speaking(language_model: LanguageModel, opened: Opened) -> LanguageModel:
    """Return a model with the tokenizer, chat template, end tokens and settings that an opened recipe's merge has.

    A model that sees images answers none: it stays as it is.

    Raises:
        InputError: transformers cannot load the tokenizer.
    """
    if isinstance(language_model, ImageModel):
        return language_model
    with TemporaryDirectory(prefix="nmerge-") as name:
        folder = Path(name)
        write_beside(opened, folder, plan_layout(folder, opened.tensors, None))
        tokenizer = load_tokenizer(replace(opened.vocabulary.tokenizer, folder=folder))
        if (folder / "generation_config.json").exists():
            settings = GenerationConfig.from_pretrained(folder)
        else:
            settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    language_model.model.generation_config = settings
    return replace(language_model, tokenizer=tokenizer)
