"""What makes classes of an image model's features: a given head, CLIP's texts, or a classifier's own outputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError, short
from nmerge_core.evaluation.image_file import ImageFile
from nmerge_core.inputs import model_fingerprint
from nmerge_core.kinds import BODY, CLASSIFIER, PAIR, TOWER
from nmerge_core.loading import ImageModel, load_model

_TEXTS = 256  # that are run at once


@dataclass(frozen=True)
class Head:
    """A linear layer over features: `weight` (classes, d) and `bias` (classes,) in float32."""

    weight: Tensor
    bias: Tensor | None = None

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the classes, (B, classes), of features (B, d)."""
        found = features @ self.weight.T
        return found if self.bias is None else found + self.bias


def find_head(model: ImageModel, file: ImageFile) -> Head:
    """Return the head of a task for a model: the task's own, else that of CLIP's texts; a classifier's outputs as are.

    The length of an image's features does not change which class is likeliest, so they are not normalised.

    Raises:
        InputError: there is none, or it is of other features or classes.
    """
    if model.kind == CLASSIFIER:
        labels = {int(number): str(name) for number, name in (model.model.config.id2label or {}).items()}
        return Head(torch.eye(len(labels), device=model.device)[_outputs(model, file, labels)])
    if file.head is not None:
        return _given(model, file)
    if file.text_model is None and model.kind != PAIR:
        raise InputError(
            f"{model.label} on {file.name}: expected what tells classes apart for {model.kind.title}, found none; name "
            "in the task's YAML a 'head' (a safetensors file), or as 'text_model' the CLIP model that it is of"
        )
    if file.text_model is None:
        return Head(text_features(model, file.classes, file.templates))
    content = model_fingerprint(open_checkpoint(file.text_model))
    texts, projection = _frozen(file.text_model, content, file.classes, file.templates, str(model.device))
    if model.kind == TOWER:  # its features are those before CLIP's projection: ⟨t, P x⟩ = ⟨Pᵀ t, x⟩
        texts = texts @ projection  # (classes, d)
    if texts.shape[1] != _width(model):
        raise InputError(
            f"{model.label} on {file.name}: expected texts of {_width(model)} features as the images have, found "
            f"{texts.shape[1]} of {file.text_model}; name the CLIP model that it is of as 'text_model'"
        )
    return Head(texts)


@torch.inference_mode()
def text_features(model: ImageModel, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the direction of each class among CLIP's texts, (classes, p) float32.

    It is the mean over the templates of the texts' normalised features, normalised (Radford et al., 2021, §3.1.4).
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    running: Any = model.model
    longest = running.config.text_config.max_position_embeddings
    encoded = model.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    tokens = [torch.tensor(ids) for ids in encoded]
    pad = model.tokenizer.pad_token_id or 0
    found = []
    for start in range(0, len(tokens), _TEXTS):
        own = tokens[start : start + _TEXTS]
        ids = pad_sequence(own, batch_first=True, padding_value=pad)  # (B, T)
        real = torch.arange(ids.shape[1]) < torch.tensor([len(each) for each in own])[:, None]  # (B, T)
        output = running.get_text_features(
            input_ids=ids.to(model.device), attention_mask=real.long().to(model.device)
        ).pooler_output
        found.append(normalize(output.float(), dim=-1))
    every = torch.cat(found).view(len(classes), len(templates), -1)  # (classes, templates, p)
    return normalize(every.mean(dim=1), dim=-1)


@lru_cache(maxsize=8)  # of a few tasks: trials of a sweep, and parts of a task, ask for the same again and again
def _frozen(
    reference: str, content: str, classes: Sequence[str], templates: Sequence[str], device: str
) -> tuple[Tensor, Tensor]:
    """Return what the texts of a CLIP model tell classes by, (classes, p), and its projection of images, (p, d).

    Its `content` makes the cache forget a model that was changed.
    """
    loaded = load_model(reference, device, kinds=(PAIR,))
    assert isinstance(loaded, ImageModel)
    projection: Tensor = loaded.model.get_parameter("visual_projection.weight").detach()
    return text_features(loaded, classes, templates), projection.float().clone()


def _width(model: ImageModel) -> int:
    config = model.model.config
    return int(config.hidden_size if model.kind in (TOWER, BODY) else config.projection_dim)


def _given(model: ImageModel, file: ImageFile) -> Head:
    try:
        tensors = load_file(str(file.head), device=str(model.device))
    except Exception as error:  # the file can hold anything, so anything can go wrong
        raise InputError(f"{file.head}: cannot be read as a safetensors file ({short(str(error))})") from error
    expected = (len(file.classes), _width(model))
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or tuple(weight.shape) != expected:
        found = f"{list(weight.shape)}" if weight is not None else f"tensors {short(', '.join(tensors)) or 'none'}"
        raise InputError(
            f"{file.head}, tensor weight: expected {list(expected)} (the classes of {file.name}, the features of "
            f"{model.label}), found {found}"
        )
    if bias is not None and tuple(bias.shape) != expected[:1]:
        raise InputError(f"{file.head}, tensor bias: expected {list(expected[:1])}, found {list(bias.shape)}")
    return Head(weight.float(), None if bias is None else bias.float())


def _outputs(model: ImageModel, file: ImageFile, labels: Mapping[int, str]) -> list[int]:
    """Return which of a classifier's outputs each class is: by its name, or by its place where outputs have none."""
    if all(re.fullmatch(r"LABEL_\d+", name) for name in labels.values()) and len(labels) == len(file.classes):
        return list(range(len(labels)))
    exact = {name: number for number, name in labels.items()}
    plain = [_plain(name) for name in labels.values()]  # which tells no two apart that differ by signs alone
    known = {_plain(name): number for number, name in labels.items() if plain.count(_plain(name)) == 1}
    names = [(key, name) for key, name in zip(file.keys, file.classes, strict=True)]
    of_classes = [_plain(name) for name in file.classes]
    found = [
        exact.get(key, exact.get(name, known.get(_plain(key), known.get(_plain(name))) if alone else None))
        for (key, name), alone in zip(names, (of_classes.count(each) == 1 for each in of_classes), strict=True)
    ]
    lacking = [name for (_, name), output in zip(names, found, strict=True) if output is None]
    if lacking:
        raise InputError(
            f"{model.label} on {file.name}: expected a classifier of the task's {len(names):,} classes, found none of "
            f"its {len(labels):,} outputs for {short(', '.join(lacking))}; they are {short(', '.join(labels.values()))}"
        )
    return [output for output in found if output is not None]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
