"""Image tasks on tiny models: against plain loops over transformers' models, and heads that must answer a colour."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from safetensors.torch import save_file
from transformers import AutoTokenizer
from transformers.models.clip import CLIPVisionModel, CLIPVisionModelWithProjection

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.evaluation import Evaluator, evaluate
from nmerge_core.evaluation.image_heads import _outputs
from nmerge_core.evaluation.problems import Source, open_problems
from nmerge_core.inputs import Places
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from nmerge_core.task_yaml.files import task_files
from tests.tiny import tiny_model
from tests.tiny_images import COLOURS, draw_colours, pixels_of, save, tiny_clip, tiny_vit

NAMES = list(COLOURS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A CLIP model, its image encoder alone with and without projection, and images."""
    root = tmp_path_factory.mktemp("images")
    clip = tiny_clip(root / "clip", seed=1)  # one that does not answer the same to all of them
    tower = CLIPVisionModel(clip.config.vision_config)
    tower.load_state_dict(clip.vision_model.state_dict())
    save(tower, root / "tower")
    names = {f"vision_model.{name}": value for name, value in tower.state_dict().items() if "position_ids" not in name}
    save_file(names, root / "tower" / "model.safetensors", {"format": "pt"})  # as transformers 4 wrote it
    projected = CLIPVisionModelWithProjection(clip.config.vision_config)
    projected.vision_model.load_state_dict(clip.vision_model.state_dict())
    projected.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    save(projected, root / "projected")
    return SimpleNamespace(root=root, clip=clip, pictures=draw_colours(root / "pictures"))


def task(folder: Path, **changes: Any) -> str:
    content = {"task": "colours", "kind": "image_classification"} | changes
    (folder / "colours.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "colours.yaml")


def answers(models: list[str], reference: str, folder: Path, **given: Any) -> tuple[list[dict], list[float]]:
    table = evaluate(models, [reference], samples=folder / "samples.jsonl", device="cpu", **given)
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()], list(table["value"])


def test_zero_shot_equals_a_plain_loop_over_clip(made: SimpleNamespace, tmp_path: Path) -> None:
    """The class whose texts' mean direction is nearest the image's; so for the encoder alone, told by CLIP's texts."""
    templates = ["a {} image.", "one of {}"]
    reference = task(made.root, data="pictures", templates=templates, text_model=str(made.root / "clip"))
    models = [str(made.root / name) for name in ("clip", "tower", "projected")]
    found, values = answers(models, reference, tmp_path, batch_size=5)
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    directions = []
    with torch.no_grad():
        for name in NAMES:
            texts = [tokenizer(each.format(name), return_tensors="pt") for each in templates]
            features = torch.cat([made.clip.get_text_features(**each).pooler_output for each in texts])
            directions.append((features / features.norm(dim=-1, keepdim=True)).mean(0))
        pixels, truth = pixels_of(made.pictures)
        images = made.clip.get_image_features(pixel_values=pixels).pooler_output
        similarity = torch.cosine_similarity(images[:, None], torch.stack(directions)[None], dim=-1)
    expected = [NAMES[place] for place in similarity.argmax(-1)]
    assert len({*expected}) > 1
    by_image = [{n: e for n, e in zip(made_names(made.pictures), expected, strict=True)}] * 3
    told = [{each["prompt"]: each["answer"] for each in found if each["model"] == name} for name in labels(models)]
    assert told == by_image
    right = sum(a == b for a, b in zip(expected, truth, strict=True)) / len(truth)
    assert values == [right] * 3


def made_names(pictures: Path) -> list[str]:
    return [str(file.relative_to(pictures)) for file in sorted(pictures.rglob("*.png"))]


def labels(models: list[str]) -> list[str]:
    return [Path(model).name for model in models]


def test_a_given_head_answers_the_colours_it_was_solved_for(made: SimpleNamespace, tmp_path: Path) -> None:
    """W = (F⁺ Y)ᵀ makes every image's own colour the largest; with its rows turned by one, none is right."""
    pixels, truth = pixels_of(made.pictures)
    with torch.no_grad():
        features = made.clip.vision_model(pixel_values=pixels).pooler_output  # (images, 16)
    wanted = torch.eye(3)[[NAMES.index(each) for each in truth]]
    weight = torch.linalg.lstsq(torch.cat([features, torch.ones(len(truth), 1)], dim=1), wanted).solution.T.contiguous()
    parts = {"weight": weight[:, :-1].contiguous(), "bias": weight[:, -1].contiguous()}
    save_file(parts, made.root / "head.safetensors")
    reference = task(made.root, data="pictures", head="head.safetensors")
    found, values = answers([str(made.root / "tower")], reference, tmp_path)
    assert values == [1.0] and {each["reference"] for each in found} == {*NAMES}
    assert [each["answer"] for each in found] == [each["reference"] for each in found]
    save_file({name: each.roll(1, 0) for name, each in parts.items()}, made.root / "head.safetensors")
    assert answers([str(made.root / "tower")], reference, tmp_path)[1] == [0.0]
    assert made.root / "head.safetensors" in task_files([Path(reference)])
    with pytest.raises(InputError, match=r"head.safetensors, tensor weight: expected \[3, 12\] .* found \[3, 16\]"):
        evaluate([str(made.root / "projected")], [reference])


def test_a_classifiers_outputs_are_found_by_their_names(made: SimpleNamespace, tmp_path: Path) -> None:
    """Of outputs Red, BLUE, a fourth and green the task's classes are 1, 3 and 0; the fourth is never answered."""
    model = tiny_vit(tmp_path / "vit", ["Red", "BLUE", "none of them", "green"])
    reference = task(made.root, data="pictures")
    found, _ = answers([str(tmp_path / "vit")], reference, tmp_path)
    with torch.no_grad():
        logits = model(pixel_values=pixels_of(made.pictures)[0]).logits[:, [1, 3, 0]]
    expected = dict(zip(made_names(made.pictures), (NAMES[place] for place in logits.argmax(-1)), strict=True))
    assert {each["prompt"]: each["answer"] for each in found} == expected
    tiny_vit(tmp_path / "other", ["red", "blue", "teal"])
    with pytest.raises(InputError, match="found none of its 3 outputs for green; they are red, blue, teal"):
        evaluate([str(tmp_path / "other")], [reference])


def test_a_classifier_is_its_body_with_its_head(made: SimpleNamespace, tmp_path: Path) -> None:
    model = tiny_vit(tmp_path / "whole", NAMES)
    with torch.no_grad():  # so that it does not answer the same to all of them
        model.classifier.bias -= model(pixel_values=pixels_of(made.pictures)[0]).logits.mean(0)
    save(model, tmp_path / "whole")
    save(model.vit, tmp_path / "body")
    save_file({n: v.detach() for n, v in model.classifier.named_parameters()}, made.root / "own.safetensors")
    whole, _ = answers([str(tmp_path / "whole")], task(made.root, data="pictures"), tmp_path)
    body, _ = answers([str(tmp_path / "body")], task(made.root, data="pictures", head="own.safetensors"), tmp_path)
    told = [[each["answer"] for each in found] for found in (whole, body)]
    assert told[0] == told[1] and len({*told[0]}) > 1


def test_a_data_set_numbers_the_same_classes(made: SimpleNamespace, tmp_path: Path) -> None:
    """Of images in Parquet with a ClassLabel the answers are the folder's; the column may have another name."""
    files = sorted(made.pictures.rglob("*.png"))
    features = Features({"img": Image(), "colour": ClassLabel(names=NAMES)})
    rows = {"img": [str(file) for file in files], "colour": [file.parent.name for file in files]}
    (tmp_path / "stored").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "stored" / "test.parquet")
    of_folder, value = answers([str(made.root / "clip")], task(made.root, data="pictures"), tmp_path)
    data = {"path": "stored", "image": "img", "label": "colour"}
    reference = task(tmp_path, data=data)
    stored, again = answers([str(made.root / "clip")], reference, tmp_path)
    assert value == again
    by_place = {f"image {place}": name for place, name in enumerate(made_names(made.pictures))}
    expected = {each["prompt"]: each["answer"] for each in of_folder}
    assert {by_place[each["prompt"]]: each["answer"] for each in stored} == expected
    assert tmp_path / "stored" / "test.parquet" in task_files([Path(reference)])
    with pytest.raises(InputError, match="key 'data': no column 'image'; it has img, colour"):
        Evaluator([task(tmp_path, data={"path": "stored"})])


def test_interval_order_and_parts(made: SimpleNamespace, tmp_path: Path) -> None:
    """The first images are of all colours, whose folders come one after the other; a part is scored alone."""
    reference = task(made.root, data="pictures")
    scores = evaluate([str(made.root / "clip")], [reference], limit=6, shots=3)
    row = scores.loc[0, ["task", "metric", "samples", "interval", "shots", "higher_is_better"]]
    assert row.tolist() == ["colours", "acc", 6, "Wilson", 0, True]
    evaluator = Evaluator([reference], limit=6)
    assert len({doc["label"] for doc in evaluator.task("colours").eval_docs[:6]}) == 3
    loaded = load_model(str(made.root / "clip"), "cpu", kinds=SCORED)
    (problems,) = open_problems(Source(reference, "x"))
    parts = [problems.score(loaded, start, start + 4, lambda *told: None)[0] for start in (0, 4, 8)]
    whole = [each["value"] for each in Evaluator([reference]).scored(loaded).samples]
    assert sum(parts, []) == whole and problems.metric == "acc"


def test_the_content_of_images_and_of_what_tells_them_apart_tells_tasks_apart(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    draw_colours(tmp_path / "pictures", each=1)
    tiny_clip(tmp_path / "clip", seed=1)
    reference = task(tmp_path, data="pictures", text_model=str(tmp_path / "clip"))
    keys = [Places(cache_root()).task(reference)[1]]
    (tmp_path / "pictures/red/0.png").write_bytes((tmp_path / "pictures/blue/0.png").read_bytes())
    keys.append(Places(cache_root()).task(reference)[1])
    tiny_clip(tmp_path / "clip", seed=2)
    keys.append(Places(cache_root()).task(reference)[1])
    assert len({*keys}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "none"}, "expected a folder with a folder of images per class, found no "),
        ({"data": 3}, "key 'data': expected a folder .* found 3"),
        ({"data": {"path": "hf://x", "split": "test"}}, "expected a folder or the id of a data set, found 'hf://x'"),
        ({"data": "pictures", "tempates": ["{}"]}, "unknown key 'tempates'; did you mean 'templates'?"),
        ({"data": "pictures", "templates": "a photo"}, "expected texts with one {} for the class, found 'a photo'"),
        ({"data": "pictures", "classes": ["blue", "green"]}, "expected all that the data have, found no 'red'"),
        ({"data": "pictures", "classes": ["a", "b", "c"]}, "other names for all of them; write `'blue': name` each"),
        ({"data": "pictures", "classes": ["red", "blue", "green", "red"]}, "expected each class once"),
        ({"data": "pictures", "head": "h", "text_model": "m"}, "'head' and 'text_model' both tell"),
    ],
)
def test_what_a_yaml_says_wrongly(made: SimpleNamespace, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Evaluator([task(made.root, **changes)])


def test_a_model_of_another_kind_and_what_is_missing_are_told(made: SimpleNamespace, tmp_path: Path) -> None:
    reference = task(made.root, data="pictures")
    language = tiny_model(tmp_path / "tiny")
    with pytest.raises(InputError, match="tiny on colours: a task of images, and tiny is a causal language model"):
        evaluate([language], [reference])
    with pytest.raises(InputError, match="tower on colours: expected what tells classes apart for a vision tower"):
        evaluate([str(made.root / "tower")], [reference])
    with pytest.raises(InputError, match="clip: expected a causal language model, found a model of images and texts"):
        load_model(str(made.root / "clip"), "cpu")
    (made.pictures / "red" / "0.png").rename(tmp_path / "kept")
    (made.pictures / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"image red/0.png: cannot be read as an image \(cannot identify"):
        evaluate([str(made.root / "clip")], [reference])
    (tmp_path / "kept").rename(made.pictures / "red" / "0.png")
    save(made.clip, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"bare: no preprocessor_config.json, which says how images are prepared"):
        load_model(str(tmp_path / "bare"), "cpu", kinds=SCORED)


def test_classes_that_differ_by_signs_alone_are_told_apart() -> None:
    model: Any = SimpleNamespace(label="vit")

    def outputs(classes: list[str], *labels: str) -> list[int]:
        file: Any = SimpleNamespace(name="task", classes=classes, keys=classes)
        return _outputs(model, file, dict(enumerate(labels)))

    assert outputs(["C", "C++", "C#"], "C#", "C", "C++") == [1, 2, 0]
    assert outputs(["sea lion", "Tabby-Cat"], "tabby cat", "Sea_Lion") == [1, 0]  # one of a name, however it is written
    with pytest.raises(InputError, match="found none of its 2 outputs for c, c"):
        outputs(["c", "c++"], "C", "C++")
