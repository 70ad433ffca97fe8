"""One person's way through the app: from the demo family to a merged checkpoint that loads like any other."""

import filecmp
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from playwright.sync_api import Page, expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.classification.classification import compare
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.short_questions import generate
from tests.browser.driver import (
    App,
    choose,
    classify_family,
    click_point,
    fill,
    finish,
    keyed,
    press,
    settle,
    sound,
    traces,
    visit,
)

EXEMPLARS = 12  # of each category: the way is the same, and shorter to wait for
MODELS = ["base", "math", "code", "translation"]
LIMIT = 10  # problems per task, the fewest that the pages take


def test_from_the_demo_family_to_a_merged_checkpoint(app: App, tab: Callable[[], Page], tmp_path: Path) -> None:
    page = tab()
    choose_models(page, app)
    classify(page, app)
    explore(page, app)
    knock_out(page, app)
    first = merge_with(page, app, "NeuronMerge", "samples", "Home", 1, nth=1)
    second = tune(page, app, nth=2)
    evaluate(page, app)
    for merged in (first, second):
        loads(merged, app.cache / "demo" / "base")
    is_what_the_engine_writes(app, second, tmp_path / "merged")


def choose_models(page: Page, app: App) -> None:
    visit(page, app, "")
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_text("These models can be merged")).to_be_visible(timeout=60_000)
    settle(page)
    sound(page)


def classify(page: Page, app: App) -> None:
    """The chart of NeuronMerge's Fig. 3 shows the counts that the stored scores give, for any k.

    Another k changes the chart in place: what the reader has hidden stays hidden.
    """
    folders = classify_family(page, app)
    assert counts(page) == expected_counts(folders, k=10)
    chart = keyed(page, "neurons_by_layer").locator(".js-plotly-plot")
    chart.locator(".legendtoggle").nth(1).click()
    hidden = "chart => [...new Set(chart._fullData.filter(trace => trace.visible !== true).map(trace => trace.name))]"
    page.wait_for_function(f"chart => ({hidden})(chart).length", arg=chart.element_handle())
    keyed(page, "neurons_k").get_by_role("slider").press("ArrowRight")
    settle(page)
    expected = expected_counts(folders, k=11)
    page.wait_for_function(
        "([chart, y]) => String(chart.data[0].y) === String(y)",
        arg=[chart.element_handle(), [*expected["base", 0].values()]],
    )
    assert counts(page) == expected
    assert chart.evaluate(hidden) == ["math"]
    sound(page)
    is_saved(page, "neurons_proportions")
    fits_a_phone(page)


def is_saved(page: Page, key: str) -> None:
    """The figure has a name for those who do not see it, and its menu saves it as PNG in the size that is asked for."""
    chart = keyed(page, key).locator(".chart")
    assert str(chart.get_attribute("aria-label")).startswith("Bar chart: share of neurons, %")
    press(page, f"{key}_export")
    png = page.locator(".images").get_by_role("button", name="PNG")
    expect(png).to_be_visible(timeout=30_000)
    with page.expect_download() as download:
        png.click()
    header = Path(download.value.path()).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width = round(16 / 2.54 * 96)  # pixels of 16 cm in the browser, of which the image has 300 / 96 each
    assert int.from_bytes(header[16:20]) == pytest.approx(width * 300 / 96, abs=2)
    page.keyboard.press("Escape")


def fits_a_phone(page: Page) -> None:
    """On a phone the panels stand below each other, and the legend ends above the first title."""
    page.set_viewport_size({"width": 390, "height": 844})
    chart = keyed(page, "neurons_by_layer").locator(".js-plotly-plot")
    page.wait_for_function(
        "chart => chart._fullLayout.xaxis.domain[1] === 1 && chart._fullLayout.width < 390", arg=chart.element_handle()
    )
    settle(page)
    legend, title = chart.evaluate(
        """chart => [chart.querySelector(".legend .bg"), chart.querySelector(".annotation-text")]
            .map(element => element.getBoundingClientRect()).map(({top, bottom}) => [top, bottom])"""
    )
    assert legend[1] <= title[0]
    page.set_viewport_size({"width": 1440, "height": 900})
    settle(page)


def counts(page: Page) -> dict[tuple[str, int], dict[str, int]]:
    """What the chart shows for each bar's label and layer: the neurons of each category."""
    labels = [*MODELS, "same in all models"]
    drawn = traces(page, "neurons_by_layer")
    assert [trace["name"] for trace in drawn] == labels * (len(drawn) // len(labels))
    return {
        (trace["name"], place // len(labels)): dict(zip(trace["x"], trace["y"], strict=True))
        for place, trace in enumerate(drawn)
    }


def expected_counts(folders: list[Path], k: int) -> dict[tuple[str, int], dict[str, int]]:
    frame = compare(folders, MODELS, k=k, margin=1).rename(columns={"intersection": "same in all models"})
    order = ["general", "math", "code", "translation"]
    return {
        (label, layer): rows.set_index("category")[label].reindex(order).to_dict()
        for layer, rows in frame.groupby("layer")
        for label in [*MODELS, "same in all models"]
    }


def explore(page: Page, app: App) -> None:
    """The arrow keys step through the neurons that a link looks for; the texts and the link follow."""
    visit(page, app, "Explorer", explorer_only="code", explorer_order="certainty", explorer_find="true")
    number, texts = keyed(page, "explorer_neuron").locator("input"), keyed(page, "explorer_texts")
    page.locator("h1").click()
    for place in ("1", "2"):
        page.keyboard.press("ArrowRight")
        expect(page.get_by_text(re.compile(f"^{place} of [0-9]+ found$"))).to_be_visible(timeout=60_000)
    settle(page)
    expect(page).to_have_url(re.compile(f"neuron={number.input_value()}(&|$)"))
    expect(texts.locator(".head").first).to_contain_text("code")
    row, table = 33, keyed(page, "explorer_table_0").locator("canvas").first
    corner = table.bounding_box()
    assert corner
    page.mouse.move(corner["x"] + 100, corner["y"] + 3.5 * row, steps=5)
    page.mouse.click(corner["x"] + 100, corner["y"] + 3.5 * row, delay=50)  # the third row
    expect(page.get_by_text(re.compile("^3 of [0-9]+ found$"))).to_be_visible(timeout=60_000)
    settle(page)
    page.mouse.move(corner["x"] + 100, corner["y"] + row / 2, steps=5)
    page.mouse.click(corner["x"] + 100, corner["y"] + row / 2, delay=50)  # the head of "neuron"
    expect(page).not_to_have_url(re.compile("explorer_order"), timeout=60_000)
    settle(page)
    expect(texts.locator(".head").first).to_contain_text("code")
    sound(page)


def knock_out(page: Page, app: App) -> None:
    visit(page, app, "Knockout")
    choose(page, "knockout_category", "math")
    fill(page, "knockout_limit", LIMIT)
    fill(page, "knockout_repeats", 1)
    press(page, "knockout_run")
    (results,) = finish(page, app, "knockout")
    table = pd.read_csv(results / "knockout.csv")
    assert set(table["group"]) == {"math", "random"}
    assert sorted(set(table["proportion"])) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    pairs = table[table["proportion"] > 0].pivot_table(index="proportion", columns="group", values="neurons")
    assert (pairs["math"] == pairs["random"]).all()
    drawn = {trace["name"]: trace["y"] for trace in traces(page, "knockout_figure")}
    for group, name in (("math", "math neurons"), ("random", "as many random neurons")):
        curve = 100 * table[table["group"] == group].sort_values("proportion")["value"]
        assert drawn[name] == pytest.approx(curve.tolist())
    click_point(page, "knockout_figure", "math neurons", 5)
    expect(page.locator("h1")).to_have_text("What does this neuron react to?", timeout=60_000)
    expect(page).to_have_url(re.compile("explorer_only=math"))
    settle(page)
    sound(page)


def merge_with(page: Page, app: App, title: str, parameter: str, key: str, value: float, *, nth: int) -> Path:
    """Merge with one slider moved by a key; the recipe must say so."""
    visit(page, app, "Merge", merge_live="false")
    choose(page, "merge_method", title)
    control = keyed(page, f"merge_{parameter}")
    if not control.is_visible():
        page.get_by_text("More parameters").click()
    control.get_by_role("slider").press(key)
    settle(page)
    press(page, "merge_run")
    merged = finish(page, app, "merge", nth)[-1] / "merged"
    newest = max(app.runs("merge"), key=lambda run: run["created"])
    recipe = load_recipe(newest["parameters"]["recipe"])
    assert recipe.method.title == title
    assert recipe.parameters[parameter] == value
    expect(page.get_by_text(str(merged)).first).to_be_visible(timeout=60_000)
    return merged


def heard_out(page: Page) -> None:
    """Wait until the merge and the models beside it have said all."""
    expect(keyed(page, "merge_answer_0").get_by_text("marks the words")).to_be_visible(timeout=60_000)
    settle(page)


def tune(page: Page, app: App, nth: int) -> Path:
    """A control moves, and the answer follows; the log leads back to the first; what is kept answers as it did."""
    prompt = "Question:"  # many words may come next
    visit(page, app, "Merge", merge_prompt=prompt, merge_method="neuromerging")
    answer, following = keyed(page, "merge_answer_0"), keyed(page, "merge_answer_0").get_by_text("Next token: ")
    expect(following).to_be_visible(timeout=60_000)
    heard_out(page)
    said, first = answer.get_by_test_id("stText").inner_text(), following.inner_text()
    keyed(page, "merge_lambda_2").get_by_text("λ2 auto").click()
    settle(page)
    keyed(page, "merge_lambda_2").get_by_role("slider").press("End")  # and no button
    expect(following).not_to_have_text(first, timeout=60_000)
    heard_out(page)
    sound(page)
    press(page, "merge_back_1")
    expect(following).to_have_text(first, timeout=60_000)
    heard_out(page)
    assert answer.get_by_test_id("stText").inner_text() == said
    page.get_by_text("Quick score", exact=True).click()
    expect(keyed(page, "quick_count")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Scoring the first problems.")).to_be_visible(timeout=60_000)
    page.get_by_text("Health", exact=True).click()
    expect(page.get_by_text("How far it went").first).to_be_visible(timeout=60_000)
    settle(page)
    expect(keyed(page, "quick_count")).to_have_count(0)
    page.get_by_text("Compare", exact=True).click()
    expect(page.get_by_role("cell", name="λ2", exact=True)).to_be_visible(timeout=60_000)
    settle(page)
    sound(page)
    page.get_by_text("Answers", exact=True).click()
    press(page, "merge_run")
    merged = finish(page, app, "merge", nth)[-1] / "merged"
    heard_out(page)
    assert answer.get_by_test_id("stText").inner_text().split() == generate(str(merged), prompt, 48).split()
    expect(page.get_by_text(str(merged)).first).to_be_visible(timeout=60_000)
    return merged


def evaluate(page: Page, app: App) -> None:
    """Score the family and the newest merge on the tasks that need no generated code to run."""
    visit(page, app, "Evaluate")
    keyed(page, "evaluate_tasks").get_by_role("button", name="Remove code").click()
    settle(page)
    fill(page, "evaluate_limit", LIMIT)
    press(page, "evaluate_run")
    results = finish(page, app, "evaluate", len(MODELS) + 1)
    scores = pd.concat(pd.read_csv(folder / "scores.csv") for folder in results)
    assert set(scores["task"]) == {"math", "translation", "general"}
    assert scores["model"].nunique() == len(MODELS) + 1
    matches = scores.loc[scores["metric"] == "exact_match", "value"]
    assert matches.between(0, 1).all()
    assert ((matches * LIMIT).round(6) % 1 == 0).all()  # so many of the problems
    for _ in range(60):  # the page draws each model's scores when it next looks for them
        drawn = {model for trace in traces(page, "evaluate_run_figure") for model in trace["y"]}
        if len(drawn) == len(MODELS) + 1:
            break
        page.wait_for_timeout(500)
    assert drawn >= {*MODELS} and len(drawn) == len(MODELS) + 1
    expect(page.get_by_text(re.compile("lost [0-9]+, gained [0-9]+, .* against math$"))).to_be_visible(timeout=60_000)


def loads(merged: Path, base: Path) -> None:
    """The checkpoint is complete: model and tokenizer load, it generates, and it is not the base."""
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in (merged, base)]
    model, original = models
    tokenizer = AutoTokenizer.from_pretrained(merged)
    prompt = tokenizer("Answer:", return_tensors="pt")
    out = model.generate(input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=4)
    assert out.shape[1] > prompt["input_ids"].shape[1]
    weights, before = model.state_dict(), original.state_dict()
    assert weights.keys() == before.keys()
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert any(not torch.equal(weights[name], before[name]) for name in weights)


def is_what_the_engine_writes(app: App, merged: Path, again: Path) -> None:
    """The same recipe, merged without the app, gives the same bytes."""
    newest = max(app.runs("merge"), key=lambda run: run["created"])
    merge(load_recipe(newest["parameters"]["recipe"]), again, device="cpu")
    for file in merged.glob("*.safetensors"):
        assert filecmp.cmp(file, again / file.name, shallow=False)


def test_similarity(app: App, tab: Callable[[], Page]) -> None:
    page = tab()
    visit(page, app, "Similarity")
    press(page, "similarity_run")
    finish(page, app, "cosine")
    assert all(0 < value <= 1.000001 for trace in traces(page, "similarity_figure") for value in trace["y"])
    chart = keyed(page, "similarity_figure").locator(".js-plotly-plot")
    chart.hover()  # which shows its toolbar, below it
    drawn, toolbar = (each.bounding_box() for each in (chart, chart.locator(".modebar")))
    assert drawn and toolbar and toolbar["y"] >= drawn["y"] + drawn["height"] and toolbar["x"] >= drawn["x"]
    for form in ("svg", "png"):  # as the menu saves it
        saved = f"Plotly.toImage(document.querySelector('.js-plotly-plot'), {{format: '{form}'}})"
        assert page.evaluate(saved).startswith(f"data:image/{form}")
