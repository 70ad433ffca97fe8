"""Merges of models that read by an encoder or see images: what is written loads by its class, and is scored alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from transformers.models.clip import CLIPVisionModel

from nmerge_core.checkpoints import inspect_family
from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import silent
from nmerge_core.resident import LiveMerge, hold_family
from tests.evaluation.test_conditions import CHOICES, PROMPTS
from tests.evaluation.test_seq2seq import ENDED, tiny_t5
from tests.evaluation.test_tasks import write_task
from tests.tiny_images import COLOURS, draw_colours, save, tiny_clip, tiny_vit


def make_t5(folder: Path) -> None:
    tiny_t5(folder)
    (folder / "spiece.model").write_bytes(b"as its tokenizer keeps it")


def make_clip(folder: Path) -> None:
    tiny_clip(folder, seed=1)


def make_tower(folder: Path) -> None:
    """As transformers 4 wrote the image encoder of CLIP alone: names begin with what its class has left off since."""
    torch.manual_seed(1)
    model = CLIPVisionModel(tiny_clip(folder.parent / "clip", seed=1).config.vision_config)
    save(model, folder)
    stored = load_file(folder / "model.safetensors")
    save_file({f"vision_model.{n}": v for n, v in stored.items()}, folder / "model.safetensors", {"format": "pt"})


def make_vit(folder: Path) -> None:
    tiny_vit(folder, list(COLOURS))


def tune(base: Path, folder: Path, seed: int) -> str:
    """The base with noise in every weight."""
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    for weight in weights.values():
        weight += 0.3 * torch.randn(weight.shape, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def image_task(folder: Path) -> str:
    draw_colours(folder / "pictures", each=3)
    content = {"task": "colours", "kind": "image_classification", "data": "pictures"}
    content |= {"text_model": "clip"} if (folder / "clip").exists() else {}
    (folder / "colours.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "colours.yaml")


def text_task(folder: Path) -> str:
    docs = [{"prompt": prompt, "answer": number % 3, "choices": ENDED} for number, prompt in enumerate(PROMPTS)]
    return write_task(folder, CHOICES | {"target_delimiter": ""}, docs)


@pytest.mark.parametrize(
    ("make", "task", "loads", "tag", "kept"),
    [
        (make_t5, text_task, "T5ForConditionalGeneration", "text2text-generation", "spiece.model"),
        (make_clip, image_task, "CLIPModel", "zero-shot-image-classification", "preprocessor_config.json"),
        (make_tower, image_task, "CLIPVisionModel", "image-feature-extraction", "preprocessor_config.json"),
        (make_vit, image_task, "ViTForImageClassification", "image-classification", "preprocessor_config.json"),
    ],
    ids=["T5", "CLIP", "its image encoder", "ViT"],
)
def test_a_merge_loads_by_its_class_and_scores_as_the_merge_in_memory(
    make: Callable[[Path], None],
    task: Callable[[Path], str],
    loads: str,
    tag: str,
    kept: str,
    tmp_path: Path,
) -> None:
    make(tmp_path / "base")
    models = [{"model": tune(tmp_path / "base", tmp_path / name, seed)} for seed, name in enumerate(("one", "two"))]
    recipe = {"merge_method": "neuromerging", "base_model": str(tmp_path / "base"), "models": models}
    reference = task(tmp_path)
    talks = loads == "T5ForConditionalGeneration"
    merge(load_recipe(recipe), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert f"model = {loads}.from_pretrained" in card and f"pipeline_tag: {tag}" in card
    assert ("Conversation" in card) == talks
    assert (tmp_path / "out" / kept).read_bytes() == (tmp_path / "base" / kept).read_bytes()
    kind: Any = getattr(transformers, loads)
    _, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    written = evaluate([str(tmp_path / "out")], [reference], device="cpu")
    live = LiveMerge(hold_family(load_recipe(recipe), "cpu"), load_recipe(recipe))
    live.follow(load_recipe(recipe), silent)
    held = Evaluator([reference]).scored(live.language_model).table
    with pytest.raises(InputError, match=r"^the merge: expected a causal language model, found "):
        live.language_model.check_causal()  # which would answer a prompt
    assert bool(open_recipe(load_recipe(recipe), "cpu").conversation.summary) == talks
    assert held["value"].tolist() == written["value"].tolist()
    in_files = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(live.weights(name), in_files[name]) for name in live.family.names)


def test_a_model_that_reads_no_text_lacks_no_tokenizer_and_has_no_conversation(tmp_path: Path) -> None:
    make_vit(tmp_path / "base")
    tuned = tune(tmp_path / "base", tmp_path / "one", 0)
    recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [{"model": tuned}]}
    assert open_recipe(load_recipe(recipe), "cpu").conversation.summary == ""
    assert not inspect_family(str(tmp_path / "base"), [tuned]).warnings
