"""What the Merge page shows of a finished merge, and what is downloaded of it."""

import io
import json
import zipfile
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import yaml

from nmerge_core.figures.style import significant
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from pages.shared.frame.results import zipped
from tests.app.conftest import OpenPage
from tests.app.recipes import PAGE, recipe_shown
from tests.app.scored import FAMILY, done, drawn, make_family, models


@pytest.mark.mergekit
@pytest.mark.usefixtures("forked_mergekit")
def test_the_report_of_a_merge_by_mergekit(tiny_cache: Path, open_page: OpenPage) -> None:
    slices = [{"sources": [{"model": models(tiny_cache)[name], "layer_range": [0, 1]}]} for name in ("math", "code")]
    recipe = {"engine": "mergekit", "merge_method": "passthrough", "slices": slices}
    run = done(tiny_cache, "merge", {"recipe": recipe}, "Stacked")
    app = open_page(PAGE, run=run.id)
    assert app.selectbox(key="merge_report").value == run.id
    assert any(code.value == str(run.results / "merged") for code in app.code)


def test_the_report_of_a_finished_merge(tiny_cache: Path, open_page: OpenPage) -> None:
    known = models(tiny_cache)
    make_family(tiny_cache)
    recipe = load_recipe(
        {
            "merge_method": "sublin",
            "base_model": known["base"],
            "models": [{"model": known[name], "parameters": {"category": name}} for name in ("math", "code")],
            "parameters": {"calibration": str(tiny_cache / "corpus"), "samples": 2},
        }
    )
    run = done(tiny_cache, "merge", {"recipe": yaml.safe_load(recipe.yaml)}, "A merge by SubLin")
    app = open_page(PAGE, family=FAMILY, run=run.id)
    assert app.selectbox(key="merge_report").value == run.id
    assert any(code.value == str(run.results / "merged") for code in app.code)
    figure = drawn(app)
    solved = json.loads((run.results / "merged" / "nmerge_report.json").read_text())["facts"]["coefficients"]
    assert sum(len(line.y) for line in figure.data) == len(solved)
    assert {line.name for line in figure.data} == {"math", "code"}
    assert app.button(key="merge_evaluate").label.startswith("Score ")
    links = {link.proto.label: link.proto for link in app.main if link.type == "page_link"}
    knock = parse_qs(links["Knock out its neurons, beside the base's"].query_string)
    assert knock["knockout_models"] == ["base", app.selectbox(key="merge_report").options[0]]
    there = open_page("pages/5_Knockout.py", family=FAMILY, knockout_models=knock["knockout_models"])
    assert there.multiselect(key="knockout_models").value == knock["knockout_models"]
    app.button(key="merge_open").click().run()
    assert not app.exception and recipe_shown(app) == yaml.safe_load(recipe.yaml)


def test_the_report_of_a_merge_in_stages(tiny_cache: Path, open_page: OpenPage) -> None:
    """Its stages are no models that the family would have to have."""
    known = models(tiny_cache)
    mean = {"merge_method": "linear", "models": [{"model": known[name]} for name in ("math", "code")]}
    last = {"merge_method": "task_arithmetic", "base_model": known["base"], "models": [{"model": "mean"}]}
    run = done(tiny_cache, "merge", {"recipe": {"stages": {"mean": mean}, **last}}, "In stages")
    app = open_page(PAGE, run=run.id)
    assert app.selectbox(key="merge_report").value == run.id
    assert any(text.value == "Stage mean: computed when read, never written" for text in app.text)


def test_the_report_of_a_search(tiny_cache: Path, open_page: OpenPage) -> None:
    known = models(tiny_cache)
    task = make_family(tiny_cache)
    recipe = {
        "merge_method": "pcb_es",
        "base_model": known["base"],
        "models": [{"model": known[name]} for name in ("math", "code")],
        "parameters": {"tasks": [task], "limit": 1, "evaluations": 2},
    }
    run = done(tiny_cache, "merge", {"recipe": recipe}, "A merge by search")
    assert task in run.inputs  # a changed task makes another run
    app = open_page(PAGE, family=FAMILY, run=run.id)
    scales = json.loads((run.results / "merged" / "nmerge_report.json").read_text())["facts"]["scales"]
    told = next(caption.value for caption in app.caption if caption.value.startswith("Taken of each model"))
    assert all(f"{name} **{significant(scale)}**" in told for name, scale in scales.items())


def test_the_report_of_coefficients_by_layer(tiny_cache: Path, open_page: OpenPage) -> None:
    known = models(tiny_cache)
    make_family(tiny_cache)
    coefficients = {"embedding": [0.1, 0.2], "0": [0.3, 0.4], "1": [0.5, 0.6], "norm": [0.7, 0.8]}
    recipe = {
        "merge_method": "adamerging",
        "base_model": known["base"],
        "models": [{"model": known[name]} for name in ("math", "code")],
        "parameters": {"coefficients": coefficients},
    }
    run = done(tiny_cache, "merge", {"recipe": recipe}, "A merge by layers")
    figure = drawn(open_page(PAGE, family=FAMILY, run=run.id))
    assert {line.name: list(line.y) for line in figure.data} == {"math": [0.3, 0.5], "code": [0.4, 0.6]}
    assert "<b>whole layer</b>" in {note.text for note in figure.layout.annotations}


@pytest.mark.parametrize("name", ["fisher", "regmean"])
def test_a_method_that_measures_the_models_is_filled_in_and_merges(
    tiny_cache: Path, open_page: OpenPage, name: str
) -> None:
    app = open_page(PAGE, merge_method=methods()[name].title)
    recipe = recipe_shown(app)
    assert recipe["parameters"]["corpus"] == str(tiny_cache / "corpus")
    assert [model["parameters"] for model in recipe["models"]] == [{"category": "math"}, {"category": "code"}]
    assert any(metric.label == "Time" and metric.value.startswith("≥ ") for metric in app.metric)
    run = done(tiny_cache, "merge", {"recipe": recipe}, f"A merge by {name}")
    resolved = load_recipe(run.results / "merged" / "nmerge_recipe.yaml")
    assert resolved.values().shared["corpus"] == str(tiny_cache / "corpus")
    assert resolved.values().each["statistics"] == (None, None)
    kind = {"fisher": "fisher", "regmean": "gram"}[name]
    collected = {
        json.loads(meta.read_text())["label"]: str(meta.parent)
        for meta in tiny_cache.glob(f"statistics/{kind}-*/*.json")
    }
    folders = [collected["math"], collected["code"]]
    app = open_page(PAGE, run=run.id, merge_method=methods()[name].title)
    assert any(code.value == str(run.results / "merged") for code in app.code)
    for model, folder in zip(("math", "code"), folders, strict=True):
        key = next(box.key for box in app.text_input if box.key.startswith(f"merge_{name}_statistics_{model}"))
        app.text_input(key=key).set_value(folder)
    app.run()
    assert not app.error
    assert [model["parameters"]["statistics"] for model in recipe_shown(app)["models"]] == list(folders)
    key = next(box.key for box in app.text_input if box.key.startswith(f"merge_{name}_statistics_math"))
    app.text_input(key=key).set_value("nowhere").run()
    assert any("key 'statistics': nowhere: expected a folder that" in error.value for error in app.error)


def test_the_download_holds_the_whole_checkpoint(tiny_cache: Path) -> None:
    known = models(tiny_cache)
    run = done(
        tiny_cache,
        "merge",
        {"recipe": {"merge_method": "linear", "models": [{"model": known["math"]}, {"model": known["code"]}]}},
    )
    names = zipfile.ZipFile(io.BytesIO(zipped(run.results / "merged"))).namelist()
    assert {"merged/model.safetensors", "merged/config.json", "merged/tokenizer.json"} <= set(names)
