"""Tiny models that see images, of 16 × 16 pixels, and folders of images in colours."""

import colorsys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedModel
from transformers.models.clip import CLIPConfig, CLIPImageProcessor, CLIPModel
from transformers.models.vit import ViTConfig, ViTForImageClassification

from tests.tiny import tiny_tokenizer

_LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
_SEEN = _LAYERS | {"image_size": 16, "patch_size": 8}
COLOURS = {"blue": 0.66, "green": 0.33, "red": 0.0}  # hues, in the order of their names


def tiny_clip(folder: Path, seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    text = _LAYERS | {"vocab_size": 257, "max_position_embeddings": 32, "eos_token_id": 0, "pad_token_id": 0}
    config = CLIPConfig(
        text_config=text | {"bos_token_id": None, "projection_dim": 12},
        vision_config=_SEEN | {"projection_dim": 12},
        projection_dim=12,
    )
    model = CLIPModel(config).eval()
    _spread(model)
    save(model, folder)
    tiny_tokenizer(folder, pad=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # CLIP reads what its texts are about at their end
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)])
    tokenizer.save_pretrained(folder)
    return model


def tiny_vit(folder: Path, classes: list[str], seed: int = 0) -> ViTForImageClassification:
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: n for n, name in enumerate(classes)}}
    model = ViTForImageClassification(ViTConfig(**_SEEN, **labels)).eval()
    _spread(model)
    save(model, folder)
    return model


@torch.no_grad()
def _spread(model: PreTrainedModel) -> None:
    """Make the matrices large enough that what is on an image decides the answer, and not the biases."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.4)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save a model with what prepares its images."""
    model.save_pretrained(folder)
    save_processor(folder)


def save_processor(folder: Path) -> None:
    """Save what prepares images: each number from 0 to 255 becomes one from −1 to 1."""
    CLIPImageProcessor(
        size={"shortest_edge": 16},
        crop_size={"height": 16, "width": 16},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def draw_colours(folder: Path, each: int = 4) -> Path:
    """A folder per colour with images in some shades of it, a little noisy."""
    generator = np.random.default_rng(0)
    for name, hue in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            shade = np.array(colorsys.hsv_to_rgb(hue, 0.9, 0.6 + 0.1 * number)) * 255
            pixels = np.clip(shade + generator.normal(0, 4, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def pixels_of(folder: Path) -> tuple[torch.Tensor, list[str]]:
    """All images as the models see them, (images, 3, 16, 16), and the folder of each; by plain arithmetic."""
    files = sorted(folder.rglob("*.png"))
    arrays = [np.asarray(Image.open(file), dtype=np.float32) / 127.5 - 1 for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2), [file.parent.name for file in files]
