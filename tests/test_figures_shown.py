"""Figures for many models, long names, foreign text, either theme and paper."""

import json
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from numpy.typing import NDArray

from nmerge_core.figures import (
    changes,
    departure,
    effects,
    health,
    inheritance,
    knockout,
    linearity,
    merge,
    neurons,
    panels,
    scores,
    similarity,
    style,
    texts,
)
from nmerge_core.figures.describe import describe
from nmerge_core.figures.paper import on_paper

LONG = [f"{name}-{'instruct-tuned-' * 9}v{name}"[:150] for name in "abcdefghijk"]


def layered(models: list[str], **columns: Any) -> pd.DataFrame:
    return pd.DataFrame([{"model": model, "layer": layer, **columns} for model in models for layer in (0, 1)])


def every_figure(models: list[str], colours: dict[str, str], dark: bool) -> dict[str, go.Figure]:
    """Each figure of the package, drawn of these models; the first is the base."""
    counts = pd.DataFrame({"layer": [0, 0], "category": ["general", "code"], "intersection": [1, 2]})
    counts = counts.assign(**dict.fromkeys(models, [3, 4]))
    categories = style.category_colours(["general", "code"])
    cosines = layered(models, matrix="gate", neurons=8, mean=0.9, min=0.5, p01=0.6, p50=0.9, zero=0)
    curve = pd.DataFrame({"group": ["code", "random"], "proportion": 1.0, "neurons": 4, "seed": 0, "value": 0.5})
    knocked = pd.concat([curve.assign(model=model, metric="acc") for model in models])
    effect = layered(models, category="code", neurons=4, metric="acc", effect=0.1, stderr=0.05, adjusted=0.5, draws=3)
    effect = effect.assign(intact=0.5, own=0.3, random=0.4)
    scored = pd.DataFrame(
        {"model": models, "task": "t", "metric": "acc", "value": 0.5, "low": 0.4, "high": 0.6, "samples": 9}
    )
    parts = layered(models, submodule="mlp", group=None, alpha=0.1, value=0.2)
    beside = {**colours, health.MERGE: style.MERGE}
    changed = layered(models, part="mlp", norm=2.0, kept=0.5)
    changed_by = layered(models, neurons=8, value=0.2)
    merged = layered(["merge"], part="mlp", norm=3.0, opposed=0.4, chance=0.5, cancelled=0.3).drop(columns="model")
    kept = pd.DataFrame({"category": "code", "model": models, "neurons": 3, "kept": 0.5})
    ended = kept.assign(before="code", after="code", share=1.0)
    states = layered([*models, health.MERGE], rank=9.0, variance=0.5)
    return {
        "by layer": neurons.categories_by_layer(counts, [0], colours, dark=dark),
        "shares": neurons.proportions(counts, models, categories, dark=dark),
        "depth": neurons.over_depth(counts, models[-1], categories, dark=dark),
        "cosine": similarity.mean_cosine(cosines, colours, dark=dark),
        "changes": changes.over_layers(changed_by.rename(columns={"model": "row"}), "change", dark=dark),
        "coefficients": merge.by_layer(layered(models, alpha=0.3), "α", colours, dark=dark),
        "history": merge.history([1.0, 2.0], "loss", dark=dark),
        "linearity": linearity.nonlinearity(parts, categories, dark=dark),
        "became": inheritance.became(ended, dark=dark),
        "kept of whom": inheritance.kept(kept, colours, dark=dark),
        "kept over depth": inheritance.kept_over_depth(kept.assign(layer=0), colours, dark=dark),
        "knock-out": knockout.curves(knocked, "acc", categories, dark=dark),
        "effects": effects.by_layer(effect, "acc", dark=dark),
        "change": health.change(merged, changed, beside, dark=dark),
        "kept": health.kept(changed, beside, dark=dark),
        "contradictions": health.contradictions(merged, dark=dark),
        "spread": health.spread(states, "rank", beside, dark=dark),
        "next": departure.next_tokens([" <b>", "$x$"], dict.fromkeys(models, (0.5, 0.25)), colours, dark=dark),
        "scores": scores.bars(scored, colours, models, base=models[0], dark=dark),
    }


def model_colours(models: list[str], dark: bool = False) -> dict[str, str]:
    return {models[0]: style.base_colour(dark), **style.category_colours(models[1:])}


def test_on_paper_a_figure_of_the_dark_theme_is_that_of_the_light_one() -> None:
    models = ["base", "math", "own"]
    light, dark = (every_figure(models, model_colours(models, theme), theme) for theme in (False, True))
    for name, figure in dark.items():
        assert on_paper(figure).to_json() == on_paper(light[name]).to_json(), name
        assert on_paper(figure).layout.template.layout.paper_bgcolor == "#FFFFFF"


def test_paper_has_its_size_and_font() -> None:
    figure = on_paper(
        every_figure(["base", "math"], model_colours(["base", "math"]), True)["scores"], width=600, font=26
    )
    assert (figure.layout.width, figure.layout.template.layout.font.size) == (600, 26)  # 13 pixels otherwise: twice
    assert figure.layout.annotations[0].font.size == 26


@pytest.mark.parametrize("name", every_figure(["base"], {"base": "#000000"}, False))
def test_names_are_short_in_a_figure_and_told_apart_and_nothing_in_them_is_markup(name: str) -> None:
    hostile = ['<a href="https://elsewhere.example">x</a>', *LONG]
    figure = every_figure(hostile, model_colours(hostile), False)[name]
    assert "<a href" not in json.dumps(figure.to_plotly_json(), default=lambda array: array.tolist())
    named = [trace.name for trace in figure.data if trace.name and trace.showlegend is not False]
    assert len(named) == len(set(named)) and max(map(len, named), default=0) <= 60
    for annotation in figure.layout.annotations:
        assert len(annotation.text) < 60


def test_short_names_stay_apart() -> None:
    assert style.short("x" * 28) == "x" * 28
    assert style.short("a" * 20 + "b" * 20, 13) == "aaaaaaaa…bbbb"  # 8 + 1 + 4
    same = ["m" * 40, "m" * 41, "m" * 42]
    assert len(set(style.short_names(same).values())) == 3


def seen(colour: str) -> list[NDArray[np.float64]]:
    """A colour in OKLab, as it is and as protanopes and deuteranopes see it (Ottosson 2020; Machado et al. 2009)."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    blind = [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
    cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    lights = [linear, *(np.clip(np.array(matrix) @ linear, 0, 1) for matrix in blind)]
    return [np.array(lab) @ np.cbrt(np.array(cones) @ light) for light in lights]


def test_twelve_categories_have_colours_that_stay_apart() -> None:
    names = ["general", "math", "code", "translation", *"abcdefgh"]
    colours = style.category_colours(names)
    assert len(set(colours.values())) == 12
    fixed = set(style.COLOURS.values()) | {style.MERGE, style.INTERSECTION}
    for one, other in combinations([*colours.values(), style.MERGE, style.INTERSECTION], 2):
        least = 0.024 if {one, other} <= fixed | {"#CC79A7"} else 0.06  # the papers' own are given
        assert min(np.linalg.norm(a - b) for a, b in zip(seen(one), seen(other), strict=True)) > least, (one, other)
    assert {mark.pattern for mark in style.marks(colours).values()} == {""}


@pytest.mark.parametrize("dark", [False, True])
def test_lines_stand_out_from_the_ground_in_either_theme(dark: bool) -> None:
    given = style.COLOURS["translation"]  # has 2.2 on white: Okabe–Ito's orange, as in the papers
    drawn = [*style.COLOURS.values(), *style.FURTHER, *style.MERGES, style.INTERSECTION, style.RANDOM]
    for colour in [*drawn, style.base_colour(dark)]:
        assert style.contrast(colour, style.background(dark)) >= 3 or colour == given, colour


def test_more_of_a_colour_differ_by_dash_marker_and_pattern() -> None:
    marks = style.marks(style.category_colours([f"own {i}" for i in range(17)]))
    assert marks["own 0"] == style.PLAIN and marks["own 8"] != style.PLAIN  # eight colours are left for one's own
    assert len({marks[f"own {i}"] for i in (0, 8, 16)}) == 3
    merged = style.merge_colours(["first", "second", "third"])
    assert merged["first"] == style.MERGE and len(set(merged.values())) == 3
    assert len(set(style.marks(merged).values())) == 3
    many = style.merge_colours([f"merge {i}" for i in range(50)])
    assert len(set(zip(many.values(), style.marks(many).values(), strict=True))) == 50
    assert style.marks({"third": merged["third"]})["third"] == style.marks(merged)["third"]  # alone too


@pytest.mark.parametrize("dark", [False, True])
def test_shaded_text_has_a_contrast_of_four_and_a_half(dark: bool) -> None:
    """Every colour at every shade: the ink that the HTML asks for, or else the page's own."""
    every = [*style.COLOURS.values(), *style.FURTHER, *style.MERGES]
    for colour in every:
        for shade in np.linspace(0.05, 1, 39):
            css = texts.ground(colour, shade)
            inks = css.partition("light-dark(")[2].rstrip(")").split(",") if "light-dark" in css else []
            ink = inks[dark] if inks else style.ink(dark)
            on = style.over(colour, float(f"{shade:.3f}"), style.background(dark))
            assert style.contrast(ink, on) >= 4.55, (colour, shade)  # browsers round by some hundredths otherwise
        assert style.contrast(style.ink_on(colour), colour) >= 4.5  # as on the chips


def test_contrast_is_wcags() -> None:
    assert style.contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert style.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.005)  # the known near miss


@pytest.mark.parametrize(("step", "written"), [(0.0005, ",.4f"), (0.02, ",.2f"), (0.1, ",.1f"), (1, None), (50, None)])
def test_labels_of_an_axis_have_as_many_decimals(step: float, written: str | None) -> None:
    stops = panels.panels(["one"])["yaxis1"]["tickformatstops"]
    found = [stop["value"] for stop in stops if stop["dtickrange"][0] <= step <= stop["dtickrange"][1]]
    assert found == ([written] if written else [])


def test_a_legend_has_as_many_lines_as_it_needs() -> None:
    assert panels.legend_room(["base", "math"]) == panels.legend_room([]) == panels.LEGEND
    # An entry of 28 characters takes 50 + 28 · 6.5 = 232 pixels: four in 1,000, so eleven have three lines.
    assert panels.legend_room(["x" * 28] * 11) == panels.LEGEND + 2 * panels.LEGEND_LINE
    layout = panels.panels(["a"], legend=["x" * 28] * 11)
    assert layout["margin"]["t"] == panels.legend_room(["x" * 28] * 11) + panels.TITLE
    assert layout["height"] == panels.HEIGHT + panels.legend_room(["x" * 28] * 11)


def test_a_figure_says_what_it_shows() -> None:
    figures = every_figure(["base", "math & co"], model_colours(["base", "math & co"]), False)
    assert describe(figures["cosine"]) == (
        "Line chart: mean cosine with the base over layer; panel: gate (row); series: base, math & co"
    )
    for figure in figures.values():
        assert describe(figure).startswith(("Line chart", "Bar chart", "Heat map"))


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (style.count, 3.97, "3"),  # of the fourth a part is done
        (style.count, 12345.0, "12,345"),
        (style.duration, 0.0, "under 1 s"),
        (style.duration, 61.0, "1 min 01 s"),
        (style.roughly, 3, "some seconds"),
        (style.roughly, 44, "about 40 s"),
        (style.roughly, 280, "about 5 min"),
        (style.roughly, 40_000, "about 10 h"),
    ],
)
def test_numbers(write: Callable[[float], str], value: float, text: str) -> None:
    assert write(value) == text
