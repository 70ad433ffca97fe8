"""The exemplars of a corpus as a model takes them: the tokens of texts, or images whose tokens are their patches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmerge_core.activations.forward import run_body
from nmerge_core.activations.grid import Grid
from nmerge_core.activations.hooks import record_activations
from nmerge_core.corpus.corpus import Corpus
from nmerge_core.errors import InputError
from nmerge_core.kinds import PAIR
from nmerge_core.loading import ImageModel, LanguageModel
from nmerge_core.parallel import in_order


@dataclass(frozen=True)
class Reading:
    """How a model takes exemplars.

    Attributes:
        layers: the layers that see them: of CLIP those of one encoder.
        lengths: the number of tokens of each exemplar.
        inputs: gives some of them, by their ids: tokens (T,) each, or images (3, height, width).
        grid: of images, where their tokens lie.
    """

    layers: tuple[int, ...]
    lengths: Sequence[int]
    inputs: Callable[[Sequence[int]], list[Tensor]]
    grid: Grid | None = None


def read_corpus(language_model: LanguageModel, corpus: Corpus, max_length: int) -> Reading:
    """Return how a model takes a corpus, its texts cut to `max_length` tokens, or as many as the model takes.

    Raises:
        InputError: they are texts and the model sees images alone, or the reverse, or an exemplar has no tokens; or, as
            images are taken, one is of another size than the first.
    """
    kind = language_model.kind
    if not (kind.sees_images if corpus.images else kind.reads_text):
        wanted, found = ("texts", "images") if corpus.images else ("images", "texts")
        raise InputError(
            f"corpus {corpus.reference}: expected {wanted}, which {language_model.label}, "
            f"{kind.title}, takes, found {found}"
        )
    return _images(language_model, corpus) if corpus.images else _texts(language_model, corpus, max_length)


def of_tokens(layers: Sequence[int], tokens: Sequence[Tensor]) -> Reading:
    """Return the reading of texts whose tokens (T,) are known."""
    return Reading(tuple(layers), [len(each) for each in tokens], lambda ids: [tokens[id] for id in ids])


def _texts(language_model: LanguageModel, corpus: Corpus, max_length: int) -> Reading:
    texts = [exemplar.text for exemplar in corpus.exemplars]
    limit = language_model.longest(max_length)
    encoded = language_model.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    for exemplar, tokens in zip(corpus.exemplars, encoded, strict=True):
        if not tokens:
            raise InputError(f"exemplar {exemplar.id} ({exemplar.category}) has no tokens in {language_model.label}")
    return of_tokens(_layers(language_model, "text encoder"), [torch.tensor(tokens) for tokens in encoded])


def _images(model: LanguageModel, corpus: Corpus) -> Reading:
    assert isinstance(model, ImageModel)
    layers, pictures = _layers(model, "image encoder"), [each.picture for each in corpus.exemplars if each.picture]

    def inputs(ids: Sequence[int]) -> list[Tensor]:
        found = [pixels[0] for pixels in in_order(model.prepared, [pictures[id] for id in ids])]
        for id, pixels in zip(ids, found, strict=True):
            if pixels.shape != first.shape:
                sizes = [f"{each.shape[1]} × {each.shape[2]}" for each in (first, pixels)]
                raise InputError(
                    f"image {pictures[id].name}: expected all images of one size, found {sizes[1]} pixels after "
                    f"{sizes[0]} of {pictures[0].name}, as preprocessor_config.json of {model.label} leaves them; have "
                    "it crop them (do_center_crop), or resize to a height and a width"
                )
        return found

    [first], seen = (
        model.prepared(pictures[0]),
        list[int](),
    )  # all images have as many tokens as the first, which only the model knows
    with record_activations(model.model, model.architecture, layers[:1], lambda _, phi: seen.append(phi.shape[1])):
        run_body(model, first[None], None)
    return Reading(layers, seen * len(pictures), inputs, _grid(model, first, seen[0]))


def _grid(model: ImageModel, pixels: Tensor, tokens: int) -> Grid | None:
    config = getattr(model.model.config, "vision_config", model.model.config)
    size = getattr(config, "patch_size", None) or 1
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = pixels.shape[1] // height, pixels.shape[2] // width
    before = tokens - rows * columns
    return Grid(before, rows, columns) if before >= 0 else None


def _layers(language_model: LanguageModel, stack: str) -> tuple[int, ...]:
    if language_model.kind == PAIR:
        return language_model.architecture.stacks[stack]
    return tuple(range(len(language_model.architecture.layers)))
