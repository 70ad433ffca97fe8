"""Models that see images: neurons are told apart by images, whose tokens are patches, as plain hooks have them."""

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from transformers import PreTrainedModel
from transformers.models.clip import CLIPVisionModel, CLIPVisionModelWithProjection
from transformers.models.dinov2 import Dinov2Config, Dinov2ForImageClassification
from transformers.models.vit import ViTModel

import nmerge_core as nm
from nmerge_core.ablation import knockout
from nmerge_core.activations import collect as collecting
from nmerge_core.activations.collect import collect
from nmerge_core.activations.grid import Grid
from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.cli import main
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.figures.images import shades
from nmerge_core.kinds import SCORED
from nmerge_core.loading import ImageModel, load_model
from nmerge_core.neuron import on_images
from nmerge_core.neuron.on_images import image_activations
from tests.tiny import TEXTS, tiny_model, write_corpus
from tests.tiny_images import COLOURS, draw_colours, pixels_of, save, tiny_clip, tiny_vit

TOKENS = 5  # of an image of 16 × 16 pixels: the class token, and 2 × 2 patches


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of images in three colours, blue being general, and a corpus of texts."""
    folder = tmp_path_factory.mktemp("images")
    draw_colours(folder / "corpus")
    (folder / "corpus" / "blue").rename(folder / "corpus" / "general")
    write_corpus(folder / "texts", TEXTS)
    return folder


def clip(folder: Path) -> PreTrainedModel:
    return tiny_clip(folder)


def tower(folder: Path) -> PreTrainedModel:
    model = CLIPVisionModel(tiny_clip(folder.parent / "clip").config.vision_config).eval()
    save(model, folder)
    return model


def projected(folder: Path) -> PreTrainedModel:
    model = CLIPVisionModelWithProjection(tiny_clip(folder.parent / "clip").config.vision_config).eval()
    save(model, folder)
    return model


def vit(folder: Path) -> PreTrainedModel:
    return tiny_vit(folder, [*COLOURS])


def body(folder: Path) -> PreTrainedModel:
    model = ViTModel(tiny_vit(folder.parent / "vit", [*COLOURS]).config, add_pooling_layer=False).eval()
    save(model, folder)
    return model


def plain(model: PreTrainedModel, down: list[str], **given: torch.Tensor) -> list[torch.Tensor]:
    """φ (B, T, d_ffn) of each layer, from plain hooks on transformers' own forward pass."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0]})
        )
        for name in down
    ]
    with torch.no_grad():
        model(**given)
    for handle in handles:
        handle.remove()
    return [seen[name] for name in down]


def downs(model: PreTrainedModel, inside: str = "") -> list[str]:
    """The modules whose input is φ."""
    ends = ".mlp.fc2", ".output.dense"
    found = [name for name, _ in model.named_modules() if name.endswith(ends) and ".attention." not in name]
    return [name for name in found if inside in name]


@pytest.mark.parametrize("make", [clip, tower, projected, vit, body])
def test_scores_equal_plain_hooks(make: Any, root: Path, tmp_path: Path) -> None:
    model, corpus = make(tmp_path / "model"), load_corpus(str(root / "corpus"), images=True)
    loaded = load_model(str(tmp_path / "model"), "cpu", kinds=SCORED)
    scores = collect(loaded, corpus, batch_size=5, statistics=True)
    pixels, _ = pixels_of(root / "corpus")  # in the order of the names, as ids are: general, green, red
    texts = {"input_ids": torch.tensor([[5, 9, 0]])} if make is clip else {}
    expected = plain(model, downs(model, "vision" if make is clip else ""), pixel_values=pixels, **texts)
    assert scores.layers == ((2, 3) if make is clip else (0, 1)) and len(expected) == 2
    assert scores.grid and (scores.grid.before, scores.grid.rows, scores.grid.columns) == (1, 2, 2)
    for layer, phi in enumerate(expected):
        values, tokens = phi.abs().max(1)
        torch.testing.assert_close(scores.values[layer], values, rtol=1e-5, atol=1e-5)
        assert (scores.positions[layer] == tokens).float().mean() > 0.99  # but where two patches are equal
    assert scores.statistics
    own = scores.statistics[scores.layers[1]]
    assert own.tokens[0] == 12 * TOKENS
    np.testing.assert_allclose(own.sums[0], expected[1].double().sum((0, 1)), rtol=1e-4, atol=1e-4)
    skipped = collect(loaded, corpus, layers=scores.layers[:1], skip_first=True)
    torch.testing.assert_close(skipped.values[0], expected[0][:, 1:].abs().amax(1), rtol=1e-5, atol=1e-5)


def test_clip_s_texts_are_read_by_its_encoder_of_texts(root: Path, tmp_path: Path) -> None:
    model, corpus = tiny_clip(tmp_path), load_corpus(str(root / "texts"))
    loaded = load_model(str(tmp_path), "cpu", kinds=SCORED)
    scores = collect(loaded, corpus, batch_size=4)
    assert scores.layers == (0, 1) and scores.grid is None
    for exemplar in corpus.exemplars:
        ids = loaded.tokenizer(exemplar.text, truncation=True, max_length=32)["input_ids"]
        given = {"input_ids": torch.tensor([ids]), "pixel_values": torch.zeros(1, 3, 16, 16)}
        for layer, phi in enumerate(plain(model, downs(model, "text"), **given)):
            torch.testing.assert_close(scores.values[layer][exemplar.id], phi[0].abs().amax(0), rtol=1e-5, atol=1e-5)


def test_batches_that_do_not_fit_are_halved(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_vit(tmp_path, [*COLOURS])
    loaded, corpus = load_model(str(tmp_path), "cpu", kinds=SCORED), load_corpus(str(root / "corpus"), images=True)
    expected, run, sizes = collect(loaded, corpus), collecting.run_body, list[int]()

    def limited(language_model: Any, pixels: torch.Tensor, mask: torch.Tensor) -> None:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError
        run(language_model, pixels, mask)

    monkeypatch.setattr(collecting, "run_body", limited)
    scores = collect(loaded, corpus)
    assert sizes == [12, 6, 3, 3, 3, 3]
    torch.testing.assert_close(scores.values, expected.values, rtol=1e-5, atol=1e-5)


def test_by_command_and_in_python(root: Path, tmp_path: Path) -> None:
    tiny_vit(tmp_path / "base", [*COLOURS])
    tiny_vit(tmp_path / "tuned", [*COLOURS], seed=1)
    corpus, neurons = str(root / "corpus"), str(tmp_path / "neurons")
    assert main(["classify", str(tmp_path / "base"), "--corpus", corpus, "--out", neurons, "--top-k", "3"]) == 0
    found = open_classification(neurons)
    assert found.categories == ("general", "green", "red") and found.images and not found.stacks
    assert list(found.exemplars()["text"][:2]) == ["general/0.png", "general/1.png"]
    both = nm.classify([str(tmp_path / "base"), str(tmp_path / "tuned")], corpus, top_k=3)
    assert both.counts()[["base", "tuned"]].sum().tolist() == [48, 48]

    ids, scores = (each[7] for each in found.top(1))
    seen = both.explore(1, 7, count=2)
    assert list(seen.texts["id"]) == ids[:2].tolist() and list(seen.texts["base"]) == scores[:2].tolist()
    first = seen.tokens.query("model == 'base' and text == 0")
    assert list(first["token"]) == [
        "class token",
        *(f"row {row}, column {column}" for row in (0, 1) for column in (0, 1)),
    ]
    token = int(found.positions(1)[7][0])
    assert first["activation"].abs().idxmax() == token
    assert abs(first["activation"].iloc[token]) == pytest.approx(scores[0], rel=1e-5)
    assert seen.html.count("data:image/png;base64,") == 8 and seen.html.count("row-title") >= 2
    written = both.record(1, 7, count=1)["models"][0]["texts"][0]
    assert written["patch"] == (None if token == 0 else divmod(token - 1, 2))
    with pytest.raises(InputError, match="classified by images, which alone are shown"):
        both.explore(1, 7, texts="words")


def test_a_neuron_is_asked_at_every_patch_of_an_image(root: Path, tmp_path: Path) -> None:
    """As a plain hook has it; images that were changed since are refused."""
    model = tiny_vit(tmp_path / "vit", [*COLOURS])
    corpus = shutil.copytree(root / "corpus", tmp_path / "corpus")
    classify(str(tmp_path / "vit"), str(corpus), tmp_path / "neurons", top_k=3, device="cpu")
    found, loaded = open_classification(tmp_path / "neurons"), load_model(str(tmp_path / "vit"), "cpu", kinds=SCORED)
    given = image_activations(loaded, found, 1, 7, [5, 0])
    pixels, folders = pixels_of(corpus)
    assert [folders[0], folders[5]] == ["general", "green"]
    [expected] = plain(model, downs(model)[1:], pixel_values=pixels[[5, 0]])
    np.testing.assert_allclose(given, expected[..., 7], rtol=1e-5, atol=1e-6)
    assert found.grid
    np.testing.assert_array_equal(found.grid.patches(np.array(given[0])), np.array(given[0][1:]).reshape(2, 2))
    (corpus / "red" / "0.png").write_bytes((corpus / "red" / "1.png").read_bytes())
    on_images._corpus.cache_clear()
    with pytest.raises(InputError, match="expected the images that the neurons were classified by, found others"):
        image_activations(loaded, found, 1, 7, [5])
    with pytest.raises(InputError, match="no neuron 24 in layer 1"):
        image_activations(loaded, found, 1, 24, [5])


def test_patches_are_as_opaque_as_tokens_of_the_same_share() -> None:
    """1 + 9 · 1/9 = 2: a ninth of the highest score has 5 % and 95 % of log10(2); none has nothing, all has all."""
    png = shades(np.array([[0.0, 1 / 9], [1.0, 2.0]]), "#0072B2")
    pixels = np.asarray(Image.open(BytesIO(png)))
    assert pixels.shape == (2, 2, 4) and (pixels[..., :3] == (0, 0x72, 0xB2)).all()
    assert pixels[..., 3].tolist() == [[0, round(255 * (0.05 + 0.95 * np.log10(2)))], [255, 255]]


def test_a_thumbnail_is_what_the_model_is_shown(tmp_path: Path) -> None:
    """Of an image twice as wide as high the processor cuts the middle out: here its half that is red."""
    tiny_vit(tmp_path / "vit", [*COLOURS])
    (tmp_path / "corpus" / "general").mkdir(parents=True)
    image = Image.new("RGB", (32, 16), (0, 0, 255))
    image.paste((255, 0, 0), (8, 0, 24, 16))
    image.save(tmp_path / "corpus" / "general" / "wide.png")
    classify(str(tmp_path / "vit"), str(tmp_path / "corpus"), tmp_path / "neurons", top_k=1, device="cpu")
    [png] = open_classification(tmp_path / "neurons").thumbnails().values()
    shown = np.asarray(Image.open(BytesIO(png)))
    assert shown.shape == (16, 16, 3) and (shown == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_sources_of_images(form: str, root: Path, tmp_path: Path) -> None:
    """The same images, as folders of files or as bytes in a table, are the same corpus by their content."""
    lines = []
    for name in ("general", "green"):
        if form == "folder":
            path = str(root / "corpus" / name)
        else:
            path = str(tmp_path / f"{name}.parquet")
            files = sorted((root / "corpus" / name).iterdir())
            pd.DataFrame({"img": [{"bytes": file.read_bytes(), "path": None} for file in files]}).to_parquet(path)
        column = "image" if form == "folder" else "img"
        lines.append(f"{name}: {{path: {path}, image: {column}, count: 3}}\n")
    (tmp_path / "corpus.yaml").write_text("".join(lines))
    corpus = load_corpus(str(tmp_path / "corpus.yaml"), images=True)
    assert corpus.images and [each.text for each in corpus.exemplars[2:4]] == ["general 3", "green 1"]
    folder = load_corpus(str(root / "corpus"), ["green"], per_category=3, images=True)
    assert folder.fingerprint == corpus.fingerprint


def test_what_does_not_fit_is_said(root: Path, tmp_path: Path) -> None:
    corpus = str(root / "corpus")
    with pytest.raises(InputError, match="corpus: expected texts, found images, which neurons alone are classified by"):
        load_corpus(corpus)
    tiny_vit(tmp_path / "vit", [*COLOURS])
    with pytest.raises(InputError, match="expected images, which vit, an image classifier, takes, found texts"):
        nm.classify(str(tmp_path / "vit"), str(root / "texts"), top_k=3, device="cpu")
    with pytest.raises(InputError, match="expected texts, which plain, a causal language model, takes, found images"):
        nm.classify(tiny_model(tmp_path / "plain"), corpus, top_k=3, device="cpu")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed.yaml").write_text(
        f"general: {{path: {corpus}/general, image: image, count: 1}}\n"
        f"math: {{path: {root}/texts/math.jsonl, count: 1}}\n"
    )
    with pytest.raises(InputError, match="expected texts in all categories or images in all, found both"):
        load_corpus(str(tmp_path / "mixed.yaml"), images=True)
    draw_colours(tmp_path / "broken")
    (tmp_path / "broken" / "blue").rename(tmp_path / "broken" / "general")
    (tmp_path / "broken" / "green" / "1.png").write_bytes(b"no image")
    small = load_model(str(tmp_path / "vit"), "cpu", kinds=SCORED)
    assert isinstance(small, ImageModel)
    with pytest.raises(InputError, match=r"image green/1.png: cannot be read as an image"):
        collect(small, load_corpus(str(tmp_path / "broken"), images=True))
    small.processor.crop_size = {"height": 8, "width": 8}
    with pytest.raises(InputError, match="vit: takes no images of 8 × 8 pixels"):
        collect(small, load_corpus(corpus, images=True))
    Image.new("RGB", (4, 4)).save(tmp_path / "broken" / "general" / "more.png")
    with pytest.raises(InputError, match="every category needs the same number of exemplars, found general 5, green 4"):
        load_corpus(str(tmp_path / "broken"), images=True)


def test_a_knock_out_of_clip_s_image_encoder_is_measured_by_a_task(root: Path, tmp_path: Path) -> None:
    tiny_clip(tmp_path / "clip")
    classify(str(tmp_path / "clip"), str(root / "corpus"), tmp_path / "neurons", top_k=3, device="cpu")
    task = {"task": "colours", "kind": "image_classification", "data": str(root / "corpus")}
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(task))
    given: dict[str, Any] = {"category": "red", "layers": None, "proportions": [1.0], "repeats": 1}
    (tmp_path / "out").mkdir()
    asked = str(tmp_path / "clip"), str(tmp_path / "neurons")
    found = knockout(*asked, out=tmp_path / "out", task=str(tmp_path / "colours.yaml"), device="cpu", **given)
    number = (open_classification(tmp_path / "neurons").neurons()["category"] == "red").sum()
    assert found["neurons"].tolist() == [0, 0, number, number] and found["metric"].eq("acc").all()


def test_tokens_beside_the_class_token_are_not_called_so() -> None:
    told = [Grid(3, 2, 2).told(token) for token in range(5)]
    assert told == ["class token", "extra token 1", "extra token 2", "row 0, column 0", "row 0, column 1"]


@pytest.mark.parametrize("batch_size", ["auto", 1])
def test_images_that_are_left_of_other_sizes_are_refused(batch_size: Any, tmp_path: Path) -> None:
    """DINOv2 takes any size; of the second the tokens that the first has were read from beyond its own."""
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    save(Dinov2ForImageClassification(Dinov2Config(**settings, image_size=16, patch_size=8)), tmp_path / "model")
    file = tmp_path / "model/preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_center_crop": False}))
    for name, height in (("general", 48), ("red", 16)):
        (tmp_path / "corpus" / name).mkdir(parents=True)
        Image.new("RGB", (16, height)).save(tmp_path / "corpus" / name / "0.png")
    model = load_model(str(tmp_path / "model"), "cpu", kinds=SCORED)
    corpus = load_corpus(str(tmp_path / "corpus"), images=True)
    with pytest.raises(InputError, match="red/0.png: expected all images of one size, found 16 × 16 .* after 48 × 16"):
        collect(model, corpus, batch_size=batch_size)
